"""Similarities against NumPy, SciPy and scikit-image, hand-computed values, and the text of errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.fft import dctn
from skimage.metrics import structural_similarity

from anomalib_lite.scoring.similarity import (
    SIMILARITIES,
    Similarity,
    average_hash,
    difference_hash,
    l1,
    l2,
    perceptual_hash,
    ssim,
)
from anomalib_lite.types import InputError

CONFIGS = Path(__file__).parents[2] / "configs" / "similarity"
HASHES = ["average_hash", "difference_hash", "perceptual_hash"]


def random_picture(height: int, width: int, *, seed: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def grey(levels: np.ndarray) -> torch.Tensor:
    """A picture of grey levels (H, W) 0..255, whose hashes need no conversion from colour."""
    return torch.from_numpy(levels.astype(np.float32) / 255).expand(1, 3, *levels.shape)


def random_levels(height: int, width: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width))


def smooth_picture() -> torch.Tensor:
    """Two waves and a ramp, so that no hash is decided by rounding."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 128), indexing="ij")
    waves = 0.5 + 0.2 * torch.sin(9 * x + 1) * torch.cos(7 * y) + 0.2 * (x - y)
    return waves.expand(1, 3, 96, 128).clone()


def test_l1_and_l2_by_hand() -> None:
    picture = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    reconstruction = torch.tensor([0.25, 0.5, 0.25]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    assert l1(picture, reconstruction) == pytest.approx(1 / 3)
    assert l2(picture, reconstruction) == pytest.approx((0.0625 + 0.5625) / 3)


@settings(deadline=None, max_examples=10)
@given(height=st.integers(11, 40), width=st.integers(11, 40))
def test_ssim_equals_scikit_image(height: int, width: int) -> None:
    picture, other = (
        random_picture(height, width, seed=height),
        random_picture(height, width, seed=width + 99),
    )
    reconstruction = 0.7 * picture + 0.3 * other
    # it leaves out the 5 pixels at the border, where the window does not fit: reflect them
    one, another = (
        np.pad(x[0].double().numpy(), ((0, 0), (5, 5), (5, 5)), mode="reflect")
        for x in (picture, reconstruction)
    )
    similarity = structural_similarity(
        one,
        another,
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(picture, reconstruction) == pytest.approx(1 - similarity, abs=1e-4)


def plain_average_hash(levels: np.ndarray) -> np.ndarray:
    return levels > levels.mean()


def plain_difference_hash(levels: np.ndarray) -> np.ndarray:
    return np.diff(levels, axis=1) > 0


def plain_perceptual_hash(levels: np.ndarray) -> np.ndarray:
    frequencies = dctn(levels.astype(np.float64), type=2)[:8, :8]
    return frequencies > np.median(frequencies)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("similarity", "plain", "height", "width"),
    [
        (average_hash, plain_average_hash, 8, 8),
        (difference_hash, plain_difference_hash, 8, 9),
        (perceptual_hash, plain_perceptual_hash, 32, 32),
    ],
)
def test_hashes_equal_a_plain_version(
    similarity: Callable[[torch.Tensor, torch.Tensor], float],
    plain: Callable[[np.ndarray], np.ndarray],
    height: int,
    width: int,
    seed: int,
) -> None:
    """At the size that the hash works at, so that nothing is resized."""
    one, other = random_levels(height, width, seed=seed), random_levels(height, width, seed=seed + 100)
    expected = np.mean(plain(one) != plain(other))
    assert 0 < expected < 1
    assert similarity(grey(one), grey(other)) == expected


def test_average_hash_counts_the_cells() -> None:
    """A bright cell and a dark one swap: as far as the hash's own pixels go, and with 10 x 10 pixels a cell."""
    levels = np.zeros((8, 8), dtype=int)
    levels[:, :4] = 200
    moved = levels.copy()
    moved[0, 0], moved[7, 7] = 0, 200
    assert average_hash(grey(levels), grey(moved)) == 2 / 64
    enlarged = (np.kron(x, np.ones((10, 10), dtype=int)) for x in (levels, moved))
    assert average_hash(*map(grey, enlarged)) == 2 / 64


def test_difference_hash_counts_the_rises() -> None:
    levels = np.tile(np.arange(9) * 20, (8, 1))
    dented = levels.copy()
    dented[3, 4] = 0  # no rise to it, and still one from it
    assert difference_hash(grey(levels), grey(dented)) == 1 / 64


@settings(deadline=None, max_examples=20)
@given(shift=st.integers(-40, 40), seed=st.integers(0, 99))
def test_hashes_do_not_see_brightness_but_differences_do(shift: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(40, 216, size=(8, 9))
    picture, brighter = grey(levels), grey(levels + shift)
    assert difference_hash(picture, brighter) == 0
    assert average_hash(picture[..., :8], brighter[..., :8]) == 0
    assert l1(picture, brighter) == pytest.approx(abs(shift) / 255, abs=1e-6)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_equal_pictures_score_zero_and_a_larger_defect_more(name: str) -> None:
    similarity, picture = Similarity(name=name), smooth_picture()
    small, large = picture.clone(), picture.clone()
    small[..., 20:50, 30:60] = 0
    large[..., 10:80, 20:110] = 0
    scores = [similarity(picture, x) for x in (picture, small, large)]
    assert scores[0] == pytest.approx(0, abs=1e-5)
    assert scores[0] < min(scores[1:])
    # bits of frequencies do not grow with an area, and neither does the least similar place
    if name not in ("perceptual_hash", "ssim_lowest"):
        assert scores[1] < scores[2]
    assert all(type(score) is float for score in scores)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_scores_repeat_and_are_symmetric_and_leave_their_input_alone(name: str) -> None:
    similarity = Similarity(name=name)
    picture, reconstruction = random_picture(37, 53, seed=1), random_picture(37, 53, seed=2)
    before = picture.clone(), reconstruction.clone()
    score = similarity(picture, reconstruction)
    assert score > 0
    assert similarity(picture, reconstruction) == score
    assert similarity(reconstruction, picture) == pytest.approx(score, abs=1e-6)
    assert torch.equal(picture, before[0])
    assert torch.equal(reconstruction, before[1])


@pytest.mark.parametrize("name", HASHES)
def test_a_reconstruction_outside_the_range_does_not_wrap_around(name: str) -> None:
    similarity, picture = Similarity(name=name), smooth_picture()
    outside = 4 * (picture - 0.5) + 0.5
    assert outside.min() < -0.2
    assert outside.max() > 1.2
    assert similarity(picture, outside) == similarity(picture, outside.clamp(0, 1))


@pytest.mark.parametrize("name", HASHES)
def test_levels_are_rounded_not_cut(name: str) -> None:
    flat = np.full((8, 9), 100)
    # an offset that differs from pixel to pixel: cut to 99 and 100 it would be a pattern
    offset = torch.from_numpy(np.random.default_rng(4).choice([-0.4, 0.4], size=flat.shape) / 255).float()
    assert Similarity(name=name)(grey(flat), grey(flat) + offset) == 0


def test_every_similarity_has_its_config_and_the_reverse() -> None:
    names = {path.stem: OmegaConf.load(path)["name"] for path in CONFIGS.glob("*.yaml")}
    assert names == {name: name for name in SIMILARITIES}


def test_unknown_name() -> None:
    names = "l1, l2, ssim, ssim_lowest, average_hash, difference_hash, perceptual_hash"
    message = f"similarity.name must be one of {names}, got cosine"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Similarity(name="cosine")


@pytest.mark.parametrize(
    ("picture", "reconstruction", "message"),
    [
        ((3, 12, 12), (3, 12, 12), "similarity: the picture must be (1, 3, H, W), got (3, 12, 12)"),
        ((2, 3, 12, 12), (2, 3, 12, 12), "similarity: the picture must be (1, 3, H, W), got (2, 3, 12, 12)"),
        ((1, 1, 12, 12), (1, 1, 12, 12), "similarity: the picture must be (1, 3, H, W), got (1, 1, 12, 12)"),
        (
            (1, 3, 12, 12),
            (1, 3, 12, 1),
            "similarity: the reconstruction must have the picture's shape (1, 3, 12, 12), got (1, 3, 12, 1)",
        ),
    ],
)
def test_wrong_shapes(picture: tuple[int, ...], reconstruction: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Similarity(name="l1")(torch.zeros(picture), torch.zeros(reconstruction))


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(name: str, value: float) -> None:
    good, bad = torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12)
    bad[0, 1, 2, 3] = value
    message = "^similarity: expected a finite %s, got NaN or infinity$"
    with pytest.raises(InputError, match=message % "reconstruction"):
        Similarity(name=name)(good, bad)
    with pytest.raises(InputError, match=message % "picture"):
        Similarity(name=name)(bad, good)


def test_ssim_of_a_picture_smaller_than_its_window() -> None:
    with pytest.raises(InputError, match=r"^SSIM needs at least 11 x 11 pixels, its window, got 10 x 30$"):
        Similarity(name="ssim")(torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))


def test_the_lowest_ssim_is_that_of_scikit_images_map() -> None:
    rng = np.random.default_rng(3)
    one = rng.random((40, 32, 3), np.float32)
    other = np.clip(one + 0.05 * rng.standard_normal(one.shape, np.float32), 0, 1)
    other[20:24, 10:20] = 0.5  # away from the border, where the two treat it differently
    _, similarity = structural_similarity(
        one, other, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    tensors = (torch.from_numpy(x.transpose(2, 0, 1).copy())[None] for x in (one, other))
    assert Similarity(name="ssim_lowest")(*tensors) == pytest.approx(
        1 - similarity.mean(axis=2).min(), abs=1e-4
    )
