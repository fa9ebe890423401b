"""The study of cuts as a table for other programs, a picture and a page that needs nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from anomalib_lite import __version__
from anomalib_lite.cuts import FITTED, CutStudy, ImageCut, Rates
from anomalib_lite.report.environment import page_environment
from anomalib_lite.report.files import replace_file
from anomalib_lite.report.plots import (
    AMBER,
    BLUE,
    FAINT,
    INK,
    PURPLE,
    VERMILION,
    label_legend,
    new_figure,
    png,
    tidy,
)

COLUMNS = (
    "level",
    "pictures",
    "threshold_value",
    "raw_cut",
    "tau",
    "F1",
    "precision",
    "recall",
    "false_reject_rate",
)
LOOKS = {"F1": (BLUE, 2.2), "precision": (AMBER, 1.6), "recall": (VERMILION, 1.6)}
TICKS = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
TEST_LINE: Any = (0, (5, 2))
MARKS: dict[str, tuple[str, Any]] = {
    "recommended": (INK, "-"),
    "in use": (INK, (0, (1.5, 1.5))),
    "oracle: best on test pictures": (PURPLE, (0, (6, 2, 1.5, 2))),
}


def write_cuts(study: CutStudy, folder: Path, *, title: str) -> Path:
    """Write `cuts.csv`, `plots/cuts.png` and `cuts.html` into a run's folder and return the page's path."""
    replace_file(folder / "cuts.csv", _table(study).encode())
    picture = draw_cuts(study)
    if picture is not None:
        replace_file(folder / "plots" / "cuts.png", picture)
    page = page_environment().get_template("cuts.html.j2")
    content = page.render(
        title=title,
        study=study,
        version=__version__,
        picture=picture,
        options=options(study),
        at_an_end=_at_an_end(study),
        possible=_possible(study.validation_counts.good),
        image_rows=_image_rows(study),
        pixel_rows=_pixel_rows(study),
    )
    return replace_file(folder / "cuts.html", content.encode("utf-8", errors="backslashreplace"))


def options(study: CutStudy) -> str:
    """The recommended cuts as options of `anomalib-lite-train`; empty where nothing is recommended."""
    found = []
    if study.recommended_value is not None:
        found.append(f"threshold.value={study.recommended_value:g}")
    if study.recommended_tau is not None:
        found.append(f"postprocess.tau={study.recommended_tau:.4g}")
    return " ".join(found)


def _at_an_end(study: CutStudy) -> bool:
    """Whether the recommended image cut lies at an end of what was tried."""
    return study.recommended_value is not None and study.recommended_value in (
        study.image[0].value,
        study.image[-1].value,
    )


def _possible(good: int) -> float:
    """The highest rate of false rejects at which none of so many good parts is rejected in 1 of 20 tests.

    >>> round(_possible(59), 2), _possible(0)
    (0.05, 1.0)
    """
    return 1 - 0.05 ** (1 / good) if good else 1.0


def _table(study: CutStudy) -> str:
    """A row for each cut and each sort of pictures."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_table_rows(study))
    return text.getvalue()


def _table_rows(study: CutStudy) -> Iterator[dict[str, Any]]:
    for cut in study.image:
        for pictures, rates in (("validation", cut.validation), ("test", cut.test)):
            place = {"level": "image", "threshold_value": cut.value, "raw_cut": cut.raw_cut}
            yield place | {
                "pictures": pictures,
                "F1": rates.f1,
                "precision": rates.precision,
                "recall": rates.recall,
                "false_reject_rate": rates.false_reject_rate,
            }
    for pictures, rows in (("validation", study.pixel_validation), ("test", study.pixel_test)):
        for row in rows:
            yield {"level": "pixel", "pictures": pictures} | {
                name: row[name] for name in ("tau", "F1", "precision", "recall")
            }


def _image_rows(study: CutStudy) -> list[tuple[str, ImageCut]]:
    """The cuts worth a line, and why."""
    marks = [
        ("recommended: best F1 score on validation", study.recommended_value),
        (f"fitted by the rule ({study.rule})", FITTED if study.image else None),
        ("in use", study.value if study.value != FITTED else None),
        ("oracle: best F1 score on test", study.oracle_value),
    ]
    return [(name, study.at(value)) for name, value in marks if value is not None]


def _pixel_rows(study: CutStudy) -> list[tuple[str, float, Rates | None, Rates | None]]:
    """What is said of a pixel cut, tau, and what the curves of validation and test say there."""
    marks = [
        ("recommended: best F1 score on validation", study.recommended_tau),
        ("in use", study.tau if study.pixel_validation or study.pixel_test else None),
        ("oracle: best F1 score on test", study.oracle_tau),
    ]
    return [
        (name, tau, _read_off(study.pixel_validation, tau), _read_off(study.pixel_test, tau))
        for name, tau in marks
        if tau is not None
    ]


