"""Six families of zipper cursors: outline, relief, metal finish, and the bench they are photographed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from anomalib_lite.data.rendered.zipper_outlines import (
    Array,
    box,
    capsule,
    circle,
    groove,
    leaf,
    polygon,
    repeat_angle,
    smooth_union,
    strokes,
    text,
)

Colour = tuple[float, float, float]  # linear RGB


@dataclass(frozen=True, slots=True)
class Finish:
    """How the surface of a family reflects; slopes are tangents, roughness is that of a GGX lobe."""

    metal: Colour  # reflectance at normal incidence
    roughness: tuple[float, float]  # along and across the brushing; equal where there is none
    brushing: float = 0.0  # slope of the visible brush lines, which run along x
    grain: float = 0.02  # slope of the visible grain
    grain_size: float = 0.002  # in parts of the picture's height
    waviness: float = 0.012  # slope of the unevenness that tools and casting leave, a few grains wide
    ripple: float = 0.008  # slope of the slow waves that polishing leaves
    uneven: float = 0.15  # how much the gloss varies over one part and between parts
    patina: float = 0.0  # how much dark oxide lies in the recesses
    paint: Colour = (0.0, 0.0, 0.0)  # diffuse albedo of a coat


@dataclass(frozen=True, slots=True)
class Bench:
    """The surface under the part: it stays where it is, as the camera does."""

    colour: Colour  # diffuse albedo
    contrast: float
    stretch: int  # length of the fibres in multiples of their width: 1 speckle, 40 brushed or wooden


@dataclass(frozen=True, slots=True)
class Family:
    """Everything that the pictures of one set have in common; lengths are parts of the picture's height."""

    name: str
    shape: Callable[[Array, Array], Shape]
    finish: Finish
    bench: Bench
    edge: float  # radius of the rounded edges
    dome: float  # how far the middle of the face rises
    rotation: float  # largest rotation of a part, degrees
    shift: float  # largest shift of a part
    exposure: float  # gain of the camera


@dataclass(frozen=True, slots=True)
class Shape:
    """A part seen from above; distances are negative inside, all arrays are (H, W) float32."""

    outline: Array
    holes: Array  # distance to the nearest hole
    relief: Array  # height of what is raised (> 0) or engraved (< 0)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What all pictures of a family share at one size, in the pose of the reference; (H, W) float32."""

    scale: float  # pixels in one unit of length
    x: Array  # units, 0 in the middle
    y: Array
    inside: Array  # distance to the nearest edge, positive on the metal
    holes: Array  # distance to the nearest hole, negative in it
    coverage: Array  # 1 on the part, 0 beside it, antialiased between
    body: Array  # height without engravings, units
    relief: Array  # height of the engravings, units
    recess: Array  # 0 on open faces .. 1 deep in an engraving


def _drop(x: Array, y: Array) -> Shape:
    outline = capsule(x, y, (-0.36, 0.0), (0.27, 0.0), (0.13, 0.235))
    holes = circle(x, y, (-0.375, 0.0), 0.068)
    border = groove(np.abs(np.maximum(outline, -holes) + 0.042), 0.009, 0.007)
    letters = groove(text(x, y, "ALTA", (0.19, 0.0), 0.115), 0.011, 0.008)
    window = groove(capsule(x, y, (-0.235, 0.0), (-0.135, 0.0), (0.028, 0.036)), 0.0, 0.02)
    return Shape(outline, holes, -0.008 * border - 0.010 * letters - 0.016 * window)


def _slider(x: Array, y: Array) -> Shape:
    half = [(-0.45, -0.13), (-0.41, -0.25), (-0.2, -0.245), (0.22, -0.155), (0.44, -0.145), (0.45, -0.1)]
    outline = polygon(x, y, half + [(px, -py) for px, py in reversed(half)], rounding=0.045)
    holes = np.minimum(
        capsule(x, y, (-0.56, 0.0), (-0.36, 0.0), (0.07, 0.028)), circle(x, y, (0.40, 0.0), 0.034)
    )
    bridge = capsule(x, y, (-0.2, 0.0), (0.24, 0.0), (0.075, 0.06))
    crown = np.sqrt(np.clip(1 - (1 + np.minimum(bridge, 0) / 0.06) ** 2, 0, 1))
    flank = np.abs(y) + 0.14 * x
    rails = groove(np.abs(flank - 0.196), 0.006, 0.005) * (np.abs(x + 0.1) < 0.33)
    letters = groove(text(x, y, "NOVA", (-0.03, 0.0), 0.062), 0.0075, 0.005)
    seat = groove(bridge - 0.016, 0.0, 0.012) * (bridge > -0.01)
    return Shape(outline, holes, 0.045 * crown - 0.006 * rails - 0.007 * letters - 0.006 * seat)


