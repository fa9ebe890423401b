"""Judges photographs on disk and writes what is said of them, part by part."""

from __future__ import annotations

import csv
import logging
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from anomalib_lite.data.images import list_images, read_image, write_png
from anomalib_lite.drift_watch import DriftWatch, Monitor
from anomalib_lite.evaluation import score_row
from anomalib_lite.inspector import VERDICTS, Examined, Inspector, annotate, examine, unreadable
from anomalib_lite.lines import part_line
from anomalib_lite.stream_files import ConsumerGone, LineFile, StandardOutput
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)


def inspect(
    inspector: Inspector,
    source: Path,
    output: Path,
    *,
    pictures: bool,
    on_bad_image: Literal["reject", "error"],
    lines: Literal["file", "stdout"] = "file",
    monitor: Monitor | None = None,
) -> dict[str, int]:
    """Judge a photograph or every photograph of a folder, and write each verdict before the next part is read.

    Writes `scores.csv` and `scores.jsonl` (a row a photograph; the fields are those of `lines.part_line`), and, where
    `pictures` is set, `overlays/` and `masks/` (PNG in the photograph's own pixels). In `scores.csv` there is only the
    number of defects. With `lines=stdout` the JSON lines go there; `monitor` is told of every part that was accepted.

    Returns:
        How many parts were `good`, `defective`, `rejected` (not judged: not aligned, or not readable) or, by a
        detector without a threshold, `unjudged`.

    Raises:
        InputError: for a source that is not there or holds no picture, and for an output that cannot be written.
    """
    if on_bad_image not in ("reject", "error"):
        raise InputError(f"on_bad_image must be reject or error, got {on_bad_image}")
    if lines not in ("file", "stdout"):
        raise InputError(f"lines must be file or stdout, got {lines}")
    paths = [source] if source.is_file() else list_images(source)
    watch = DriftWatch(monitor)
    counts: dict[str, int] = dict.fromkeys(VERDICTS, 0)
    try:
        for folder in (output, output / "overlays", output / "masks") if pictures else (output,):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            table = stack.enter_context((output / "scores.csv").open("w", newline=""))
            sink = StandardOutput() if lines == "stdout" else LineFile(output / "scores.jsonl", append=False)
            stack.callback(sink.close)
            writer: csv.DictWriter[str] | None = None
            for number, path in enumerate(tqdm(paths, desc="inspecting", unit="part", disable=None)):
                examined, photograph = _examine(inspector, path, on_bad_image)
                row = score_row(examined.prediction)
                if writer is None:
                    writer = csv.DictWriter(table, fieldnames=[*row, "defects"])
                    writer.writeheader()
                writer.writerow(row | {"defects": len(examined.defects)})
                table.flush()
                counts[examined.verdict] += 1
                now, drift = datetime.now().astimezone(), watch.take(examined)
                sink.write(part_line(examined, time=now, where={"path": str(path)}, drift=drift))
                if pictures and photograph is not None:
                    _write_pictures(examined, photograph, output, f"{number:05d}_{path.stem}")
    except ConsumerGone as gone:
        log.warning("%s after %d of %d parts", gone, sum(counts.values()), len(paths))
    except OSError as error:
        raise InputError(f"{output}: cannot write the results: {error.strerror or error}") from None
    return counts


def _examine(inspector: Inspector, path: Path, on_bad_image: str) -> tuple[Examined, np.ndarray | None]:
    try:
        photograph = read_image(path)
    except InputError as error:
        if on_bad_image == "error":
            raise
        return unreadable(path, str(error)), None
    return examine(inspector, photograph, path), photograph


def _write_pictures(examined: Examined, photograph: np.ndarray, output: Path, name: str) -> None:
    if examined.localised is None:
        return
    # without a pixel cut, a black one would say that nothing is wrong
    if examined.prediction.pred_mask is not None:
        write_png(output / "masks" / f"{name}.png", examined.localised.mask.astype(np.uint8) * 255)
    write_png(output / "overlays" / f"{name}.png", annotate(photograph, examined))
