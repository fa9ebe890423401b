"""How accepted parts went on against the calibration set's, as one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from anomalib_lite.drift import WORDS
from anomalib_lite.report.files import replace_file
from anomalib_lite.report.plots import BLUE, FAINT, INK, SKY, VERMILION, label_legend, new_figure, png, tidy

NAMES = (
    "calibration set: mean",
    "± 1 standard deviation",
    "accepted parts: mean",
    "± 1 standard deviation",
    "alarm",
)


def write_drift(summary: Mapping[str, Any], path: Path) -> Path:
    """Draw what `DriftMonitor.summary` gave and write it to `path`; raises OSError where that cannot be written."""
    return replace_file(path, draw_drift(summary))


def draw_drift(summary: Mapping[str, Any]) -> bytes:
    """Means and spreads of each statistic over the accepted parts, on the calibration set's, alarms marked."""
    spans, reference = summary["spans"], summary["reference"]
    if not spans:
        return _nothing(summary)
    figure = new_figure(9.2, 1.0 + 1.75 * len(reference))
    panels = figure.subplots(len(reference), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, facts) in zip(panels, reference.items(), strict=True):
        handles = _panel(axes, name, facts, spans)
    panels[-1].set_xlabel("accepted parts")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    label_legend(figure, handles, NAMES, loc="outside upper center", ncols=len(NAMES))
    return png(figure)


def _panel(
    axes: Axes, name: str, facts: Mapping[str, float], spans: Sequence[Mapping[str, Any]]
) -> list[Any]:
    mean, deviation = facts["mean"], facts["deviation"]
    band = axes.axhspan(mean - deviation, mean + deviation, color=FAINT, alpha=0.22, linewidth=0)
    line = axes.axhline(mean, color=INK, linewidth=1, linestyle=(0, (5, 2)))
    middle = np.array([(span["first"] + span["last"]) / 2 for span in spans])
    means = np.array([span["means"][name] for span in spans])
    spreads = np.array([span["deviations"][name] for span in spans])
    (curve,) = axes.plot(middle, means, color=BLUE, linewidth=1.6)
    spread: Artist
    if len(spans) < 40:  # else they would hide each other
        curve.set(marker="o", markersize=3.5)
        spread = axes.vlines(
            middle, means - spreads, means + spreads, color=SKY, alpha=0.7, linewidth=3, zorder=1.5
        )
    else:
        spread = axes.fill_between(
            middle, means - spreads, means + spreads, color=SKY, alpha=0.4, linewidth=0
        )
    alarmed = np.array([span["alarms"][name] > 0 for span in spans])
    (alarm,) = axes.plot(
        middle[alarmed], means[alarmed], "o", color=VERMILION, markersize=6, markeredgecolor="white", zorder=5
    )
    axes.set_ylabel(WORDS[name].replace(" ", "\n"))
    axes.margins(x=0.02, y=0.12)
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)
    tidy(axes)
    return [line, band, curve, spread, alarm]


def _nothing(summary: Mapping[str, Any]) -> bytes:
    figure = new_figure(9.2, 1.2)
    text = summary["known"]["advice"] or (
        f"{summary['parts']} accepted parts: no full window of {summary['window']} yet"
    )
    figure.text(0.5, 0.5, text, ha="center", va="center", color=INK, fontsize=10, wrap=True, parse_math=False)
    return png(figure)
