"""How a capsule and a metal ring look from above, lit by the lamps over the rendered belt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomalib_lite.data.rendered.belt_layout import Item, View
from anomalib_lite.data.rendered.belt_light import AMBIENT, LAMP_HEIGHT, LAMPS, Array, irradiance, mirrored
from anomalib_lite.data.rendered.belt_surface import loop_noise

RED, IVORY, AMBER, GREEN = (
    np.array(colour, np.float32)
    for colour in ((0.47, 0.022, 0.030), (0.80, 0.73, 0.58), (0.72, 0.25, 0.022), (0.035, 0.24, 0.13))
)
PRODUCTS = ((RED, IVORY), (RED, IVORY), (GREEN, IVORY), (AMBER, AMBER))  # (cap, body), equally likely
STEEL, BRASS, BLACKENED = (
    np.array(colour, np.float32) for colour in ((0.62, 0.60, 0.58), (0.72, 0.52, 0.24), (0.085, 0.085, 0.09))
)
CAP_RADIUS = 1.045  # the cap slides over the body
REACH = 24.0  # units around an item that its shadow and its powder may touch
Direction = tuple[Array, Array, Array]  # a unit vector's parts along the frame's x and y, and up


@dataclass(frozen=True, slots=True)
class Patch:
    """The samples around an item, with their positions in units."""

    rows: slice
    columns: slice
    x: Array  # (h, w) from the frame's middle
    y: Array
    along: Array  # (h, w) from the item's middle, turned with it
    across: Array
    density: float  # samples per unit

    def cover(self, distance: Array) -> Array:
        """1 inside an outline, 0 outside, from the signed distance to it in units."""
        return np.clip(0.5 - distance * np.float32(self.density), 0, 1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """An item on its patch; light and coverage only `where` it is, for speed."""

    where: NDArray[np.bool_]  # (h, w)
    light: Array  # (n, 3)
    alpha: Array  # (n,)
    shadows: tuple[
        Array, ...
    ]  # (h, w) each: the share of every lamp's, then of the hall's light, that it takes
    anomalous: Array  # (h, w), 0..1: where it differs from a good part, or from the empty belt


def patch_of(item: Item, start: float, view: View) -> Patch | None:
    """The item's part of the frame whose left edge lies `start` units along the belt, if any."""
    density, (rows, columns) = view.density, view.shape
    middle = np.array([(item.x - start) * density, item.y * density + rows / 2])
    turns = np.abs([np.cos(item.angle), np.sin(item.angle)])
    reach = (item.half_length * turns + item.radius + REACH) * density
    low = np.clip(np.floor(middle - reach), 0, (columns, rows)).astype(int)
    high = np.clip(np.ceil(middle + reach), 0, (columns, rows)).astype(int)
    if (low >= high).any():
        return None
    x, y = np.meshgrid(*(np.arange(*ends, dtype=np.float32) + 0.5 for ends in zip(low, high, strict=True)))
    dx, dy = ((place - np.float32(centre)) / density for place, centre in zip((x, y), middle, strict=True))
    cosine, sine = np.float32(np.cos(item.angle)), np.float32(np.sin(item.angle))
    return Patch(
        slice(int(low[1]), int(high[1])),
        slice(int(low[0]), int(high[0])),
        (x - columns / 2) / np.float32(density),
        (y - rows / 2) / np.float32(density),
        cosine * dx + sine * dy,
        cosine * dy - sine * dx,
        density,
    )


def from_axis(item: Item, patch: Patch) -> Array:
    """Distance from a capsule's axis, in units, (h, w)."""
    return np.hypot(np.maximum(np.abs(patch.along) - np.float32(item.half_length), 0), patch.across)


def draw_capsule(item: Item, patch: Patch) -> Drawn:
    """A whole capsule."""
    rng = np.random.default_rng([*item.key, 0])
    cap, body = PRODUCTS[int(rng.integers(len(PRODUCTS)))]
    tone = rng.normal(1, 0.025, 2).astype(np.float32)
    gloss = np.float32(rng.uniform(0.85, 1.15))
    joint = np.float32(rng.uniform(-2.0, 0.5))
    radius = np.where(patch.along > joint, np.float32(item.radius * CAP_RADIUS), np.float32(item.radius))
    distance = from_axis(item, patch)
    outline = distance - radius
    where = outline < 0.5 / patch.density
    x, y, u, v, radius = (part[where] for part in (patch.x, patch.y, patch.along, patch.across, radius))
    beyond = np.sign(u) * np.maximum(np.abs(u) - np.float32(item.half_length), 0)
    normal = _capsule_normal(rng, item, u, v, joint, (beyond / radius, v / radius))
    is_cap = patch.cover(joint - u)[:, None]
    colour = is_cap * cap * tone[0] + (1 - is_cap) * body * tone[1]
    # the cap's wall keeps light from the body just before it
    open_to_light = 1 - 0.55 * np.where(u < joint, np.exp(-np.maximum(joint - u, 0) / 0.9), 0)
    light = _gelatine((x, y), normal, colour, open_to_light, gloss)
    empty = np.zeros_like(outline)
    return Drawn(where, light, patch.cover(outline[where]), shadows(item, patch, outline), empty)


