"""Overlapping square patches of a picture, and the picture back from them without seams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anomalib_lite.types import InputError

MAX_PATCH_PIXELS = 2**28  # of one picture: 3 GiB as float32 RGB


@dataclass(kw_only=True)
class PatchGrid:
    """A grid of square windows over a picture of any size; the last row and column are clamped to the edge.

    Raises InputError if `size` or `stride` is out of range, or if a picture is smaller than a patch.

    >>> grid = PatchGrid(size=4, stride=3)
    >>> grid.positions((4, 9))  # the last window starts at 5, not at 6
    [(0, 0), (0, 3), (0, 5)]
    >>> image = torch.rand(2, 3, 4, 9)
    >>> torch.allclose(grid.combine(grid.extract(image), (4, 9)), image, atol=1e-6)
    True
    """

    size: int  # side of a patch, pixels
    stride: int  # distance between neighbouring patches, pixels; below `size`, patches overlap

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise InputError(f"size must be at least 1 pixel, got {self.size}")
        if not isinstance(self.stride, int) or not 0 < self.stride <= self.size:
            raise InputError(f"stride must be in (0, size={self.size}], got {self.stride}")

    def positions(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Top-left corners (y, x) in row-major order, the order of the patch index."""
        rows, columns = self._starts(image_size)
        return [(y, x) for y in rows for x in columns]

    def count(self, image_size: tuple[int, int]) -> int:
        """Number of patches of a picture of `image_size` (H, W)."""
        rows, columns = self._starts(image_size)
        return len(rows) * len(columns)

    def extract(self, image: Tensor) -> Tensor:
        """Cut (B, C, H, W) into patches (B, N, C, size, size), N in the order of `positions`."""
        rows, columns = self._starts((image.shape[-2], image.shape[-1]))
        size = self.size
        strips = torch.stack([image[:, :, y : y + size] for y in rows], dim=1)  # (B, Ny, C, h, W)
        grid = torch.stack([strips[..., x : x + size] for x in columns], dim=2)  # (B, Ny, Nx, C, h, w)
        return grid.flatten(1, 2)

    def combine(self, patches: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Blend patches (B, N, C, size, size) into (B, C, *image_size), patch centres weighing most.

        Raises ValueError if N is not the grid's number of patches for `image_size`.
        """
        rows, columns = self._starts(image_size)
        if patches.shape[1] != len(rows) * len(columns):
            raise ValueError(
                f"expected {len(rows)} x {len(columns)} patches for an image of "
                f"{image_size[0]} x {image_size[1]}, got {patches.shape[1]}"
            )
        batch, _, channels, size, _ = patches.shape
        # float32 at least: sums of several bfloat16 weights would not reach 1
        dtype = torch.promote_types(patches.dtype, torch.float32)
        grid = patches.unflatten(1, (len(rows), len(columns)))  # (B, Ny, Nx, C, h, w)
        if torch.compiler.is_exporting():
            return self._combine_by_products(grid, image_size)

        # Positions and window are separable: along x, then along y, takes Ny + Nx steps instead of Ny * Nx.
        strips = grid.new_zeros((batch, len(rows), channels, size, image_size[1]), dtype=dtype)
        for x, start, weight in self._windows(columns, image_size[1], strips):
            strips[..., start : start + size] += grid[:, :, x] * weight
        image = grid.new_zeros((batch, channels, *image_size), dtype=dtype)
        for y, start, weight in self._windows(rows, image_size[0], image):
            image[:, :, start : start + size] += strips[:, y] * weight[:, None]
        return image.to(patches.dtype)

    def _combine_by_products(self, grid: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The same from (B, Ny, Nx, C, h, w) by matrix products: adding in place is slow in exported graphs."""
        rows, columns = self._starts(image_size)
        across = self._placed(columns, image_size[1])  # (Nx * w, W)
        down = self._placed(rows, image_size[0])  # (Ny * h, H)
        strips = grid.permute(0, 1, 3, 4, 2, 5).flatten(4, 5)  # (B, Ny, C, h, Nx * w)
        strips = torch.matmul(strips, across)  # (B, Ny, C, h, W)
        return torch.matmul(down.T, strips.permute(0, 2, 1, 3, 4).flatten(2, 3))  # (B, C, H, W)

    def _placed(self, starts: list[int], length: int) -> Tensor:
        """The windows' weights, each at its place: (N * size, length)."""
        placed = torch.zeros((len(starts), self.size, length))
        for i, start, weight in self._windows(starts, length, placed):
            placed[i, :, start : start + self.size] = torch.diag(weight)
        return placed.flatten(0, 1)

    def _starts(self, image_size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """First rows and first columns of the windows."""
        height, width = image_size
        if not (isinstance(height, int) and isinstance(width, int)):
            raise InputError(f"expected a picture of whole pixels, got {height} x {width}")
        if self.size > min(height, width):
            raise InputError(
                f"patch size {self.size} is larger than the image ({height} x {width}): "
                "choose smaller patches (grid.size) or a larger picture (data.size)"
            )
        patches = math.prod(-(-(side - self.size) // self.stride) + 1 for side in (height, width))
        if patches * self.size**2 > MAX_PATCH_PIXELS:
            raise InputError(
                f"expected at most {MAX_PATCH_PIXELS:,} pixels in the patches of a picture, found {patches:,} patches "
                f"of {self.size} x {self.size}: choose a larger grid.stride or a smaller data.downsize"
            )
        return self._axis_starts(height), self._axis_starts(width)

    def _axis_starts(self, length: int) -> list[int]:
        last = length - self.size
        return [*range(0, last, self.stride), last]

    def _windows(self, starts: list[int], length: int, like: Tensor) -> list[tuple[int, int, Tensor]]:
        """(index, start, weights (size,)) of each window along one axis; every pixel gets 1 in all."""
        # Sampled at pixel centres, the Hann window is positive everywhere: no division by zero at the edges.
        hann = torch.sin((torch.arange(self.size, dtype=torch.float64) + 0.5) * (math.pi / self.size)) ** 2
        total = torch.zeros(length, dtype=torch.float64)
        for start in starts:
            total[start : start + self.size] += hann
        return [(i, s, (hann / total[s : s + self.size]).to(like)) for i, s in enumerate(starts)]
