"""Standardisation against scikit-learn, and features that hardly vary."""

from __future__ import annotations

import math

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.preprocessing import StandardScaler

from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.types import InputError


@pytest.fixture
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(30, 8)) * [1, 2, 3, 4, 5, 6, 7, 0.01] + 10).astype(np.float32)


def test_without_floor_it_is_plain_standardisation(embeddings: np.ndarray) -> None:
    scaled = Scaler(mode="standard", floor=0.0).fit(embeddings).transform(embeddings)
    reference = StandardScaler().fit_transform(embeddings.astype(np.float64))
    np.testing.assert_allclose(scaled, reference, atol=1e-4)
    assert scaled.dtype == np.float32


def test_floor_bounds_what_a_nearly_constant_feature_weighs(embeddings: np.ndarray) -> None:
    deviation = embeddings.std(axis=0, dtype=np.float64)
    scaler = Scaler(mode="standard", floor=0.25).fit(embeddings)
    floor = 0.25 * deviation.mean()
    np.testing.assert_allclose(scaler.scale_, [*(max(d, floor) for d in deviation)], rtol=1e-6)
    assert (scaler.scale_ > deviation + 0.5 * floor).tolist() == [False] * 7 + [True]
    # a step of the average deviation in any feature counts at most 1 / floor
    step = scaler.transform(embeddings + np.float32(deviation.mean())) - scaler.transform(embeddings)
    assert np.abs(step).max() <= 4 + 1e-4


def test_a_large_floor_is_no_scaling_at_all(embeddings: np.ndarray) -> None:
    scale = Scaler(mode="standard", floor=100.0).fit(embeddings).scale_
    assert (scale == scale[0]).all()


def test_dead_features_do_not_lower_the_floor() -> None:
    """Most features behind a ReLU never fire: their median deviation is 0, their average is not."""
    embeddings = np.zeros((4, 10), dtype=np.float32)
    embeddings[:, 0] = [0, 4, 0, 4]  # deviation 2, average over the features 0.2
    embeddings[:, 1] = [0, 0, 0, 1e-6]
    scaler = Scaler(mode="standard", floor=0.5).fit(embeddings)
    np.testing.assert_allclose(scaler.scale_, [2.0] + [0.1] * 9, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_constant_embeddings_stay_finite(rows: int) -> None:
    constant = np.full((rows, 3), 1000.1, dtype=np.float32)
    scaler = Scaler(mode="standard", floor=0.1).fit(constant)
    assert scaler.transform(constant).tolist() == [[0.0] * 3] * rows
    assert scaler.transform(constant + 1).max() == pytest.approx(1, rel=1e-3)


def test_none_changes_nothing(embeddings: np.ndarray) -> None:
    assert np.array_equal(Scaler(mode="none").fit(embeddings).transform(embeddings), embeddings)


def test_a_row_does_not_depend_on_its_batch(embeddings: np.ndarray) -> None:
    scaler = Scaler().fit(embeddings)
    one_by_one = np.concatenate([scaler.transform(embeddings[i : i + 1]) for i in range(len(embeddings))])
    assert np.array_equal(one_by_one, scaler.transform(embeddings))


def test_state_gives_the_same_values(embeddings: np.ndarray) -> None:
    scaler = Scaler(mode="standard", floor=0.3).fit(embeddings)
    again = Scaler.from_state(*scaler.state())
    assert again == scaler
    assert np.array_equal(again.transform(embeddings), scaler.transform(embeddings))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Scaler(mode="robust"), "scaler.mode must be one of standard none, got 'robust'"),
        (lambda: Scaler(floor=-1), "scaler.floor must be a number >= 0, got -1"),
        (lambda: Scaler(floor=math.nan), "scaler.floor must be a number >= 0, got nan"),
        (lambda: Scaler().fit(np.zeros((0, 3))), r"n > 0, got \(0, 3\)"),
        (lambda: Scaler().fit(np.full((2, 3), np.nan)), "expected finite embeddings"),
        (
            lambda: Scaler().fit(np.ones((2, 3))).transform(np.ones((2, 4))),
            r"of 3 features, got shape \(2, 4\)",
        ),
        (lambda: Scaler.from_state({}, {"mode": "none", "floor": 0}), "not the state of a scaler: 'mean'"),
        (
            lambda: Scaler.from_state(
                {"mean": np.ones(3), "scale": np.zeros(3)}, {"mode": "none", "floor": 0}
            ),
            "not the state of a scaler",
        ),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()


def test_the_dataclass_is_a_config_schema() -> None:
    assert set(OmegaConf.structured(Scaler)) == {"mode", "floor"}