def draw_ring(item: Item, patch: Patch) -> Drawn:
    """A round or a flattened metal ring; the faint ones are thin and blackened."""
    rng = np.random.default_rng([*item.key, 0])
    thickness = np.float32((1.0 + 1.9 * item.strength) * rng.uniform(0.85, 1.15))  # half of it
    metal = STEEL if rng.random() < 0.65 else BRASS
    bright = np.float32(item.strength**0.7)
    metal = metal * bright + BLACKENED * (1 - bright)
    is_flat = rng.random() < 0.4
    scratches = 0.014 * loop_noise(rng, patch.x.shape, (1.2 * patch.density, 1.2 * patch.density))
    distance = np.hypot(patch.along, patch.across)
    outline = np.abs(distance - np.float32(item.radius)) - thickness
    where = outline < 0.5 / patch.density
    x, y, u, v, distance, scratches = (
        part[where] for part in (patch.x, patch.y, patch.along, patch.across, distance, scratches)
    )
    out = (distance - np.float32(item.radius)) / thickness  # -1 at the inner edge .. 1 at the outer
    tilt = np.clip(out**5 if is_flat else out, -0.98, 0.98) / np.maximum(distance, np.float32(1e-3))
    normal = turned(item, tilt * u + scratches, tilt * v - scratches)
    blur = 26 + 60 * (1 - item.strength)
    mirror = 0.75 * mirrored(x, y, normal, blur) + 0.5 * mirrored(x, y, normal, 220.0)
    hall = 0.12 + 0.20 * normal[2] ** 3
    light = ((mirror + hall)[:, None] * metal).astype(np.float32)
    return Drawn(
        where,
        light,
        patch.cover(outline[where]),
        shadows(item, patch, outline, height=float(thickness)),
        patch.cover(outline),
    )


def shadows(item: Item, patch: Patch, outline: Array, height: float | None = None) -> tuple[Array, ...]:
    """What an item `height` units high, at the signed distance `outline`, keeps from the belt; see `Drawn`."""
    height = item.radius if height is None else height
    fields = []
    for lamp in LAMPS:
        down = (item.y - lamp.y) / LAMP_HEIGHT * height  # along the frame's y, away from the lamp
        u = patch.along - np.float32(np.sin(item.angle) * down)
        v = patch.across - np.float32(np.cos(item.angle) * down)
        if item.kind == "ring":
            moved = np.abs(np.hypot(u, v) - np.float32(item.radius)) - np.float32(height)
        else:
            moved = np.hypot(np.maximum(np.abs(u) - np.float32(item.half_length), 0), v)
            moved -= np.float32(item.radius)
        softness = np.float32(0.13 * height + 0.25)
        fields.append(np.float32(0.88) / (1 + np.exp(np.clip(moved / softness, -30, 30))))
    contact = np.float32(0.75) * np.exp(-np.maximum(outline, 0) / np.float32(0.33 * height + 0.3))
    return (*fields, contact)


def turned(item: Item, along: Array, across: Array) -> Direction:
    """A unit normal from its horizontal parts along and across the item."""
    length = np.hypot(along, across)
    shorten = np.minimum(1, 0.995 / np.maximum(length, 1e-6))
    along, across = along * shorten, across * shorten
    cosine, sine = np.float32(np.cos(item.angle)), np.float32(np.sin(item.angle))
    up = np.sqrt(np.maximum(1 - along * along - across * across, 0))
    return cosine * along - sine * across, sine * along + cosine * across, up


def _capsule_normal(
    rng: np.random.Generator, item: Item, u: Array, v: Array, joint: np.float32, tilt: tuple[Array, Array]
) -> Direction:
    """`tilt` holds the plain shape's parts along and across; joint, groove and slight waves come on top."""
    lip = np.exp(-(((u - joint - 0.5) / 0.55) ** 2))  # the cap's edge faces the body
    groove = (u - joint - 5.2) / 0.9  # the ring that locks cap and body
    phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    waves = 0.016 * np.sin(0.31 * u + phase[0]) + 0.012 * np.sin(0.83 * u + 0.5 * v + phase[1])
    along = tilt[0] - 0.55 * lip + 0.16 * groove * np.exp(-groove * groove) + waves
    return turned(item, along, tilt[1] + 0.012 * np.sin(0.47 * u + phase[2]))


def _gelatine(
    position: tuple[Array, Array], normal: Direction, colour: Array, open_to_light: Array, gloss: np.float32
) -> Array:
    diffuse = AMBIENT * (0.35 + 0.65 * normal[2])
    for lamp in LAMPS:
        diffuse = diffuse + irradiance(lamp, *position, normal, wrap=0.22)
    diffuse = diffuse * open_to_light * (0.62 + 0.38 * normal[2])  # little light gets down beside the belt
    fresnel = 0.042 + 0.958 * (1 - normal[2]) ** 5
    mirror = mirrored(*position, normal, 14.0) + 0.10 * mirrored(*position, normal, 120.0)
    gleam = fresnel * (gloss * mirror * open_to_light + 0.10)
    return (diffuse[:, None] * colour + gleam[:, None]).astype(np.float32)
