"""Drift: the stated rate of false alarms where nothing drifts, how soon a change is seen, and going on later."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.drift import DriftMonitor
from anomalib_lite.drift_spans import SPANS_KEPT
from anomalib_lite.scoring.threshold import (
    ConformalThreshold,
    FixedThreshold,
    NoThreshold,
    QuantileThreshold,
    Threshold,
)
from anomalib_lite.types import InputError

Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Score, error and quality (count, 3), the first two of them correlated as they are in life."""
    score = rng.normal(size=count)
    return np.column_stack([score, 0.05 + 0.01 * (score + rng.normal(size=count)), rng.beta(50, 1, count)])


def heavy(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.column_stack([rng.pareto(1.5, count), rng.exponential(size=count), np.ones(count)])


def coarse(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.round(2 * rng.normal(size=(count, 3)))


def calibrated(values: np.ndarray, rule: Threshold) -> tuple[CalibrationRecord, float | None]:
    scores, errors, qualities = values.T.tolist()
    record = CalibrationRecord(scores=scores, errors=errors, qualities=qualities, validation_scores=[1.0])
    return record, rule.fit(np.array(scores), np.array([0.0, 1.0])).raw_cut


def watch(monitor: DriftMonitor, values: np.ndarray) -> dict[str, Any]:
    """Show the monitor the parts that would be accepted."""
    for score, error, quality in values.tolist():
        if monitor.cut is None or score <= monitor.cut:
            known = monitor.update(raw_score=score, error=error, quality=quality)
    return known


@pytest.mark.parametrize("calibration", [9, 30, 200])
@pytest.mark.parametrize("draw", [normal, heavy, coarse])
def test_alarms_at_most_as_often_as_stated(draw: Draw, calibration: int) -> None:
    rng, false_alarms, shares = np.random.default_rng(0), 1 / 100, []
    sets = (
        40 if draw is coarse and calibration == 200 else 150
    )  # where no distance is met twice, it takes long
    for _ in range(sets):
        record, cut = calibrated(draw(rng, calibration), ConformalThreshold(alpha=0.1))
        monitor = DriftMonitor(record, cut, window=20, false_alarms=false_alarms)
        watch(monitor, draw(rng, 200))
        shares.append(monitor.alarms / monitor.parts)
    error = np.std(shares) / math.sqrt(sets)
    assert np.mean(shares) <= false_alarms + 2 * error
    if draw is normal and calibration > 9:
        assert np.mean(shares) > false_alarms / 20  # it does look


@pytest.mark.parametrize(
    "rule",
    [QuantileThreshold(quantile=0.7), FixedThreshold(raw_value=0.5), NoThreshold()],
    ids=lambda r: r.rule,
)
def test_other_rules_keep_the_rate_too(rule: Threshold) -> None:
    rng, shares = np.random.default_rng(1), []
    for _ in range(100):
        record, cut = calibrated(normal(rng, 40), rule)
        monitor = DriftMonitor(record, cut, window=20, false_alarms=1 / 100)
        watch(monitor, normal(rng, 200))
        shares.append(monitor.alarms / monitor.parts)
    assert np.mean(shares) <= 1 / 100 + 2 * np.std(shares) / math.sqrt(100)


def test_scores_cut_off_by_acceptance_are_no_drift() -> None:
    # a third of good parts is rejected: against all calibration scores, the accepted ones would look too low
    rng = np.random.default_rng(2)
    record, cut = calibrated(normal(rng, 300), ConformalThreshold(alpha=0.33))
    monitor = DriftMonitor(record, cut, window=100, false_alarms=1e-6)
    watch(monitor, normal(rng, 4000))
    assert monitor.alarms == 0
    naive = DriftMonitor(record, None, window=100, false_alarms=1e-6)
    accepted = normal(rng, 4000)
    watch(naive, accepted[accepted[:, 0] <= cut])
    assert naive.alarms > 10


@pytest.mark.parametrize(("shift", "within"), [(1.0, 230), (2.0, 120)])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_change_is_seen_within_so_many_parts(column: int, shift: float, within: int) -> None:
    rng, noticed = np.random.default_rng(3), []
    names = ("raw_score", "error", "registration_quality")
    for _ in range(15):
        values = rng.normal(size=(200 + 100 + 3000, 3))
        record, cut = calibrated(values[:200], ConformalThreshold(alpha=0.1))
        monitor = DriftMonitor(record, cut, window=100, false_alarms=1e-5)
        watch(monitor, values[200:300])
        values[300:, column] += shift
        before = monitor.parts
        for score, error, quality in values[300:].tolist():
            if score <= cut:
                known = monitor.update(raw_score=score, error=error, quality=quality)
                if known["drifted"]:
                    break
        noticed.append(monitor.parts - before)
        assert known["statistic"] == names[column]
        assert known["advice"].startswith("recalibrate: the ")
    assert np.median(noticed) <= within


def test_a_change_in_spread_alone_is_seen() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(1200, 3))
    record, cut = calibrated(values[:200], NoThreshold())
    monitor = DriftMonitor(record, cut, window=200, false_alarms=1e-5)
    values[200:, 1] *= 3
    assert watch(monitor, values[200:])["statistic"] == "error"
    assert monitor.alarms == 5


def test_hand_made_windows_and_what_is_said_of_them() -> None:
    scores = [float(i) for i in range(20)]
    record = CalibrationRecord(scores=scores, errors=None, qualities=[1.0] * 20, validation_scores=[1.0])
    monitor = DriftMonitor(record, 17.5, window=5, false_alarms=1e-3)
    assert monitor.limit == 17

    def show(score: float, quality: float = 1.0) -> dict[str, Any]:
        return monitor.update(raw_score=score, error=None, quality=quality)

    for score in (0.5, 4.5, 8.5, 17.0, 17.2, 12.5):  # two of them are not below the limit
        assert show(score)["drifted"] is None
    known = show(16.5)
    assert known == {
        "drifted": False, "statistic": "raw_score", "p_value": known["p_value"], "since": 0, "parts": 7, "advice": "",
    }  # fmt: skip
    assert known["p_value"] == 1.0
    for _ in range(5):  # the scores are not far from the others'
        known = show(8.5, quality=0.5)
    assert known["drifted"] is True
    assert known["statistic"] == "registration_quality"
    # samples that do not overlap, of 17 and 5, in two statistics
    assert known["p_value"] == pytest.approx(2 * 2 / math.comb(22, 5))
    assert (known["since"], known["parts"]) == (5, 12)
    assert known["advice"] == (
        "recalibrate: the registration quality of the last 5 accepted parts is not the calibration set's "
        "(0.5 ± 0, was 1 ± 0; p = 0.0002); look at parts, light and camera first"
    )
    for count in range(1, 5):
        assert show(8.0)["since"] == 5 + count
    assert show(8.0) | {"p_value": 0} == {
        "drifted": False, "statistic": "raw_score", "p_value": 0, "since": 0, "parts": 17, "advice": "",
    }  # fmt: skip
    assert monitor.alarms == 1


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 2.0, 3.0], [5.0] * 50])
def test_too_few_calibration_parts_are_said_not_tested(scores: list[float]) -> None:
    record = CalibrationRecord(
        scores=scores, errors=None, qualities=[1.0] * len(scores), validation_scores=[1.0]
    )
    monitor = DriftMonitor(record, 9.0, window=50, false_alarms=1e-5)
    below = len([score for score in scores if score < max(scores)])
    for _ in range(120):
        known = monitor.update(raw_score=8.0, error=None, quality=0.1)
    assert known["drifted"] is None
    assert known["p_value"] is None
    assert known["advice"] == (
        f"cannot tell: {below} calibration parts below the cut are too few for windows of 50 parts "
        "at 1e-05 false alarms a part"
    )
    assert monitor.summary()["spans"] == []


