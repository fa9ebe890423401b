"""The order of the steps against SciPy and scikit-image, the mask by hand and against scikit-image, the options."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy import ndimage
from skimage.filters import gaussian
from skimage.measure import label

from anomalib_lite.scoring.anomaly_map import channel_mean, gaussian_blur
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.types import InputError

OPTIONS = Path(__file__).parents[2] / "configs" / "postprocess"


def option(name: str) -> dict[str, Any]:
    """What a YAML file of the group says."""
    values = OmegaConf.to_container(OmegaConf.load(OPTIONS / f"{name}.yaml"))
    assert isinstance(values, dict)
    assert values.pop("defaults") == ["schema", "_self_"]
    return {str(key): value for key, value in values.items()}


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Error (2, 3, 24, 30), what is usual (1, 1, 24, 30) and predicted error (2, 1, 24, 30)."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(2, 3, 24, 30, generator=generator),
        torch.rand(1, 1, 24, 30, generator=generator),
        torch.rand(2, 1, 24, 30, generator=generator),
    )


@pytest.mark.parametrize("channels", ["maximum", "mean"])
def test_the_steps_come_in_the_documented_order(channels: str) -> None:
    error, usual, predicted = drawn(0)
    settings = {"predicted_error": 0.7, "border": 2, "median": 5, "gaussian": 0.8, "opening": 3}
    found = PostProcess(channels=channels, **settings)(error, usual, predicted)
    assert found.shape == (2, 1, 24, 30)
    for number in range(2):
        planes, place = error[number].double().numpy(), usual[0, 0].double().numpy()
        expected = planes.max(axis=0) if channels == "maximum" else planes.mean(axis=0)
        expected = expected / (place + place.mean())
        expected[predicted[number, 0].numpy() > 0.7] = 0
        inner = np.zeros_like(expected)
        inner[2:-2, 2:-2] = expected[2:-2, 2:-2]
        expected = ndimage.median_filter(inner, size=5, mode="mirror")
        expected = gaussian(expected, sigma=0.8, mode="mirror", truncate=4.0)
        expected = ndimage.grey_opening(expected, size=(3, 3))
        np.testing.assert_allclose(found[number, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("with_usual", [True, False])
def test_the_default_options_give_the_map_they_always_gave(with_usual: bool) -> None:
    error, drawn_usual, predicted = drawn(1)
    usual = drawn_usual if with_usual else None
    reduced = channel_mean(error)
    if usual is not None:
        reduced = reduced / (usual + usual.mean()).clamp_min(1e-6)
    found = PostProcess(**option("default"))(error, usual, predicted)
    assert torch.equal(found, gaussian_blur(reduced, sigma=3.0))
    assert torch.equal(PostProcess()(error, None), error.amax(1, keepdim=True))


def test_a_map_does_not_depend_on_its_batch() -> None:
    error, usual, predicted = drawn(2)
    for sigma, tolerance in ((0.0, 0.0), (1.0, 1e-6)):  # a convolution adds a batch up in another order
        postprocess = PostProcess(predicted_error=0.6, border=1, median=3, gaussian=sigma, opening=3)
        together = postprocess(error, usual, predicted)
        alone = torch.cat([postprocess(error[[row]], usual, predicted[[row]]) for row in range(2)])
        torch.testing.assert_close(alone, together, rtol=0, atol=tolerance)


def test_mask_by_hand() -> None:
    anomaly_map = np.zeros((6, 8), np.float32)
    anomaly_map[0, 0] = anomaly_map[1, 1] = anomaly_map[2, 2] = 0.9  # touch at corners: one region of three
    anomaly_map[4, 4:6] = 0.8  # two
    anomaly_map[0, 7] = 0.7  # one
    anomaly_map[5, 0:3] = 0.2  # at the cut, not above
    for minimum_area, expected in ((0, 6), (1, 6), (2, 5), (3, 3), (4, 0)):
        mask = PostProcess(minimum_area=minimum_area).mask_rule(anomaly_map, 0.2)
        assert mask.dtype == bool
        assert mask.shape == (6, 8)
        assert mask.sum() == expected
    assert np.argwhere(PostProcess(minimum_area=3).mask_rule(anomaly_map, 0.2)).tolist() == [
        [0, 0],
        [1, 1],
        [2, 2],
    ]
    # the settings' own cut is the detector's business: it may have learned another one
    assert PostProcess(tau=0.75).mask_rule(anomaly_map, 0.2).sum() == 6


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    minimum_area=st.integers(0, 12),
    tau=st.floats(0, 1, width=32),
)
def test_mask_equals_scikit_image(height: int, width: int, minimum_area: int, tau: float) -> None:
    anomaly_map = np.random.default_rng(height * width).random((height, width), np.float32)
    above = anomaly_map > tau
    regions = label(above, connectivity=2)
    large = np.flatnonzero(np.bincount(regions.ravel()) >= minimum_area)
    expected = above & np.isin(regions, large)
    assert np.array_equal(PostProcess(minimum_area=minimum_area).mask_rule(anomaly_map, tau), expected)


def test_a_region_of_everything_is_kept() -> None:
    assert PostProcess(minimum_area=20).mask_rule(np.ones((4, 5), np.float32), 0.5).all()
    assert not PostProcess(minimum_area=21).mask_rule(np.ones((4, 5), np.float32), 0.5).any()


@pytest.mark.parametrize("name", ["default", "conveyor", "pixel_cut"])
def test_an_option_gives_every_value(name: str) -> None:
    assert set(option(name)) == {field.name for field in fields(PostProcess)}
    PostProcess(**option(name))


def test_the_published_values() -> None:
    conveyor, pixel_cut = PostProcess(**option("conveyor")), PostProcess(**option("pixel_cut"))
    assert (conveyor.channels, conveyor.relative, conveyor.median) == ("maximum", False, 7)
    assert conveyor.predicted_error is not None
    assert (pixel_cut.channels, pixel_cut.relative, pixel_cut.tau) == ("maximum", False, 0.2)
    difference = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        pixel_cut(difference, None), difference.amax(1, keepdim=True)
    )  # nothing but the maximum


def test_conveyor_removes_what_the_network_knows_and_blurs_the_speck() -> None:
    conveyor = PostProcess(**option("conveyor"))
    error, predicted = torch.zeros(1, 3, 40, 40), torch.zeros(1, 1, 40, 40)
    error[..., 4:14, 4:14] = 0.9  # an edge that is never reconstructed well, and predicted
    predicted[..., 4:14, 4:14] = 0.5
    error[:, 0, 20:32, 20:32] = 0.6  # a defect of one colour
    error[..., 36, 5] = 1.0  # a speck
    anomaly_map = conveyor(error, None, predicted)[0, 0]
    assert np.unique(anomaly_map.numpy()).tolist() == pytest.approx([0, 0.6])
    assert (anomaly_map[22:30, 22:30] > 0.5).all()
    assert anomaly_map[:18].max() == anomaly_map[34:].max() == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"channels": "sum"}, "postprocess.channels must be one of maximum, mean, got sum"),
        ({"median": 4}, "postprocess.median must be odd and positive, got 4"),
        ({"median": -3}, "postprocess.median must be odd and positive, got -3"),
        ({"median": 7.5}, "postprocess.median must be odd and positive, got 7.5"),
        ({"opening": 0}, "postprocess.opening must be odd and positive, got 0"),
        ({"opening": 6}, "postprocess.opening must be odd and positive, got 6"),
        ({"border": -1}, "postprocess.border must be a whole number, 0 or more, got -1"),
        ({"peak_share": 1.0}, "postprocess.peak_share must be 0 or more and below 1, got 1.0"),
        ({"minimum_area": -5}, "postprocess.minimum_area must be a whole number, 0 or more, got -5"),
        ({"minimum_area": 2.5}, "postprocess.minimum_area must be a whole number, 0 or more, got 2.5"),
        ({"gaussian": -0.5}, "postprocess.gaussian must be 0 or more pixels, got -0.5"),
        ({"gaussian": float("nan")}, "postprocess.gaussian must be 0 or more pixels, got nan"),
        ({"predicted_error": -0.1}, "postprocess.predicted_error must be 0 or more, or null, got -0.1"),
        ({"tau": -0.1}, "postprocess.tau must be 0 or more, or null, got -0.1"),
        ({"tau": float("nan")}, "postprocess.tau must be 0 or more, or null, got nan"),
        ({"tau": float("inf")}, "postprocess.tau must be 0 or more, or null, got inf"),
        (
            {"mm_per_pixel": 0.0},
            "postprocess.mm_per_pixel must be more than 0 and below 1e9, or null, got 0.0",
        ),
        (
            {"mm_per_pixel": float("inf")},
            "postprocess.mm_per_pixel must be more than 0 and below 1e9, or null, got inf",
        ),
    ],
)
def test_values_out_of_range_are_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        PostProcess(**settings)
    assert str(caught.value) == text


def test_limits_are_within_range() -> None:
    PostProcess(median=1, opening=1, border=0, minimum_area=0, gaussian=0.0, predicted_error=0.0, tau=0.0)
    PostProcess(mm_per_pixel=1e-6)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"predicted_error": 0.1},
            "postprocess.predicted_error needs a network that predicts its error (cae)",
        ),
        ({"border": 12}, "postprocess.border must be 0 or more and leave some of the 24 pixels, got 12"),
        ({"median": 49}, "postprocess.median reaches 24 pixels, too far for a map of 24 x 30"),
        ({"gaussian": 6.0}, "postprocess.gaussian reaches 24 pixels, too far for a map of 24 x 30"),
        ({"opening": 49}, "postprocess.opening reaches 24 pixels, too far for a map of 24 x 30"),
    ],
)
def test_what_a_map_cannot_give_is_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        PostProcess(**settings)(torch.zeros(1, 3, 24, 30), None, None)
    assert str(caught.value).startswith(text)
