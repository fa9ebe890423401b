"""From an anomaly map to the mask of what is above the pixel cut."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.types import InputError


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """What of the pixels above the cut is in the mask; regions are 8-connected: pixels may touch at a corner.

    Args:
        peak_share: of the largest value in its region that a pixel needs: what a strong defect spreads around itself
            is above any cut that finds a faint one. 0: none.
        minimum_area: of a region of what is left, in pixels of the registered picture; smaller ones are not in it.

    >>> anomaly_map = np.array([[0.6, 4.0, 1.0, 0.0, 1.0]], np.float32)
    >>> MaskRule(minimum_area=2)(anomaly_map, 0.5)
    array([[ True,  True,  True, False, False]])
    >>> MaskRule(peak_share=0.5)(anomaly_map, 0.5)
    array([[False,  True, False, False,  True]])
    """

    peak_share: float = 0.0
    minimum_area: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.peak_share, int | float) or not 0 <= self.peak_share < 1:
            raise InputError(f"postprocess.peak_share must be 0 or more and below 1, got {self.peak_share}")
        if not isinstance(self.minimum_area, int) or self.minimum_area < 0:
            raise InputError(
                f"postprocess.minimum_area must be a whole number, 0 or more, got {self.minimum_area}"
            )

    @property
    def cut_alone(self) -> bool:
        """Whether the mask is all that is above the cut: then the cut can be moved without the map."""
        return self.peak_share == 0 and self.minimum_area <= 1

    def __call__(self, anomaly_map: np.ndarray, tau: float) -> np.ndarray:
        """The mask bool (H, W) of a map (H, W)."""
        # tau as float32, as the map is: between two neighbours of it, a float64 would decide otherwise
        mask: np.ndarray = anomaly_map > np.float32(tau)
        if self.peak_share > 0 and mask.any():
            count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            peaks = np.zeros(count, np.float32)
            np.maximum.at(peaks, labels[mask], anomaly_map[mask])
            mask &= anomaly_map >= np.float32(self.peak_share) * peaks[labels]
        if self.minimum_area > 1:
            _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
            kept = statistics[:, cv2.CC_STAT_AREA] >= self.minimum_area
            kept[0] = False  # what is not in the mask
            mask = kept[labels]
        return mask
