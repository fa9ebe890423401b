"""The resize without torch against torch's."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.resize import resize
from anomalib_lite.data.resize_array import axis_weights, resize_array

SIDES = st.integers(2, 90)  # of one pixel, torch 2.15 enlarges wrongly: (2, 1) to (3, 1) repeats the first


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_equals_torchs_for_any_sizes(before: tuple[int, int], after: tuple[int, int], seed: int) -> None:
    picture = np.random.default_rng(seed).random((*before, 3), np.float32)
    expected = resize(torch.from_numpy(picture.transpose(2, 0, 1))[None], after)[0].numpy().transpose(1, 2, 0)
    assert np.abs(resize_array(picture, after) - expected).max() < 1e-6


def test_equals_torchs_for_a_photograph() -> None:
    picture = np.random.default_rng(0).random((1200, 1600, 3), np.float32)
    expected = resize(torch.from_numpy(picture.transpose(2, 0, 1))[None], (384, 512))[0].numpy()
    assert np.abs(resize_array(picture, (384, 512)) - expected.transpose(1, 2, 0)).max() < 1e-6


@given(SIDES, SIDES)
@settings(deadline=None)
def test_the_matrix_does_the_same_to_an_axis(before: int, after: int) -> None:
    column = np.random.default_rng(before).random((before, 1, 1), np.float32)
    weights = axis_weights(before, after)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        weights @ column[:, 0, 0], resize_array(column, (after, 1))[:, 0, 0], atol=1e-6
    )


def test_nothing_to_do_copies_nothing() -> None:
    picture = np.zeros((4, 5, 3), np.float32)
    assert resize_array(picture, (4, 5)) is picture
