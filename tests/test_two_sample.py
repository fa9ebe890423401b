"""The two-sample test: against every order of the values, against scipy, and with equal values."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from anomalib_lite.two_sample import two_sample_p_value


def distance(reference: np.ndarray, window: np.ndarray) -> float:
    return max(abs(np.mean(reference <= v) - np.mean(window <= v)) for v in [*reference, *window])


def every_split(values: np.ndarray, m: int) -> list[tuple[np.ndarray, np.ndarray]]:
    splits = []
    for chosen in combinations(range(len(values)), m):
        mask = np.isin(np.arange(len(values)), chosen)
        splits.append((np.sort(values[mask]), np.sort(values[~mask])))
    return splits


@pytest.mark.parametrize(("m", "n"), [(1, 2), (3, 3), (4, 6), (5, 4)])
def test_is_the_share_of_orders_that_lie_as_far_apart(m: int, n: int) -> None:
    splits = every_split(np.arange(m + n, dtype=float), m)
    distances = np.array([distance(*split) for split in splits])
    for split, own in zip(splits, distances, strict=True):
        assert two_sample_p_value(*split) == pytest.approx(np.mean(distances >= own - 1e-12))


@pytest.mark.parametrize("values", [[0, 0, 0, 0, 1, 1, 2, 2], [1] * 8, [0, 1, 1, 1, 1, 1, 1, 2]])
def test_equal_values_never_make_a_small_p_value_likelier_than_it_says(values: list[int]) -> None:
    found = np.array([two_sample_p_value(*split) for split in every_split(np.array(values, float), 3)])
    for level in np.unique(found):
        assert np.mean(found <= level) <= level + 1e-12


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 60), n=st.integers(1, 60), shift=st.floats(0, 3), seed=st.integers(0, 99))
def test_agrees_with_scipy(m: int, n: int, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, window = np.sort(rng.normal(size=m)), np.sort(rng.normal(size=n) + shift)
    expected = ks_2samp(reference, window, method="exact").pvalue
    assert two_sample_p_value(reference, window) == pytest.approx(expected, rel=1e-7)


def test_a_small_chance_keeps_its_digits() -> None:
    # samples that do not overlap: two of the C(60, 30) orders
    assert two_sample_p_value(np.arange(30.0), np.arange(30.0, 60.0)) == pytest.approx(
        2 / 118264581564861424, rel=1e-9, abs=0
    )
