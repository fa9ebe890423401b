"""What an exported graph computes by other operations is what everything else computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.resize import resize
from anomalib_lite.scoring.anomaly_map import median_blur

SIDES = st.integers(2, 70)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def as_exported(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.compiler, "is_exporting", lambda: True)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))
@settings(deadline=None, max_examples=100)
def test_resizing(before: tuple[int, int], after: tuple[int, int]) -> None:
    picture = noise(2, 3, *before, seed=0)
    expected = resize(picture, after)
    with pytest.MonkeyPatch.context() as patch:
        as_exported(patch)
        torch.testing.assert_close(resize(picture, after), expected, rtol=0, atol=2e-6)


@given(st.integers(2, 20), st.integers(1, 20), st.tuples(st.integers(20, 70), st.integers(20, 70)))
@settings(deadline=None, max_examples=50)
def test_combining(size: int, stride: int, picture: tuple[int, int]) -> None:
    grid = PatchGrid(size=size, stride=min(size, stride))
    patches = noise(2, grid.count(picture), 3, size, size, seed=1)
    expected = grid.combine(patches, picture)
    with pytest.MonkeyPatch.context() as patch:
        as_exported(patch)
        torch.testing.assert_close(grid.combine(patches, picture), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_median(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    anomaly_map = noise(2, 1, 13, 9, seed=2)
    expected = median_blur(anomaly_map, kernel=kernel)
    as_exported(monkeypatch)
    assert torch.equal(median_blur(anomaly_map, kernel=kernel), expected)
