"""The curves of the report as PNG bytes.

Only matplotlib's objects are used, never pyplot: nothing is shared between threads and no display is needed.
The same input gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from anomalib_lite.types import GOOD

# Okabe & Ito's palette: told apart with every common colour vision
BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9"
INK, FAINT = "#26303a", "#8a949e"
GOOD_COLOUR, DEFECT_COLOUR = BLUE, VERMILION
DEFECT_STYLES = (
    (VERMILION, "^"),
    (GREEN, "s"),
    (PURPLE, "D"),
    (AMBER, "v"),
    (SKY, "P"),
    ("#000000", "X"),
    ("#7a5230", "*"),
    (FAINT, "h"),
)
OTHER = "other defects"
DOTS_PER_INCH = 150


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches that belongs to no window and no global state."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Draw a figure; the bytes carry neither date nor version."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def tidy(axes: Axes) -> None:
    """Take away the ink that says nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", colors=INK, labelsize=9, width=0.8, color=FAINT)
    axes.xaxis.label.set(color=INK, fontsize=10)
    axes.yaxis.label.set(color=INK, fontsize=10)


def label_legend(
    owner: Axes | Figure, handles: Sequence[Any], names: Sequence[str], *, loc: Any, ncols: int = 1
) -> None:
    """A legend whose texts are shown as they are: a folder `$x$` is no formula, `_y` is not hidden."""
    stand_ins = [str(i) for i in range(len(names))]
    legend = owner.legend(handles, stand_ins, loc=loc, ncols=ncols, frameon=False, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=printable(name), parse_math=False, color=INK)


