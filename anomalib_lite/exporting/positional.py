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

    def __init__(self, gaussian: PositionalGaussian) -> None:
        super().__init__()
        self.register_buffer("mean", gaussian.mean)
        self.register_buffer("whitening", gaussian.whitening)
        self.blocks = len(gaussian.blocks)
        for number, block in enumerate(gaussian.blocks):
            self.register_buffer(f"block{number}", block.half())  # exact: so the factors are kept

    def forward(self, features: Tensor) -> Tensor:
        """Distances (B, P) of features (B, P, C)."""
        whitened = ((features - self.mean) @ self.whitening).transpose(0, 1)  # (P, B, C)
        total = torch.zeros(())
        for number in range(self.blocks):
            block = self.get_buffer(f"block{number}").float()  # (P, end, at most BLOCK)
            products = torch.matmul(whitened[:, :, : block.shape[1]], block)
            total = total + products.square().sum(dim=2)
        return (total / whitened.shape[2]).sqrt().T


def in_float32(memory: PositionalMemory) -> PositionalMemory:
    """The same memory with a backbone in float32, in place."""
    features = memory.features
    if features.precision != "float32":
        memory.features = Features(weights=features.weights, layers=features.layers, precision="float32")
    return memory
