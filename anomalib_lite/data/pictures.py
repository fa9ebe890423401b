"""Registered pictures as data sets: one by one, or as the patches that an autoencoder trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from anomalib_lite.data.images import read_image
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.preparation import LEVELS
from anomalib_lite.types import Alignment, Batch, Sample


class Photographs(Sequence[np.ndarray]):
    """Photographs read from disk each time they are asked for."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]  # slices are never asked for
        return read_image(self.samples[index].path)


def to_tensor(picture: np.ndarray) -> Tensor:
    """A registered picture uint16 (3, H, W) as float32 (1, 3, H, W) in [0, 1].

    >>> to_tensor(np.full((3, 2, 2), 65535, np.uint16)).max()
    tensor(1.)
    """
    return torch.from_numpy(picture.astype(np.float32))[None] / LEVELS


class Pictures(Dataset[Batch]):
    """Registered pictures of some samples, one to a batch, read from the memory-mapped file."""

    def __init__(
        self,
        pictures: np.ndarray,
        rows: Sequence[int],
        samples: Sequence[Sample],
        alignments: Sequence[Alignment],
    ) -> None:
        self.pictures, self.rows, self.samples, self.alignments = pictures, rows, samples, alignments

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        row = self.rows[index]
        return Batch(to_tensor(self.pictures[row]), [self.samples[row]], [self.alignments[row]])

    def of_rows(self) -> tuple[list[Sample], list[Alignment]]:
        """The photographs and where their parts lie, in order."""
        return [self.samples[row] for row in self.rows], [self.alignments[row] for row in self.rows]

    def images(self) -> Iterator[Tensor]:
        """Each picture as (1, 3, H, W)."""
        for row in self.rows:
            yield to_tensor(self.pictures[row])


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """Patches of downsized pictures uint16 (n, 3, h, w); item i is patch i % N of picture i // N."""

    def __init__(self, pictures: np.ndarray, grid: PatchGrid) -> None:
        self.pictures, self.size = pictures, grid.size
        self.positions = np.array(grid.positions((pictures.shape[-2], pictures.shape[-1])))  # (N, 2)

    def __len__(self) -> int:
        return len(self.pictures) * len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Patches (P, 3, p, p) float32 and their indices (P,), gathered at once."""
        picture, position = np.divmod(indices, len(self.positions))
        y, x = self.positions[position].T
        windows = sliding_window_view(self.pictures, (self.size, self.size), axis=(2, 3))  # copies nothing
        patches = windows[picture, :, y, x].astype(np.float32)
        return torch.from_numpy(patches).div_(LEVELS), torch.from_numpy(position)


class EpochSampler(Sampler[int]):
    """`per_epoch` indices an epoch, drawn from one endless sequence of shuffles, so that every item has its turn.

    What epoch e gives depends on (seed, e) alone: a resumed run sees what an unbroken one would have seen. Of several
    processes each takes its share, so that all together see what one alone would.

    >>> sampler = EpochSampler(population=4, per_epoch=6, seed=0)
    >>> first = list(sampler)
    >>> sampler.set_epoch(1)
    >>> sorted(first + list(sampler))  # twelve draws are three whole shuffles
    [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    """

    def __init__(
        self, *, population: int, per_epoch: int, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        self.population, self.per_epoch, self.seed, self.epoch = population, per_epoch, seed, 0
        self.process, self.processes = process, processes

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_epoch // self.processes

    def __iter__(self) -> Iterator[int]:
        yield from islice(self._all(), self.process, None, self.processes)

    def _all(self) -> Iterator[int]:
        place, end = self.epoch * self.per_epoch, (self.epoch + 1) * self.per_epoch
        while place < end:
            shuffle, offset = divmod(place, self.population)
            order = np.random.default_rng([self.seed, shuffle]).permutation(self.population)
            taken = order[offset : offset + end - place]
            yield from taken.tolist()
            place += len(taken)
