"""What every cut would do, from scores that are there already: nothing is trained, scored or mapped again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from anomalib_lite.scoring.threshold import Threshold
from anomalib_lite.types import InputError

# values of `threshold.value`: round ones, so that they can be typed, and closer together towards the ends, where
# the same step moves the cut farther
VALUES = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01),
    *(round(0.02 * step, 2) for step in range(1, 50)),
    *(0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999),
)
FITTED = 0.5  # where the cut lies that the rule fitted


class Counts(NamedTuple):
    """Pictures of either sort."""

    good: int
    defective: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """Raw scores of n pictures and what these are; raises InputError for a score that is NaN."""

    raw_scores: np.ndarray  # (n,)
    labels: np.ndarray  # (n,) 1 defective, 0 good

    def __post_init__(self) -> None:
        if np.isnan(np.asarray(self.raw_scores, dtype=np.float64)).any():
            raise InputError("a raw score is NaN: expected a number")

    @property
    def counts(self) -> Counts:
        """How many there are of either sort."""
        defective = int(np.count_nonzero(self.labels))
        return Counts(len(self.labels) - defective, defective)


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of 1 at one cut; None where undefined."""

    f1: float | None
    precision: float | None
    recall: float | None
    false_reject_rate: float | None


@dataclass(frozen=True, slots=True)
class ImageCut:
    """One cut on whole pictures."""

    value: float  # of `threshold.value`: the cut on the normalised score
    raw_cut: float  # a part is rejected where its raw score is above it
    validation: Rates  # on validation normals and the same with drawn defects, both sorts weighing the same
    test: Rates  # as counted


@dataclass(frozen=True, slots=True)
class CutStudy:
    """All cuts, and which one to take.

    `recommended_*` have the best F1 score on validation; `oracle_*` on test, to compare with and never to use. Pixel
    rows are dicts of tau, precision, recall and F1 (`PixelMetrics.curve`).
    """

    rule: str  # that fitted the image cut
    rule_is_oracle: bool
    guarantee: str
    validation_counts: Counts
    test_counts: Counts
    image: tuple[ImageCut, ...]  # rising; empty without a cut
    value: float | None  # in use
    recommended_value: float | None
    oracle_value: float | None
    pixel_validation: tuple[Mapping[str, float], ...]  # rising
    pixel_test: tuple[Mapping[str, float], ...]
    tau: float | None  # in use
    recommended_tau: float | None
    oracle_tau: float | None

    def at(self, value: float) -> ImageCut:
        """What one of the studied cuts does."""
        return next(cut for cut in self.image if cut.value == value)


def study_cuts(
    *,
    known: Labelled,
    test: Labelled,
    threshold: Threshold,
    values: Sequence[float] = (),
    tau: float | None,
    known_pixels: Sequence[Mapping[str, float]],
    test_pixels: Sequence[Mapping[str, float]],
) -> CutStudy:
    """Study the cuts at VALUES, at `values` (0 < value < 1), at the fitted one and at the one in use.

    `known` are validation normals and the same with drawn defects: they alone recommend. Good and defective ones weigh
    the same there: several defects are drawn on each normal, and a plain F1 score would take their number for what a
    line produces and put up with many false rejects. Of cuts that are equally good the one nearest to the fitted cut is
    taken, for the rule's guarantee rests on it; of two as near, the higher. Of pixel cuts the middle one of the best.

    Raises:
        InputError: for a value that is not between 0 and 1.

    >>> from anomalib_lite.scoring.threshold import FixedThreshold
    >>> rule = FixedThreshold(raw_value=1.0).fit(np.array([]), np.arange(5.0))
    >>> scored = Labelled(np.array([0.0, 1.5, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    >>> study = study_cuts(known=scored, test=scored, threshold=rule, tau=None, known_pixels=[], test_pixels=[])
    >>> study.recommended_value, study.at(0.5).validation.precision, study.at(0.6).validation.f1
    (0.6, 0.6666666666666666, 1.0)
    """
    image: tuple[ImageCut, ...] = ()
    in_use = None
    if threshold.raw_cut is not None:
        in_use = FITTED if threshold.value is None else threshold.value
        studied = sorted({*VALUES, FITTED, in_use, *map(float, values)})
        cuts = [_moved(threshold, value) for value in studied]
        rows = zip(
            studied, cuts, _rates(known, cuts, balanced=True), _rates(test, cuts, balanced=False), strict=True
        )
        image = tuple(ImageCut(*row) for row in rows)
    return CutStudy(
        rule=threshold.rule,
        rule_is_oracle=threshold.oracle,
        guarantee=threshold.guarantee_,
        validation_counts=known.counts,
        test_counts=test.counts,
        image=image,
        value=in_use,
        recommended_value=_best_value(image, [cut.validation.f1 for cut in image]),
        oracle_value=_best_value(image, [cut.test.f1 for cut in image]),
        pixel_validation=tuple(known_pixels),
        pixel_test=tuple(test_pixels),
        tau=tau,
        recommended_tau=_best_tau(known_pixels),
        oracle_tau=_best_tau(test_pixels),
    )


def _moved(threshold: Threshold, value: float) -> float:
    """The raw cut that `threshold.value` would give; the rule itself says so, that both can't drift apart."""
    moved = replace(threshold, value=value)
    moved.cut_, moved.spread_ = threshold.cut_, threshold.spread_
    assert moved.raw_cut is not None
    return moved.raw_cut


def _rates(scored: Labelled, cuts: Sequence[float], *, balanced: bool) -> list[Rates]:
    """The rates at each cut; `balanced`: F1 score and precision as if there were as many good as defective ones."""
    labels, raw = np.asarray(scored.labels).astype(bool), np.asarray(scored.raw_scores, dtype=np.float64)
    good, defective = np.sort(raw[~labels]), np.sort(raw[labels])
    weight = len(defective) / len(good) if balanced and len(good) else 1.0
    found = []
    for cut in cuts:
        hits = len(defective) - int(np.searchsorted(defective, cut, side="right"))  # above it, not at it
        false_rejects = len(good) - int(np.searchsorted(good, cut, side="right"))
        flagged = hits + weight * false_rejects
        found.append(
            Rates(
                f1=2 * hits / (flagged + len(defective)) if len(defective) else None,
                precision=hits / flagged if flagged else None,
                recall=hits / len(defective) if len(defective) else None,
                false_reject_rate=false_rejects / len(good) if len(good) else None,
            )
        )
    return found


def _best_value(cuts: Sequence[ImageCut], f1: Sequence[float | None]) -> float | None:
    known = [(score, cut.value) for cut, score in zip(cuts, f1, strict=True) if score is not None]
    if not known or max(known)[0] == 0:
        return None
    # rounded: 0.48 and 0.52 are equally near, whatever their last bits
    return max(known, key=lambda pair: (pair[0], -round(abs(pair[1] - FITTED), 9), pair[1]))[1]


def _best_tau(rows: Sequence[Mapping[str, float]]) -> float | None:
    if not rows:
        return None
    highest = max(row["F1"] for row in rows)
    best = [row["tau"] for row in rows if row["F1"] == highest]
    return best[len(best) // 2]