def _leaf(x: Array, y: Array) -> Shape:
    outline = smooth_union(leaf(x - 0.06, y, 0.42, 0.245), circle(x, y, (-0.38, 0.0), 0.105), 0.06)
    holes = circle(x, y, (-0.385, 0.0), 0.055)
    radius, angle = np.hypot(x - 0.06, y), np.arctan2(y, x - 0.06)
    px, py = repeat_angle(radius, angle, 10)
    petals = groove(leaf(px - 0.088, py, 0.05, 0.021), 0.0, 0.013)
    rosette = groove(np.abs(radius - 0.155), 0.007, 0.006) + groove(np.abs(radius - 0.024), 0.006, 0.005)
    veins = [[(0.23, 0.0), (0.42, 0.0)]]
    veins += [[(c, 0.0), (c + 0.055, t * 0.062)] for c in (0.25, 0.295, 0.34) for t in (-1, 1)]
    veins += [[(-0.27, 0.0), (-0.13, 0.0)], [(-0.25, -0.03), (-0.14, -0.06)], [(-0.25, 0.03), (-0.14, 0.06)]]
    lines = groove(strokes(x, y, veins), 0.008, 0.006)
    rope = groove(np.abs(outline + 0.03), 0.011, 0.008) * (0.55 + 0.45 * np.sin(95 * x + 70 * np.abs(y)))
    rope = rope * np.clip((x + 0.24) / 0.03, 0, 1)
    return Shape(outline, holes, -0.011 * petals - 0.008 * rosette - 0.008 * lines + 0.007 * rope)


def _tag(x: Array, y: Array) -> Shape:
    corners = [(-0.45, -0.13), (-0.37, -0.21), (0.37, -0.21), (0.45, -0.13)]
    outline = polygon(x, y, corners + [(px, -py) for px, py in reversed(corners)], rounding=0.02)
    holes = box(x, y, (-0.33, 0.0), (0.035, 0.105), 0.03)
    plate = box(x, y, (0.085, 0.0), (0.30, 0.13), 0.02)
    letters = groove(text(x, y, "VELOX", (0.085, 0.0), 0.115), 0.014, 0.009)
    pits = np.minimum(circle(np.abs(x - 0.085), np.abs(y), (0.245, 0.095), 0.012), 0.1)
    relief = -0.012 * groove(plate, 0.0, 0.012) + 0.010 * letters - 0.008 * groove(pits, 0.0, 0.008)
    return Shape(outline, holes, relief)


def _ring(x: Array, y: Array) -> Shape:
    disc = circle(x, y, (0.22, 0.0), 0.255)
    stem = box(x, y, (-0.24, 0.0), (0.24, 0.105), 0.06)
    outline = smooth_union(disc, stem, 0.09)
    holes = np.minimum(circle(x, y, (0.22, 0.0), 0.125), circle(x, y, (-0.395, 0.0), 0.05))
    radius, angle = np.hypot(x - 0.22, y), np.arctan2(y, x - 0.22)
    _, ticks = repeat_angle(radius, angle, 64)
    knurl = groove(np.abs(ticks), 0.0065, 0.005) * groove(np.abs(radius - 0.193), 0.033, 0.01)
    knurl = knurl * (np.abs(np.round(angle / (2 * np.pi / 64))) <= 19)
    letters = groove(text(x, y, "TEK", (-0.185, 0.0), 0.09), 0.011, 0.008)
    lip = groove(np.abs(circle(x, y, (-0.395, 0.0), 0.072)), 0.006, 0.005)
    return Shape(outline, holes, -0.007 * knurl - 0.010 * letters - 0.006 * lip)


def _wedge(x: Array, y: Array) -> Shape:
    half = [(-0.46, -0.1), (-0.4, -0.15), (0.32, -0.255), (0.45, -0.2)]
    outline = polygon(x, y, half + [(px, -py) for px, py in reversed(half)], rounding=0.035)
    holes = np.minimum(
        box(x, y, (-0.335, 0.0), (0.055, 0.06), 0.035), circle(x, np.abs(y), (0.345, 0.13), 0.026)
    )
    grip = groove(np.abs((x * 26) % 1 - 0.5) / 26, 0.012, 0.009) * groove(np.abs(x - 0.25) - 0.10, 0.0, 0.01)
    grip = grip * groove(np.abs(y) - 0.09, 0.0, 0.012)
    frame = groove(np.abs(box(x, y, (-0.06, 0.0), (0.185, 0.095), 0.04)), 0.006, 0.005)
    letters = groove(text(x, y, "MILA", (-0.06, 0.0), 0.085), 0.010, 0.007)
    return Shape(outline, holes, -0.010 * grip - 0.006 * frame - 0.009 * letters)


