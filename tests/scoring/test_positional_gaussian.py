"""Gaussians at positions: against plain numpy, in the limit of many pictures, and from one picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.scoring.positional_gaussian import (
    EIGENVALUE_FLOOR,
    PRIOR_PICTURES,
    Moments,
    PositionalGaussian,
    shrunk,
)
from anomalib_lite.types import InputError


def drawn(count: int, positions: int = 4, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Correlated features (n, P, C), each position with its own mean, mixing and spread."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(positions, channels)) * 10
    mixing = np.eye(channels) + 0.3 * rng.normal(size=(positions, channels, channels))
    mixing *= rng.uniform(0.5, 2, (positions, 1, 1))
    raw = np.random.default_rng(seed + 1).normal(size=(count, positions, channels))
    return torch.from_numpy(np.einsum("pcd,npd->npc", mixing, raw) + mean).float()


def learned(features: torch.Tensor, *, at_a_time: int = 7) -> Moments:
    moments = Moments()
    for some in features.split(at_a_time):
        moments.add(some)
    return moments


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 6), st.integers(1, 9))
def test_sums_give_numpys_means_and_covariances(
    count: int, positions: int, channels: int, at_a_time: int
) -> None:
    features = drawn(count, positions, channels) + 1000  # far from 0: plain sums of squares would lose digits
    moments = learned(features, at_a_time=at_a_time)
    assert moments.count == count
    np.testing.assert_allclose(moments.mean, features.double().mean(dim=0), rtol=1e-6)
    for position in range(positions):
        expected = np.cov(features[:, position].double().numpy().T, bias=True).reshape(channels, channels)
        found = moments.covariance(slice(position, position + 1))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def by_hand(train: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The same distance (n, P), position by position in plain numpy."""
    count, positions, channels = train.shape
    covariances = [np.cov(train[:, p].T, bias=True) for p in range(positions)]
    shared = np.mean(covariances, axis=0)
    deviation = np.sqrt(np.diag(shared))
    values, vectors = np.linalg.eigh(shared / np.outer(deviation, deviation))
    whitening = (
        np.diag(1 / deviation) @ vectors @ np.diag((values + EIGENVALUE_FLOOR * values.mean()) ** -0.5)
    )
    share = PRIOR_PICTURES / (PRIOR_PICTURES + count - 1)
    distances = np.empty(features.shape[:2])
    for p, covariance in enumerate(covariances):
        own = whitening.T @ covariance @ whitening
        scale = np.trace(own) / channels + 1 / count
        precision = np.linalg.inv((1 - share) * own + share * scale * np.eye(channels))
        white = (features[:, p] - train[:, p].mean(axis=0)) @ whitening
        distances[:, p] = np.sqrt(np.einsum("nc,cd,nd->n", white, precision, white) / channels)
    return distances


@pytest.mark.parametrize("count", [2, 12, 200])
def test_distances_are_those_by_hand(count: int) -> None:
    train, new = drawn(count), drawn(5, seed=3)
    found = PositionalGaussian.from_moments(learned(train))(new)
    np.testing.assert_allclose(found, by_hand(train.double().numpy(), new.double().numpy()), rtol=2e-3)


def test_with_many_pictures_it_is_the_mahalanobis_distance() -> None:
    train, new = drawn(20_000), drawn(3, seed=3)
    found = PositionalGaussian.from_moments(learned(train, at_a_time=500))(new)
    for position in range(4):
        own = train[:, position].double().numpy()
        difference = new[:, position].double().numpy() - own.mean(axis=0)
        precision = np.linalg.inv(np.cov(own.T))
        expected = np.sqrt(np.einsum("nc,cd,nd->n", difference, precision, difference) / 3)
        np.testing.assert_allclose(found[:, position], expected, rtol=0.01)


def test_good_parts_are_about_1_away() -> None:
    train = drawn(400, positions=30)
    found = PositionalGaussian.from_moments(learned(train[:300]))(train[300:])
    assert float(found.square().mean()) == pytest.approx(1, abs=0.1)


def test_what_one_position_shows_is_odd_at_another() -> None:
    train = drawn(50)
    gaussian = PositionalGaussian.from_moments(learned(train))
    assert float(gaussian(train).mean()) < 1.5
    assert float(gaussian(train.roll(1, dims=1)).mean()) > 4


def test_a_single_picture_is_measured_by_what_differs_between_its_positions() -> None:
    train = drawn(1, positions=50)
    gaussian = PositionalGaussian.from_moments(learned(train))
    assert float(gaussian(train).max()) == 0
    # of two positions of the picture, the squared difference is twice their variance
    assert float(gaussian(train.roll(1, dims=1)).square().mean()) == pytest.approx(2, rel=0.3)


def test_equal_pictures_leave_differences_as_they_are() -> None:
    train = torch.full((3, 2, 4), 5.0)
    distance = PositionalGaussian.from_moments(learned(train))(train[:1] + 0.5)
    assert bool(distance.isfinite().all())
    assert float(distance.min()) > 0


def test_the_more_pictures_the_less_is_shrunk() -> None:
    covariance = torch.diag(torch.tensor([0.5, 1.5], dtype=torch.float64))[None]
    spread = [
        float((shrunk(covariance, count)[0].diagonal() * torch.tensor([-1, 1])).sum()) for count in (1, 51)
    ]
    assert spread == pytest.approx([0, 0.5])


def test_a_distance_does_not_depend_on_its_batch() -> None:
    train, new = drawn(30, 20, 16), drawn(6, 20, 16, seed=3)
    gaussian = PositionalGaussian.from_moments(learned(train))
    assert torch.equal(gaussian(new)[4:5], gaussian(new[4:5]))


def test_state_round_trip_gives_the_same_bits_in_half_the_room() -> None:
    train, new = drawn(30, 20, 16), drawn(6, 20, 16, seed=3)
    gaussian = PositionalGaussian.from_moments(learned(train))
    state = gaussian.state()
    assert sum(array.nbytes for array in state.values()) == 4 * 20 * 16 + 4 * 16**2 + 2 * 20 * (16 * 17 // 2)
    assert torch.equal(PositionalGaussian.from_state(state)(new), gaussian(new))


@pytest.mark.parametrize("name", ["mean", "whitening", "factors"])
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    state = PositionalGaussian.from_moments(learned(drawn(3))).state()
    with pytest.raises(InputError, match="bundle: mean, whitening and factors do not fit together, got"):
        PositionalGaussian.from_state(state | {name: state[name][:, :-1]})
