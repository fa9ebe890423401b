"""The study of the encoding's size as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from anomalib_lite.report.encoding import EncodingStudy, Estimate
from anomalib_lite.report.files import replace_file
from anomalib_lite.report.plots import (
    BLUE,
    GREEN,
    INK,
    PURPLE,
    VERMILION,
    label_legend,
    new_figure,
    png,
    tidy,
)

MOST_TICKS = 12


def draw_study(study: EncodingStudy, path: Path) -> Path:
    """Draw the three curves with their standard errors and both sizes to `path`, a PNG; returns it."""
    sizes = [point.elements for point in study.points]
    figure = new_figure(7.2, 6.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.2])
    near = _curve(above, sizes, [point.vicinity for point in study.points], VERMILION, "s")
    total = _curve(above, sizes, [point.total for point in study.points], BLUE, "o")
    if all(point.total.mean > 0 and point.vicinity.mean > 0 for point in study.points):
        above.set_yscale("log")
    above.set_ylabel("mean squared error")
    label_legend(above, [near, total], ["near drawn defects", "whole picture"], loc="best")

    ratio = _curve(below, sizes, [point.ratio for point in study.points], GREEN, "D")
    handles, names = [ratio], ["near drawn defects / whole picture"]
    best = study.point(study.recommended).ratio
    if best.error is not None:
        span = below.axhspan(best.mean - best.error, best.mean, color=GREEN, alpha=0.15, linewidth=0)
        handles.append(span)
        names.append("one standard error below the highest")
    tested = [(point.elements, (point.test or {}).get("ratio")) for point in study.points]
    known = [(size, value.mean) for size, value in tested if value is not None]
    if known:
        # on a scale of its own: it may lie far off, and would flatten the curve that decides
        aside = below.twinx()
        (thin,) = aside.plot(
            *zip(*known, strict=True), color=PURPLE, linewidth=0.9, linestyle=(0, (4, 2)), marker="."
        )
        tidy(aside)
        aside.spines[:].set_visible(False)
        aside.tick_params(axis="y", labelcolor=PURPLE)
        aside.set_ylabel("the ratio on test masks", color=PURPLE, fontsize=10)
        handles.append(thin)
        names.append("test masks, not used (right)")
    below.set(ylabel="ratio of the two errors", xlabel="elements in the encoding of one patch")
    for size, name, line in _marks(study):
        for axes in (above, below):
            axes.axvline(size, color=INK, linewidth=1.2, linestyle=line, zorder=0)
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=line))
        names.append(name)
    label_legend(figure, handles, names, loc="outside lower center", ncols=2)

    below.set_xscale("log", base=2)
    ticks = sizes[:: -(-len(sizes) // MOST_TICKS)]
    below.xaxis.set_major_locator(FixedLocator(ticks))
    below.xaxis.set_minor_locator(NullLocator())
    below.set_xticklabels([str(size) for size in ticks])
    for axes in (above, below):
        tidy(axes)
    return replace_file(path, png(figure))


def _curve(axes: Axes, sizes: Sequence[int], values: Sequence[Estimate], colour: str, marker: str) -> Any:
    return axes.errorbar(
        sizes,
        [value.mean for value in values],
        [value.error or 0 for value in values],
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=2,
        elinewidth=1.2,
        capsize=3,
    )


def _marks(study: EncodingStudy) -> list[tuple[int, str, Any]]:
    """The sizes to mark, what they are, and their line."""
    if study.recommended == study.recommended_small:
        return [(study.recommended, f"recommended: {study.recommended}, the highest ratio", "-")]
    return [
        (study.recommended, f"recommended: {study.recommended}, the highest ratio", "-"),
        (study.recommended_small, f"{study.recommended_small}: the smallest within it", (0, (1.5, 1.5))),
    ]
