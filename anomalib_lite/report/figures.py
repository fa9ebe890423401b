"""The metrics of a run, each with its interval, its chance level and a line on how to read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NO_BREAK = "\N{NO-BREAK SPACE}"

# name in metrics.json -> (title, how to read it)
READINGS = {
    "image_AUROC": (
        "Separation of good and defective",
        "How often a defective part, drawn at random, scores higher than a good one. Needs no threshold.",
    ),
    "image_AP": (
        "Average precision",
        "Mean precision when parts are taken out from the highest score down. "
        "Guessing already reaches the share of defective parts, so read it against its chance level.",
    ),
    "image_AUPR": (
        "Area under precision and recall",
        "Nearly the average precision, with straight lines between the points of the curve.",
    ),
    "image_Recall": ("Defects found", "Of the defective parts, the share that is rejected."),
    "false_reject_rate": ("False rejects", "Of the good parts, the share that is rejected. Lower is better."),
    "image_Precision": (
        "Rejects that are right",
        "Of the rejected parts, the share that is defective. "
        "It falls where defects are rarer than in this test.",
    ),
    "image_F1Score": ("F1 score", "Harmonic mean of the two: defects found and rejects that are right."),
    "image_Accuracy": ("Accuracy", "Share of all parts that were judged rightly, good or defective."),
    "pixel_AUROC": (
        "Separation of pixels",
        "How often a defective pixel stands out more than a sound one. It flatters where defects are small.",
    ),
    "pixel_AUPR": (
        "Precision and recall of pixels",
        "Area under the curve over all pixels; stricter than the line above where defects are small.",
    ),
    "pixel_AP": (
        "Average precision of pixels",
        "Nearly the line above, summed in steps as papers report it.",
    ),
    "pixel_F1Score": (
        "F1 score of pixels",
        "Agreement of the predicted masks with the drawn ones, at the pixel cut.",
    ),
    "pixel_Precision": (
        "Marked pixels that are right",
        "Of the pixels above the pixel cut, the share that is defective.",
    ),
    "pixel_Recall": ("Defective pixels found", "Of the defective pixels, the share above the pixel cut."),
    "pixel_F1Score_oracle": (
        "Best possible F1 score of pixels",
        "With the single pixel cut that suits the drawn masks best: not a result.",
    ),
    "pixel_AUPRO": (
        "Overlap with each defect",
        "Covered share of each drawn defect, small or large, "
        "averaged up to 30 % false alarms among sound pixels.",
    ),
    "pixel_AUPRO_0.05": ("Overlap, strict", "The same, up to 5 % false alarms."),
    "validation_AUROC": (
        "Separation before the test",
        "Good parts held out from training against the same with drawn defects. "
        "It uses no test picture, so settings may be chosen by it.",
    ),
    "validation_Recall": (
        "Drawn defects found",
        "Of those drawn defects, faint ones among them, the share that the threshold rejects.",
    ),
}

CHANCE = {"image_AUROC": 0.5, "pixel_AUROC": 0.5, "validation_AUROC": 0.5}


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One metric with all that is needed to read it; shares of 1, None where unknown."""

    name: str
    value: float | None
    interval: tuple[float, float] | None
    chance: float | None

    @property
    def title(self) -> str:
        """What the metric is called on the page; its own name if there is no other."""
        return READINGS[self.name][0] if self.name in READINGS else self.name

    @property
    def reading(self) -> str:
        """One line on how to read it."""
        return READINGS[self.name][1] if self.name in READINGS else ""


def number(value: Any) -> float | None:
    """The finite number in `value`, or None for anything else.

    >>> number("0.5"), number(float("nan")), number(None), number(1)
    (None, None, None, 1.0)
    """
    if isinstance(value, str) or value is None:
        return None
    return float(value) if math.isfinite(value) else None


def percent(share: float | None, digits: int = 2) -> str:
    """A share as text in percent, kept on one line; a dash where unknown.

    >>> percent(0.9712, 1).replace(NO_BREAK, " "), percent(None)
    ('97.1 %', '–')
    """
    return "–" if share is None else f"{100 * share:.{digits}f}{NO_BREAK}%"


def percent_range(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """An interval of shares as text in percent, kept on one line; empty where unknown.

    >>> percent_range((0.948, 0.9893)).replace(NO_BREAK, " ")
    '94.8–98.9 %'
    """
    if interval is None:
        return ""
    low, high = interval
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}{NO_BREAK}%"


def interval_of(metrics: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % interval of one metric, None where it is absent or not finite.

    >>> interval_of({"intervals": {"image_AUROC": [0.9, 0.95]}}, "image_AUROC")
    (0.9, 0.95)
    """
    ends = [number(end) for end in (metrics.get("intervals") or {}).get(name) or ()]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]


def image_figures(metrics: Mapping[str, Any]) -> list[KeyFigure]:
    """The figures about whole parts, in the order in which they are read."""
    return list(_figures(metrics, "image"))


def pixel_figures(metrics: Mapping[str, Any]) -> list[KeyFigure]:
    """The figures about where the defects are."""
    return list(_figures(metrics, "pixel"))


def validation_figures(metrics: Mapping[str, Any]) -> list[KeyFigure]:
    """The figures that were known before the test."""
    return [
        KeyFigure(name, number(metrics[name]), interval_of(metrics, name), CHANCE.get(name))
        for name in ("validation_AUROC", "validation_Recall")
        if name in metrics
    ]


def _figures(metrics: Mapping[str, Any], section: str) -> Iterator[KeyFigure]:
    values = metrics.get(section) or {}
    prevalence = number(values.get("chance_AP"))
    chance = CHANCE | ({"image_AP": prevalence, "image_AUPR": prevalence} if prevalence is not None else {})
    known = [name for name in READINGS if name in values]
    unknown = [name for name in values if name not in READINGS and name != "chance_AP"]
    for name in known + unknown:
        yield KeyFigure(name, number(values[name]), interval_of(metrics, name), chance.get(name))
