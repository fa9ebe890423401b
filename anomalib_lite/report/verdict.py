"""The result of a test in sentences that need no knowledge of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anomalib_lite.report.figures import interval_of, number, percent, percent_range
from anomalib_lite.types import RunRecord


@dataclass(frozen=True, slots=True)
class Tally:
    """How many test parts went which way."""

    found: int = 0  # defective and rejected
    missed: int = 0  # defective, but accepted
    accepted: int = 0  # good and accepted
    false_rejects: int = 0  # good, but rejected
    undecided_defective: int = 0  # scored, but there is no threshold
    undecided_good: int = 0
    unscored: int = 0  # could not be aligned

    @property
    def defective(self) -> int:
        """Defective parts with a score."""
        return self.found + self.missed + self.undecided_defective

    @property
    def good(self) -> int:
        """Good parts with a score."""
        return self.accepted + self.false_rejects + self.undecided_good

    @property
    def decided(self) -> bool:
        """Whether parts were accepted or rejected at all."""
        return self.found + self.missed + self.accepted + self.false_rejects > 0


def is_scored(row: Mapping[str, Any]) -> bool:
    """Whether a row of scores.csv holds a score; a part that could not be aligned has none.

    >>> is_scored({"raw_score": 0.0}), is_scored({"raw_score": None})
    (True, False)
    """
    return number(row.get("raw_score")) is not None


def tally(rows: Iterable[Mapping[str, Any]]) -> Tally:
    """Count the rows of scores.csv by what they are and what was decided.

    >>> tally([{"label": 1, "raw_score": 3.0, "pred_label": 1}, {"label": 0, "raw_score": None}])
    Tally(found=1, missed=0, accepted=0, false_rejects=0, undecided_defective=0, undecided_good=0, unscored=1)
    """
    fields = {
        (1, 1): "found",
        (1, 0): "missed",
        (0, 0): "accepted",
        (0, 1): "false_rejects",
        (1, None): "undecided_defective",
        (0, None): "undecided_good",
    }
    counts: dict[str, int] = {}
    for row in rows:
        name = fields[int(row["label"]), _decision(row)] if is_scored(row) else "unscored"
        counts[name] = counts.get(name, 0) + 1
    return Tally(**counts)


def proportion_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, JASA 22, 1927), which stays honest at 0 of n and n of n.

    >>> low, high = proportion_interval(0, 20)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.161)
    """
    squared = 1.959964**2  # the normal distribution's 97.5 % point
    centre = (count + squared / 2) / (total + squared)
    spread = (squared * (count * (total - count) / total + squared / 4)) ** 0.5 / (total + squared)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def rate_intervals(counts: Tally) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of the two rates that follow from counts alone, under their names in metrics.json.

    A bootstrap gives 0 of 20 false rejects the interval 0 to 0, which would promise too much.
    """
    rates = {
        "image_Recall": (counts.found, counts.defective),
        "false_reject_rate": (counts.false_rejects, counts.good),
    }
    if not counts.decided:
        return {}
    return {name: proportion_interval(count, total) for name, (count, total) in rates.items() if total}


def verdict(record: RunRecord) -> list[str]:
    """The outcome as sentences, the most important first."""
    counts = tally(record.scores)
    if not record.scores:
        return ["Nothing was tested: there are no test pictures."]
    sentences = _decisions(counts) if counts.decided else _separation(counts, record.metrics)
    if counts.unscored:
        sentences.append(
            f"{_parts(counts.unscored)} could not be aligned and got no score: "
            "listed below, counted nowhere above."
        )
    if not counts.defective:
        sentences.append(
            "There were no defective parts in the test, so it cannot tell which defects would be found."
        )
    if not counts.good:
        sentences.append(
            "There were no good parts in the test, so it cannot tell how many of them would be rejected."
        )
    return sentences


def guarantee(metrics: Mapping[str, Any]) -> list[str]:
    """What is promised about the threshold, and what must be known about it."""
    threshold = metrics.get("threshold") or {}
    sentences = []
    if threshold.get("guarantee"):
        sentences.append(f"Guarantee: {threshold['guarantee']}")
    if number(threshold.get("value")) is not None:
        sentences.append(
            f"The cut was moved by hand to a normalised score of {threshold['value']:g}; "
            "the cut that the rule fitted lies at 0.5."
        )
    if threshold.get("oracle"):
        sentences.append(
            "The threshold is an oracle: it was picked with the labels of the very parts it is judged on. "
            "On new parts expect worse."
        )
    return sentences


def _decision(row: Mapping[str, Any]) -> int | None:
    decided = number(row.get("pred_label"))
    return None if decided is None else int(decided)


def _parts(count: int, kind: str = "") -> str:
    return f"{count} {kind + ' ' if kind else ''}part{'' if count == 1 else 's'}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _decisions(counts: Tally) -> list[str]:
    sentences = []
    intervals = {name: percent_range(ends) for name, ends in rate_intervals(counts).items()}
    if counts.defective:
        sentences.append(
            f"Of {_parts(counts.defective, 'defective')} {counts.found} {_were(counts.found)} found "
            f"({percent(counts.found / counts.defective, 1)}, 95 % interval {intervals['image_Recall']}) "
            f"and {counts.missed} {_were(counts.missed)} missed."
        )
    if counts.good:
        rejected = counts.false_rejects
        sentences.append(
            f"Of {_parts(counts.good, 'good')} {rejected} {_were(rejected)} rejected "
            f"({percent(rejected / counts.good, 1)}, 95 % interval {intervals['false_reject_rate']})."
        )
    return sentences


def _separation(counts: Tally, metrics: Mapping[str, Any]) -> list[str]:
    if counts.unscored and not counts.defective and not counts.good:
        return ["No part could be judged."]
    sentences = ["No threshold was set: parts were scored, but none was accepted or rejected."]
    separation = number((metrics.get("image") or {}).get("image_AUROC"))
    if separation is not None:
        interval = interval_of(metrics, "image_AUROC")
        known = f" (95 % interval {percent_range(interval)})" if interval else ""
        sentences.append(
            f"A defective part scores higher than a good one in {percent(separation, 1)} of pairs{known}; "
            "guessing would give 50 %."
        )
    return sentences
