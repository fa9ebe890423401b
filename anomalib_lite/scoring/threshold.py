"""From a raw score to a verdict: rules that set the cut, and the score whose cut lies at 0.5.

A rule learns from normals that were held out for it and for nothing else (*calibration*); the scale of the
normalised score comes from other held-out normals (*validation*), so that it cannot touch the guarantee.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np

from anomalib_lite.types import InputError

ABOVE_HALF = float(np.nextafter(0.5, 1.0))
MAD_TO_STD = 1.4826  # of a normal distribution


@dataclass(kw_only=True)
class Threshold(ABC):
    """A rule for the cut: a part is rejected where its raw score is above it.

    `value` (0 < value < 1) moves the cut on the normalised score, where the fitted cut lies at 0.5.
    Learned: `cut_` (raw score), `spread_` (of the validation normals, > 0), `guarantee_` (a sentence).
    """

    value: float | None = None

    rule: ClassVar[str]
    oracle: ClassVar[bool] = False  # True: the cut is learned from labelled test scores
    uses_calibration: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.value is not None and not 0 < self.value < 1:
            raise InputError(f"threshold.value must be between 0 and 1 (fitted cut: 0.5), got {self.value}")

    def minimum_calibration(self) -> int:
        """The number of calibration normals that the rule needs."""
        return int(self.uses_calibration)

    def fit(self, calibration: np.ndarray, validation: np.ndarray) -> Self:
        """Learn the cut from raw scores (C,) of calibration normals, the scale from (V,) of validation ones.

        Raises InputError for too few scores, or for one that is not finite.
        """
        calibration = _finite(calibration, "calibration scores")
        self.spread_: float = robust_spread(_finite(validation, "validation scores"))
        if len(calibration) < self.minimum_calibration():
            raise InputError(self._too_few(len(calibration)))
        self._fit_cut(calibration)
        return self

    @abstractmethod
    def _fit_cut(self, calibration: np.ndarray) -> None:
        """Learn `cut_` and `guarantee_`."""

    def _too_few(self, found: int) -> str:
        needed = self.minimum_calibration()
        return f"threshold={self.rule} needs at least {needed} calibration normals, got {found}"

    def _set(self, cut: float, guarantee: str) -> None:
        self.cut_: float | None = float(cut)
        self.guarantee_: str = guarantee

    @property
    def raw_cut(self) -> float | None:
        """The raw score above which a part is rejected: `cut_`, moved by `value`; None without a cut."""
        if self.cut_ is None or self.value is None:
            return self.cut_
        # in raw scores, not in normalised ones: far from the cut the sigmoid rounds to 0 or 1
        return self.cut_ + self.spread_ * math.log(self.value / (1 - self.value))

    def normalise(self, raw: np.ndarray) -> np.ndarray | None:
        """Raw scores (n,) as sigmoid((raw - `cut_`) / `spread_`), or None without a cut.

        Above 0.5 exactly where the raw score is above `cut_`; raises InputError for NaN.
        """
        raw = _ordered(raw)
        if self.cut_ is None:
            return None
        score = 0.5 + 0.5 * np.tanh((raw - self.cut_) / (2 * self.spread_))
        # one rounding above the cut is still above it
        return np.where(raw > self.cut_, np.maximum(score, ABOVE_HALF), score)

    def label(self, raw: np.ndarray) -> np.ndarray | None:
        """1 (defective) where a raw score (n,) is above `raw_cut`, else 0; None without a cut.

        Raises InputError for NaN.
        """
        raw = _ordered(raw)
        return None if self.raw_cut is None else (raw > self.raw_cut).astype(np.int64)

    def state(self) -> dict[str, Any]:
        """All of a fitted rule as plain JSON values; `threshold_from_state` reads it."""
        learned = {"cut": self.cut_, "spread": self.spread_, "guarantee": self.guarantee_}
        return {"rule": self.rule, "settings": asdict(self), "learned": learned}


@dataclass(kw_only=True)
class ConformalThreshold(Threshold):
    """Rejects at most a fraction `alpha` of good parts, guaranteed for any distribution of scores.

    Split conformal prediction (Papadopoulos et al. 2002; Vovk et al. 2005; Laxhammar & Falkman 2010 for
    anomalies): with n exchangeable calibration scores the cut is the k-th smallest,
    k = ceil((n + 1)(1 - alpha)). The average is over calibration sets: a particular one may reject more.

    >>> rule = ConformalThreshold(alpha=0.1).fit(np.arange(1.0, 13.0), np.arange(5.0))
    >>> rule.cut_, rule.label(np.array([12.0, 12.5])).tolist()
    (12.0, [0, 1])
    >>> rule.guarantee_.split(";")[1]
    ' expected 7.7 %)'
    """

    alpha: float = 0.1
    rule: ClassVar[str] = "conformal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < 1:
            raise InputError(f"threshold.alpha must be between 0 and 1, got {self.alpha}")

    def minimum_calibration(self) -> int:
        """The smallest n with ceil((n + 1)(1 - alpha)) <= n, which is ceil(1 / alpha) - 1.

        >>> ConformalThreshold(alpha=0.05).minimum_calibration()
        19
        """
        return math.ceil(1 / self._exact_alpha) - 1

    @property
    def _exact_alpha(self) -> Fraction:
        # the decimal that was written: in floats (9 + 1) * (1 - 0.1) may come out above 9 and lose a rank
        return Fraction(str(self.alpha))

    def _fit_cut(self, calibration: np.ndarray) -> None:
        n = len(calibration)
        rank = math.ceil((n + 1) * (1 - self._exact_alpha))
        percent, expected = 100 * self.alpha, 100 * (n + 1 - rank) / (n + 1)
        sentence = (
            f"at most {percent:g} % of good parts are rejected on average over calibration sets "
            f"(split conformal, {n} calibration pictures; expected {expected:.1f} %)"
        )
        if self.value is not None and self.value < 0.5:
            sentence = f"none: threshold.value={self.value} lowers the cut; without it {sentence}"
        elif self.value is not None and self.value > 0.5:
            sentence = f"{sentence}; fewer still, as threshold.value={self.value} raises the cut"
        self._set(np.sort(calibration)[rank - 1], sentence)

    def _too_few(self, found: int) -> str:
        needed = self.minimum_calibration()
        smallest = math.ceil(1000 / (found + 1)) / 1000  # rounded up, so that it works when typed
        reachable = f", or take alpha >= {smallest:g} with these {found}" if found else ""
        return (
            f"alpha={self.alpha:g} needs at least {needed} calibration normals, got {found}; "
            f"set {needed - found} more good pictures aside{reachable}"
        )


@dataclass(kw_only=True)
class QuantileThreshold(Threshold):
    """Puts the cut at a quantile of the calibration scores, interpolated; without a finite-sample guarantee.

    >>> QuantileThreshold(quantile=0.5).fit(np.array([1.0, 2.0, 4.0]), np.arange(3.0)).cut_
    2.0
    """

    quantile: float = 0.95
    rule: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.quantile <= 1:
            raise InputError(f"threshold.quantile must be between 0 and 1, got {self.quantile}")

    def _fit_cut(self, calibration: np.ndarray) -> None:
        found = (
            f"the cut is the {100 * self.quantile:g} % quantile of {len(calibration)} calibration pictures"
        )
        self._set(np.quantile(calibration, self.quantile), f"none: {found}")


@dataclass(kw_only=True)
class FixedThreshold(Threshold):
    """Puts the cut where the user says, as a raw score.

    >>> FixedThreshold(raw_value=3.0).fit(np.array([]), np.arange(3.0)).label(np.array([3.0, 3.1])).tolist()
    [0, 1]
    """

    raw_value: float
    rule: ClassVar[str] = "fixed"
    uses_calibration: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.raw_value):
            raise InputError(f"threshold.raw_value must be a finite number, got {self.raw_value}")

    def _fit_cut(self, calibration: np.ndarray) -> None:
        self._set(self.raw_value, f"none: the cut was given (raw score {self.raw_value:g})")


@dataclass(kw_only=True)
class F1Threshold(Threshold):
    """An oracle: the cut with the best F1 score on labelled pictures, to compare with published figures.

    `fit` learns the scale; the cut comes from `fit_oracle`, so that no other signature has to let labels in.

    >>> rule = F1Threshold().fit(np.array([]), np.arange(3.0))
    >>> rule.fit_oracle(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1])).cut_
    2.5
    """

    rule: ClassVar[str] = "f1"
    uses_calibration: ClassVar[bool] = False
    oracle: ClassVar[bool] = True

    def _fit_cut(self, calibration: np.ndarray) -> None:
        self.cut_ = None
        self.guarantee_ = "none: an oracle whose cut is not set yet"

    def fit_oracle(self, scores: np.ndarray, labels: np.ndarray) -> Self:
        """Learn the cut from raw scores (n,) and labels (n,) of 0 and 1, midway between two scores.

        Raises InputError unless both labels occur.
        """
        scores, labels = _finite(scores, "labelled scores"), np.asarray(labels).astype(bool)
        if labels.all() or not labels.any():
            raise InputError("threshold=f1 needs labelled good and defective pictures, got one sort only")
        values = np.unique(scores)
        cuts = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2])  # (cuts,) below each value
        flagged = len(scores) - np.searchsorted(np.sort(scores), values)
        true_positives = labels.sum() - np.searchsorted(np.sort(scores[labels]), values)
        f1 = 2 * true_positives / (flagged + labels.sum())
        best = np.flatnonzero(f1 == f1.max())[-1]  # of equals, the one that rejects the fewest
        self._set(cuts[best], f"none: an oracle, the best F1 score over {len(scores)} labelled pictures")
        return self


@dataclass(kw_only=True)
class NoThreshold(Threshold):
    """No cut: raw scores only, no verdicts.

    >>> NoThreshold().fit(np.array([]), np.arange(3.0)).label(np.array([1.0])) is None
    True
    """

    rule: ClassVar[str] = "none"
    uses_calibration: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.value is not None:
            raise InputError(f"threshold.value={self.value} moves a cut, but threshold=none has none")

    def fit(self, calibration: np.ndarray, validation: np.ndarray) -> Self:
        """Learn nothing; there may be no scores at all."""
        return super().fit(calibration, validation if len(validation) else np.ones(1))

    def _fit_cut(self, calibration: np.ndarray) -> None:
        self.cut_ = None
        self.guarantee_ = "none: no threshold was asked for"


RULES: dict[str, type[Threshold]] = {
    rule.rule: rule
    for rule in (ConformalThreshold, QuantileThreshold, FixedThreshold, F1Threshold, NoThreshold)
}


def threshold_from_state(state: dict[str, Any]) -> Threshold:
    """Rebuild a fitted rule from `Threshold.state()`; raises InputError for anything else.

    >>> rule = QuantileThreshold().fit(np.arange(5.0), np.arange(5.0))
    >>> threshold_from_state(rule.state()) == rule
    True
    """
    try:
        threshold = RULES[state["rule"]](**state["settings"])
        learned = state["learned"]
        spread, guarantee = float(learned["spread"]), str(learned["guarantee"])
        cut = None if learned["cut"] is None else float(learned["cut"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not the state of a threshold ({' '.join(RULES)}): {error}") from error
    cut_fits = isinstance(threshold, NoThreshold) if cut is None else math.isfinite(cut)
    if not (math.isfinite(spread) and spread > 0 and cut_fits):
        raise InputError(f"not the state of a threshold: cut={cut!r}, spread={spread!r}")
    threshold.cut_, threshold.spread_, threshold.guarantee_ = cut, spread, guarantee
    return threshold


def robust_spread(scores: np.ndarray) -> float:
    """Median absolute deviation of (n,) scores in units of a standard deviation, never 0.

    >>> round(robust_spread(np.array([1.0, 2.0, 3.0, 4.0, 100.0])), 4)
    1.4826
    """
    if len(scores) == 0:
        raise InputError("the normalised score needs at least 1 validation normal, got 0")
    middle = np.median(scores)
    deviation = MAD_TO_STD * np.median(np.abs(scores - middle))
    # one picture, or most of them equal: fall back to their spread, then to their size
    candidates = (deviation, np.std(scores), abs(middle))
    return float(next((c for c in candidates if c > 0), 1.0))


def _finite(scores: np.ndarray, name: str) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise InputError(f"{name}: expected finite numbers of shape (n,), got {scores.tolist()!s:.80}")
    return scores


def _ordered(raw: np.ndarray) -> np.ndarray:
    raw = np.asarray(raw, dtype=np.float64)
    if np.isnan(raw).any():  # would be neither above nor below the cut, and pass as good
        raise InputError("a raw score is NaN: expected a number")
    return raw
