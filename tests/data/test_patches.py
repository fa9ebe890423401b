"""PatchGrid: places, round trips, blending and the texts of its errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.types import InputError


@st.composite
def grids_and_sizes(draw: st.DrawFn) -> tuple[PatchGrid, tuple[int, int]]:
    size = draw(st.integers(1, 17))
    grid = PatchGrid(size=size, stride=draw(st.integers(1, size)))
    return grid, (draw(st.integers(size, size + 23)), draw(st.integers(size, size + 23)))


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def plain_combine(grid: PatchGrid, patches: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The definition, patch by patch, in float64."""
    axis = torch.sin((torch.arange(grid.size, dtype=torch.float64) + 0.5) / grid.size * torch.pi) ** 2
    weight = axis[:, None] * axis
    total = torch.zeros(image_size, dtype=torch.float64)
    image = torch.zeros(patches.shape[0], patches.shape[2], *image_size, dtype=torch.float64)
    for index, (y, x) in enumerate(grid.positions(image_size)):
        window = (..., slice(y, y + grid.size), slice(x, x + grid.size))
        image[window] += patches[:, index].double() * weight
        total[window] += weight
    return image / total


def test_positions_are_row_major_and_the_last_window_is_clamped() -> None:
    assert PatchGrid(size=4, stride=3).positions((6, 8)) == [(0, 0), (0, 3), (0, 4), (2, 0), (2, 3), (2, 4)]


def test_no_window_is_repeated_where_the_stride_fits_exactly() -> None:
    grid = PatchGrid(size=64, stride=16)
    assert grid.count((512, 512)) == 29 * 29
    assert grid.positions((64, 96)) == [(0, 0), (0, 16), (0, 32)]


def test_extract_gives_the_pictures_pixels_in_the_order_of_positions() -> None:
    image = torch.arange(2 * 3 * 7 * 9, dtype=torch.float32).reshape(2, 3, 7, 9)
    grid = PatchGrid(size=4, stride=2)
    patches = grid.extract(image)
    assert patches.shape == (2, 3 * 4, 3, 4, 4)
    for index, (y, x) in enumerate(grid.positions((7, 9))):
        assert torch.equal(patches[:, index], image[:, :, y : y + 4, x : x + 4])


@given(grids_and_sizes())
@settings(deadline=None)
def test_every_pixel_is_covered_and_no_window_sticks_out(
    case: tuple[PatchGrid, tuple[int, int]],
) -> None:
    grid, (height, width) = case
    covered = torch.zeros(height, width, dtype=torch.bool)
    positions = grid.positions((height, width))
    assert len(set(positions)) == len(positions) == grid.count((height, width))
    for y, x in positions:
        assert 0 <= y <= height - grid.size
        assert 0 <= x <= width - grid.size
        covered[y : y + grid.size, x : x + grid.size] = True
    assert covered.all()


