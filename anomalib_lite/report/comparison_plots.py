"""The plots of a comparison as PNG bytes, in the style of a run's report; a method looks the same in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from anomalib_lite.report.comparison_results import Summary
from anomalib_lite.report.plots import (
    AMBER,
    BLUE,
    DEFECT_COLOUR,
    FAINT,
    GOOD_COLOUR,
    GREEN,
    INK,
    PURPLE,
    SKY,
    VERMILION,
    label_legend,
    new_figure,
    png,
    printable,
    tidy,
)

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY, "#000000", "#7a5230")
Line = Literal["-"] | tuple[float, tuple[float, ...]]
LINES: tuple[Line, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.2)), (0, (6, 2, 1.5, 2)))
COLUMNS = 3  # of small plots beside each other
WIDTH = 9.2


@dataclass(frozen=True, slots=True)
class Curve:
    """A method's ROC curve averaged over its seeds."""

    number: int  # the method's place in the comparison, which sets its colour and line
    label: str
    false_positive: np.ndarray  # (m,)
    true_positive: np.ndarray  # (m,)
    area: float


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one run."""

    label: str
    labels: np.ndarray  # (n,) 1 defective, 0 good
    scores: np.ndarray  # (n,) raw
    cut: float | None


@dataclass(frozen=True, slots=True)
class PixelCurve:
    """Agreement of predicted and true pixels over the pixel cut, in one run."""

    label: str
    tau: np.ndarray  # (m,) rising
    values: Mapping[str, np.ndarray]  # title -> (m,), shares of 1
    cut: float | None  # the pixel cut in use


@dataclass(frozen=True, slots=True)
class Position:
    """A method's figure beside the paper's, shares of 1."""

    label: str
    ours: Summary
    paper: tuple[float, float] | None


def style(number: int) -> tuple[str, Line]:
    """Colour and line of the method at this place; 32 differ.

    >>> style(0) == style(8), style(0)[0] == style(8)[0]
    (False, True)
    """
    return COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]


def draw_roc_overlay(curves: Sequence[Curve]) -> bytes:
    """The ROC curves of all methods on a data set, with their areas in the legend."""
    figure = new_figure(WIDTH, 4.4)
    axes = figure.add_subplot()
    (chance,) = axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    handles, names = [], []
    for curve in curves:
        colour, line = style(curve.number)
        (handle,) = axes.plot(
            curve.false_positive, curve.true_positive, color=colour, linestyle=line, linewidth=1.8, alpha=0.9
        )
        handles.append(handle)
        names.append(f"{100 * curve.area:.1f} %  {printable(curve.label)}")
    axes.set(
        xlabel="good parts rejected", ylabel="defective parts found", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    axes.set_aspect("equal", anchor="W")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    tidy(axes)
    label_legend(axes, [*handles, chance], [*names, "50.0 %  guessing"], loc=(1.04, 0.02))
    return png(figure)


def draw_against_paper(positions: Sequence[Position], *, chance: float) -> bytes:
    """A line for each method: its mean over the seeds with lowest and highest, and the paper's figure."""
    figure = new_figure(WIDTH, 0.9 + 0.3 * len(positions))
    axes = figure.add_subplot()
    lowest = [chance]
    for row, position in enumerate(positions):
        axes.plot([position.ours.low, position.ours.high], [row, row], color=BLUE, linewidth=2.5, alpha=0.5)
        axes.plot(position.ours.mean, row, "o", color=BLUE, markersize=7)
        lowest.append(position.ours.low)
        if position.paper is not None:
            low, high = position.paper
            axes.plot([low, high], [row, row], color=VERMILION, linewidth=1.5)
            axes.plot(
                (low + high) / 2,
                row,
                "D",
                markerfacecolor="none",
                markeredgecolor=VERMILION,
                markeredgewidth=1.6,
                markersize=7,
            )
            lowest.append(low)
    axes.axvline(chance, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlabel="image AUROC", ylim=(len(positions) - 0.5, -0.5), xlim=(min(lowest) - 0.02, 1.005))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_yticks(range(len(positions)), [printable(position.label) for position in positions])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.grid(axis="x", color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    tidy(axes)
    axes.tick_params(axis="y", length=0)
    handles = [Line2D([], [], color=BLUE, marker="o", markersize=7, linewidth=2.5)]
    names = ["this comparison"]
    if any(position.paper is not None for position in positions):
        handles.append(
            Line2D([], [], color=VERMILION, marker="D", markerfacecolor="none", markersize=7, linewidth=0)
        )
        names.append("published")
    handles.append(Line2D([], [], color=FAINT, linewidth=1, linestyle=(0, (4, 3))))
    label_legend(figure, handles, [*names, "guessing"], loc="outside upper left", ncols=3)
    return png(figure)


def draw_scores(panels: Sequence[Scores]) -> bytes:
    """A histogram for each method: good against defective parts, with the threshold."""
    figure, places = _small_plots(len(panels), height=2.3)
    for axes, panel in zip(places, panels, strict=False):
        shown = panel.scores if panel.cut is None else np.append(panel.scores, panel.cut)
        logarithmic = bool(shown.min() > 0 and shown.max() > 20 * shown.min())
        edges = np.histogram_bin_edges(np.log(shown) if logarithmic else shown, 28)
        bins: list[float] = (np.exp(edges) if logarithmic else edges).tolist()
        for label, colour in ((0, GOOD_COLOUR), (1, DEFECT_COLOUR)):
            values = panel.scores[panel.labels == label]
            # as shares of their kind: there may be many more of one
            weights = np.full(values.size, 1 / max(1, values.size))
            axes.hist(
                values,
                bins,
                weights=weights,
                color=colour,
                alpha=0.5,
                edgecolor=colour,
                histtype="stepfilled",
            )
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if panel.cut is not None:
            axes.axvline(panel.cut, color=INK, linewidth=1.3, linestyle=(0, (5, 2)))
        if logarithmic:
            axes.set_xscale("log")
        _title(axes, panel.label)
    handles = [
        Line2D([], [], color=colour, linewidth=7, alpha=0.55) for colour in (GOOD_COLOUR, DEFECT_COLOUR)
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1.3, linestyle=(0, (5, 2))))
    names = ["good parts", "defective parts", "threshold: rejected to its right"]
    label_legend(figure, handles, names, loc="outside lower left", ncols=3)
    return png(figure)


