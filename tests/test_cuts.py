"""What every cut does: counted by hand, and the same as the metrics and the rule say one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.cuts import VALUES, Counts, CutStudy, Labelled, study_cuts
from anomalib_lite.metrics import image_metrics
from anomalib_lite.scoring.threshold import (
    ConformalThreshold,
    F1Threshold,
    FixedThreshold,
    NoThreshold,
    Threshold,
)
from anomalib_lite.types import InputError

NOTHING = Labelled(np.array([]), np.array([]))


def rule(cut: float, *, value: float | None = None) -> FixedThreshold:
    """A cut with a spread of 1: `threshold.value` = sigmoid(raw cut - cut)."""
    return FixedThreshold(raw_value=cut, value=value).fit(np.array([]), np.array([-1.0, 1.0]) / 1.4826)


def study(known: Labelled, test: Labelled, threshold: Threshold, **more: Any) -> CutStudy:
    pixels: dict[str, Any] = {"tau": None, "known_pixels": [], "test_pixels": []}
    return study_cuts(known=known, test=test, threshold=threshold, **(pixels | more))


def labelled(good: list[float], defective: list[float]) -> Labelled:
    return Labelled(np.array([*good, *defective]), np.array([0] * len(good) + [1] * len(defective)))


def test_rates_by_hand() -> None:
    # cut 1.0: of 4 good ones 1 is above it and one lies on it; of 2 defective ones 1 is above
    scored = labelled([0.0, 0.5, 1.0, 2.0], [1.0, 3.0])
    found = study(scored, scored, rule(1.0))
    assert (found.validation_counts, found.test_counts) == (Counts(4, 2), Counts(4, 2))
    cut = found.at(0.5)
    assert cut.raw_cut == 1.0
    assert (cut.test.precision, cut.test.recall, cut.test.f1) == (1 / 2, 1 / 2, 1 / 2)
    assert (cut.test.false_reject_rate, cut.validation.false_reject_rate) == (1 / 4, 1 / 4)
    # on validation each good one weighs a half: 1 hit, half a false reject
    assert cut.validation.precision == pytest.approx(1 / 1.5)
    assert cut.validation.recall == 1 / 2
    assert cut.validation.f1 == pytest.approx(2 * 1 / (1.5 + 2))


def test_the_number_of_drawn_defects_does_not_move_the_recommendation() -> None:
    rng = np.random.default_rng(0)
    good, defective = rng.normal(0, 1, 50), rng.normal(1.5, 1, 60)
    few = study(labelled([*good], [*defective]), NOTHING, rule(1.0))
    many = study(labelled([*good], [*np.repeat(defective, 20)]), NOTHING, rule(1.0))
    assert few.recommended_value == many.recommended_value is not None
    for one, other in zip(few.image, many.image, strict=True):
        assert one.validation.f1 == pytest.approx(other.validation.f1)
    # a plain F1 score would have put up with nearly all false rejects
    flood = many.at(many.recommended_value).validation.false_reject_rate
    assert flood is not None
    assert flood < 0.5


@settings(deadline=None, max_examples=30)
@given(good=st.integers(0, 12), defective=st.integers(0, 12), seed=st.integers(0, 2**16))
def test_every_cut_is_what_the_rule_and_the_metrics_say(good: int, defective: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0] * good + [1] * defective)
    raw = rng.integers(0, 6, len(labels)) / 2.0  # many ties, some on the cut
    threshold = ConformalThreshold(alpha=0.2).fit(rng.integers(0, 6, 9) / 2.0, rng.normal(size=7))
    found = study(NOTHING, Labelled(raw, labels), threshold)
    for cut in found.image[seed % 7 :: 7]:  # the metrics also compute areas, which takes a while
        moved = ConformalThreshold(alpha=0.2, value=cut.value)
        moved.cut_, moved.spread_ = threshold.cut_, threshold.spread_
        assert moved.raw_cut == pytest.approx(cut.raw_cut)
        expected = image_metrics(labels, raw, moved.label(raw))
        assert cut.test.f1 == expected["image_F1Score"]
        assert cut.test.precision == expected["image_Precision"]
        assert cut.test.recall == expected["image_Recall"]
        assert cut.test.false_reject_rate == expected["false_reject_rate"]


def test_all_cuts_that_were_asked_for_are_studied() -> None:
    found = study(NOTHING, NOTHING, rule(0.0, value=0.123), values=[0.4567, 0.5])
    values = [cut.value for cut in found.image]
    assert values == sorted(values)
    assert set(values) == {*VALUES, 0.123, 0.4567, 0.5}
    assert found.value == 0.123
    raw_cuts = [cut.raw_cut for cut in found.image]
    assert raw_cuts == sorted(raw_cuts)
    assert found.at(0.4567).raw_cut == pytest.approx(math.log(0.4567 / 0.5433))
    assert found.at(0.5).raw_cut == 0  # the fitted cut, whatever is in use


def test_validation_recommends_and_test_is_an_oracle() -> None:
    # drawn defects ask for a cut between 1 and 2 above the fitted one, the test for one below it
    found = study(labelled([0.0, 1.0], [2.0]), labelled([-2.0], [-1.0, 3.0]), rule(0.0))
    assert found.recommended_value is not None
    assert found.oracle_value is not None
    assert 1.0 <= found.at(found.recommended_value).raw_cut < 2.0
    assert -2.0 <= found.at(found.oracle_value).raw_cut < -1.0
    # of the equally good ones the nearest to 0.5
    assert found.recommended_value == 0.74  # log(0.74 / 0.26) = 1.046, log(0.72 / 0.28) = 0.944
    assert found.oracle_value == 0.26


def test_a_fitted_cut_that_is_as_good_as_any_is_kept() -> None:
    assert study(labelled([-3.0], [3.0]), NOTHING, rule(0.0)).recommended_value == 0.5
    # raw cuts 0 and 0.08 both let a good or a defective one through: below, at -0.08, all is right
    found = study(labelled([-3.0, -0.1], [-0.05, 3.0]), NOTHING, rule(0.0))
    assert [found.at(value).validation.f1 for value in (0.48, 0.5, 0.52)] == [
        1,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    ]
    assert found.recommended_value == 0.48


def test_of_two_cuts_equally_good_and_near_the_higher_one_rejects_fewer() -> None:
    # F1 2/3 at 0.48 (both defective ones, and both good ones) and at 0.52 (one defective one and nothing else);
    # between them, at 0.5, a good one is rejected with it: 2 / (2 + 2)
    found = study(labelled([-0.01, 0.01], [-0.04, 3.0]), NOTHING, rule(0.0), values=[0.48, 0.5, 0.52])
    assert [found.at(value).validation.f1 for value in (0.48, 0.5, 0.52)] == [2 / 3, 0.5, 2 / 3]
    assert found.recommended_value == 0.52


def test_nothing_is_recommended_without_defects_or_where_none_is_found() -> None:
    assert study(labelled([1.0, 2.0], []), NOTHING, rule(0.0)).recommended_value is None
    hopeless = study(labelled([0.0], [-100.0]), NOTHING, rule(0.0))
    assert hopeless.recommended_value is None
    assert hopeless.at(0.5).validation.precision is None  # nothing is flagged
    assert hopeless.at(0.5).validation.f1 == 0
    assert study(NOTHING, NOTHING, rule(0.0)).oracle_value is None


def test_without_an_image_cut_pixels_are_studied_all_the_same() -> None:
    rows = [{"tau": tau, "precision": 0.5, "recall": 0.5, "F1": f1} for tau, f1 in ((0.1, 0.4), (0.2, 0.6))]
    none = NoThreshold().fit(np.array([]), np.arange(3.0))
    found = study(labelled([0.0], [1.0]), NOTHING, none, known_pixels=rows, test_pixels=rows[:1], tau=0.15)
    assert (found.image, found.value, found.recommended_value) == ((), None, None)
    assert (found.tau, found.recommended_tau, found.oracle_tau) == (0.15, 0.2, 0.1)


def test_the_middle_one_of_equally_good_pixel_cuts_is_taken() -> None:
    rows = [
        {"tau": tau, "precision": 1.0, "recall": 1.0, "F1": f1}
        for tau, f1 in ((0.1, 0.5), (0.2, 0.9), (0.3, 0.9), (0.4, 0.9), (0.5, 0.1))
    ]
    assert study(NOTHING, NOTHING, rule(0.0), known_pixels=rows).recommended_tau == 0.3


def test_an_oracle_rule_is_called_one_before_and_after_it_is_fitted() -> None:
    oracle = F1Threshold().fit(np.array([]), np.arange(3.0))
    scored = labelled([1.0, 2.0], [3.0, 4.0])
    assert study(scored, scored, oracle).image == ()
    oracle.fit_oracle(scored.raw_scores, scored.labels)
    found = study(scored, scored, oracle)
    assert found.rule_is_oracle
    assert found.at(0.5).raw_cut == 2.5


def test_the_rule_is_left_as_it_was() -> None:
    threshold = rule(1.0, value=0.3)
    before = threshold.state()
    study(labelled([0.0], [2.0]), NOTHING, threshold)
    assert threshold.state() == before


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_a_value_outside_is_refused(value: float) -> None:
    with pytest.raises(
        InputError, match=r"^threshold.value must be between 0 and 1 \(fitted cut: 0.5\), got"
    ):
        study(NOTHING, NOTHING, rule(0.0), values=[value])


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match=r"^a raw score is NaN: expected a number$"):
        labelled([0.0, float("nan")], [1.0])
