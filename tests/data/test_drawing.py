"""What drawn cut-outs are made of: areas, noise, strokes and light."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomalib_lite.data.drawing import (
    filled,
    lit,
    mixed,
    perlin,
    ragged,
    rgba,
    rotation,
    round_outline,
    soft,
    stroke,
    wandering,
)


def slow_perlin(rng: np.random.Generator, side: int, cells: float) -> np.ndarray:
    """One octave, pixel by pixel as Perlin wrote it down."""
    last = int(np.float32(side - 1) * np.float32(cells / side))
    angles = rng.uniform(0, 2 * np.pi, (last + 2, last + 2))
    result = np.empty((side, side))
    for row in range(side):
        for column in range(side):
            y, x = row * cells / side, column * cells / side
            top, left = int(y), int(x)

            def corner(i: int, j: int, y: float = y, x: float = x) -> float:
                return float(np.cos(angles[i, j]) * (x - j) + np.sin(angles[i, j]) * (y - i))

            def fade(t: float) -> float:
                return t**3 * (t * (6 * t - 15) + 10)

            dx, dy = fade(x - left), fade(y - top)
            above = corner(top, left) * (1 - dx) + corner(top, left + 1) * dx
            below = corner(top + 1, left) * (1 - dx) + corner(top + 1, left + 1) * dx
            result[row, column] = 1.5 * (above * (1 - dy) + below * dy)
    return result


@pytest.mark.parametrize(("side", "cells"), [(24, 3.0), (20, 6.5)])
def test_perlin_noise_equals_its_plain_form(side: int, cells: float) -> None:
    fast, slow = (draw(np.random.default_rng(1), side, cells) for draw in (perlin, slow_perlin))
    np.testing.assert_allclose(fast, slow, atol=1e-5)


def test_octaves_add_detail() -> None:
    coarse, fine = (perlin(np.random.default_rng(0), 128, 4, octaves=n) for n in (1, 4))
    assert np.abs(np.diff(fine)).mean() > 1.5 * np.abs(np.diff(coarse)).mean()
    assert -1.6 < fine.min() < fine.max() < 1.6


def test_a_polygon_covers_its_area() -> None:
    triangle = np.array([[10.0, 10.0], [50.0, 10.0], [10.0, 40.0]])
    assert 600 < filled(triangle, 64).sum() < 600 + 120  # OpenCV adds up to a pixel along the outline


def test_a_stroke_covers_length_times_width() -> None:
    line = np.stack([np.linspace(10, 90, 30), np.full(30, 50.0)], axis=1)
    assert (
        80 * 8 < stroke(line, np.full(30, 8.0), 100).sum() < 80 * 8 + 2 * 88
    )  # up to a pixel along the outline
    assert 80 * 4 < stroke(line, np.linspace(8, 0, 30), 100).sum() < 80 * 4 + 2 * 88


def test_a_wandering_line_keeps_its_ends_and_roughness() -> None:
    start, end = np.array([0.0, 0.0]), np.array([100.0, 0.0])
    straight, bent = (wandering(np.random.default_rng(0), start, end, rough) for rough in (0.0, 0.1))
    assert straight.shape == (129, 2)
    np.testing.assert_allclose(straight[:, 1], 0)
    np.testing.assert_allclose(bent[[0, -1]], [start, end])
    assert 1 < np.abs(bent[:, 1]).max() < 60


def test_an_outline_stays_within_its_radius() -> None:
    centre = np.array([30.0, 40.0])
    for seed in range(10):
        outline = round_outline(np.random.default_rng(seed), centre, 20.0, aspect=0.6, uneven=0.3)
        away = np.hypot(*(outline - centre).T)
        assert away.max() <= 20.0001
        assert away.min() > 1
    circle = round_outline(np.random.default_rng(0), centre, 20.0, uneven=0.0)
    np.testing.assert_allclose(np.hypot(*(circle - centre).T), 20)


def test_rotation_turns_row_vectors() -> None:
    np.testing.assert_allclose(np.array([1.0, 0.0]) @ rotation(np.pi / 2), [0, 1], atol=1e-12)


def test_flat_ground_is_as_bright_as_it_is_and_slopes_are_not() -> None:
    flat = lit(np.full((16, 16), 3.0), np.random.default_rng(0))
    np.testing.assert_allclose(flat, 1, rtol=1e-5)
    y, x = np.mgrid[:64, :64]
    dome = lit(20 * np.exp(-((y - 32.0) ** 2 + (x - 32.0) ** 2) / 200), np.random.default_rng(0))
    assert dome.min() < 0.8
    assert dome.max() > 1.1


def test_a_wide_blur_equals_the_exact_one() -> None:
    picture = np.zeros((128, 128), np.float32)
    picture[40:90, 50:80] = 1
    np.testing.assert_allclose(soft(picture, 10), cv2.GaussianBlur(picture, (0, 0), 10), atol=0.02)


@pytest.mark.parametrize("reach", [0.8, 2.0, 6.0])
def test_a_ragged_edge_stays_at_the_edge(reach: float) -> None:
    disc = np.zeros((128, 128), np.float32)
    y, x = np.mgrid[:128, :128]
    distance = np.hypot(y - 64, x - 64)
    disc[distance < 40] = 1
    noise = perlin(np.random.default_rng(0), 128, 30, octaves=2) * 3
    result = ragged(disc, noise, reach=reach)
    assert result[distance > 40 + 4 * reach].max() < 1e-3
    assert result[distance < 40 - 4 * reach].min() > 1 - 1e-3
    assert np.abs(result - disc).max() > 0.3


def test_colours_mix_and_become_bytes() -> None:
    share = np.array([[0.0, 0.5], [1.0, 2.0]])
    colours = mixed([0.0, 0.0, 0.0], [1.0, 0.5, 0.0], share)
    np.testing.assert_allclose(colours[:, :, 1], [[0, 0.25], [0.5, 0.5]])
    picture = rgba(colours, np.array([[0.0, 1.0], [2.0, 0.5]]))
    assert picture.dtype == np.uint8
    assert picture[..., 3].tolist() == [[0, 255], [255, 128]]
    assert picture[1, 0].tolist() == [255, 128, 0, 255]
