"""What the detector asks of anything that turns a picture into an error map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, Self

import numpy as np
from torch import Tensor

from anomalib_lite.models.reconstruction import Mapped


class Images(Protocol):
    """Registered pictures (1, 3, H, W) of one role; every loop starts anew."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[Tensor]:
        """One after the other."""


class Model(Protocol):
    """What turns a picture into an error map."""

    name: str

    def learn(self, train_normals: Iterable[Tensor]) -> Self:
        """Learn from full-size pictures (1, 3, H, W) what Lightning has not trained."""

    def map(self, image: Tensor) -> Mapped:
        """The error of pictures (B, 3, H, W)."""

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and settings for the bundle."""