FAMILIES: dict[int, Family] = {
    1: Family(
        name="drop, polished nickel",
        shape=_drop,
        finish=Finish(
            metal=(0.80, 0.77, 0.72), roughness=(0.11, 0.11), grain=0.012, ripple=0.010, uneven=0.25
        ),
        bench=Bench(colour=(0.30, 0.31, 0.33), contrast=0.10, stretch=1),
        edge=0.030,
        dome=0.020,
        rotation=3.0,
        shift=0.020,
        exposure=0.8,
    ),
    2: Family(
        name="slider, brushed steel",
        shape=_slider,
        finish=Finish(metal=(0.72, 0.72, 0.71), roughness=(0.10, 0.28), brushing=0.07, grain=0.01),
        bench=Bench(colour=(0.10, 0.11, 0.12), contrast=0.25, stretch=1),
        edge=0.022,
        dome=0.012,
        rotation=2.5,
        shift=0.020,
        exposure=0.75,
    ),
    3: Family(
        name="leaf, antique brass",
        shape=_leaf,
        finish=Finish(metal=(0.84, 0.62, 0.32), roughness=(0.15, 0.15), grain=0.03, patina=0.85, uneven=0.25),
        bench=Bench(colour=(0.40, 0.31, 0.21), contrast=0.08, stretch=5),
        edge=0.034,
        dome=0.040,
        rotation=4.0,
        shift=0.025,
        exposure=0.8,
    ),
    4: Family(
        name="tag, matt black",
        shape=_tag,
        finish=Finish(
            metal=(0.075, 0.075, 0.078),
            roughness=(0.15, 0.15),
            grain=0.05,
            paint=(0.016, 0.016, 0.017),
            uneven=0.3,
        ),
        bench=Bench(colour=(0.52, 0.53, 0.52), contrast=0.05, stretch=1),
        edge=0.020,
        dome=0.010,
        rotation=3.0,
        shift=0.020,
        exposure=0.85,
    ),
    5: Family(
        name="ring, satin gunmetal",
        shape=_ring,
        finish=Finish(metal=(0.42, 0.43, 0.46), roughness=(0.17, 0.17), grain=0.055, grain_size=0.0016),
        bench=Bench(colour=(0.16, 0.25, 0.22), contrast=0.10, stretch=1),
        edge=0.045,
        dome=0.018,
        rotation=5.0,
        shift=0.025,
        exposure=0.6,
    ),
    6: Family(
        name="wedge, rose gold",
        shape=_wedge,
        finish=Finish(
            metal=(0.88, 0.55, 0.41), roughness=(0.11, 0.17), brushing=0.025, grain=0.02, uneven=0.2
        ),
        bench=Bench(colour=(0.30, 0.30, 0.31), contrast=0.12, stretch=40),
        edge=0.026,
        dome=0.016,
        rotation=3.5,
        shift=0.022,
        exposure=0.92,
    ),
}


@lru_cache(maxsize=2)
def geometry(set_number: int, size: tuple[int, int]) -> Geometry:
    """The geometry of a family for photographs of `size` = (width, height) pixels, computed once.

    >>> part = geometry(1, (160, 120))
    >>> part.body.shape, round(float(part.coverage.mean()), 2)
    ((120, 160), 0.25)
    """
    family = FAMILIES[set_number]
    width, height = size
    scale = min(height, 0.75 * width)
    columns = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / scale
    rows = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / scale
    x, y = (grid.astype(np.float32) for grid in np.meshgrid(columns, rows))
    shape = family.shape(x, y)
    inside = -np.maximum(shape.outline, -shape.holes)
    coverage = np.clip(0.5 + inside * scale, 0, 1)
    roundness = np.clip(1 - np.clip(inside, 0, family.edge) / family.edge, 0, 1)
    edge = family.edge * 0.6 * np.sqrt(np.clip(1 - roundness**2.2, 0, 1))
    dome = cv2.GaussianBlur((shape.outline < 0).astype(np.float32), (0, 0), 0.11 * scale)
    relief = cv2.GaussianBlur(shape.relief.astype(np.float32), (0, 0), max(0.4, 0.0012 * scale))
    body = edge + 2 * family.dome * dome
    around = cv2.GaussianBlur(relief, (0, 0), 0.014 * scale)
    recess = np.clip((around - relief) / 0.006, 0, 1)
    arrays = (x, y, inside, shape.holes, coverage, body, relief, recess)
    return Geometry(scale, *(np.ascontiguousarray(array, dtype=np.float32) for array in arrays))