@pytest.mark.parametrize("stop", [0, 1, 19, 20, 47, 130])
def test_a_restarted_monitor_says_the_same(stop: int) -> None:
    rng = np.random.default_rng(5)
    record, cut = calibrated(normal(rng, 30), ConformalThreshold(alpha=0.1))
    values = normal(rng, 300)
    values[100:, 0] -= 3
    values = values[values[:, 0] <= cut]
    whole = DriftMonitor(record, cut, window=20, false_alarms=1e-4)
    broken = DriftMonitor(record, cut, window=20, false_alarms=1e-4)
    watch(whole, values)
    if stop:
        watch(broken, values[:stop])
    state = json.loads(json.dumps(broken.state(), allow_nan=False))
    fresh = DriftMonitor(record, cut, window=20, false_alarms=1e-4)
    again = fresh.resumed(state)
    assert again.known() == broken.known()
    watch(again, values[stop:])
    assert again.state() == whole.state()
    assert again.summary() == whole.summary()
    assert whole.alarms > 3
    other = DriftMonitor(record, cut, window=25, false_alarms=1e-4)
    assert other.resumed(state) is other


def test_states_that_are_none_are_refused() -> None:
    rng = np.random.default_rng(6)
    record, cut = calibrated(normal(rng, 30), ConformalThreshold(alpha=0.1))
    monitor = DriftMonitor(record, cut, window=20, false_alarms=1e-4)
    watch(monitor, normal(rng, 70) - [3, 0, 0])
    state = monitor.state()
    assert DriftMonitor.from_state(state).state() == state
    for name in state:
        for bad in (
            None,
            "x",
            -1,
            True,
            [],
            {},
            [1],
            math.nan,
            {"a": 1},
            [["x", 1, 2]],
            [[1.0, 2.0]],
            10**400,
        ):
            if name == "drifted_from" and bad == 10**400:
                continue  # a count like any other
            changed = state | {name: bad}
            try:
                DriftMonitor.from_state(changed).update(raw_score=0.0, error=0.0, quality=1.0)
            except InputError:
                continue
            assert (name, bad) in [("cut", -1), ("cut", None), ("cut", True), ("pending", []), ("parts", 10**400),
                                   ("alarms", 10**400), ("pending_from", 10**400)]  # fmt: skip
        with pytest.raises(InputError, match="not the state of a drift monitor"):
            DriftMonitor.from_state({key: value for key, value in state.items() if key != name})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 1}, "window must be at least 2 parts, got 1"),
        ({"false_alarms": 0.0}, "false_alarms must be above 0 and below 1 / window = 0.05, got 0.0"),
        ({"false_alarms": 0.05}, "false_alarms must be above 0 and below 1 / window = 0.05, got 0.05"),
        ({"false_alarms": math.nan}, "false_alarms must be above 0"),
        ({"cut": math.inf}, "the cut must be a finite number or null, got inf"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    record = CalibrationRecord(scores=[1.0], errors=[1.0], qualities=[1.0], validation_scores=[1.0])
    with pytest.raises(InputError, match=message):
        DriftMonitor(record, **({"cut": 1.0, "window": 20, "false_alarms": 1e-4} | settings))


def test_numbers_that_are_none_are_refused() -> None:
    record = CalibrationRecord(scores=[1.0], errors=[1.0], qualities=[1.0], validation_scores=[1.0])
    monitor = DriftMonitor(record, 1.0, window=20, false_alarms=1e-4)
    with pytest.raises(InputError, match="expected an error as calibration had it, got None"):
        monitor.update(raw_score=0.0, error=None, quality=1.0)
    for values in ((math.nan, 0.0, 1.0), (0.0, math.inf, 1.0), (0.0, 0.0, math.nan)):
        with pytest.raises(InputError, match="expected finite numbers of an accepted part"):
            monitor.update(raw_score=values[0], error=values[1], quality=values[2])
    assert monitor.parts == 0


def test_months_of_watching_stay_small() -> None:
    record = CalibrationRecord(
        scores=[float(i) for i in range(30)], errors=None, qualities=[1.0] * 30, validation_scores=[1.0]
    )
    monitor = DriftMonitor(record, None, window=2, false_alarms=1e-2)
    sizes, total = [], 0.0
    for part in range(6000):
        monitor.update(raw_score=float(part % 29), error=None, quality=1.0)
        total += part % 29
        if part % 100 == 0:
            sizes.append(len(json.dumps(monitor.state())))
    assert max(sizes[30:]) < 1.1 * max(sizes[:10])
    spans = monitor.summary()["spans"]
    assert len(spans) <= SPANS_KEPT
    assert (spans[0]["first"], spans[-1]["last"], spans[-1]["count"]) == (1, 6000, 2)
    assert all(a["last"] + 1 == b["first"] for a, b in pairwise(spans))
    assert sum(span["count"] * span["means"]["raw_score"] for span in spans) == pytest.approx(total)


def test_imports_nothing_heavy() -> None:
    code = (
        "import sys, anomalib_lite.drift; "
        "print([n for n in ('torch', 'scipy', 'cv2', 'matplotlib', 'lightning') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
