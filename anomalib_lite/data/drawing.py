"""Strokes, outlines, noise and light: what drawn cut-outs are made of."""

from __future__ import annotations

import cv2
import numpy as np

SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 pixel


def perlin(rng: np.random.Generator, side: int, cells: float, octaves: int = 1) -> np.ndarray:
    """Gradient noise (side, side) float32 within about [-1, 1], `cells` waves across.

    Source: Perlin, "An image synthesizer" (1985).

    >>> noise = perlin(np.random.default_rng(0), 64, 4)
    >>> noise.shape, float(noise[0, 0]), bool(noise.std() > 0.1)  # it is zero on its knots
    ((64, 64), 0.0, True)
    """
    total = np.zeros((side, side), np.float32)
    for octave in range(octaves):
        count = cells * 2**octave
        place = np.arange(side, dtype=np.float32) * np.float32(count / side)
        knot = place.astype(int)
        angles = rng.uniform(0, 2 * np.pi, (knot[-1] + 2, knot[-1] + 2)).astype(np.float32)
        offset = place - knot
        fade = offset**3 * (offset * (6 * offset - 15) + 10)
        # along x first, for each row of knots; a pixel then lies between two such rows
        across = np.cos(angles), np.sin(angles)
        left, right = ((across[0][:, knot + dx] * (offset - dx), across[1][:, knot + dx]) for dx in (0, 1))
        along_x, along_y = (
            first + fade * (second - first) for first, second in zip(left, right, strict=True)
        )
        above, below = (
            along_x[knot + dy] + along_y[knot + dy] * (offset[:, None] - np.float32(dy)) for dy in (0, 1)
        )
        total += (above + fade[:, None] * (below - above)) * np.float32(1.5 / 2**octave)
    return total


def filled(outline: np.ndarray, side: int) -> np.ndarray:
    """Coverage (side, side) in [0, 1] of each pixel by a polygon (n, 2) of (x, y).

    >>> filled(np.array([[2, 2], [5, 2], [5, 5], [2, 5]]), 8).sum() > 9
    np.True_
    """
    canvas = np.zeros((side, side), np.uint8)
    cv2.fillPoly(canvas, [_fixed(outline)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas.astype(np.float32) / 255


def stroke(line: np.ndarray, widths: np.ndarray, side: int) -> np.ndarray:
    """Coverage (side, side) in [0, 1] by a line (n, 2) of (x, y) that is `widths` (n,) pixels wide."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)[:, None]
    half = np.stack([-along[:, 1], along[:, 0]], axis=1) * widths[:, None] / 2
    left, right = line + half, line - half
    canvas = np.zeros((side, side), np.uint8)
    # piece by piece: one outline of a line that crosses itself would have holes
    for i in range(len(line) - 1):
        piece = np.array([left[i], left[i + 1], right[i + 1], right[i]])
        cv2.fillConvexPoly(canvas, _fixed(piece), 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas.astype(np.float32) / 255


def wandering(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, rough: float) -> np.ndarray:
    """A line (129, 2) between two points, bent at every length by `rough` of it: midpoint displacement."""
    line = np.stack([start, end]).astype(np.float64)
    for _ in range(7):
        step = np.diff(line, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
        middle = (line[:-1] + line[1:]) / 2 + normal * rng.normal(0, rough, (len(step), 1))
        merged = np.empty((2 * len(line) - 1, 2))
        merged[::2], merged[1::2] = line, middle
        line = merged
    return line


def round_outline(
    rng: np.random.Generator, centre: np.ndarray, radius: float, *, aspect: float = 1.0, uneven: float = 0.3
) -> np.ndarray:
    """A closed outline (96, 2) of (x, y) that strays from an ellipse by up to about `uneven`."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    waves = np.arange(2, 9)
    phases, heights = rng.uniform(0, 2 * np.pi, 7), rng.uniform(0, 2 * uneven, 7) / waves
    lengths = 1 + (heights * np.cos(waves * turn[:, None] + phases)).sum(axis=1)
    lengths *= radius / lengths.max()
    outline = np.stack([lengths * np.cos(turn), aspect * lengths * np.sin(turn)], axis=1)
    return centre + outline @ rotation(rng.uniform(0, 2 * np.pi))


def rotation(angle: float) -> np.ndarray:
    """Turns row vectors (x, y) by an angle in radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y (side, side) from the centre, 1 at the middle of a border."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / (side / 2) - 1
    return np.broadcast_to(axis, (side, side)), np.broadcast_to(axis[:, None], (side, side))


def lit(height: np.ndarray, rng: np.random.Generator, *, gloss: float = 0.0) -> np.ndarray:
    """Brightness (side, side), 1 where flat, of a relief (pixels) under a lamp at a random side."""
    angle = rng.uniform(0, 2 * np.pi)
    lamp = np.array([np.cos(angle), np.sin(angle), 1.2]) / np.hypot(1, 1.2)
    slope_y, slope_x = np.gradient(height)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    diffuse = (lamp[2] - slope_x * lamp[0] - slope_y * lamp[1]) / length
    half = lamp + np.array([0, 0, 1.0])
    half /= np.linalg.norm(half)
    mirror = np.clip((half[2] - slope_x * half[0] - slope_y * half[1]) / length, 0, 1)
    return (0.35 + 0.65 * np.clip(diffuse, 0, None) / lamp[2] + gloss * mirror**24).astype(np.float32)


def soft(coverage: np.ndarray, blur: float) -> np.ndarray:
    """Blurred by `blur` pixels."""
    if blur > 6:  # a wide blur loses nothing on half the pixels
        small = cv2.resize(coverage, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        return cv2.resize(soft(small, blur / 2), coverage.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(coverage, (0, 0), blur)


def ragged(coverage: np.ndarray, noise: np.ndarray, *, reach: float) -> np.ndarray:
    """The same coverage with an edge that noise in [-1, 1] moves in and out by about `reach` pixels."""
    slope = max(2.5, 1.2 * reach)
    # less than half of what separates inside and outside, or specks would appear far away
    return np.clip((soft(coverage, reach) - 0.5 + 0.3 * noise.clip(-1, 1)) * slope + 0.5, 0, 1).astype(
        np.float32
    )


def rgba(colour: np.ndarray | list[float], alpha: np.ndarray) -> np.ndarray:
    """uint8 (side, side, 4) from a colour (3,) or colours (side, side, 3) and alpha (side, side), in [0, 1]."""
    colours = np.broadcast_to(np.asarray(colour, np.float32), (*alpha.shape, 3))
    return (np.concatenate([colours, alpha[..., None]], axis=2).clip(0, 1) * 255).round().astype(np.uint8)


def mixed(first: np.ndarray | list[float], second: np.ndarray | list[float], share: np.ndarray) -> np.ndarray:
    """Colours (side, side, 3) between two, `share` (side, side) of the second."""
    share = share.clip(0, 1)[..., None]
    return np.asarray(first, np.float32) * (1 - share) + np.asarray(second, np.float32) * share


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(points) * 2**SUBPIXEL_BITS).astype(np.int32)
