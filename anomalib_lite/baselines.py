"""The paper's rivals that train no network, in the same chain (VISAPP 2022, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from anomalib_lite.data.resize import resize
from anomalib_lite.models.reconstruction import Mapped
from anomalib_lite.scoring.anomaly_map import absolute_error
from anomalib_lite.types import InputError


class DeepFeatures:
    """The photograph itself goes on to the embedding: it detects and does not localise.

    >>> DeepFeatures().map(torch.full((1, 3, 2, 2), 0.5)).error.max()
    tensor(0.5000)
    """

    name = "deep_feature"

    def learn(self, train_normals: Iterable[Tensor]) -> Self:
        """Nothing to learn before the embedding."""
        return self

    def map(self, image: Tensor) -> Mapped:
        """The pictures (B, 3, H, W) as they are."""
        return Mapped(image, image)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Nothing to keep."""
        return {}, {}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """A new one."""
        return cls()


class NearestNeighbour:
    """Compares with the most similar training picture (least squared difference).

    Args:
        downsize: (h, w) at which pictures are kept and compared.
    """

    name = "nearest_neighbour"

    def __init__(self, *, downsize: tuple[int, int]) -> None:
        self.downsize = downsize

    def learn(self, train_normals: Iterable[Tensor]) -> Self:
        """Keep the training pictures (1, 3, H, W), downsized, in half precision."""
        self.pictures_ = torch.cat([resize(image, self.downsize).half() for image in train_normals])
        return self

    def map(self, image: Tensor) -> Mapped:
        """|image - nearest| (1, 3, H, W) and the nearest training picture as the reconstruction."""
        small = resize(image, self.downsize)  # (1, 3, h, w)
        # One picture at a time: the difference to all of them at once would hold the training set twice.
        distances = torch.stack([((picture.float() - small[0]) ** 2).mean() for picture in self.pictures_])
        nearest = self.pictures_[distances.argmin()][None].float()
        full = resize(nearest, (image.shape[-2], image.shape[-1]))
        error = absolute_error(small, nearest)
        return Mapped(absolute_error(image, full), error, full, low_image=small, low_reconstruction=nearest)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The training pictures, float16."""
        return {"pictures": self.pictures_.numpy()}, {"downsize": list(self.downsize)}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """As `state` describes."""
        height, width = settings["downsize"]
        baseline = cls(downsize=(height, width))
        pictures = arrays["pictures"]
        if pictures.ndim != 4 or not len(pictures) or pictures.shape[1:] != (3, height, width):
            raise InputError(
                f"bundle: pictures must have shape (any, 3, {height}, {width}), got {pictures.shape}"
            )
        baseline.pictures_ = torch.from_numpy(pictures)
        return baseline


class Variation:
    """Deviation from the training set's mean in units of its standard deviation, pixel by pixel.

    Args:
        downsize: (h, w) at which pictures are compared.
        floor: least standard deviation, in [0, 1] intensities: where training pictures agree to the last bit, a
            grain of noise would otherwise outweigh every defect. The paper gives none.
    """

    name = "variation"

    def __init__(self, *, downsize: tuple[int, int], floor: float) -> None:
        if not isinstance(floor, int | float) or not 0 < floor < math.inf:
            raise InputError(f"model.floor must be a number above 0, got {floor!r:.80}")
        self.downsize, self.floor = downsize, floor

    def learn(self, train_normals: Iterable[Tensor]) -> Self:
        """Mean and standard deviation (3, h, w) of the training pictures, in one pass."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for image in train_normals:
            small = resize(image, self.downsize)[0].double()
            count, total, squares = count + 1, total + small, squares + small**2
        mean = total / count
        self.mean_ = mean.float()
        self.std_ = (squares / count - mean**2).clamp_min(0).sqrt().float()
        return self

    def map(self, image: Tensor) -> Mapped:
        """|image - mean| / standard deviation (1, 3, H, W), and the mean as the reconstruction."""
        small = resize(image, self.downsize)
        deviation = (small - self.mean_).abs() / self.std_.clamp_min(self.floor)
        size = (image.shape[-2], image.shape[-1])
        return Mapped(resize(deviation, size), deviation, resize(self.mean_[None], size))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Mean and standard deviation."""
        arrays = {"mean": self.mean_.numpy(), "std": self.std_.numpy()}
        return arrays, {"downsize": list(self.downsize), "floor": self.floor}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """As `state` describes."""
        height, width = settings["downsize"]
        baseline = cls(downsize=(height, width), floor=settings["floor"])
        for name in ("mean", "std"):
            if arrays[name].dtype != np.float32 or arrays[name].shape != (3, height, width):
                raise InputError(
                    f"bundle: {name} must be float32 of shape (3, {height}, {width}), "
                    f"got {arrays[name].dtype} {arrays[name].shape}"
                )
        baseline.mean_, baseline.std_ = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["std"])
        return baseline
