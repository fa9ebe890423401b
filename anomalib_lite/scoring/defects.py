"""From an anomaly map and its mask to a list of defects: where each is, how large and how bad."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.types import InputError


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One connected region of the mask."""

    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    area: int  # pixels
    area_mm2: float | None  # None without a scale
    peak: float  # largest value of the map inside
    mean: float  # of the map inside
    location: tuple[float, float]  # x, y: mean place of its pixels, each counting alike


def find_defects(anomaly_map: np.ndarray, mask: np.ndarray, *, mm_per_pixel: float | None) -> list[Defect]:
    """The 8-connected regions of a mask (H, W) bool, as a map (H, W) sees them; largest peak first.

    Of equal peaks the larger comes first, then the upper. Raises InputError if the shapes differ.

    >>> stain = np.zeros((4, 6), np.float32)
    >>> stain[1:3, 2:5] = 0.5
    >>> find_defects(stain, stain > 0.2, mm_per_pixel=0.5)
    [Defect(box=(2, 1, 3, 2), area=6, area_mm2=1.5, peak=0.5, mean=0.5, location=(3.0, 1.5))]
    """
    if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape:
        raise InputError(
            f"expected a map and a mask of one shape (H, W), got {anomaly_map.shape}, {mask.shape}"
        )
    left, top, columns, rows = cv2.boundingRect(mask.astype(np.uint8))  # the rest of the photograph is empty
    around = slice(top, top + rows), slice(left, left + columns)
    mask, anomaly_map = mask[around], anomaly_map[around]
    if not mask.size:
        return []
    count, labels, statistics, centres = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    label, value = labels[mask], anomaly_map[mask].astype(np.float64)
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, label, value)
    sums = np.bincount(label, weights=value, minlength=count)
    defects = []
    for index in range(1, count):  # 0 is what is not in the mask
        x, y, width, height, area = statistics[index].tolist()
        defects.append(
            Defect(
                box=(left + x, top + y, width, height),
                area=area,
                area_mm2=None if mm_per_pixel is None else area * mm_per_pixel**2,
                peak=float(peaks[index]),
                mean=float(sums[index]) / area,
                location=(left + float(centres[index, 0]), top + float(centres[index, 1])),
            )
        )
    return sorted(defects, key=lambda defect: (-defect.peak, -defect.area, defect.box[1], defect.box[0]))
