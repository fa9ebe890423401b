"""A drift monitor made for an inspector, from settings that may be anything."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.drift_watch import make_monitor
from anomalib_lite.scoring.threshold import ConformalThreshold, Threshold
from anomalib_lite.types import InputError


def record(count: int) -> CalibrationRecord:
    scores = [float(score) for score in range(1, count + 1)]
    return CalibrationRecord(scores=scores, errors=None, qualities=[1.0] * count, validation_scores=[1.0])


def threshold(count: int, value: float | None = None) -> Threshold:
    scores = np.arange(1.0, count + 1)
    return ConformalThreshold(alpha=0.1, value=value).fit(scores, np.array([1.0, 2.0, 4.0]))


@dataclass
class Fitted:
    """What `make_monitor` looks at."""

    calibration: CalibrationRecord | None = field(default_factory=lambda: record(40))
    threshold: Threshold = field(default_factory=lambda: threshold(40))


def made(inspector: Any, window: object = 20, false_alarms: object = 1e-4) -> Any:
    return make_monitor(inspector, window=window, false_alarms=false_alarms)


def test_it_compares_below_the_cut() -> None:
    assert made(Fitted()).cut == Fitted().threshold.raw_cut == 37.0


@pytest.mark.parametrize(("value", "cut"), [(0.9, 37.0), (0.1, 37.0 - 1.4826 * np.log(9))])
def test_a_moved_cut(value: float, cut: float) -> None:
    """A raised one lets parts through that the fitted one would not: those are left out."""
    assert made(Fitted(threshold=threshold(40, value))).cut == pytest.approx(cut)


def test_turned_off_or_nothing_to_compare_with(caplog: pytest.LogCaptureFixture) -> None:
    assert made(Fitted(), window=None) is None
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        assert made(Fitted(calibration=None)) is None
    assert caplog.messages == [
        "drift: this bundle does not hold what calibration has seen; recalibrate.py makes one that does"
    ]


def test_too_few_calibration_parts_are_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    made(Fitted(record(2), threshold(40)), window=4)
    assert caplog.messages == [
        "drift: cannot tell: 1 calibration parts below the cut are too few for windows of 4 parts at 0.0001 false "
        "alarms a part"
    ]


@pytest.mark.parametrize(
    ("window", "false_alarms", "text"),
    [
        (1, 1e-4, "drift.window must be a whole number, 2 or more, or null, got 1"),
        (True, 1e-4, "drift.window must be a whole number, 2 or more, or null, got True"),
        (20, "often", "drift.false_alarms must be a number, got often"),
        (20, 0.5, "false_alarms must be above 0 and below 1 / window = 0.05, got 0.5"),
    ],
)
def test_mistakes(window: object, false_alarms: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        made(Fitted(), window, false_alarms)
