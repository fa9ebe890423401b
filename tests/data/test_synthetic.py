"""Drawn defects: exact masks, their place, size and contrast, and determinism."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.images import read_image
from anomalib_lite.data.synthetic import VISIBLE, add_blob, add_defect, add_scratch, estimate_foreground

Draw = Callable[..., tuple[np.ndarray, np.ndarray]]
DRAWS = pytest.mark.parametrize("draw", [add_scratch, add_blob, add_defect])


def part_on(background: float, part: float) -> tuple[np.ndarray, np.ndarray]:
    """A round part with a hole and some grain, and where it is."""
    y, x = np.mgrid[:200, :240]
    distance = np.hypot(y - 100, x - 120)
    image = np.where((distance < 70) & (distance > 20), part, background)
    image = image + np.random.default_rng(0).normal(0, 0.01, image.shape)
    return np.stack([image.clip(0, 1)] * 3, axis=-1).astype(np.float32), distance < 70


@DRAWS
@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    level=st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_the_mask_is_exact_and_never_empty(
    draw: Draw, height: int, width: int, level: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = (level + rng.uniform(-0.02, 0.02, (height, width, 3))).clip(0, 1).astype(np.float32)
    before = image.copy()
    defective, mask = draw(image, rng)
    change = np.abs(defective - image).max(axis=2)
    assert defective.dtype == np.float32
    assert mask.dtype == bool
    assert defective.min() >= 0
    assert defective.max() <= 1
    assert mask.any()
    assert change[mask].min() > VISIBLE
    assert change[~mask].max(initial=0) == 0
    assert np.array_equal(image, before)


@DRAWS
def test_the_same_generator_draws_the_same_defect(draw: Draw) -> None:
    image, _ = part_on(0.9, 0.4)
    first, again, other = (draw(image, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@DRAWS
def test_defects_stay_on_the_foreground(draw: Draw) -> None:
    image, part = part_on(0.9, 0.4)
    rng = np.random.default_rng(1)
    for _ in range(30):
        assert part[draw(image, rng)[1]].all()
        corner = np.zeros(part.shape, bool)
        corner[:30, :30] = True
        assert corner[draw(image, rng, foreground=corner)[1]].all()


def drawn(draw: Draw, count: int) -> list[tuple[float, float]]:
    """Extent (share of the shorter side) and largest change of many defects on plain grey."""
    image = np.full((300, 400, 3), 0.5, np.float32)
    everywhere = np.ones((300, 400), bool)
    rng = np.random.default_rng(2)
    result = []
    for _ in range(count):
        defective, mask = draw(image, rng, foreground=everywhere)
        corners = cv2.boxPoints(cv2.minAreaRect(np.argwhere(mask).astype(np.float32)))
        extent = max(np.linalg.norm(corners[0] - corners[1]), np.linalg.norm(corners[1] - corners[2]))
        result.append((float(extent) / 300, float(np.abs(defective - image).max())))
    return result


@DRAWS
def test_extents_and_contrasts_span_their_ranges(draw: Draw) -> None:
    extents, contrasts = np.array(drawn(draw, 150)).T
    assert extents.max() < 0.15 * 1.4  # soft edges reach a little further
    assert extents.max() > 0.1
    assert np.quantile(extents, 0.25) < 0.06
    assert 0.079 <= contrasts.min() < 0.1
    assert 0.2 < np.median(contrasts) < 0.32  # log-uniform from 0.08 to 0.8
    assert contrasts.max() == pytest.approx(0.5)  # mid-grey can't change by more


@DRAWS
@pytest.mark.parametrize("level", [0.0, 0.04, 1.0])
def test_defects_show_on_black_and_on_white(draw: Draw, level: float) -> None:
    image = np.full((40, 50, 3), level, np.float32)
    rng = np.random.default_rng(3)
    changes = [np.abs(draw(image, rng)[0] - image).max() for _ in range(40)]
    assert min(changes) >= 0.08 / 2 - 1e-6


def test_defects_are_darker_lighter_and_coloured() -> None:
    image = np.full((100, 100, 3), 0.5, np.float32)
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(40):
        defective, mask = add_defect(image, rng)
        change = (defective - image)[mask].mean(axis=0)
        kinds.add("coloured" if np.ptp(change) > 1e-3 else "lighter" if change[0] > 0 else "darker")
    assert kinds == {"coloured", "lighter", "darker"}


def test_a_scratch_is_thin_and_a_blob_is_not() -> None:
    image = np.full((300, 300, 3), 0.5, np.float32)

    def slenderness(draw: Draw) -> float:
        rng = np.random.default_rng(4)
        everywhere = np.ones((300, 300), bool)
        ratios = []
        for _ in range(40):
            _, mask = draw(image, rng, foreground=everywhere)
            _, (width, height), _ = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
            ratios.append(max(width, height) / (min(width, height) + 1))
        return float(np.median(ratios))

    assert slenderness(add_scratch) > 2.5
    assert slenderness(add_blob) < 1.8


@pytest.mark.parametrize(("background", "part"), [(0.9, 0.4), (0.05, 0.6), (0.5, 0.7)])
def test_the_foreground_is_the_part_with_its_holes(background: float, part: float) -> None:
    image, expected = part_on(background, part)
    found = estimate_foreground(image)
    assert not (found & ~expected).any()
    assert found.sum() > 0.85 * expected.sum()  # a little is taken off the edge


def test_without_a_background_everything_is_foreground() -> None:
    texture = np.random.default_rng(0).uniform(0.4, 0.6, (80, 90, 3)).astype(np.float32)
    assert estimate_foreground(texture).all()
    assert estimate_foreground(np.full((8, 8, 3), 0.3, np.float32)).all()


def test_an_empty_foreground_is_refused() -> None:
    image = np.zeros((9, 9, 3), np.float32)
    with pytest.raises(ValueError, match="at least one pixel, got an empty one"):
        add_defect(image, np.random.default_rng(0), foreground=np.zeros((9, 9), bool))


@pytest.mark.real
@pytest.mark.parametrize(("category", "low", "high"), [("bottle", 0.5, 0.8), ("pill", 0.2, 0.5)])
def test_the_foreground_of_real_parts(assets: Path, category: str, low: float, high: float) -> None:
    image = read_image(assets / "data" / "mvtec" / category / "train" / "good" / "000.jpg")
    foreground = estimate_foreground(image)
    assert low < foreground.mean() < high
    assert foreground[image.shape[0] // 2, image.shape[1] // 2]
    assert not foreground[:20, :20].any()
