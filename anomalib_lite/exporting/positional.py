"""`PositionalMemory` as a module: for any batch, with its factors in the half precision in which they are kept."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import Mapped
from anomalib_lite.scoring.features import Features
from anomalib_lite.scoring.positional_gaussian import PositionalGaussian


class PositionalGraph(nn.Module):
    """Maps pictures as the memory does that it is made from, which stays as it is."""

    def __init__(self, memory: PositionalMemory) -> None:
        super().__init__()
        self.trunk: Any = memory.features.trunk  # so that its weights become the graph's
        self.gaussians = nn.ModuleList(Gaussian(gaussian) for gaussian in memory.gaussians_)
        self.memory = copy.copy(memory)
        self.memory.gaussians_ = list(self.gaussians)  # type: ignore[arg-type]  # called alike

    def map(self, image: Tensor) -> Mapped:
        """As `PositionalMemory.map`."""
        return self.memory.map(image)


class Gaussian(nn.Module):
    """A `PositionalGaussian` by products of whole batches."""

    mean: Tensor
    whitening: Tensor
    transposed: Tensor

    def __init__(self, gaussian: PositionalGaussian) -> None:
        super().__init__()
        self.register_buffer("mean", gaussian.mean)
        self.register_buffer("whitening", gaussian.whitening)
        self.register_buffer("transposed", gaussian.transposed.half())  # exact: so the factors are kept

    def forward(self, features: Tensor) -> Tensor:
        """Distances (B, P) of features (B, P, C)."""
        whitened = (features - self.mean) @ self.whitening  # (B, P, C)
        products = torch.matmul(whitened.transpose(0, 1), self.transposed.float())  # (P, B, C)
        return products.square().mean(dim=2).sqrt().T


def in_float32(memory: PositionalMemory) -> PositionalMemory:
    """The same memory with a backbone in float32, in place."""
    features = memory.features
    if features.precision != "float32":
        memory.features = Features(weights=features.weights, layers=features.layers, precision="float32")
    return memory
