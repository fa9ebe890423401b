"""Augmentation: hand-computed changes, one draw for each patch, no global randomness, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from anomalib_lite.data.augmentation import Augmentation
from anomalib_lite.types import InputError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_patches(count: int = 6, side: int = 24) -> Tensor:
    return torch.rand(count, 3, side, side, generator=seeded(9))


def test_off_changes_nothing() -> None:
    patches = random_patches()
    assert not Augmentation().active
    assert Augmentation()(patches, seeded()) is patches


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 4),
    side=st.integers(1, 40),
    rotation=st.sampled_from([0.0, 20.0, 180.0]),
    flips=st.booleans(),
    noise=st.sampled_from([0.0, 0.3]),
    brightness=st.sampled_from([0.0, 0.5]),
)
def test_patches_keep_their_shape_and_range(
    count: int, side: int, rotation: float, flips: bool, noise: float, brightness: float
) -> None:
    augmentation = Augmentation(rotation=rotation, flips=flips, noise=noise, brightness=brightness)
    patches = random_patches(count, side)
    before = patches.clone()
    result = augmentation(patches, seeded())
    assert result.shape == patches.shape
    assert result.dtype == torch.float32
    assert torch.equal(patches, before)
    if count:
        assert result.min() >= 0
        assert result.max() <= 1 + 1e-6


def test_the_generator_alone_decides() -> None:
    augmentation = Augmentation(rotation=30, flips=True, noise=0.1, brightness=0.2)
    patches = random_patches()
    state = torch.get_rng_state()
    first, again, other = (augmentation(patches, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_flips_give_all_four_mirror_images() -> None:
    patch = torch.arange(4.0).reshape(1, 1, 2, 2)
    result = Augmentation(flips=True)(patch.expand(200, 1, 2, 2), seeded())
    seen = {tuple(int(value) for value in picture.flatten()) for picture in result}
    assert seen == {(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)}


def test_brightness_is_one_factor_for_each_patch() -> None:
    patches = torch.full((500, 3, 4, 4), 0.5)
    result = Augmentation(brightness=0.4)(patches, seeded())
    factors = result[:, 0, 0, 0] / 0.5
    torch.testing.assert_close(result, (0.5 * factors)[:, None, None, None].expand_as(result))
    assert factors.min().item() == pytest.approx(0.6, abs=0.02)
    assert factors.max().item() == pytest.approx(1.4, abs=0.02)
    assert factors.mean().item() == pytest.approx(1.0, abs=0.03)


def test_noise_has_its_standard_deviation() -> None:
    result = Augmentation(noise=0.05)(torch.full((20, 3, 32, 32), 0.5), seeded())
    assert result.std().item() == pytest.approx(0.05, rel=0.02)
    assert result.mean().item() == pytest.approx(0.5, abs=0.001)
    assert result[0].std().item() == pytest.approx(0.05, rel=0.1)


def test_rotation_equals_scipy() -> None:
    """About the centre, by up to its limit, borders mirrored."""
    from scipy.ndimage import rotate

    y, x = np.mgrid[:33, :33] / 32
    picture = (0.5 + 0.25 * np.sin(5 * x) + 0.2 * np.cos(7 * y * x)).astype(np.float32)
    patches = torch.from_numpy(picture).expand(8, 1, 33, 33)
    results = Augmentation(rotation=25)(patches, seeded(3))
    angles = (2 * torch.rand(8, generator=seeded(3)) - 1) * 25
    for result, angle in zip(results, angles.tolist(), strict=True):
        expected = rotate(picture, angle, reshape=False, order=1, mode="mirror")
        np.testing.assert_allclose(result[0].numpy(), expected, atol=0.01)
    assert angles.abs().max() > 15


@pytest.mark.parametrize("side", [8, 31, 64])
def test_rotation_shows_no_black_corners(side: int) -> None:
    result = Augmentation(rotation=180)(torch.full((40, 3, side, side), 0.7), seeded())
    torch.testing.assert_close(result, torch.full_like(result, 0.7))


def test_the_dataclass_is_a_schema() -> None:
    node = OmegaConf.merge(OmegaConf.structured(Augmentation), {"rotation": 10, "flips": True})
    assert OmegaConf.to_object(node) == Augmentation(rotation=10.0, flips=True)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"rotation": 181.0}, r"augmentation.rotation must be in \[0, 180\], got 181.0"),
        ({"rotation": -1.0}, r"augmentation.rotation must be in \[0, 180\], got -1.0"),
        ({"noise": 1.5}, r"augmentation.noise must be in \[0, 1\], got 1.5"),
        ({"brightness": float("nan")}, r"augmentation.brightness must be in \[0, 1\], got nan"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Augmentation(**wrong)  # type: ignore[arg-type]  # one of several keys of other types