@given(grids_and_sizes(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
@settings(deadline=None)
def test_combine_undoes_extract(
    case: tuple[PatchGrid, tuple[int, int]], batch: int, channels: int, seed: int
) -> None:
    grid, image_size = case
    image = random_image(batch, channels, *image_size, seed=seed)
    torch.testing.assert_close(grid.combine(grid.extract(image), image_size), image, rtol=0, atol=1e-6)


@given(grids_and_sizes(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_combine_matches_its_definition(case: tuple[PatchGrid, tuple[int, int]], seed: int) -> None:
    grid, image_size = case
    patches = random_image(2, grid.count(image_size), 2, grid.size, grid.size, seed=seed)
    expected = plain_combine(grid, patches, image_size).float()
    torch.testing.assert_close(grid.combine(patches, image_size), expected, rtol=0, atol=2e-6)


@given(grids_and_sizes())
@settings(deadline=None, max_examples=50)
def test_weights_are_positive_and_add_up_to_one(case: tuple[PatchGrid, tuple[int, int]]) -> None:
    grid, image_size = case
    n = grid.count(image_size)
    total = torch.zeros(image_size, dtype=torch.float64)
    for index, (y, x) in enumerate(grid.positions(image_size)):
        patches = torch.zeros(1, n, 1, grid.size, grid.size, dtype=torch.float64)
        patches[:, index] = 1
        weight = grid.combine(patches, image_size)[0, 0]
        assert weight[y : y + grid.size, x : x + grid.size].min() > 0
        total += weight
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_two_overlapping_patches_blend_by_hand() -> None:
    # size 2: the window is (1/2, 1/2), so the shared middle pixel is the mean of both patches
    patches = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 1, 2, 2)
    image = PatchGrid(size=2, stride=1).combine(patches, (2, 3))
    torch.testing.assert_close(image[0, 0], torch.tensor([[1.0, 2.0, 3.0]] * 2))


def test_disagreeing_neighbours_leave_no_seam() -> None:
    """A step of 1 between two patches becomes a ramp over their overlap: no jump above the window's slope."""
    patches = torch.zeros(1, 2, 1, 64, 64)
    patches[:, 1] = 1
    row = PatchGrid(size=64, stride=32).combine(patches, (64, 96))[0, 0, 10]
    assert row[:32].max() == 0
    assert row[64:].min() == 1
    jumps = row.diff()
    assert jumps.min() >= 0
    assert jumps.max() < 2 / 32  # a plain mean would jump by 1/2 at both ends of the overlap
    assert jumps[31] < 0.01
    assert jumps[63] < 0.01


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 1 / 256)])
def test_other_dtypes_are_kept(dtype: torch.dtype, tolerance: float) -> None:
    grid = PatchGrid(size=16, stride=5)
    image = random_image(2, 3, 37, 41).to(dtype)
    patches = grid.extract(image)
    result = grid.combine(patches, (37, 41))
    assert patches.dtype == result.dtype == dtype
    torch.testing.assert_close(result, image, rtol=0, atol=tolerance)


def test_gradients_flow_through_both_ways() -> None:
    grid = PatchGrid(size=3, stride=2)
    image = random_image(1, 1, 6, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: grid.combine(grid.extract(x) ** 2, (6, 5)), (image,))


@pytest.mark.parametrize(
    ("size", "stride", "message"),
    [
        (128, 999, "stride must be in (0, size=128], got 999"),
        (128, 0, "stride must be in (0, size=128], got 0"),
        (8, -1, "stride must be in (0, size=8], got -1"),
        (0, 1, "size must be at least 1 pixel, got 0"),
    ],
)
def test_impossible_grids_are_refused(size: int, stride: int, message: str) -> None:
    with pytest.raises(InputError) as error:
        PatchGrid(size=size, stride=stride)
    assert str(error.value) == message


@pytest.mark.parametrize("call", ["positions", "count", "extract", "combine"])
def test_a_patch_larger_than_the_image_is_refused(call: str) -> None:
    grid = PatchGrid(size=128, stride=64)
    arguments = {
        "positions": [(96, 128)],
        "count": [(96, 128)],
        "extract": [torch.zeros(1, 3, 96, 128)],
        "combine": [torch.zeros(1, 1, 3, 128, 128), (96, 128)],
    }
    with pytest.raises(InputError, match=r"^patch size 128 is larger than the image \(96 x 128\): "):
        getattr(grid, call)(*arguments[call])


def test_patches_of_another_picture_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 2 x 3 patches for an image of 6 x 8, got 5"):
        PatchGrid(size=4, stride=3).combine(torch.zeros(1, 5, 1, 4, 4), (6, 8))


def test_it_is_a_hydra_schema() -> None:
    config = OmegaConf.merge(OmegaConf.structured(PatchGrid), {"size": 64, "stride": 16})
    assert OmegaConf.to_object(config) == PatchGrid(size=64, stride=16)
