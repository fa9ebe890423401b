"""The surface of one zipper cursor: what machining, polishing and handling left, and the defects."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.data.rendered.zipper_outlines import Array
from anomalib_lite.data.rendered.zipper_parts import Colour, Family, Geometry


@dataclass(slots=True)
class Surface:
    """One part before light falls on it; arrays are (H, W) float32 in the pose of the reference."""

    height: Array  # units of length (the picture's height)
    brushing: Array  # slope across the brush lines
    dull: Array  # 0 polished .. 1 as rough as this finish gets
    patina: Array  # 0 bare .. 1 covered by dark oxide
    film: Array  # how much an opaque deposit covers
    film_colour: Colour = (0.5, 0.5, 0.5)
    stain: Array | None = None  # how strongly a transparent layer tints the metal
    stain_colour: Colour = (1.0, 1.0, 1.0)


def cloud(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int = 1, stretch: float = 1.0
) -> Array:
    """Smooth noise (H, W) of about unit spread, whose largest waves span about two `cell` pixels.

    Along x they are `stretch` times as long.

    >>> noise = cloud(np.random.default_rng(0), (30, 40), 10.0)
    >>> noise.shape, bool(0.3 < noise.std() < 1.5)
    ((30, 40), True)
    """
    height, width = -(-shape[0] // 2), -(-shape[1] // 2)  # half the pixels are enough for what is smooth
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        step = max(cell / 2 / 2**octave, 1.0)
        long_step = step * stretch
        rows, columns = int(height / step) + 4, int(width / long_step) + 4
        knots = rng.standard_normal((rows, columns), dtype=np.float32)
        frame = np.array([[1 / long_step, 0, 1.5], [0, 1 / step, 1.5]])  # room for bicubic at the borders
        waves = cv2.warpAffine(knots, frame, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        total += waves * 0.55**octave
    return cv2.resize(total, shape[::-1], interpolation=cv2.INTER_LINEAR)


def machined_surface(rng: np.random.Generator, family: Family, part: Geometry) -> Surface:
    """A good part: same shape, its own grain, polish, patina, hairlines and dust.

    >>> from anomalib_lite.data.rendered.zipper_parts import FAMILIES, geometry
    >>> part, rng = geometry(1, (160, 120)), np.random.default_rng(0)
    >>> surface = machined_surface(rng, FAMILIES[1], part)
    >>> surface.height.shape, surface.patina.max() == 0  # nickel does not tarnish
    ((120, 160), np.True_)
    """
    finish, scale = family.finish, part.scale
    shape = part.body.shape
    height = part.body + np.float32(rng.uniform(0.95, 1.05)) * part.relief
    height += _rough(rng, shape, max(0.7, finish.grain_size * scale), finish.grain / scale)
    height += _rough(rng, shape, 0.006 * scale, finish.waviness / scale)
    height += (finish.ripple * 0.035) * cloud(rng, shape, 0.08 * scale)
    brushing: Array = np.zeros(shape, dtype=np.float32)
    if finish.brushing > 0:
        brushing = _brush_lines(rng, shape, scale) * finish.brushing
    polish = 0.25 * rng.standard_normal() + cloud(rng, shape, 0.06 * scale, octaves=5, stretch=3)
    dull = 0.28 + 0.25 * finish.uneven * polish
    patina: Array = np.zeros(shape, dtype=np.float32)
    if finish.patina > 0:
        worn = 0.2 * rng.standard_normal() + cloud(rng, shape, 0.07 * scale, octaves=4)
        lying = 0.34 + 0.10 * worn + 0.55 * part.recess - 0.35 * (part.inside < 0.4 * family.edge)
        patina = finish.patina * np.clip(lying, 0, 1)
    surface = Surface(
        height, brushing, dull.astype(np.float32), patina.astype(np.float32), np.zeros_like(height)
    )
    for _ in range(rng.poisson(5)):
        _hairline(
            rng, surface, part, slope=rng.uniform(0.01, 0.05), width=0.0012, length=rng.uniform(0.02, 0.12)
        )
    _dust(rng, surface, part)
    np.clip(surface.dull, 0, 1, out=surface.dull)
    return surface


def _rough(rng: np.random.Generator, shape: tuple[int, int], sigma: float, slope: float) -> Array:
    """Noise in height units with waves of `sigma` pixels and a slope of `slope` * pixels in one unit."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    gain = slope * sigma * sigma * 2 * np.sqrt(2 * np.pi)  # spread of the slope of blurred white noise
    return cv2.GaussianBlur(noise, (0, 0), sigma) * np.float32(gain)


