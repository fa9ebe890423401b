"""The four defects of zipper cursors, put into a surface; each returns where it changes what is seen."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from anomalib_lite.data.rendered.zipper_outlines import Array
from anomalib_lite.data.rendered.zipper_parts import Colour, Family, Geometry
from anomalib_lite.data.rendered.zipper_surface import Surface, cloud, curve, line_profile, places

COMPOUNDS: tuple[Colour, ...] = (
    (0.46, 0.44, 0.39),
    (0.25, 0.29, 0.22),
    (0.30, 0.22, 0.15),
    (0.42, 0.43, 0.46),
)
TINTS: tuple[Colour, ...] = ((0.34, 0.46, 0.90), (0.80, 0.48, 0.22), (0.50, 0.36, 0.62), (0.40, 0.40, 0.37))


def between(low: float, high: float, strength: float) -> float:
    """The value at `strength` (0..1) on a geometric scale from `low` to `high`.

    >>> between(1.0, 100.0, 0.5)
    10.0
    """
    return float(low * (high / low) ** strength)


def add_bubble(
    rng: np.random.Generator, surface: Surface, family: Family, part: Geometry, strength: float
) -> Array:
    """Blisters under the plating: one to four smooth domes; their support (H, W), 0.5 at its border."""
    support = np.zeros_like(surface.height)
    (centre,) = places(rng, part, count=1, margin=0.02)
    for number in range(1 + int(rng.integers(0, 4))):
        radius = between(0.014, 0.040, strength) * rng.uniform(0.75, 1.3) * (1.0 if number == 0 else 0.55)
        if number > 0:
            ((row, column),) = places(rng, part, count=1, margin=0.012, near=(centre, 0.10))
        else:
            row, column = centre
        u, v = _turned(rng, part, row, column, squeeze=rng.uniform(0.75, 1.0))
        angle = np.arctan2(v, u)
        wobble = (
            1 + 0.08 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(3 * angle + rng.uniform(0, 6))
        )
        distance = np.hypot(u, v) / (radius * wobble)
        slope = between(0.16, 0.90, strength)
        surface.height += np.float32(slope * radius / 1.54) * np.clip(1 - distance**2, 0, 1) ** 2
        support = np.maximum(support, np.clip(0.5 + (0.97 - distance) * radius * part.scale, 0, 1))
    return support


def add_residue(
    rng: np.random.Generator, surface: Surface, family: Family, part: Geometry, strength: float
) -> Array:
    """A smear of polishing compound that dulls, covers and lies thickest in the engravings; its support."""
    ((row, column),) = places(rng, part, count=1, margin=0.02)
    shape = surface.height.shape
    size = between(0.038, 0.100, strength) * rng.uniform(0.8, 1.35)
    u, v = _turned(rng, part, row, column, squeeze=rng.uniform(0.35, 0.9))
    distance = np.hypot(u, v) / size
    ragged = 0.36 * cloud(rng, shape, 0.05 * part.scale, octaves=5)
    edge = 1 - distance + ragged * np.clip(3 * distance, 0, 1)  # never without a middle
    spread = _step(edge / 0.45)
    streaks = cv2.blur(rng.standard_normal(shape, dtype=np.float32), (max(3, int(0.02 * part.scale)), 1))
    body = np.clip(0.75 + 0.22 * cloud(rng, shape, 0.018 * part.scale, octaves=3) + 0.3 * streaks, 0.1, 1)
    amount = between(0.15, 0.75, strength) * (0.45 if max(family.finish.paint) > 0 else 1.0)  # shows on black
    deposit = amount * spread * body * (1 + 0.9 * part.recess)
    surface.film_colour = COMPOUNDS[int(rng.integers(len(COMPOUNDS)))]
    surface.film = np.clip(np.maximum(surface.film, deposit), 0, 1)
    surface.dull = np.clip(surface.dull + between(0.25, 0.9, strength) * spread * body, 0, 1)
    return np.clip(0.5 + (edge - 0.14) * 4, 0, 1)


def add_halo(
    rng: np.random.Generator, surface: Surface, family: Family, part: Geometry, strength: float
) -> Array:
    """A ring of discolouration: about a hole, along the edge, or where a drop of water dried; its support."""
    shape = surface.height.shape
    kind = rng.choice(["hole", "edge", "drop"], p=[0.35, 0.2, 0.45])
    wobble = cloud(rng, shape, 0.09 * part.scale, octaves=3)
    ((row, column),) = places(rng, part, count=1, margin=0.03)
    width = between(0.013, 0.026, strength) * rng.uniform(0.8, 1.3)
    if kind == "hole":
        distance = part.holes - rng.uniform(0.016, 0.040) + 0.006 * wobble
        reach = np.ones(shape, dtype=np.float32)
    elif kind == "edge":
        distance = part.inside - rng.uniform(0.020, 0.045) + 0.006 * wobble
        u, v = _turned(rng, part, row, column, squeeze=1.0)
        nearest = np.hypot(u, v)
        start = float(np.min(np.where(np.abs(distance) < width, nearest, np.inf)))
        reach = _step((start + rng.uniform(0.10, 0.2) - nearest) / 0.05)
    else:
        u, v = _turned(rng, part, row, column, squeeze=rng.uniform(0.75, 1.0))
        distance = np.hypot(u, v) - between(0.028, 0.060, strength) * rng.uniform(0.8, 1.3) + 0.007 * wobble
        reach = np.ones(shape, dtype=np.float32)
    outer = _step(1 - np.abs(distance) / (0.45 * width))  # sharp: where the drop stood
    inner = np.where(distance < 0, _step(1 + distance / (2.2 * width)), 0) if kind == "drop" else 0.0
    ring = reach * np.maximum(outer, 0.45 * inner) * np.clip(0.8 + 0.25 * wobble, 0.3, 1)
    amount = between(0.40, 1.0, strength)
    surface.stain = (amount * ring).astype(np.float32)
    surface.stain_colour = TINTS[int(rng.integers(len(TINTS)))]
    surface.film_colour = COMPOUNDS[0]
    veil = between(0.10, 0.40, strength) * (
        1.0 if max(family.finish.paint) > 0 else 0.12
    )  # tints don't show on black
    surface.film = np.maximum(surface.film, np.float32(veil) * ring)
    surface.dull = np.clip(surface.dull + 0.15 * amount * ring, 0, 1)
    return np.clip(0.5 + (ring - 0.15) * 4, 0, 1)


def add_scratch(
    rng: np.random.Generator, surface: Surface, family: Family, part: Geometry, strength: float
) -> Array:
    """One to three thin curved grooves of varying depth, through a coat down to the metal; their support."""
    support = np.zeros_like(surface.height)
    for number in range(1 + int(rng.integers(0, 3))):
        weaker = 1.0 if number == 0 else rng.uniform(0.4, 0.9)
        width = between(0.0016, 0.0030, strength) * rng.uniform(0.85, 1.2)
        pixels = max(0.8, width * part.scale)
        length = between(0.10, 0.36, strength) * weaker * rng.uniform(0.7, 1.3)
        depth = weaker * np.sin(np.linspace(0.1, np.pi - 0.1, 25)) ** 0.5 * rng.uniform(0.55, 1.0, 25)
        points = curve(rng, part, length, bend=rng.normal(0, 0.6))
        line = line_profile(points, support.shape, pixels, depth.astype(np.float32))
        surface.height -= line * np.float32(1.17 * between(0.28, 1.6, strength) * pixels / part.scale)
        surface.patina *= 1 - np.float32(between(0.25, 0.9, strength)) * line
        if max(family.finish.paint) > 0:  # bare metal shows
            surface.film = np.maximum(surface.film, np.float32(between(0.02, 0.30, strength)) * line)
        trace = line_profile(points, support.shape, pixels, np.ones(25, dtype=np.float32))
        support = np.maximum(support, np.clip(0.5 + (trace - 0.12) * 2, 0, 1))
    return support


def _turned(
    rng: np.random.Generator, part: Geometry, row: float, column: float, *, squeeze: float
) -> tuple[Array, Array]:
    """Coordinates about a pixel along two random axes, the second one squeezed."""
    height, width = part.body.shape
    x = part.x - np.float32((column - (width - 1) / 2) / part.scale)
    y = part.y - np.float32((row - (height - 1) / 2) / part.scale)
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * y, (cosine * y - sine * x) / np.float32(squeeze)


def _step(value: Array) -> Array:
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


ADD_DEFECT: dict[str, Callable[[np.random.Generator, Surface, Family, Geometry, float], Array]] = {
    "bubble": add_bubble,
    "residue": add_residue,
    "halo": add_halo,
    "scratch": add_scratch,
}
