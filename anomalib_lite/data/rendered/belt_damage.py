"""What breaks a rendered capsule: an end snapped off, or the shell chipped and cracked; powder runs out."""

from __future__ import annotations

import numpy as np

from anomalib_lite.data.rendered.belt_layout import Item
from anomalib_lite.data.rendered.belt_light import AMBIENT, LAMPS, Array
from anomalib_lite.data.rendered.belt_parts import Drawn, Patch, from_axis, shadows
from anomalib_lite.data.rendered.belt_surface import loop_noise

POWDER = np.array([0.86, 0.80, 0.66], np.float32)
SNAP_FROM = 0.5  # strength from which an end is off


def break_capsule(item: Item, patch: Patch, whole: Drawn) -> Drawn:
    """The capsule drawn `whole`, broken as plainly as its strength says."""
    rng = np.random.default_rng([*item.key, 1])
    light = np.zeros((*whole.where.shape, 3), np.float32)
    alpha = np.zeros(whole.where.shape, np.float32)
    light[whole.where], alpha[whole.where] = whole.light, whole.alpha
    outline = from_axis(item, patch) - np.float32(item.radius)
    inside = _inside(item, light, outline)
    if item.strength >= SNAP_FROM:
        severity = (item.strength - SNAP_FROM) / (1 - SNAP_FROM)
        return _snap(rng, item, patch, (light, alpha, inside), outline, severity)
    return _crack(rng, item, patch, (light, alpha, inside), outline, item.strength / SNAP_FROM, whole.shadows)


def _snap(
    rng: np.random.Generator,
    item: Item,
    patch: Patch,
    shell: tuple[Array, Array, Array],
    outline: Array,
    severity: float,
) -> Drawn:
    """An end broken off: a ragged edge, the hollow shell, a heap of powder."""
    light, alpha, inside = shell
    side = np.float32(rng.choice((-1.0, 1.0)))
    u, v = side * patch.along, patch.across
    length = item.half_length + item.radius
    cut = np.float32(length * (0.62 - 0.60 * severity + rng.uniform(-0.06, 0.06)))
    upper = cut + _ragged(rng, v, 1.5)
    lower = upper + np.maximum(0, np.float32(rng.uniform(2.0, 5.0)) + _ragged(rng, v, 1.2))  # the underside
    remains = patch.cover(u - upper) * alpha
    rim = np.exp(-(((u - upper + 0.45) / 0.5) ** 2))[..., None]
    light = light * (1 - 0.35 * rim) + 0.14 * rim * POWDER
    hollow = patch.cover(np.maximum(outline + 0.6, u - lower))
    light, cover = _over(inside, hollow, light, remains)
    long = 5.0 + 9.0 * severity
    heap = _heap(u - cut - 0.55 * np.float32(long), v - np.float32(rng.normal(0, 2)), long, 0.75 * long)
    powder_light, powder = _powder(rng, patch, heap)
    powder = powder * (1 - remains)
    light, cover = _over(light, cover, powder_light, powder)
    gone = alpha * (1 - remains)
    anomalous = np.maximum(np.maximum(gone, powder), remains * (rim[..., 0] > 0.3))
    still_there = np.clip((cut + 6 - u) / 6, 0, 1)  # nothing casts a shadow beyond the edge
    left = tuple(field * still_there for field in shadows(item, patch, outline))
    return _packed(light, cover, left, anomalous)


def _crack(
    rng: np.random.Generator,
    item: Item,
    patch: Patch,
    shell: tuple[Array, Array, Array],
    outline: Array,
    severity: float,
    whole_shadows: tuple[Array, ...],
) -> Drawn:
    """A chip out of the shell with cracks around it; a little powder shows."""
    light, alpha, inside = shell
    u = patch.along - np.float32(rng.uniform(-0.8, 0.8) * item.half_length)
    v = patch.across - np.float32(rng.uniform(-0.45, 0.45) * item.radius)
    size = np.float32(0.5 + 4.2 * severity**1.3)
    hole = np.hypot(u / 1.25, v) - size * (1 + _lobes(rng, np.arctan2(v, u)))
    direction, lines = rng.uniform(0, 2 * np.pi), np.full_like(hole, 99)
    for branch in range(1 + int(severity > 0.5)):
        length = (7.0 + 9.0 * severity) * rng.uniform(0.8, 1.1)
        turn = direction + branch * rng.uniform(1.8, 2.8)
        lines = np.minimum(lines, _crooked_line(rng, u, v, turn, length))
    lines -= np.float32(0.16 + 0.34 * severity)  # half of its width
    damage = patch.cover(np.maximum(np.minimum(hole, lines), outline + 0.3))
    grains = _grain(rng, patch)
    filled = patch.cover(hole + 0.35 * size + 0.3 * grains)
    inside = np.maximum(inside, ((0.34 + 0.14 * grains) * filled)[..., None] * POWDER)
    # the shell bends up beside the crack and catches the light
    lifted = np.exp(-((np.minimum(hole, lines) / 0.5) ** 2)) * (1 - damage) * patch.cover(outline + 0.5)
    lifted *= np.float32(0.10 + 0.22 * severity)
    light = light * (1 + lifted[..., None]) + 0.08 * lifted[..., None]
    light += (np.float32(0.50 + 0.40 * severity) * damage)[..., None] * (inside - light)
    spill = _heap(u - size, v, 1.5 + 4 * severity, 1.5 + 3 * severity) - np.float32(0.55 * (1 - severity))
    powder_light, powder = _powder(rng, patch, spill)
    light, alpha = _over(light, alpha, powder_light, powder)
    anomalous = np.maximum(np.maximum(damage, powder), (lifted > 0.06).astype(np.float32))
    return _packed(light, alpha, whole_shadows, anomalous)


