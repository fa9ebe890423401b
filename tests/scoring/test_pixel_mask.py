"""The mask of what lies above the pixel cut."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.scoring.pixel_mask import pixel_mask


@pytest.mark.parametrize(
    ("values", "tau", "expected"),
    [
        ([0.1, 0.2, 0.3], 0.2, [False, False, True]),
        ([0.0, 1e-30], 0.0, [False, True]),
    ],
)
def test_is_strictly_above(values: list[float], tau: float, expected: list[bool]) -> None:
    anomaly_map = np.array([values], np.float32)
    assert pixel_mask(anomaly_map, tau, minimum_area=0)[0].tolist() == expected
    assert pixel_mask(anomaly_map, tau, minimum_area=1)[0].tolist() == expected


def test_a_region_of_exactly_the_minimum_stays() -> None:
    anomaly_map = np.zeros((5, 9), np.float32)
    anomaly_map[0, :3] = 1  # three pixels in a row
    anomaly_map[2:5, 6:9] = np.eye(3)  # three that touch at corners
    anomaly_map[3, 1:3] = 1  # two
    kept = pixel_mask(anomaly_map, 0.5, minimum_area=3)
    assert kept[0, :3].all()
    assert np.array_equal(kept[2:5, 6:9], np.eye(3, dtype=bool))
    assert kept.sum() == 6
