"""Map operations against SciPy and scikit-image, and hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import gaussian

from anomalib_lite.scoring import anomaly_map
from anomalib_lite.scoring.anomaly_map import (
    absolute_error,
    binarise,
    channel_maximum,
    channel_mean,
    gaussian_blur,
    mask_border,
    mean_square,
    median_blur,
)
from anomalib_lite.types import InputError

SIZES = {"height": st.integers(5, 40), "width": st.integers(5, 40)}


def random_map(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(height * width))


def test_errors_by_hand() -> None:
    image = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    reconstruction = torch.tensor([0.25, 0.5, 0.25]).view(1, 3, 1, 1)
    error = absolute_error(image, reconstruction)
    assert error.flatten().tolist() == [0.25, 0.0, 0.75]
    assert channel_maximum(error).tolist() == [[[[0.75]]]]
    assert channel_mean(error).item() == pytest.approx(1 / 3)
    assert mean_square(error).item() == pytest.approx((0.0625 + 0.5625) / 3)
    assert mean_square(torch.cat([error, 2 * error])).tolist() == pytest.approx([0.625 / 3, 2.5 / 3])


@settings(deadline=None, max_examples=25)
@given(**SIZES, kernel=st.sampled_from([1, 3, 5, 7, 9]))
def test_median_equals_scipy(height: int, width: int, kernel: int) -> None:
    picture = random_map(2, 1, height, width)
    expected = ndimage.median_filter(picture.numpy(), size=(1, 1, kernel, kernel), mode="mirror")
    assert np.array_equal(median_blur(picture, kernel=kernel).numpy(), expected)


def test_median_is_the_same_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = random_map(2, 3, 23, 31)
    whole = median_blur(picture, kernel=7)
    monkeypatch.setattr(anomaly_map, "STRIP_BYTES", 2 * 3 * 31 * 49 * 4 * 2)  # two rows at a time
    assert torch.equal(median_blur(picture, kernel=7), whole)


@settings(deadline=None, max_examples=25)
@given(**SIZES, sigma=st.floats(0.3, 1.1))
def test_gaussian_equals_scikit_image(height: int, width: int, sigma: float) -> None:
    picture = random_map(1, 2, height, width)
    found = gaussian_blur(picture, sigma=sigma).numpy()
    for channel in range(2):
        expected = gaussian(
            picture[0, channel].numpy().astype(np.float64), sigma=sigma, mode="mirror", truncate=4.0
        )
        np.testing.assert_allclose(found[0, channel], expected, atol=1e-6)


def test_gaussian_keeps_a_constant_up_to_the_border() -> None:
    assert gaussian_blur(torch.full((1, 1, 40, 40), 0.3), sigma=4.0) == pytest.approx(0.3, abs=1e-6)


@given(**SIZES, width_masked=st.integers(0, 2))
def test_border_is_zero_and_the_rest_untouched(height: int, width: int, width_masked: int) -> None:
    picture = random_map(1, 1, height, width) + 1
    masked = mask_border(picture, width=width_masked)
    inside = np.zeros((height, width), dtype=bool)
    inside[width_masked : height - width_masked, width_masked : width - width_masked] = True
    assert np.array_equal(masked[0, 0].numpy(), np.where(inside, picture[0, 0].numpy(), 0))
    assert picture.min() >= 1  # the argument is not changed


def test_binarise_is_strictly_above() -> None:
    assert binarise(torch.tensor([0.1, 0.2, 0.3]), tau=0.2).tolist() == [False, False, True]
    assert binarise(torch.tensor([0.0, 1e-30]), tau=0.0).tolist() == [False, True]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x: absolute_error(x, x[..., 1:]), r"image's shape \(1, 1, 8, 9\), got \(1, 1, 8, 8\)"),
        (lambda x: median_blur(x, kernel=4), "median kernel must be odd and positive, got 4"),
        (lambda x: median_blur(x, kernel=-3), "median kernel must be odd and positive, got -3"),
        (lambda x: median_blur(x, kernel=17), "median kernel reaches 8 pixels, more than a map of 8 x 9"),
        (lambda x: median_blur(x[0], kernel=3), r"shape \(B, C, H, W\), got \(1, 8, 9\)"),
        (lambda x: gaussian_blur(x, sigma=0.0), "positive number of pixels, got 0.0"),
        (lambda x: gaussian_blur(x, sigma=float("nan")), "positive number of pixels, got nan"),
        (lambda x: gaussian_blur(x, sigma=2.0), "gaussian sigma reaches 8 pixels"),
        (lambda x: mask_border(x, width=4), "leave some of the 8 pixels, got 4"),
        (lambda x: mask_border(x, width=-1), "0 or more .* got -1"),
        (lambda x: binarise(x, tau=-0.1), "postprocess.tau must be 0 or more, got -0.1"),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make(torch.zeros(1, 1, 8, 9))
