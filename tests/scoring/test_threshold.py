"""The cut: hand-computed ranks, the conformal guarantee by simulation, scores and labels that agree."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from anomalib_lite.scoring.threshold import (
    RULES,
    ConformalThreshold,
    F1Threshold,
    FixedThreshold,
    NoThreshold,
    QuantileThreshold,
    Threshold,
    robust_spread,
    threshold_from_state,
)
from anomalib_lite.types import InputError

VALIDATION = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # median absolute deviation 1
SCORES = st.floats(-1e6, 1e6)


def every_rule(value: float | None = None) -> list[Threshold]:
    calibration = np.arange(1.0, 21.0)
    fitted: list[Threshold] = [
        ConformalThreshold(alpha=0.1, value=value),
        QuantileThreshold(quantile=0.9, value=value),
        FixedThreshold(raw_value=3.5, value=value),
        F1Threshold(value=value),
    ]
    fitted = [rule.fit(calibration, VALIDATION) for rule in fitted]
    fitted[-1].fit_oracle(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1]))
    return fitted


@pytest.mark.parametrize(
    ("alpha", "count", "rank"),
    [
        (0.1, 9, 9),  # exactly enough; (9 + 1) * (1 - 0.1) must not come out above 9
        (0.1, 10, 10),  # 9.9
        (0.1, 12, 12),  # 11.7
        (0.1, 19, 18),  # exactly 18
        (0.1, 29, 27),
        (0.05, 19, 19),
        (0.05, 39, 38),
        (0.2, 4, 4),
        (0.2, 9, 8),
        (0.3, 9, 7),  # exactly 7; the float nearest to 0.3 is below it, and exact arithmetic on it says 8
        (0.44, 24, 14),  # exactly 14; in floats 25 * (1 - 0.44) is above it
        (0.01, 99, 99),
        (0.5, 1, 1),
        (0.5, 2, 2),
        (0.5, 3, 2),
    ],
)
def test_conformal_cut_is_the_kth_smallest(alpha: float, count: int, rank: int) -> None:
    calibration = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert ConformalThreshold(alpha=alpha).fit(calibration, VALIDATION).cut_ == rank


@pytest.mark.parametrize(
    ("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.07, 14), (0.01, 99), (0.3, 3), (0.5, 1)]
)
def test_conformal_needs_this_many(alpha: float, needed: int) -> None:
    rule = ConformalThreshold(alpha=alpha)
    assert rule.minimum_calibration() == needed
    rule.fit(np.arange(float(needed)), VALIDATION)
    with pytest.raises(InputError, match=f"needs at least {needed} calibration normals, got {needed - 1}"):
        rule.fit(np.arange(float(needed - 1)), VALIDATION)


def test_conformal_refusal_says_what_to_do() -> None:
    with pytest.raises(InputError) as error:
        ConformalThreshold(alpha=0.05).fit(np.arange(12.0), VALIDATION)
    assert str(error.value) == (
        "alpha=0.05 needs at least 19 calibration normals, got 12; "
        "set 7 more good pictures aside, or take alpha >= 0.077 with these 12"
    )
    ConformalThreshold(alpha=0.077).fit(np.arange(12.0), VALIDATION)  # the advice holds


@given(alpha=st.decimals("0.001", "0.999", places=3).map(float), count=st.integers(1, 400))
def test_conformal_expected_rate_never_exceeds_alpha(alpha: float, count: int) -> None:
    rule = ConformalThreshold(alpha=alpha)
    if count < rule.minimum_calibration():
        return
    rank = rule.fit(np.arange(1.0, count + 1), VALIDATION).cut_
    expected = (count + 1 - rank) / (count + 1)  # a new score is equally likely to take each of n + 1 ranks
    assert alpha - 1 / (count + 1) - 1e-12 < expected <= alpha + 1e-12


@pytest.mark.parametrize(("alpha", "count"), [(0.1, 9), (0.1, 30), (0.05, 25), (0.2, 50)])
def test_conformal_holds_over_random_splits(alpha: float, count: int) -> None:
    """200 random splits of good parts with skewed scores: the mean false-reject rate is what theory says."""
    rng = np.random.default_rng(20)
    pool = rng.gamma(2.0, size=1500) ** 1.5
    rates = []
    for _ in range(200):
        shuffled = rng.permutation(pool)
        rule = ConformalThreshold(alpha=alpha).fit(shuffled[:count], VALIDATION)
        rates.append(rule.label(shuffled[count:]).mean())
    error = np.std(rates) / math.sqrt(len(rates))
    rank = math.ceil(round((count + 1) * (1 - alpha), 9))
    assert np.mean(rates) <= alpha + 3 * error
    assert np.mean(rates) == pytest.approx((count + 1 - rank) / (count + 1), abs=4 * error)


def test_a_plain_quantile_would_break_the_guarantee() -> None:
    """The simulation can tell: the empirical quantile of few scores rejects more than alpha."""
    rng = np.random.default_rng(21)
    rates = []
    for _ in range(200):
        scores = rng.gamma(2.0, size=1000)
        rates.append(QuantileThreshold(quantile=0.9).fit(scores[:12], VALIDATION).label(scores[12:]).mean())
    assert np.mean(rates) > 0.1 + 3 * np.std(rates) / math.sqrt(len(rates))


def test_guarantee_is_a_sentence_that_follows_the_value() -> None:
    calibration = np.arange(12.0)
    sentence = (
        "at most 10 % of good parts are rejected on average over calibration sets "
        "(split conformal, 12 calibration pictures; expected 7.7 %)"
    )
    assert ConformalThreshold().fit(calibration, VALIDATION).guarantee_ == sentence
    assert ConformalThreshold(value=0.5).fit(calibration, VALIDATION).guarantee_ == sentence
    lowered = ConformalThreshold(value=0.4).fit(calibration, VALIDATION)
    assert lowered.guarantee_ == f"none: threshold.value=0.4 lowers the cut; without it {sentence}"
    assert "fewer still" in ConformalThreshold(value=0.6).fit(calibration, VALIDATION).guarantee_
    assert QuantileThreshold().fit(calibration, VALIDATION).guarantee_.startswith("none:")


def test_hand_computed_cuts_and_scores() -> None:
    quantile = QuantileThreshold(quantile=0.75).fit(np.array([1.0, 2.0, 3.0, 5.0]), VALIDATION)
    assert quantile.cut_ == 3.5  # 3 + 0.25 * (5 - 3)
    assert quantile.spread_ == pytest.approx(1.4826)
    score = quantile.normalise(np.array([3.5, 3.5 + 1.4826, 3.5 - 2 * 1.4826]))
    np.testing.assert_allclose(score, [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))], rtol=1e-12)
    fixed = FixedThreshold(raw_value=3.0).fit(np.array([]), VALIDATION)
    assert fixed.label(np.array([2.9, 3.0, 3.1])).tolist() == [0, 0, 1]


def test_value_moves_the_cut_on_the_normalised_score() -> None:
    rule = FixedThreshold(raw_value=3.0, value=1 / (1 + math.exp(-1))).fit(np.array([]), VALIDATION)
    assert rule.raw_cut == pytest.approx(3.0 + 1.4826)
    assert rule.label(np.array([3.1, 4.4, 4.5])).tolist() == [0, 0, 1]
    assert rule.cut_ == 3.0  # the score does not move
    assert rule.normalise(np.array([3.0])).tolist() == [0.5]


def test_value_decides_where_the_score_is_saturated() -> None:
    rule = FixedThreshold(raw_value=0.0, value=1e-300).fit(np.array([]), VALIDATION)
    raw = np.array([-1100.0, -900.0])
    assert rule.normalise(raw).tolist() == [0.0, 0.0]
    assert rule.raw_cut == pytest.approx(-1.4826 * 300 * math.log(10), rel=1e-9)  # -1024.1
    assert rule.label(raw).tolist() == [0, 1]


@given(cut=SCORES, raws=st.lists(SCORES, min_size=1), steps=st.integers(-3, 3))
def test_score_above_half_is_label_one(cut: float, raws: list[float], steps: int) -> None:
    rule = FixedThreshold(raw_value=cut).fit(np.array([]), np.array([-1e6, 0.0, 1e6]))
    near = cut
    for _ in range(abs(steps)):
        near = math.nextafter(near, math.copysign(math.inf, steps))
    raw = np.array([*raws, near])
    score, label = rule.normalise(raw), rule.label(raw)
    assert ((score > 0.5) == (label == 1)).all()
    assert (label == (raw > cut)).all()
    assert (score >= 0).all()
    assert (score <= 1).all()


@given(raw=st.lists(SCORES, min_size=2), value=st.floats(0.01, 0.99))
def test_scores_keep_the_order_and_labels_agree_with_value(raw: list[float], value: float) -> None:
    ordered = np.sort(raw)
    rule = FixedThreshold(raw_value=1.0, value=value).fit(np.array([]), VALIDATION)
    score, label = rule.normalise(ordered), rule.label(ordered)
    assert (np.diff(score) >= 0).all()
    clear = np.abs(score - value) > 1e-9
    assert ((score > value) == (label == 1))[clear].all()


def test_f1_takes_the_best_cut_and_is_an_oracle() -> None:
    rule = F1Threshold().fit(np.array([]), VALIDATION)
    # cutting between 2 and 3: 3 found, 1 false: F1 = 6/7; between 3 and 4: 2 found, none false: 4/5
    rule.fit_oracle(np.array([1.0, 2.0, 3.0, 3.0, 4.0, 5.0]), np.array([0, 0, 0, 1, 1, 1]))
    assert rule.cut_ == 2.5
    assert rule.oracle
    assert "oracle" in rule.guarantee_
    assert [name for name, kind in RULES.items() if kind.oracle] == ["f1"]


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=30))
def test_f1_equals_trying_every_cut(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in pairs])
    labels = np.array([label for _, label in pairs])
    if labels.all() or not labels.any():
        return

    def f1(cut: float) -> float:
        flagged = scores > cut
        return 2 * (flagged & labels).sum() / (flagged.sum() + labels.sum())

    found = F1Threshold().fit(np.array([]), VALIDATION).fit_oracle(scores, labels).cut_
    assert f1(found) == max(f1(cut) for cut in np.arange(-1.5, 9))


def test_f1_needs_both_sorts() -> None:
    with pytest.raises(InputError, match="labelled good and defective pictures, got one sort"):
        F1Threshold().fit(np.array([]), VALIDATION).fit_oracle(np.array([1.0, 2.0]), np.array([1, 1]))


def test_no_threshold_gives_no_verdict() -> None:
    rule = NoThreshold().fit(np.array([]), VALIDATION)
    assert rule.cut_ is None
    assert rule.raw_cut is None
    assert rule.label(np.array([1.0])) is None
    assert rule.normalise(np.array([1.0])) is None


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0, 1000.0], 1.4826),  # one outlier changes nothing
        ([5.0, 5.0, 5.0, 5.0, 7.0], 0.8),  # most are equal: their standard deviation
        ([-4.0], 4.0),  # one picture: its size
        ([0.0, 0.0], 1.0),
    ],
)
def test_spread_is_robust_and_positive(scores: list[float], expected: float) -> None:
    assert robust_spread(np.array(scores)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [None, 0.3])
def test_state_survives_json(value: float | None) -> None:
    raw = np.linspace(-5, 30, 101)
    for rule in every_rule(value):
        again = threshold_from_state(json.loads(json.dumps(rule.state(), allow_nan=False)))
        assert again == rule
        assert (again.cut_, again.spread_, again.guarantee_) == (rule.cut_, rule.spread_, rule.guarantee_)
        assert (again.normalise(raw) == rule.normalise(raw)).all()
        assert (again.label(raw) == rule.label(raw)).all()
    none = threshold_from_state(NoThreshold().fit(np.array([]), VALIDATION).state())
    assert none.label(raw) is None


@pytest.mark.parametrize(
    "edit",
    [
        {"rule": "os.system"},
        {"settings": {"alpha": 0.1, "value": None, "extra": 1}},
        {"settings": {"alpha": 2.0, "value": None}},
        {"learned": {"cut": 1.0, "spread": 0.0, "guarantee": ""}},
        {"learned": {"cut": math.nan, "spread": 1.0, "guarantee": ""}},
        {"learned": {"cut": None, "spread": 1.0, "guarantee": ""}},
        {"learned": {"cut": "high", "spread": 1.0, "guarantee": ""}},
        {"learned": {"cut": 10**400, "spread": 1.0, "guarantee": ""}},
        {"learned": {}},
        {"learned": None},
    ],
)
def test_state_of_something_else_is_refused(edit: dict) -> None:
    state = ConformalThreshold().fit(np.arange(12.0), VALIDATION).state()
    with pytest.raises(InputError):
        threshold_from_state(state | edit)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ConformalThreshold(alpha=0.0), "threshold.alpha must be between 0 and 1, got 0.0"),
        (lambda: ConformalThreshold(alpha=math.nan), "threshold.alpha must be between 0 and 1, got nan"),
        (lambda: ConformalThreshold(value=1.0), "threshold.value must be between 0 and 1 .*, got 1.0"),
        (lambda: QuantileThreshold(quantile=95), "threshold.quantile must be between 0 and 1, got 95"),
        (lambda: FixedThreshold(raw_value=math.inf), "threshold.raw_value must be a finite number, got inf"),
        (lambda: NoThreshold(value=0.5), "threshold=none has none"),
        (
            lambda: ConformalThreshold().fit(np.arange(9.0), np.array([])),
            "at least 1 validation normal, got 0",
        ),
        (lambda: QuantileThreshold().fit(np.array([]), VALIDATION), "at least 1 calibration normals, got 0"),
        (lambda: QuantileThreshold().fit(np.array([1, math.nan]), VALIDATION), "calibration scores: .*nan"),
        (lambda: QuantileThreshold().fit(VALIDATION, np.array([math.inf])), "validation scores: .*inf"),
        (lambda: every_rule()[0].label(np.array([math.nan])), "raw score is NaN"),
        (lambda: every_rule()[0].normalise(np.array([math.nan])), "raw score is NaN"),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()


def test_dataclasses_are_config_schemas() -> None:
    assert OmegaConf.structured(ConformalThreshold) == {"alpha": 0.1, "value": None}
    assert OmegaConf.is_missing(OmegaConf.structured(FixedThreshold), "raw_value")
    assert set(RULES) == {"conformal", "quantile", "fixed", "f1", "none"}