def _read_off(rows: Sequence[Mapping[str, float]], tau: float) -> Rates | None:
    """A curve's figures at a cut between its points; None beyond its ends."""
    if not rows or not rows[0]["tau"] <= tau <= rows[-1]["tau"]:
        return None
    taus = [row["tau"] for row in rows]
    f1, precision, recall = (
        float(np.interp(tau, taus, [row[name] for row in rows])) for name in ("F1", "precision", "recall")
    )
    return Rates(f1, precision, recall, None)


def draw_cuts(study: CutStudy) -> bytes | None:
    """F1 score, precision and recall against the image cut and the pixel cut; None without any cut."""
    with_pixels = bool(study.pixel_validation or study.pixel_test)
    count = bool(study.image) + with_pixels
    if not count:
        return None
    figure = new_figure(0.6 + 4.7 * count, 4.8)
    places = iter(np.atleast_1d(figure.subplots(1, count, sharey=True)))
    if study.image:
        _draw_image(next(places), study)
    if with_pixels:
        _draw_pixels(next(places), study)
    for axes in figure.axes:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", color="#e3e7eb", linewidth=0.7)
        axes.set_axisbelow(True)
        tidy(axes)
    handles = [Line2D([], [], color=colour, linewidth=width) for colour, width in LOOKS.values()]
    handles.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=TEST_LINE))
    handles += [
        Line2D([], [], color=colour, linewidth=1.3, linestyle=line) for colour, line in MARKS.values()
    ]
    names = ["F1 score", "precision", "recall", "the same on test pictures, not used", *MARKS]
    label_legend(figure, handles, names, loc="outside lower center", ncols=count + 1)
    return png(figure)


def _draw_image(axes: Axes, study: CutStudy) -> None:
    values = [cut.value for cut in study.image]
    for name, (colour, width) in LOOKS.items():
        for rates, thick, line in (
            ([cut.test for cut in study.image], 0.9, TEST_LINE),
            ([cut.validation for cut in study.image], width, "-"),
        ):
            heights = [np.nan if (share := _share(rate, name)) is None else share for rate in rates]
            axes.plot(values, heights, color=colour, linewidth=thick, linestyle=line)
    _mark(axes, study.recommended_value, study.value, study.oracle_value)
    if study.value != FITTED:
        axes.axvline(FITTED, color=FAINT, linewidth=1)
        axes.text(FITTED, 0.02, " fitted", color=INK, fontsize=8)
    # even steps on this scale are even steps of the raw score
    axes.set_xscale("logit")
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}" for tick in TICKS], rotation=45)
    axes.set_xlim(values[0], values[-1])
    axes.set_xlabel("image cut, threshold.value (fitted: 0.5)")


def _draw_pixels(axes: Axes, study: CutStudy) -> None:
    taus: list[float] = []
    for rows, test in ((study.pixel_test, True), (study.pixel_validation, False)):
        at = [row["tau"] for row in rows]
        taus += at
        for name, (colour, width) in LOOKS.items():
            thick, line = (0.9, TEST_LINE) if test else (width, "-")
            axes.plot(at, [row[name] for row in rows], color=colour, linewidth=thick, linestyle=line)
    marks = (study.recommended_tau, study.tau, study.oracle_tau)
    _mark(axes, *marks)
    starts = [_first_shown(rows) for rows in (study.pixel_validation, study.pixel_test) if rows]
    low = min(*starts, *(0.9 * tau for tau in marks if tau is not None))
    if low > 0 and max(taus) > 20 * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, max(taus))
    axes.set_xlabel("pixel cut, postprocess.tau")


def _first_shown(rows: Sequence[Mapping[str, float]]) -> float:
    """The last of the low cuts at which (nearly) every defective pixel is marked."""
    return max((row["tau"] for row in rows if row["recall"] >= 0.999), default=rows[0]["tau"])


def _mark(axes: Axes, *places: float | None) -> None:
    """Lines at the recommended cut, the one in use and the oracle's."""
    for place, (colour, line) in zip(places, MARKS.values(), strict=True):
        if place is not None:
            axes.axvline(place, color=colour, linewidth=1.3, linestyle=line, zorder=1)


def _share(rates: Rates, name: str) -> float | None:
    return {"F1": rates.f1, "precision": rates.precision, "recall": rates.recall}[name]
