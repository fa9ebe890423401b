"""What the runs of a comparison have left on disk, and its figures over the seeds."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomalib_lite.benchmark.grid import Cell, DataSet, Method
from anomalib_lite.report.figures import number


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: its figures if it is done, its error if it failed."""

    state: Literal["done", "failed", "waiting"]
    folder: Path
    metrics: Mapping[str, Any] = field(default_factory=dict)  # of metrics.json
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # (n,) of the scored test pictures
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (n,) raw
    error: str = ""
    seconds: float | None = None  # from start to end, with start-up

    def figure(self, name: str) -> float | None:
        """A figure by its name in metrics.json, None where it is absent or not finite."""
        for section in ("image", "pixel"):
            values = self.metrics.get(section) or {}
            if name in values:
                return number(values[name])
        value = self.metrics.get(name)
        return number(value) if isinstance(value, int | float) else None

    @property
    def training_seconds(self) -> float | None:
        """How long its network took to train, None where that is not recorded."""
        # as measured by whichever run trained it: `seconds.training` of another is only the time of a look-up
        return number((self.metrics.get("training") or {}).get("seconds"))

    @property
    def localises(self) -> bool:
        """Whether it has a map of the anomalies, and so a pixel cut."""
        return number((self.metrics.get("threshold") or {}).get("tau")) is not None

    @property
    def cut(self) -> float | None:
        """The raw score above which a part is rejected."""
        return number((self.metrics.get("threshold") or {}).get("cut"))


def read_outcome(folder: Path) -> Outcome:
    """The outcome of a run that is done, from its folder."""
    rows = [row for row in _rows(folder / "scores.csv") if row["raw_score"]]
    try:
        seconds = number(json.loads((folder / "cell.json").read_text()).get("seconds"))
    except (OSError, ValueError):
        seconds = None
    return Outcome(
        state="done",
        folder=folder,
        metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        labels=np.array([int(row["label"]) for row in rows], dtype=int),
        scores=np.array([float(row["raw_score"]) for row in rows]),
        seconds=seconds,
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    # surrogateescape: as it was written, for file names that are not UTF-8
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield from csv.DictReader(file)


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure over the seeds."""

    mean: float
    low: float
    high: float
    count: int

    def text(self, *, scale: float = 100.0, digits: int = 2) -> str:
        """Mean, and lowest to highest where there are several.

        >>> Summary(0.9, 0.85, 0.95, 3).text(), Summary(0.9, 0.9, 0.9, 1).text()
        ('90.00 (85.0–95.0)', '90.00')
        """
        spread = f" ({scale * self.low:.1f}–{scale * self.high:.1f})" if self.count > 1 else ""
        return f"{scale * self.mean:.{digits}f}{spread}"


def summarise(values: Sequence[float | None]) -> Summary | None:
    """Mean, lowest and highest of the values that are there; None if none is.

    >>> summarise([0.5, None, 0.75])
    Summary(mean=0.625, low=0.5, high=0.75, count=2)
    """
    known = [value for value in values if value is not None]
    return Summary(float(np.mean(known)), min(known), max(known), len(known)) if known else None


@dataclass(slots=True)
class Comparison:
    """The whole grid and what is known of it so far."""

    name: str
    command: str
    methods: list[Method]
    data: list[DataSet]
    seeds: list[int]
    jobs: int
    threads: int
    outcomes: dict[Cell, Outcome]

    def done(self, method: str, data: str) -> list[Outcome]:
        """The finished runs of a method on a data set, in the order of the seeds."""
        return [
            outcome
            for cell, outcome in self.outcomes.items()
            if (cell.method, cell.data) == (method, data) and outcome.state == "done"
        ]

    def summary(self, method: str, data: str, name: str) -> Summary | None:
        """A figure of metrics.json over the seeds."""
        return summarise([outcome.figure(name) for outcome in self.done(method, data)])

    def methods_on(self, data: str) -> list[tuple[Method, list[Outcome]]]:
        """The methods with at least one finished run on a data set, in the order in which they were listed."""
        found = [(method, self.done(method.label, data)) for method in self.methods]
        return [(method, runs) for method, runs in found if runs]

    def mean_over_data(self, method: str, name: str) -> float | None:
        """The mean over the data sets of the means over the seeds; None unless every data set has a figure."""
        found = [self.summary(method, part.label, name) for part in self.data]
        known = [summary.mean for summary in found if summary is not None]
        return float(np.mean(known)) if known and len(known) == len(self.data) else None

    def ranked(self, data: str) -> list[tuple[Method, Summary]]:
        """The methods by falling mean image AUROC on a data set."""
        found = [
            (method, self.summary(method.label, data, "image_AUROC")) for method, _ in self.methods_on(data)
        ]
        known = [(method, summary) for method, summary in found if summary is not None]
        return sorted(known, key=lambda pair: -pair[1].mean)

    def wins(self) -> dict[str, int]:
        """On how many data sets each method has the highest mean image AUROC; a tie counts for both."""
        won = {method.label: 0 for method in self.methods}
        for part in self.data:
            ranked = self.ranked(part.label)
            for method, summary in ranked:
                won[method.label] += summary.mean == ranked[0][1].mean
        return won

    def of_state(self, state: str) -> list[tuple[Cell, Outcome]]:
        """The cells in a state."""
        return [(cell, outcome) for cell, outcome in self.outcomes.items() if outcome.state == state]


def mean_roc(runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve averaged over runs of labels and scores (n,), vertically, at all steps of any of them.

    Its area is the mean of their areas (Fawcett 2006, Pattern Recognition Letters 27, section 8.1).
    Returns the false-positive and the true-positive rates (m,).

    >>> x, y = mean_roc([(np.array([0, 1]), np.array([0.0, 1.0])), (np.array([0, 1]), np.array([1.0, 0.0]))])
    >>> float(np.trapezoid(y, x))
    0.5
    """
    from sklearn.metrics import roc_curve

    curves = [roc_curve(labels, scores)[:2] for labels, scores in runs]
    places = np.unique(np.concatenate([false_positive for false_positive, _ in curves]))
    # a curve may rise at one place: its value before and its value after the step are both kept
    before = np.mean([_step(curve, places, last=False) for curve in curves], axis=0)
    after = np.mean([_step(curve, places, last=True) for curve in curves], axis=0)
    return np.repeat(places, 2), np.stack([before, after], 1).ravel()


def _step(curve: tuple[np.ndarray, np.ndarray], places: np.ndarray, *, last: bool) -> np.ndarray:
    """A curve's height at places (m,), at the upper or the lower end where it rises vertically."""
    false_positive, true_positive = curve
    heights = np.interp(places, false_positive, true_positive)
    for row, place in enumerate(places):
        there = true_positive[false_positive == place]
        if there.size:
            heights[row] = there.max() if last else there.min()
    return heights
