"""Carries an anomaly map and its mask from the registered picture to the photograph's own pixels."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from anomalib_lite.scoring.pixel_mask import MaskRule
from anomalib_lite.types import Alignment

LOWERED = 0.99  # of the pixel cut: not the cut itself, which interpolation may round up


class Carrier(Protocol):
    """Knows where a registered picture lies in its photograph: a Preparation."""

    def to_photograph(
        self, anomaly_map: np.ndarray, alignment: Alignment, photograph_size: tuple[int, int]
    ) -> np.ndarray:
        """Carry a map (H, W) back to photograph pixels (H0, W0)."""


def carry(
    preparation: Carrier,
    anomaly_map: np.ndarray,
    alignment: Alignment,
    size: tuple[int, int],
    *,
    tau: float | None,
    rule: MaskRule,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A registered picture's map (H, W) and its mask above `tau` in the pixels (H0, W0) of a photograph of `size`.

    The mask is None without a pixel cut.
    """
    carried = preparation.to_photograph(anomaly_map, alignment, size)
    if tau is None:
        return carried, None
    removed = (anomaly_map > tau) & ~rule(anomaly_map, tau)
    if not removed.any():
        return carried, carried > tau
    # what the rule took out of the mask must not come back once the map is carried
    lowered = np.where(removed, np.float32(LOWERED * tau), anomaly_map)
    return carried, preparation.to_photograph(lowered, alignment, size) > tau
