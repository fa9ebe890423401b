"""Signed distances of plane figures, negative inside: what the rendered zipper cursors are drawn with.

Formulas: Inigo Quilez, "2D distance functions", https://iquilezles.org/articles/distfunctions2d/.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Array = np.ndarray  # (H, W) float32 unless said otherwise
Point = tuple[float, float]
Stroke = Sequence[Point]

_TURN = [(0.5 + 0.5 * np.sin(a), 0.5 - 0.5 * np.cos(a)) for a in np.linspace(0, 2 * np.pi, 25)]
GLYPHS: dict[str, list[Stroke]] = {  # strokes of an engraver's alphabet in a unit box, y downwards
    "A": [[(0, 1), (0.5, 0), (1, 1)], [(0.19, 0.62), (0.81, 0.62)]],
    "E": [[(1, 0), (0, 0), (0, 1), (1, 1)], [(0, 0.5), (0.8, 0.5)]],
    "I": [[(0.5, 0), (0.5, 1)]],
    "K": [[(0, 0), (0, 1)], [(1, 0), (0, 0.58)], [(0.3, 0.42), (1, 1)]],
    "L": [[(0, 0), (0, 1), (1, 1)]],
    "M": [[(0, 1), (0, 0), (0.5, 0.7), (1, 0), (1, 1)]],
    "N": [[(0, 1), (0, 0), (1, 1), (1, 0)]],
    "O": [_TURN],
    "T": [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]],
    "V": [[(0, 0), (0.5, 1), (1, 0)]],
    "X": [[(0, 0), (1, 1)], [(1, 0), (0, 1)]],
}


def circle(x: Array, y: Array, centre: Point, radius: float) -> Array:
    """Signed distance to a circle.

    >>> float(circle(np.float32([3.0]), np.float32([4.0]), (0.0, 0.0), 2.0)[0])
    3.0
    """
    return np.hypot(x - centre[0], y - centre[1]) - radius


def box(x: Array, y: Array, centre: Point, half_size: Point, rounding: float) -> Array:
    """Signed distance to a rectangle with rounded corners; `half_size` includes the rounding.

    >>> float(box(np.float32([5.0]), np.float32([0.0]), (0.0, 0.0), (3.0, 1.0), 0.5)[0])
    2.0
    """
    dx = np.abs(x - centre[0]) - (half_size[0] - rounding)
    dy = np.abs(y - centre[1]) - (half_size[1] - rounding)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - rounding


def capsule(x: Array, y: Array, start: Point, end: Point, radii: Point) -> Array:
    """Signed distance to the hull of two circles, one about `start` and one about `end`.

    >>> float(capsule(np.float32([9.0]), np.float32([0.0]), (0.0, 0.0), (5.0, 0.0), (1.0, 2.0))[0])
    2.0
    """
    length = np.hypot(end[0] - start[0], end[1] - start[1])
    ux, uy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    along = (x - start[0]) * ux + (y - start[1]) * uy
    across = np.abs((y - start[1]) * ux - (x - start[0]) * uy)
    sine = (radii[0] - radii[1]) / length
    cosine = np.sqrt(1 - sine**2)
    position = along * cosine - across * sine  # along the straight side, 0 where it leaves the first circle
    side = across * cosine + along * sine - radii[0]
    first = np.hypot(along, across) - radii[0]
    last = np.hypot(along - length, across) - radii[1]
    return np.where(position < 0, first, np.where(position > length * cosine, last, side))


def polygon(x: Array, y: Array, corners: Sequence[Point], *, rounding: float) -> Array:
    """Signed distance to a polygon whose corners are rounded outwards by `rounding`.

    >>> square = [(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)]
    >>> float(polygon(np.float32([1.0]), np.float32([1.5]), square, rounding=0.25)[0])
    -0.75
    """
    inside = np.zeros(x.shape, dtype=bool)
    squared = np.full(x.shape, np.inf, dtype=np.float32)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        squared = np.minimum(squared, _squared_distance(x, y, (ax, ay), (bx, by)))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return np.where(inside, -np.sqrt(squared), np.sqrt(squared)) - rounding


def leaf(x: Array, y: Array, half_length: float, half_width: float) -> Array:
    """Signed distance to a pointed leaf along x: two circles' common part.

    >>> float(leaf(np.float32([0.0]), np.float32([0.0]), 2.0, 1.0)[0])
    -1.0
    """
    radius = (half_length**2 + half_width**2) / (2 * half_width)
    arc = np.hypot(x, np.abs(y) + radius - half_width) - radius
    tip = np.hypot(np.abs(x) - half_length, y)
    beyond = (np.abs(x) - half_length) * (radius - half_width) > np.abs(y) * half_length
    return np.where(beyond, tip, arc)


def smooth_union(first: Array, second: Array, radius: float) -> Array:
    """The union of two figures with the inner corner between them filled by about `radius`.

    >>> float(smooth_union(np.float32([1.0]), np.float32([5.0]), 0.5)[0])
    1.0
    """
    overlap = np.maximum(radius - np.abs(first - second), 0) / radius
    return np.minimum(first, second) - overlap**2 * radius / 4


def repeat_angle(radius: Array, angle: Array, count: int) -> tuple[Array, Array]:
    """Fold the plane into `count` equal sectors: coordinates within one that lies along x.

    >>> px, py = repeat_angle(np.float32([2.0]), np.float32([np.pi / 2]), 4)
    >>> round(float(px[0]), 5), abs(round(float(py[0]), 5))
    (2.0, 0.0)
    """
    sector = 2 * np.pi / count
    folded = (angle + sector / 2) % sector - sector / 2
    return radius * np.cos(folded), radius * np.sin(folded)


def strokes(x: Array, y: Array, lines: Sequence[Stroke]) -> Array:
    """Distance to the nearest of some polylines.

    >>> float(strokes(np.float32([1.0]), np.float32([2.0]), [[(0.0, 0.0), (5.0, 0.0)]])[0])
    2.0
    """
    squared = np.full(x.shape, np.inf, dtype=np.float32)
    for line in lines:
        for start, end in pairwise(line):
            squared = np.minimum(squared, _squared_distance(x, y, start, end))
    return np.sqrt(squared)


def text(x: Array, y: Array, word: str, centre: Point, height: float) -> Array:
    """Distance to the centre lines of an engraved word of letters in `GLYPHS`.

    >>> float(text(np.float32([0.0]), np.float32([2.0]), "I", (0.0, 0.0), 2.0)[0])
    1.0
    """
    width, pitch = 0.62 * height, 0.90 * height
    lines: list[Stroke] = []
    for position, letter in enumerate(word):
        left = centre[0] + (position - (len(word) - 1) / 2) * pitch - width / 2
        top = centre[1] - height / 2
        lines += [[(left + u * width, top + v * height) for u, v in stroke] for stroke in GLYPHS[letter]]
    return strokes(x, y, lines)


def groove(distance: Array, half_width: float, wall: float) -> Array:
    """The depth, 0 to 1, of a groove with sloping walls of width `wall` that end at `half_width`.

    >>> groove(np.float32([0.0, 1.5, 2.0]), 2.0, 1.0).tolist()
    [1.0, 0.5, 0.0]
    """
    step = np.clip((half_width - distance) / wall, 0, 1)
    return step * step * (3 - 2 * step)


def _squared_distance(x: Array, y: Array, start: Point, end: Point) -> Array:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = dx * dx + dy * dy
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / max(length, 1e-12), 0, 1)
    return (x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2
