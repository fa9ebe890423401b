"""What the rendered belt is made of: where things lie, the belt's loop, the lamps' light."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.rendered.belt import DEFECTS
from anomalib_lite.data.rendered.belt_layout import CELL, CLEARANCE, View, anomaly_in, lay_out
from anomalib_lite.data.rendered.belt_light import LAMP_HEIGHT, LAMPS, irradiance, mirrored
from anomalib_lite.data.rendered.belt_surface import LOOP, WEAVE, belt_loop, belt_window
from anomalib_lite.data.rendered.rendering import defect_strength

SIZE = (320, 240)


def test_anomalies_come_in_turn_and_the_rest_stays() -> None:
    kinds = [anomaly_in(cell, ("ring", "broken"), 2)[0] for cell in range(8)]
    assert kinds == ["good", "ring", "good", "broken", "good", "ring", "good", "broken"]
    assert anomaly_in(5, ("ring", "broken"), 2)[1] == defect_strength(1)
    whole = lay_out(0, "video", 1, 103.0, "good", 0.0)
    broken = lay_out(0, "video", 1, 103.0, "broken", 0.7)
    assert sum(one != other for one, other in zip(whole, broken, strict=True)) == 1
    assert [item.anomaly for item in broken].count("broken") == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), cell=st.integers(0, 500), kind=st.sampled_from(("good", *DEFECTS)))
def test_nothing_lies_on_another_or_across_cells(seed: int, cell: int, kind: str) -> None:
    half_belt = View(*SIZE).half_belt
    items = lay_out(seed, "train", cell, half_belt, kind, 0.6)
    assert len(items) >= 5
    for number, item in enumerate(items):
        axis = item.axis()
        assert axis[:, 0].min() - item.radius >= cell * CELL
        assert axis[:, 0].max() + item.radius <= (cell + 1) * CELL
        assert np.abs(axis[:, 1]).max() + item.radius <= half_belt
        if item.kind == "ring":
            continue  # where there is no room, it lies against a capsule
        for other in items[:number]:
            between = axis[:, None] - other.axis()[None]
            assert np.hypot(*between.transpose(2, 0, 1)).min() > item.radius + other.radius + CLEARANCE


def test_belt_is_a_loop_with_its_fabric_showing() -> None:
    view = View(*SIZE)
    loop = belt_loop(0, view)
    assert loop.shape == (480, round(LOOP) * 2)
    turn = loop.shape[1]
    np.testing.assert_array_equal(belt_window(loop, 3.25, 50), belt_window(loop, 3.25 + turn, 50))
    np.testing.assert_allclose(
        belt_window(loop, 3.25, 50), 0.75 * loop[:, 3:53] + 0.25 * loop[:, 4:54], rtol=1e-6
    )
    seam = np.abs(loop[:, 0] - loop[:, -1]).mean()
    assert seam < 1.5 * np.abs(np.diff(loop, axis=1)).mean()
    power = np.abs(np.fft.rfft(loop - loop.mean(axis=1, keepdims=True), axis=1)).mean(axis=0)
    peak = 100 + int(np.argmax(power[100:]))  # beyond wear and dirt, which are coarser
    assert abs(LOOP / peak - WEAVE) < 0.1


def test_lamp_lights_what_faces_it_and_is_mirrored_where_it_should() -> None:
    key = LAMPS[0]
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    tilt = np.float32(0.5)

    def leaning(y: np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return zero, one * y, one * np.sqrt(1 - y * y)

    towards, flat, away = (float(irradiance(key, zero, zero, leaning(y))[0]) for y in (-tilt, zero[0], tilt))
    assert towards > flat > away
    # a mirror shows the lamp where its normal halves the angle between lamp and camera
    halfway = np.float32(np.sin(np.arctan2(key.y, LAMP_HEIGHT) / 2))
    assert mirrored(one * key.x, zero, leaning(halfway), 14.0)[0] == pytest.approx(key.radiance, rel=1e-3)
    assert mirrored(one * key.x, zero, leaning(zero[0]), 14.0)[0] == 0