def _brush_lines(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    noise = rng.standard_normal(shape, dtype=np.float32)
    length = max(3, int(0.16 * scale))
    long_lines = cv2.blur(noise, (length, 1)) * np.sqrt(length)
    short_lines = cv2.blur(noise[::-1], (length // 6 + 1, 1)) * np.sqrt(length // 6 + 1)
    return cv2.GaussianBlur(
        0.8 * long_lines + 0.5 * short_lines, (1, 0), 0.01, sigmaY=max(0.4, 0.0009 * scale)
    )


def _dust(rng: np.random.Generator, surface: Surface, part: Geometry) -> None:
    """Specks lighter than the metal, a pixel or so wide."""
    for row, column in places(rng, part, count=int(rng.poisson(7)), margin=0.0):
        radius = part.scale * rng.uniform(0.0008, 0.0026)
        window, (rows, columns) = _window(surface.film.shape, row, column, int(3 * radius) + 2)
        speck = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
        surface.film[window] = np.maximum(surface.film[window], rng.uniform(0.08, 0.45) * speck)


def places(
    rng: np.random.Generator,
    part: Geometry,
    *,
    count: int,
    margin: float,
    near: tuple[tuple[float, float], float] | None = None,
) -> list[tuple[float, float]]:
    """Random (row, column) positions on the metal, `margin` from its edges, `near` a place if given.

    >>> from anomalib_lite.data.rendered.zipper_parts import geometry
    >>> part, rng = geometry(1, (160, 120)), np.random.default_rng(0)
    >>> ((row, column),) = places(rng, part, count=1, margin=0.05)
    >>> bool(part.inside[int(row), int(column)] > 0.05)
    True
    """
    height, width = part.inside.shape
    top, left, bottom, right = 0.0, 0.0, float(height), float(width)
    if near is not None:
        (row, column), radius = near[0], max(2.0, near[1] * part.scale)
        top, bottom = max(0.0, row - radius), min(bottom, row + radius + 1)
        left, right = max(0.0, column - radius), min(right, column + radius + 1)
    found: list[tuple[float, float]] = []
    while len(found) < count:
        row, column = rng.uniform(top, bottom), rng.uniform(left, right)
        if part.inside[int(row), int(column)] > margin:
            found.append((row, column))
    return found


def _window(
    shape: tuple[int, ...], row: float, column: float, radius: int
) -> tuple[tuple[slice, slice], tuple[Array, Array]]:
    """The part of an array around a position, cut at its borders, and its rows (n, 1) and columns (1, m)."""
    top, bottom = (min(max(0, int(row) + reach), shape[0]) for reach in (-radius, radius + 1))
    left, right = (min(max(0, int(column) + reach), shape[1]) for reach in (-radius, radius + 1))
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    columns = np.arange(left, right, dtype=np.float32)[None]
    return (slice(top, bottom), slice(left, right)), (rows, columns)


def curve(rng: np.random.Generator, part: Geometry, length: float, bend: float) -> Array:
    """A smooth random curve across the metal, (25, 2) rows and columns in pixels; `bend` in radians.

    >>> from anomalib_lite.data.rendered.zipper_parts import geometry
    >>> part, rng = geometry(1, (160, 120)), np.random.default_rng(0)
    >>> steps = np.diff(curve(rng, part, length=0.2, bend=0.5), axis=0)
    >>> round(float(np.hypot(*steps.T).sum() / part.scale), 3)
    0.2
    """
    (middle,) = places(rng, part, count=1, margin=0.012)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.02, 25)) + np.linspace(0, bend, 25)
    steps = np.stack([np.sin(heading), np.cos(heading)], axis=1) * (length * part.scale / 24)
    path = np.cumsum(steps, axis=0)
    return (np.array(middle) + path - path[12]).astype(np.float32)


def line_profile(points: Array, shape: tuple[int, ...], width: float, depth: Array) -> Array:
    """A soft line (H, W) `width` pixels to each side of a curve, as high as `depth` (a value a point).

    >>> points = np.array([[2.0, 1.0], [2.0, 5.0]])
    >>> line_profile(points, (5, 7), 1.0, np.array([0.5, 1.0]))[2, 1:6].round(3).tolist()
    [0.5, 0.625, 0.75, 0.875, 1.0]
    """
    line = np.zeros(shape, dtype=np.float32)
    for start, end, first, last in zip(points[:-1], points[1:], depth[:-1], depth[1:], strict=True):
        middle, step = (start + end) / 2, end - start
        reach = int(np.abs(step).max() / 2 + 3 * width) + 2
        window, (rows, columns) = _window(shape, middle[0], middle[1], reach)
        if rows.size * columns.size == 0:
            continue
        along = np.clip(((rows - start[0]) * step[0] + (columns - start[1]) * step[1]) / (step @ step), 0, 1)
        squared = (rows - start[0] - along * step[0]) ** 2 + (columns - start[1] - along * step[1]) ** 2
        line[window] = np.maximum(
            line[window], (first + along * (last - first)) * np.exp(-squared / width**2)
        )
    return line


def _hairline(
    rng: np.random.Generator, surface: Surface, part: Geometry, *, slope: float, width: float, length: float
) -> Array:
    """Cut one fine line; returns its profile, 0..1."""
    pixels = max(0.8, width * part.scale)
    fade = np.sin(np.linspace(0.12, np.pi - 0.12, 25)) ** 0.6 * rng.uniform(0.55, 1.0, 25)
    points = curve(rng, part, length, bend=rng.normal(0, 0.5))
    line = line_profile(points, surface.height.shape, pixels, fade.astype(np.float32))
    surface.height -= line * np.float32(1.17 * slope * pixels / part.scale)
    return line