def _packed(light: Array, alpha: Array, taken: tuple[Array, ...], anomalous: Array) -> Drawn:
    where = alpha > 0
    return Drawn(where, light[where].astype(np.float32), alpha[where], taken, anomalous.astype(np.float32))


def _inside(item: Item, outside: Array, outline: Array) -> Array:
    """The far wall of the hollow shell: in its own shade, darkest in the middle, where it is deepest."""
    up = np.sqrt(np.clip(1 - (1 + outline / item.radius) ** 2, 0, 1))
    return 0.55 * np.minimum(outside, 0.5) * (1 - 0.55 * up)[..., None]


def _ragged(rng: np.random.Generator, v: Array, height: float) -> Array:
    """A torn edge over `v`, in units, at most 5."""
    edge = np.zeros_like(v)
    for waves_per_unit in (0.07, 0.15, 0.32, 0.6, 1.0):
        amplitude = np.float32(rng.normal(0, 0.07 / waves_per_unit))
        phase = np.float32(rng.uniform(0, 2 * np.pi))
        edge += amplitude * np.sin(np.float32(2 * np.pi * waves_per_unit) * v + phase)
    return np.clip(np.float32(height) * edge, -5, 5)


def _lobes(rng: np.random.Generator, turn: Array) -> Array:
    """How an irregular outline departs from a circle, by direction, as a share of its radius."""
    waves = ((0.30, 2), (0.22, 3), (0.15, 5), (0.12, 9))
    phases = rng.uniform(0, 2 * np.pi, len(waves)).astype(np.float32)
    departures = [
        share * np.sin(wave * turn + phase) for (share, wave), phase in zip(waves, phases, strict=True)
    ]
    return np.sum(departures, axis=0)


def _crooked_line(rng: np.random.Generator, u: Array, v: Array, direction: float, length: float) -> Array:
    """Distance to a crooked line from (0, 0), in units."""
    turns = direction + np.cumsum(rng.normal(0, 0.35, 5))
    steps = (length / 5 * np.stack([np.cos(turns), np.sin(turns)], axis=1)).astype(np.float32)
    distance, start = np.full_like(u, 99), np.zeros(2, np.float32)
    for step in steps:
        du, dv = u - start[0], v - start[1]
        part = np.clip((du * step[0] + dv * step[1]) / np.float32(step @ step), 0, 1)
        distance = np.minimum(distance, np.hypot(du - part * step[0], dv - part * step[1]))
        start = start + step
    return distance


def _heap(u: Array, v: Array, long: float, wide: float) -> Array:
    """Thickness of a heap of powder around (0, 0), 1 in its middle."""
    return np.exp(-((u / np.float32(long)) ** 2) - (v / np.float32(wide)) ** 2)


def _grain(rng: np.random.Generator, patch: Patch) -> Array:
    fine, coarse = (loop_noise(rng, patch.x.shape, (sigma * patch.density,) * 2) for sigma in (0.35, 1.6))
    return np.float32(0.7) * (fine + coarse)


def _powder(rng: np.random.Generator, patch: Patch, heap: Array) -> tuple[Array, Array]:
    """Light (h, w, 3) and coverage (h, w) of powder as thick as `heap`, with stray grains around it."""
    grains = _grain(rng, patch)
    cover = np.clip((heap - 0.42 + 0.16 * grains) * 5, 0, 1)
    strays = np.clip((grains - 1.8 + 1.2 * heap) * 2.5, 0, 1)
    lit = AMBIENT + sum(lamp.strength for lamp in LAMPS)
    shade = np.float32(0.62 * lit) * np.clip(0.85 + 0.16 * grains + 0.25 * heap, 0.3, 1.3)
    return shade[..., None] * POWDER, np.maximum(cover, strays) * (heap > 0.06)


def _over(below: Array, below_alpha: Array, above: Array, above_alpha: Array) -> tuple[Array, Array]:
    """One layer over another: light (h, w, 3) and coverage (h, w) of both."""
    alpha = above_alpha + below_alpha * (1 - above_alpha)
    share = (above_alpha / np.maximum(alpha, 1e-6))[..., None]
    return below + share * (above - below), alpha
