"""What a run leaves for other programs and for the terminal: metrics.json, scores.csv and a plain table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.report.figures import KeyFigure, image_figures, pixel_figures, validation_figures
from anomalib_lite.report.files import replace_file

SCORE_COLUMNS = (
    "path",
    "split",
    "defect",
    "label",
    "raw_score",
    "pred_score",
    "pred_label",
    "registration_quality",
    "rejected",
)


def write_metrics(metrics: Mapping[str, Any], folder: Path) -> Path:
    """Write metrics.json; what is not a finite number becomes null, because JSON knows no NaN.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     print(write_metrics({"image": {"image_AUROC": float("nan")}}, Path(folder)).read_text(), end="")
    {
      "image": {
        "image_AUROC": null
      }
    }
    """
    text = json.dumps(_plain(metrics), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return replace_file(folder / "metrics.json", text.encode("utf-8", errors="backslashreplace"))


def write_scores(rows: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write scores.csv, a row for each picture with the columns `SCORE_COLUMNS`; None and NaN become empty.

    Raises ValueError for a column that is none of these.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = write_scores([{"path": "a,b.png", "label": 1, "raw_score": None}], Path(folder))
    ...     print(path.read_text().splitlines()[1])
    "a,b.png",,,1,,,,,
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, SCORE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    # surrogateescape: a file name that is not UTF-8 keeps its own bytes
    return replace_file(folder / "scores.csv", text.getvalue().encode("utf-8", errors="surrogateescape"))


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The metrics as a table for the terminal: percent, 95 % interval, chance level; under 80 columns, ASCII.

    >>> print(metrics_table({"image": {"image_AP": 0.9901, "chance_AP": 0.7291},
    ...                      "intervals": {"image_AP": [0.981, 0.996]}}))
    metric                     %   95 % interval   chance
    image_AP               99.01    98.1 to 99.6    72.91
    """
    groups = [image_figures(metrics), pixel_figures(metrics), validation_figures(metrics)]
    blocks = ["\n".join(_line(figure) for figure in group) for group in groups if group]
    if not blocks:
        return "no metrics: nothing was tested"
    return f"{'metric':<22}{'%':>6}{'95 % interval':>16}{'chance':>9}\n" + "\n\n".join(blocks)


def _line(figure: KeyFigure) -> str:
    value = "-" if figure.value is None else f"{100 * figure.value:.2f}"
    interval = ""
    if figure.interval is not None:
        interval = f"{100 * figure.interval[0]:.1f} to {100 * figure.interval[1]:.1f}"
    chance = "" if figure.chance is None else f"{100 * figure.chance:.2f}"
    return f"{figure.name[:22]:<22}{value:>6}{interval:>16}{chance:>9}".rstrip()


def _plain(value: Any) -> Any:
    """The same value in the types that JSON and CSV know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
