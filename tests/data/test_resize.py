"""The one resize: against Pillow's, its invariants, and the sizes that keep an aspect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anomalib_lite.data.resize import resize
from anomalib_lite.data.resize_array import fit_long_side


@pytest.mark.parametrize("size", [(20, 31), (33, 17), (64, 96), (7, 5), (100, 150)])
def test_it_is_pillows_antialiased_bilinear_resize(size: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).random((64, 96), dtype=np.float32)
    expected = np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    found = resize(torch.from_numpy(plane)[None, None], size)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_halving_averages_with_a_triangle() -> None:
    impulse = torch.zeros(1, 1, 8, 8)
    impulse[0, 0, 3, 3] = 64
    # The triangle of width 4 weighs 1, 3, 3, 1 (eighths): pixel 3 lies in both middle cells, 3/8 and 1/8.
    row = torch.tensor([0.0, 3.0, 1.0, 0.0])
    torch.testing.assert_close(resize(impulse, (4, 4))[0, 0], row[:, None] * row)


def test_fine_stripes_do_not_alias() -> None:
    stripes = torch.arange(128).remainder(2).float().expand(1, 1, 128, 128)
    small = resize(stripes, (32, 32))[..., 1:-1]
    torch.testing.assert_close(small, torch.full_like(small, 0.5), rtol=0, atol=1e-6)


def test_the_same_size_is_the_same_tensor() -> None:
    image = torch.rand(1, 3, 9, 7)
    assert resize(image, (9, 7)) is image


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_constant_stays_constant(height: int, width: int, new_height: int, new_width: int) -> None:
    image = torch.full((1, 2, height, width), 0.3)
    expected = torch.full((1, 2, new_height, new_width), 0.3)
    torch.testing.assert_close(resize(image, (new_height, new_width)), expected, rtol=0, atol=1e-6)


def test_each_picture_of_a_batch_is_resized_alone() -> None:
    batch = torch.rand(3, 3, 20, 30)
    single = torch.cat([resize(image[None], (11, 13)) for image in batch])
    assert torch.equal(resize(batch, (11, 13)), single)


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [
        ((1200, 1600), 512, (384, 512)),
        ((1600, 1200), 512, (512, 384)),
        ((900, 900), 160, (160, 160)),
        ((300, 300), 512, (512, 512)),
        ((300, 400), 400, (300, 400)),
        ((1, 1000), 10, (1, 10)),
        ((1200, 1600), None, (1200, 1600)),
    ],
)
def test_fit_long_side(size: tuple[int, int], long_side: int | None, expected: tuple[int, int]) -> None:
    assert fit_long_side(size, long_side) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000))
def test_the_long_side_is_met_and_the_aspect_kept(height: int, width: int, long_side: int) -> None:
    new_height, new_width = fit_long_side((height, width), long_side)
    assert max(new_height, new_width) == long_side
    scale = max(new_height, new_width) / max(height, width)
    assert abs(new_height - height * scale) <= 0.5 or new_height == 1
    assert abs(new_width - width * scale) <= 0.5 or new_width == 1
