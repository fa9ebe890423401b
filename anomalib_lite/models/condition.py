"""What tells a network which patch of the grid it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_lite.types import InputError

CONDITIONS = ("index", "one_hot", "none")


@dataclass(frozen=True)
class Condition:
    """Turns places in the grid into vectors that a network concatenates with its own (VISAPP 2022, section 3.2).

    `kind` is `index` (index / number of patches, as published), `one_hot`, or `none` (vectors of no element).
    Raises InputError for another kind, or less than one position.

    >>> Condition("index", positions=4)(torch.tensor([0, 3]))
    tensor([[0.0000],
            [0.7500]])
    """

    kind: Literal["index", "one_hot", "none"]
    positions: int  # number of patches in the grid, N

    def __post_init__(self) -> None:
        if self.kind not in CONDITIONS:
            raise InputError(f"model.condition must be one of {', '.join(CONDITIONS)}, got {self.kind}")
        if self.positions < 1:
            raise InputError(f"model.positions must be at least 1, got {self.positions}")

    @property
    def width(self) -> int:
        """Elements in the vector of one patch."""
        return {"index": 1, "one_hot": self.positions, "none": 0}[self.kind]

    def __call__(self, index: Tensor) -> Tensor:
        """The condition vectors (P, width) float32 of patches with these indices (P,) int64."""
        if self.kind == "one_hot":
            return F.one_hot(index, self.positions).float()
        if self.kind == "index":
            return index.float()[:, None] / self.positions
        return index.new_zeros((len(index), 0), dtype=torch.float32)
