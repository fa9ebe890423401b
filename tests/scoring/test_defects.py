"""Defects by hand and against scikit-image's region properties."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label, regionprops

from anomalib_lite.scoring.defects import Defect, find_defects
from anomalib_lite.types import InputError


def test_defects_by_hand() -> None:
    anomaly_map = np.full((7, 10), 0.125, np.float32)
    anomaly_map[1:3, 1:4] = [[0.5, 0.5, 0.5], [0.5, 0.75, 0.25]]
    anomaly_map[4, 6] = anomaly_map[5, 7] = 1.0  # touch at a corner
    anomaly_map[6, 0] = 0.5
    found = find_defects(anomaly_map, anomaly_map > 0.2, mm_per_pixel=0.5)
    assert found == [
        Defect(box=(6, 4, 2, 2), area=2, area_mm2=0.5, peak=1.0, mean=1.0, location=(6.5, 4.5)),
        Defect(box=(1, 1, 3, 2), area=6, area_mm2=1.5, peak=0.75, mean=0.5, location=(2.0, 1.5)),
        Defect(box=(0, 6, 1, 1), area=1, area_mm2=0.25, peak=0.5, mean=0.5, location=(0.0, 6.0)),
    ]


def test_the_location_counts_each_pixel_alike() -> None:
    anomaly_map = np.array([[0.3, 0.3, 0.9]], np.float32)
    (defect,) = find_defects(anomaly_map, anomaly_map > 0, mm_per_pixel=None)
    assert defect.location == (1.0, 0.0)


def test_without_a_scale_there_is_no_area_in_mm() -> None:
    (defect,) = find_defects(np.ones((2, 2), np.float32), np.ones((2, 2), bool), mm_per_pixel=None)
    assert defect.area_mm2 is None
    assert defect.area == 4


def test_nothing_is_found_where_the_mask_is_empty() -> None:
    assert find_defects(np.ones((3, 4), np.float32), np.zeros((3, 4), bool), mm_per_pixel=1.0) == []


def test_the_mask_decides_not_the_map() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (defect,) = find_defects(np.zeros((3, 4), np.float32), mask, mm_per_pixel=None)
    assert (defect.peak, defect.mean, defect.box) == (0.0, 0.0, (2, 1, 1, 1))


def test_equal_peaks_come_by_size_then_from_the_top() -> None:
    anomaly_map = np.zeros((8, 5), np.float32)
    anomaly_map[1, 3] = anomaly_map[1, 0] = anomaly_map[3, 2] = anomaly_map[6, 1:4] = 1
    found = find_defects(anomaly_map, anomaly_map > 0, mm_per_pixel=None)
    assert [defect.box[:2] for defect in found] == [(1, 6), (0, 1), (3, 1), (2, 3)]


def test_a_defect_is_plain_json_and_cannot_be_changed() -> None:
    anomaly_map = np.ones((2, 3), np.float32)
    (defect,) = find_defects(anomaly_map, anomaly_map > 0, mm_per_pixel=0.1)
    assert json.loads(json.dumps(asdict(defect))) == {
        "box": [0, 0, 3, 2],
        "area": 6,
        "area_mm2": pytest.approx(0.06),
        "peak": 1.0,
        "mean": 1.0,
        "location": [1.0, 0.5],
    }
    with pytest.raises(FrozenInstanceError):
        defect.area = 3  # type: ignore[misc]  # that is the point


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(1, 40), tau=st.floats(0.4, 1))
def test_defects_equal_scikit_image(height: int, width: int, tau: float) -> None:
    anomaly_map = np.random.default_rng(height * 41 + width).random((height, width), np.float32)
    mask = anomaly_map > tau
    found = find_defects(anomaly_map, mask, mm_per_pixel=0.25)
    expected = regionprops(label(mask, connectivity=2), intensity_image=anomaly_map)
    assert len(found) == len(expected)
    assert [defect.peak for defect in found] == sorted(
        (region.intensity_max for region in expected), reverse=True
    )
    by_box = {(d.box, d.area, d.peak): d for d in found}
    for region in expected:
        top, left, bottom, right = region.bbox
        key = ((left, top, right - left, bottom - top), int(region.area), float(region.intensity_max))
        defect = by_box[key]
        assert defect.mean == pytest.approx(region.intensity_mean, rel=1e-6)
        assert defect.location == pytest.approx(region.centroid[::-1], abs=1e-9)
        assert defect.area_mm2 == region.area / 16


def test_every_speck_of_a_large_picture_is_listed() -> None:
    anomaly_map = np.zeros((1200, 1600), np.float32)
    anomaly_map[::30, ::30] = 1
    found = find_defects(anomaly_map, anomaly_map > 0, mm_per_pixel=None)
    assert len(found) == 40 * 54
    assert {defect.area for defect in found} == {1}
    assert found[-1].location == (1590.0, 1170.0)


def test_two_shapes_are_named() -> None:
    with pytest.raises(InputError, match=r"one shape \(H, W\), got \(2, 3\), \(3, 2\)"):
        find_defects(np.ones((2, 3), np.float32), np.ones((3, 2), bool), mm_per_pixel=None)
    with pytest.raises(InputError, match=r"got \(1, 2, 3\), \(1, 2, 3\)"):
        find_defects(np.ones((1, 2, 3), np.float32), np.ones((1, 2, 3), bool), mm_per_pixel=None)
