"""Stamps on pictures: hand-computed pixels, and Poisson blending against a plain solver."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.data.blending import blend_alpha, blend_poisson, in_contrast, overlap, silhouette, visible


def square_stamp(size: int, inner: slice, colour: float) -> np.ndarray:
    stamp = np.zeros((size, size, 4), np.float32)
    stamp[inner, inner, :3], stamp[inner, inner, 3] = colour, 1
    return stamp


@pytest.mark.parametrize(
    ("pixel", "inside", "window"),
    [
        ((5, 5), np.s_[0:4, 0:3], np.s_[3:7, 4:7]),  # all of it
        ((0, 0), np.s_[2:4, 1:3], np.s_[0:2, 0:2]),  # over the corner
        ((9, 11), np.s_[0:3, 0:2], np.s_[7:10, 10:12]),
    ],
)
def test_overlap(pixel: tuple[int, int], inside: tuple[slice, slice], window: tuple[slice, slice]) -> None:
    assert overlap(np.zeros((4, 3, 4)), (2, 1), pixel, (10, 12, 3)) == (inside, window)


def test_alpha_blending_is_the_weighted_mean() -> None:
    canvas = np.full((4, 4, 3), 0.2, np.float32)
    stamp = np.zeros((2, 2, 4), np.float32)
    stamp[0, 0] = [0.25, 0.0, 0.5, 0.5]  # half of (0.5, 0, 1), premultiplied
    result = blend_alpha(canvas, np.s_[1:3, 2:4], stamp)
    np.testing.assert_allclose(result[0, 0], [0.35, 0.1, 0.6], rtol=1e-6)
    np.testing.assert_allclose(result[1], 0.2)


def plain_poisson(below: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The stronger of both gradients, at each pixel for each axis; Gauss-Seidel until nothing moves."""
    result = below.copy()
    inner = np.argwhere(mask)
    for _ in range(3000):
        worst = 0.0
        for y, x in inner:
            total = 0.0
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                steps = [picture[y, x] - picture[y + dy, x + dx] for picture in (below, source)]
                total += result[y + dy, x + dx] + max(steps, key=abs)
            worst = max(worst, abs(total / 4 - result[y, x]))
            result[y, x] = total / 4
        if worst < 1e-4:
            break
    return result


def test_poisson_blending_equals_a_plain_solver() -> None:
    """A dark square on a slope of brightness."""
    slope = np.linspace(0.4, 0.7, 30, dtype=np.float32)
    canvas = np.repeat(np.tile(slope, (30, 1))[..., None], 3, axis=2)
    stamp = square_stamp(12, slice(3, 9), 0.2)
    result = blend_poisson(canvas, np.s_[9:21, 9:21], stamp)
    source = np.full((30, 30), 0.5)
    source[12:18, 12:18] = 0.2
    mask = np.zeros((30, 30), bool)
    mask[11:19, 11:19] = True  # at least the square and its outline, wherever OpenCV's mask ends
    below = canvas[..., 0].astype(np.float64)
    expected = plain_poisson(below, source, mask)
    square = np.s_[12:18, 12:18]
    ours = canvas.copy()
    ours[9:21, 9:21] = result
    depth, expected_depth = (below[square] - picture[square] for picture in (ours[..., 0], expected))
    assert 0.25 < expected_depth.mean() < 0.31
    # not at one corner: OpenCV chooses the stronger gradient for both axes at once, which leaks there
    assert np.quantile(np.abs(depth - expected_depth), 0.75) < 0.015
    assert np.abs(depth.mean() - expected_depth.mean()) < 0.02
    assert np.ptp(ours[square][..., 0].mean(axis=0)) > 0.02  # the slope below still shows


def test_poisson_blending_takes_the_light_of_its_place() -> None:
    """The same stamp lowers bright and dark ground alike, where alpha blending gives one colour."""
    stamp = square_stamp(20, slice(6, 14), 0.3)
    centres = []
    for level in (0.45, 0.75):
        canvas = np.full((40, 40, 3), level, np.float32)
        centres.append(level - blend_poisson(canvas, np.s_[10:30, 10:30], stamp)[10, 10, 0])
    assert centres[0] == pytest.approx(centres[1], abs=0.02)
    assert centres[0] > 0.1


@pytest.mark.parametrize("window", [np.s_[0:8, 0:8], np.s_[32:40, 30:38], np.s_[0:40, 0:40]])
def test_poisson_blending_at_the_border_changes_only_near_the_object(window: tuple[slice, slice]) -> None:
    canvas = np.random.default_rng(0).uniform(0.4, 0.6, (40, 40, 3)).astype(np.float32)
    shape = canvas[window].shape[:2]
    stamp = np.zeros((*shape, 4), np.float32)
    assert np.array_equal(blend_poisson(canvas, window, stamp), canvas[window])
    stamp[:3, :3] = 1
    result = blend_poisson(canvas, window, stamp)
    assert result.shape == (*shape, 3)
    assert visible(result, canvas[window])[:3, :3].any()
    assert not visible(result, canvas[window])[12:, 12:].any()


def test_contrast_inverts_only_what_hardly_shows() -> None:
    stamp = square_stamp(4, slice(0, 4), 0.1)
    assert in_contrast(stamp, np.full((4, 4, 3), 0.6, np.float32)) is stamp
    inverted = in_contrast(stamp, np.full((4, 4, 3), 0.05, np.float32))
    np.testing.assert_allclose(inverted[..., :3], 0.9, rtol=1e-6)
    np.testing.assert_allclose(inverted[..., 3], 1)
    brown = square_stamp(4, slice(0, 4), 0.8) * np.float32([1, 0.9, 0.8, 1])
    turned = in_contrast(brown, np.full((4, 4, 3), 0.75, np.float32))[0, 0]
    np.testing.assert_allclose(turned, [0.36, 0.28, 0.2, 1], atol=1e-6)  # dark brown, not blue
    grey = square_stamp(4, slice(0, 4), 0.5)  # its inverse shows no better
    assert in_contrast(grey, np.full((4, 4, 3), 0.5, np.float32)) is grey


@pytest.mark.parametrize(("level", "shown"), [(0.1, 1.0), (0.9, 0.0)])
def test_a_silhouette_is_black_or_white_and_opaque_at_its_peak(level: float, shown: float) -> None:
    stamp = np.zeros((3, 5, 4), np.float32)
    stamp[1, 3], stamp[2, 2] = 0.04, 0.02
    result, peak = silhouette(stamp, np.full(3, level))
    assert peak == (1, 3)
    assert result[1, 3].tolist() == [shown, shown, shown, 1]
    assert result[2, 2, 3] == pytest.approx(0.5)
    assert result[0].max() == 0


def test_the_silhouette_of_nothing_is_a_rectangle() -> None:
    result, peak = silhouette(np.zeros((2, 2, 4), np.float32), np.zeros(3))
    assert result.min() == 1
    assert peak == (0, 0)