def printable(name: str, length: int = 40) -> str:
    """A name fit for drawing: one line, no bytes that are not text, shortened in the middle.

    >>> printable("a" * 20 + "b" * 20, length=11)
    'aaaaa…bbbbb'
    """
    text = name.encode("utf-8", errors="backslashreplace").decode("utf-8")
    text = "".join(character if character.isprintable() else "?" for character in text)
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def own_styles(defects: Sequence[str]) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The defect types with the rarest merged, and a colour and a marker for each, the frequent ones first.

    >>> names, styles = own_styles(["good", "scratch"])
    >>> names, styles["good"]
    (['good', 'scratch'], ('#0072B2', 'o'))
    """
    types = sorted(set(defects) - {GOOD}, key=lambda name: (-defects.count(name), name))
    if len(types) > len(DEFECT_STYLES):
        types = [*types[: len(DEFECT_STYLES) - 1], OTHER]
    styles = dict(zip(types, DEFECT_STYLES, strict=False))
    if GOOD in defects:
        styles = {GOOD: (GOOD_COLOUR, "o")} | styles
    return [name if name in styles else OTHER for name in defects], styles


def draw_roc(labels: np.ndarray, scores: np.ndarray, decisions: np.ndarray | None) -> bytes:
    """ROC curve with chance and, where parts were decided on (n,), the threshold's place on it."""
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    figure = new_figure(4.6, 4.2)
    axes = figure.add_subplot()
    (chance,) = axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    (curve,) = axes.plot(false_positive, true_positive, color=BLUE, linewidth=2)
    handles, names = [curve, chance], ["this run", "guessing"]
    if decisions is not None:
        place = decisions[labels == 0].mean(), decisions[labels == 1].mean()
        (mark,) = axes.plot(*place, "o", color=VERMILION, markersize=8, markeredgecolor="white", zorder=5)
        handles.insert(1, mark)
        names.insert(1, "at the threshold")
    axes.set(
        xlabel="good parts rejected", ylabel="defective parts found", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
    _share_axes(axes)
    label_legend(axes, handles, names, loc="lower right")
    return png(figure)


def draw_precision_recall(labels: np.ndarray, scores: np.ndarray, decisions: np.ndarray | None) -> bytes:
    """Precision over recall with chance, which is the share of defective parts, and the threshold's place."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    figure = new_figure(4.6, 4.2)
    axes = figure.add_subplot()
    chance = axes.axhline(labels.mean(), color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    (curve,) = axes.step(recall, precision, where="post", color=BLUE, linewidth=2)
    handles, names = [curve, chance], ["this run", "guessing"]
    if decisions is not None and decisions.any():
        place = decisions[labels == 1].mean(), labels[decisions == 1].mean()
        (mark,) = axes.plot(*place, "o", color=VERMILION, markersize=8, markeredgecolor="white", zorder=5)
        handles.insert(1, mark)
        names.insert(1, "at the threshold")
    axes.set(
        xlabel="defective parts found",
        ylabel="rejects that are right",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    _share_axes(axes)
    label_legend(axes, handles, names, loc="lower left" if labels.mean() > 0.4 else "upper right")
    return png(figure)


def draw_histogram(
    defects: Sequence[str],
    scores: np.ndarray,
    normals: Mapping[str, np.ndarray],
    cut: float | None,
) -> bytes:
    """Histogram of the test scores (n,), and below it every single score, by group, with the threshold.

    `normals` are the scores of the good parts that were held out from training, by what they were used for.
    """
    good = np.array([defect == GOOD for defect in defects])
    strips = [(name, INK, values) for name, values in normals.items() if values.size]
    strips += _by_defect(defects, scores)
    everything = np.concatenate([*(values for _, _, values in strips), [] if cut is None else [cut]])
    logarithmic = bool(everything.min() > 0 and everything.max() > 50 * everything.min())
    bins = np.histogram_bin_edges(np.log(everything) if logarithmic else everything, 36)
    bins = np.exp(bins) if logarithmic else bins

    figure = new_figure(9.2, 3.2 + 0.24 * len(strips))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 0.24 * len(strips) + 0.2])
    handles, names = [], []
    for chosen, colour, name in ((good, GOOD_COLOUR, "good"), (~good, DEFECT_COLOUR, "defective")):
        if chosen.any():
            _, _, bars = above.hist(
                scores[chosen], bins, color=colour, alpha=0.55, edgecolor=colour, histtype="stepfilled"
            )
            handles.append(bars[0])
            names.append(f"{name} ({chosen.sum()})")
    for row, (_, colour, values) in enumerate(strips):
        below.plot(values, np.full(values.shape, row), "|", color=colour, markersize=9, alpha=0.75)
    for axes in (above, below):
        tidy(axes)
        if cut is not None:
            line = axes.axvline(cut, color=INK, linewidth=1.4, linestyle=(0, (5, 2)))
    if cut is not None:
        handles.append(line)
        names.append("threshold: rejected to its right")
    if logarithmic:
        above.set_xscale("log")
    above.set_ylabel("test parts")
    below.set(xlabel="raw score (higher is more anomalous)", ylim=(len(strips) - 0.4, -0.6))
    below.set_yticks(range(len(strips)), [printable(name) for name, _, _ in strips])
    for label in below.get_yticklabels():
        label.set_parse_math(False)
    below.spines["left"].set_visible(False)
    below.tick_params(axis="y", length=0)
    label_legend(above, handles, names, loc="best")
    return png(figure)


def draw_losses(losses: Sequence[Mapping[str, float]]) -> bytes:
    """Training and validation loss over the epochs; logarithmic where they fall by more than ten times."""
    figure = new_figure(9.2, 3.0)
    axes = figure.add_subplot()
    handles, names, values = [], [], []
    for key, name, colour, line in (
        ("train_loss", "training", BLUE, "-"),
        ("val_loss", "validation", VERMILION, (0, (5, 2))),
    ):
        points = [
            (row["epoch"], row[key]) for row in losses if row.get(key) is not None and np.isfinite(row[key])
        ]
        if points:
            marker = "o" if len(points) < 20 else "None"
            (handle,) = axes.plot(
                *zip(*points, strict=True), marker=marker, color=colour, linestyle=line, markersize=4
            )
            handles.append(handle)
            names.append(name)
            values += [loss for _, loss in points]
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    if handles:
        label_legend(axes, handles, names, loc="upper right")
    return png(figure)


def _share_axes(axes: Axes) -> None:
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    axes.set_yticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    axes.grid(color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    tidy(axes)


def _by_defect(defects: Sequence[str], scores: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and scores of each defect type, the good ones first; the rarest types together."""
    names, styles = own_styles(defects)
    return [
        (f"test: {name}", colour, scores[[other == name for other in names]])
        for name, (colour, _) in styles.items()
    ]