def draw_pixel_curves(panels: Sequence[PixelCurve]) -> bytes:
    """Precision, recall and F1 of pixels over the pixel cut, a plot for each method."""
    figure, places = _small_plots(len(panels), height=2.5)
    titles = list(dict.fromkeys(title for panel in panels for title in panel.values))
    looks = {title: (COLOURS[number], LINES[number]) for number, title in enumerate(titles)}
    for axes, panel in zip(places, panels, strict=False):
        for title, values in panel.values.items():
            colour, line = looks[title]
            axes.plot(panel.tau, values, color=colour, linestyle=line, linewidth=1.7)
        if panel.cut is not None:
            axes.axvline(panel.cut, color=INK, linewidth=1.2, linestyle=(0, (1, 2)))
        shown = panel.tau[_first_shown(panel) :]
        if shown[0] > 0 and shown[-1] > 20 * shown[0]:
            axes.set_xscale("log")
        axes.set_xlim(shown[0], shown[-1])
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("pixel cut τ")
        _title(axes, panel.label)
    handles = [Line2D([], [], color=colour, linestyle=line, linewidth=1.7) for colour, line in looks.values()]
    handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (1, 2))))
    label_legend(figure, handles, [*titles, "cut in use"], loc="outside lower left", ncols=4)
    return png(figure)


def _first_shown(panel: PixelCurve) -> int:
    """The last of the low cuts at which (nearly) every pixel is marked, or one below the cut in use."""
    recall = panel.values.get("recall", np.ones(1))
    low = int((recall >= 0.999).argmin()) - 1 if (recall < 0.999).any() else 0
    if panel.cut is not None:
        low = min(low, int(np.searchsorted(panel.tau, panel.cut)) - 1)
    return max(0, low)


def draw_latent_sizes(panels: Mapping[str, Mapping[str, Sequence[tuple[int, Summary]]]]) -> bytes:
    """Title of a figure -> model -> its summary at each size of the encoding."""
    figure, places = _small_plots(len(panels), height=2.9)
    models = list(dict.fromkeys(model for lines in panels.values() for model in lines))
    handles: dict[str, Line2D] = {}
    for axes, (title, lines) in zip(places, panels.items(), strict=False):
        for model, points in lines.items():
            colour, line = style(models.index(model))
            sizes = [size for size, _ in points]
            lows, highs = ([getattr(found, end) for _, found in points] for end in ("low", "high"))
            axes.fill_between(sizes, lows, highs, color=colour, alpha=0.15, linewidth=0)
            (handles[model],) = axes.plot(
                sizes, [found.mean for _, found in points], color=colour, linestyle=line, marker="o"
            )
        every = sorted({size for points in lines.values() for size, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(every, [str(size) for size in every])
        axes.minorticks_off()
        axes.set_xlabel("numbers in the encoding")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _title(axes, title)
    label_legend(figure, [handles[model] for model in models], models, loc="outside lower left", ncols=4)
    return png(figure)


def _small_plots(count: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` plots in rows of `COLUMNS`."""
    rows = -(-count // COLUMNS)
    figure = new_figure(WIDTH, height * rows + 0.4)
    places = list(figure.subplots(rows, COLUMNS, squeeze=False).ravel())
    for axes in places[count:]:
        axes.remove()
    for axes in places[:count]:
        tidy(axes)
    return figure, places[:count]


def _title(axes: Axes, text: str) -> None:
    axes.set_title(printable(text, 34), fontsize=10, color=INK, loc="left", parse_math=False)
