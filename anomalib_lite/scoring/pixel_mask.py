"""From an anomaly map to the mask of what is above the pixel cut."""

from __future__ import annotations

import cv2
import numpy as np


def pixel_mask(anomaly_map: np.ndarray, tau: float, *, minimum_area: int) -> np.ndarray:
    """Where a map (H, W) is above `tau`, less regions of fewer than `minimum_area` pixels; bool (H, W).

    Pixels that touch at a corner belong to one region.

    >>> pixel_mask(np.array([[0.0, 1.0, 1.0, 0.0, 1.0]], np.float32), 0.5, minimum_area=2)
    array([[False,  True,  True, False, False]])
    """
    # tau as float32, as the map is: between two neighbours of it, a float64 would decide otherwise
    mask: np.ndarray = anomaly_map > np.float32(tau)
    if minimum_area <= 1:
        return mask
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = statistics[:, cv2.CC_STAT_AREA] >= minimum_area
    kept[0] = False  # what is not in the mask
    return kept[labels]
