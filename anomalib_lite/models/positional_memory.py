"""What good parts show at every position, remembered as Gaussians of a frozen backbone's features: no training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_lite.bundle import join_parts, part_of
from anomalib_lite.data.images import MAX_PIXELS
from anomalib_lite.data.resize import resize
from anomalib_lite.models.reconstruction import Mapped
from anomalib_lite.scoring.embedding import Weights
from anomalib_lite.scoring.features import Features
from anomalib_lite.scoring.positional_gaussian import Moments, PositionalGaussian
from anomalib_lite.types import InputError

CELL = 8  # pixels of a position's side
SMALL_WINDOW = 3
# bytes for each product of two channels at a position: of the sums and what is kept of them, and while it is made
SUMS, LEARNED = 8, 5
PICTURES = 16  # whose features are added to the sums at a time: they are small beside the sums


class PositionalMemory:
    """Compares features of a registered picture with those of good parts at the same place.

    The features of several depths of a backbone, each averaged over a window of its own neighbours, are joined on a
    grid of positions; how far they lie from what good parts show there is the Mahalanobis distance of the position's
    Gaussian. Small windows place a defect, large ones see what is missing or of the wrong kind, and forgive a part that
    lies a little off: the map is their mean. Windows above 3 are judged at every other position.

    Source: PaDiM (Defard et al., ICPR 2021) for the Gaussians; PatchCore (Roth et al., CVPR 2022) for the windows.

    Args:
        weights: of the backbone, what `find_weights` gave.
        layers: names of its modules; None: see `features.default_layers`.
        windows: sides, in features of each layer, odd.
        channels: of the features at most; more are projected, so that a Gaussian stays small.
        precision: of the backbone.
    """

    name = "positional_memory"

    def __init__(
        self,
        *,
        weights: Weights,
        layers: Iterable[str] | None = None,
        windows: Iterable[int] = (3, 5),
        channels: int = 256,
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
    ) -> None:
        self.windows, self.channels = tuple(windows), channels
        if not self.windows or any(window < 1 or window % 2 == 0 for window in self.windows):
            raise InputError(f"model.windows must be odd and positive, got {list(self.windows)}")
        if channels < 1:
            raise InputError(f"model.channels must be at least 1, got {channels}")
        self.features = Features(
            weights=weights, layers=None if layers is None else tuple(layers), precision=precision
        )

    def to(self, device: torch.device) -> Self:
        """Move backbone and Gaussians to a device; maps come back to plain memory."""
        self.features.to(device)
        for gaussian in getattr(self, "gaussians_", ()):
            gaussian.to(device)
        return self

    def learn(self, train_normals: Iterable[Tensor]) -> Self:
        """Learn from registered pictures (1, 3, H, W) of one size, each seen once.

        Raises:
            InputError: without a picture, for a picture of another size than the first, and where the sums would not
                fit into the memory that is free.
        """
        pictures = iter(train_normals)
        first = next(pictures, None)
        if first is None:
            raise InputError("positional memory: expected at least one training picture, found none")
        self.size_ = (first.shape[-2], first.shape[-1])
        layers = self.features(first)
        self.projection_ = _projection(layers, self.channels)
        if layers[0].device.type == "cpu":
            self._check_room(min(self.channels, sum(features.shape[1] for features in layers)))
        sums = [Moments() for _ in self.windows]
        pictures = chain([first], pictures)
        while group := list(islice(pictures, PICTURES)):
            maps = [self._features(picture) for picture in group]
            for moments, window in zip(sums, self.windows, strict=True):
                moments.add(torch.cat([self._cells(layers, window) for layers in maps]))
        self.gaussians_ = [PositionalGaussian.from_moments(sums.pop(0)) for _ in self.windows]
        return self

    def _check_room(self, channels: int) -> None:
        """Raise InputError where learning needs more memory than is free."""
        free = free_memory()
        cells = [math.prod(self._grid(window)) * channels**2 for window in self.windows]
        needed = SUMS * sum(cells) + LEARNED * max(cells)
        if free is None or needed <= free:
            return
        share = math.sqrt(free / needed)
        smaller = {
            "data.size": int(max(self.size_) * share) // CELL * CELL,
            "model.baseline.channels": int(channels * share),
        }
        fitting = " or ".join(f"{key}={value}" for key, value in smaller.items() if value)
        raise InputError(
            f"positional memory: pictures of {self.size_[0]} x {self.size_[1]} pixels, windows {list(self.windows)} "
            f"and {channels} channels need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
            f"{fitting or 'nothing'} would fit"
        )

    @torch.inference_mode()
    def map(self, image: Tensor) -> Mapped:
        """Distances of pictures (B, 3, H, W) at full size (B, 1, H, W) and at the positions (B, 1, h, w).

        About 1 where a picture is as good parts are.

        Raises:
            InputError: for pictures of another size than those learned from.
        """
        layers = self._features(image)
        distances = [
            gaussian(self._cells(layers, window)).unflatten(1, self._grid(window))[:, None]
            for window, gaussian in zip(self.windows, self.gaussians_, strict=True)
        ]
        low = torch.stack([resize(grid, self._grid()).cpu() for grid in distances]).mean(dim=0)
        return Mapped(resize(low, self.size_), low)

    def _features(self, image: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w), a layer each."""
        if tuple(image.shape[-2:]) != self.size_:
            raise InputError(
                f"positional memory: expected a picture of {self.size_[0]} x {self.size_[1]} pixels (height x width), "
                f"got {image.shape[-2]} x {image.shape[-1]}"
            )
        return self.features(image)

    def _grid(self, window: int = 1) -> tuple[int, int]:
        """Rows and columns of the positions; large windows overlap so much that every other one will do."""
        side = CELL * (2 if window > SMALL_WINDOW else 1)
        return -(-self.size_[0] // side), -(-self.size_[1] // side)

    def _cells(self, layers: list[Tensor], window: int) -> Tensor:
        """Features (B, P, C) at the positions of one window's grid."""
        grid = self._grid(window)
        joined = torch.cat([resize(_averaged(features, window), grid) for features in layers], dim=1)
        cells = joined.flatten(2).transpose(1, 2)  # (B, P, C)
        return cells if self.projection_ is None else cells @ self.projection_.to(cells)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The Gaussians, and the backbone's weights as far as they are used."""
        arrays, backbone = self.features.state()
        parts = {"backbone": arrays}
        for window, gaussian in zip(self.windows, self.gaussians_, strict=True):
            parts[f"window{window}"] = gaussian.state()
        arrays = join_parts(parts)
        if self.projection_ is not None:
            arrays["projection"] = self.projection_.cpu().numpy()
        return arrays, {
            "backbone": backbone,
            "windows": list(self.windows),
            "channels": self.channels,
            "size": list(self.size_),
            "downsize": list(self._grid()),  # of the map
        }

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """As `state` describes.

        Raises:
            InputError: for arrays that do not fit the settings, as of another resolution or backbone.
        """
        features = Features.from_state(part_of(arrays, "backbone"), settings["backbone"])
        memory = cls.__new__(cls)
        memory.features, memory.windows = features, tuple(settings["windows"])
        memory.channels = settings["channels"]
        height, width = settings["size"]
        memory.size_ = (height, width)
        memory.projection_ = torch.from_numpy(arrays["projection"]) if "projection" in arrays else None
        memory.gaussians_ = [
            PositionalGaussian.from_state(part_of(arrays, f"window{window}")) for window in memory.windows
        ]
        counts = {len(gaussian.mean) for gaussian in memory.gaussians_}
        if (
            height < 1
            or width < 1
            or height * width > MAX_PIXELS
            or max(counts) * CELL**2 < height * width // 4
        ):
            # before features of that size are computed
            raise InputError(f"bundle: impossible size {height} x {width} for {counts} positions")
        layers = features(torch.zeros((1, 3, *memory.size_)))
        joined = sum(maps.shape[1] for maps in layers)
        found = (joined, joined) if memory.projection_ is None else tuple(memory.projection_.shape)
        for window, gaussian in zip(memory.windows, memory.gaussians_, strict=True):
            positions = math.prod(memory._grid(window))
            if found != (joined, gaussian.mean.shape[1]) or len(gaussian.mean) != positions:
                raise InputError(
                    f"bundle: expected a memory of {positions} positions and {joined} channels for pictures of "
                    f"{height} x {width} pixels and {features.weights.backbone}, found {tuple(gaussian.mean.shape)}"
                )
        return memory


def free_memory() -> int | None:
    """Bytes that a process may still take without pushing others out; None where that is not known (but on Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _averaged(features: Tensor, window: int) -> Tensor:
    """The mean of every feature's neighbours (B, C, h, w); beyond the border there are none."""
    return F.avg_pool2d(features, window, stride=1, padding=window // 2, count_include_pad=False)


def _projection(layers: list[Tensor], most: int) -> Tensor | None:
    """Random orthonormal directions (C, most), always the same ones, where layers have more channels than `most`.

    Channels are first brought to one scale, that of a picture. Source: Kim et al. 2021, semi-orthogonal embedding.
    """
    channels = sum(features.shape[1] for features in layers)
    if channels <= most:
        return None
    deviation = torch.cat([features[0].flatten(1).std(dim=1) for features in layers])
    drawn = np.random.default_rng(0).normal(size=(channels, most))
    directions = torch.from_numpy(np.linalg.qr(drawn)[0]).to(deviation)
    return directions / deviation.clamp_min(0.01 * float(deviation.mean()))[:, None]
