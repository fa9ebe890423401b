"""What calibration has seen: the scores behind the cut, and the card that tells a reader what the cut promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from anomalib_lite.scoring.threshold import ConformalThreshold, Threshold
from anomalib_lite.types import InputError


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """What the fitted chain said of the pictures that set the cut and its scale; drift is measured against it.

    Args:
        scores: raw scores of the C calibration normals.
        errors: mean error of each, at the model's own resolution; None for a model that compares nothing.
        qualities: registration quality of each, at most 1.
        validation_scores: raw scores of the V validation normals, which set the scale of the normalised score.

    >>> record = CalibrationRecord(scores=[1.0, 2.0], errors=None, qualities=[1.0, 0.9], validation_scores=[1.5])
    >>> CalibrationRecord.from_state(record.state()) == record
    True
    """

    scores: list[float]
    errors: list[float] | None
    qualities: list[float]
    validation_scores: list[float]

    def __post_init__(self) -> None:
        for name in ("scores", "errors", "qualities", "validation_scores"):
            values = getattr(self, name)
            if values is None and name == "errors":
                continue
            if not isinstance(values, list) or not all(_finite(value) for value in values):
                raise InputError(f"calibration: {name} must be finite numbers, got {values!r:.80}")
            if name in ("errors", "qualities") and len(values) != len(self.scores):
                raise InputError(
                    f"calibration: expected {name} for each of {len(self.scores)} scores, found {len(values)}"
                )

    def state(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """What `state` gave; raises InputError for anything else."""
        try:
            return cls(**state)
        except TypeError as error:
            raise InputError(f"not the state of a calibration: {error}") from None


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def calibration_card(
    *,
    normals: dict[str, int],
    threshold: Threshold,
    rejected: int,
    judged: int,
    interval: Sequence[float] | None,
) -> dict[str, Any]:
    """What the cut promises and what was seen of it, as plain JSON values.

    Args:
        normals: how many pictures each of `train`, `validation` and `calibration` had.
        threshold: fitted.
        rejected, judged: of good test pictures, which set nothing.
        interval: of the observed rate, 0..1; None where nothing was judged.

    >>> import numpy as np
    >>> threshold = ConformalThreshold(alpha=0.1).fit(np.arange(9.0), np.arange(5.0))
    >>> card = calibration_card(normals={"train": 40}, threshold=threshold, rejected=1, judged=20,
    ...     interval=(0.009, 0.236))
    >>> card["observed false rejects"]
    '1 of 20 good test pictures: 5.0 % (95 % interval 0.9 to 23.6 %)'
    """
    observed = "not measured: no good pictures beside those that set the cut"
    if judged and interval is not None:
        low, high = (100 * bound for bound in interval)
        observed = (
            f"{rejected} of {judged} good test pictures: {100 * rejected / judged:.1f} % "
            f"(95 % interval {low:.1f} to {high:.1f} %)"
        )
    return {
        "normals": dict(normals),
        "rule": threshold.rule,
        # of the other rules, none promises a share
        "alpha": threshold.alpha if isinstance(threshold, ConformalThreshold) else None,
        "guarantee": threshold.guarantee_,
        "observed false rejects": observed,
        "rejected": rejected,
        "judged": judged,
        "interval": None if interval is None else list(interval),
    }
