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
    channel_maximum,
    channel_mean,
    gaussian_blur,
    grey_opening,
    mask_border,
    mean_square,
    median_blur,
    relative_to_usual,
    remove_predicted,
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
@given(**SIZES, kernel=st.sampled_from([1, 3, 5, 7, 9]))
def test_opening_equals_scipy(height: int, width: int, kernel: int) -> None:
    picture = random_map(2, 1, height, width)
    expected = ndimage.grey_opening(picture.numpy(), size=(1, 1, kernel, kernel))
    opened = grey_opening(picture, kernel=kernel)
    assert np.array_equal(opened.numpy(), expected)
    assert (opened <= picture).all()
    assert torch.equal(grey_opening(opened, kernel=kernel), opened)


def test_opening_removes_what_is_narrower_than_the_square_and_keeps_the_rest() -> None:
    picture = torch.zeros(1, 1, 20, 20)
    picture[..., 3, :] = 0.9  # a line one pixel thick
    picture[..., 8:12, 2:8] = 0.4
    picture[..., 15:18, 15:17] = 0.8  # two pixels wide
    picture[..., 17:, 0:3] = 0.6  # in the corner
    expected = torch.zeros(1, 1, 20, 20)
    expected[..., 8:12, 2:8] = 0.4
    expected[..., 17:, 0:3] = 0.6
    assert torch.equal(grey_opening(picture, kernel=3), expected)


def test_relative_to_usual_by_hand() -> None:
    usual = torch.tensor([0.0, 0.2]).view(1, 1, 1, 2)
    picture = torch.tensor([[0.1, 0.3], [0.0, 0.6]]).view(2, 1, 1, 2)
    assert relative_to_usual(picture, usual=usual).flatten().tolist() == pytest.approx([1, 1, 0, 2])
    assert relative_to_usual(picture, usual=None) is picture
    assert relative_to_usual(picture, usual=0 * usual).isfinite().all()


def test_what_the_network_predicts_is_removed_and_nothing_else() -> None:
    picture = random_map(2, 1, 6, 7) + 1
    predicted = torch.zeros(2, 1, 6, 7)
    predicted[0, 0, 2, 3], predicted[1, 0, 5, 6], predicted[0, 0, 0, 0] = 0.3, 0.21, 0.2
    expected = picture.clone()
    expected[0, 0, 2, 3] = expected[1, 0, 5, 6] = 0  # 0.2 itself is not above
    assert torch.equal(remove_predicted(picture, predicted_error=predicted, above=0.2), expected)
    assert picture.min() >= 1  # the argument is not changed
    assert remove_predicted(picture, predicted_error=predicted, above=None) is picture


def test_what_is_off_leaves_the_map_as_it_is() -> None:
    picture = random_map(1, 1, 2, 2)
    assert torch.equal(median_blur(picture, kernel=1), picture)
    assert torch.equal(gaussian_blur(picture, sigma=0.0), picture)
    assert torch.equal(grey_opening(picture, kernel=1), picture)
    assert torch.equal(mask_border(picture, width=0), picture)


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


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x: absolute_error(x, x[..., 1:]), r"image's shape \(1, 1, 8, 9\), got \(1, 1, 8, 8\)"),
        (lambda x: median_blur(x, kernel=4), "postprocess.median must be odd and positive, got 4"),
        (lambda x: median_blur(x, kernel=-3), "postprocess.median must be odd and positive, got -3"),
        (
            lambda x: median_blur(x, kernel=17),
            "postprocess.median reaches 8 pixels, too far for a map of 8 x 9",
        ),
        (lambda x: median_blur(x[0], kernel=3), r"shape \(B, C, H, W\), got \(1, 8, 9\)"),
        (lambda x: gaussian_blur(x, sigma=-1.0), "postprocess.gaussian must be 0 or more pixels, got -1.0"),
        (lambda x: gaussian_blur(x, sigma=float("nan")), "0 or more pixels, got nan"),
        (lambda x: gaussian_blur(x, sigma=2.0), "postprocess.gaussian reaches 8 pixels"),
        (lambda x: grey_opening(x, kernel=2), "postprocess.opening must be odd and positive, got 2"),
        (
            lambda x: grey_opening(x, kernel=17),
            "postprocess.opening reaches 8 pixels, too far for a map of 8 x",
        ),
        (
            lambda x: mask_border(x, width=4),
            "postprocess.border must be 0 or more and leave .* 8 pixels, got 4",
        ),
        (lambda x: mask_border(x, width=-1), "postprocess.border must be 0 or more .* got -1"),
        (
            lambda x: remove_predicted(x, predicted_error=None, above=0.1),
            r"postprocess.predicted_error needs a network that predicts its error \(cae\), this one does not",
        ),
        (
            lambda x: remove_predicted(x, predicted_error=x[..., 1:], above=0.1),
            r"the map's shape \(1, 1, 8, 9\), got \(1, 1, 8, 8\)",
        ),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make(torch.zeros(1, 1, 8, 9))
