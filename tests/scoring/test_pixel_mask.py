"""The mask of what lies above the pixel cut."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.scoring.pixel_mask import MaskRule


@pytest.mark.parametrize(
    ("values", "tau", "expected"),
    [
        ([0.1, 0.2, 0.3], 0.2, [False, False, True]),
        ([0.0, 1e-30], 0.0, [False, True]),
    ],
)
def test_is_strictly_above(values: list[float], tau: float, expected: list[bool]) -> None:
    anomaly_map = np.array([values], np.float32)
    assert MaskRule()(anomaly_map, tau)[0].tolist() == expected
    assert MaskRule(minimum_area=1)(anomaly_map, tau)[0].tolist() == expected


def test_a_region_of_exactly_the_minimum_stays() -> None:
    anomaly_map = np.zeros((5, 9), np.float32)
    anomaly_map[0, :3] = 1  # three pixels in a row
    anomaly_map[2:5, 6:9] = np.eye(3)  # three that touch at corners
    anomaly_map[3, 1:3] = 1  # two
    kept = MaskRule(minimum_area=3)(anomaly_map, 0.5)
    assert kept[0, :3].all()
    assert np.array_equal(kept[2:5, 6:9], np.eye(3, dtype=bool))
    assert kept.sum() == 6


def test_each_region_keeps_what_is_near_its_own_peak() -> None:
    anomaly_map = np.zeros((3, 20), np.float32)
    anomaly_map[1, 2:9] = [1, 3, 5, 10, 5, 3, 1]  # strong, with a halo
    anomaly_map[1, 12:15] = [1.2, 1.5, 1.0]  # faint
    kept = MaskRule(peak_share=0.5)(anomaly_map, 0.5)
    assert np.flatnonzero(kept[1]).tolist() == [4, 5, 6, 12, 13, 14]
    assert not kept[[0, 2]].any()
    assert np.array_equal(MaskRule(peak_share=0.0)(anomaly_map, 0.5), anomaly_map > 0.5)


def test_the_area_is_of_what_is_left() -> None:
    anomaly_map = np.array([[1.0, 1.0, 9.0, 1.0, 0.0, 1.0, 1.0]], np.float32)
    kept = MaskRule(peak_share=0.5, minimum_area=2)(anomaly_map, 0.5)
    assert kept[0].tolist() == [False] * 5 + [True] * 2


def test_nothing_above_the_cut_is_an_empty_mask() -> None:
    assert not MaskRule(peak_share=0.5, minimum_area=2)(np.zeros((3, 4), np.float32), 0.5).any()


@pytest.mark.parametrize(
    ("rule", "alone"),
    [
        (MaskRule(), True),
        (MaskRule(minimum_area=1), True),
        (MaskRule(minimum_area=2), False),
        (MaskRule(peak_share=0.1), False),
    ],
)
def test_whether_the_cut_decides_alone(rule: MaskRule, alone: bool) -> None:
    assert rule.cut_alone == alone
