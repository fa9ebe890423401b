"""Cut-outs that look like defects: each drawing takes a generator and a side, and gives uint8 (side, side, 4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anomalib_lite.data.drawing import (
    filled,
    grid,
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

STAINS = (
    (0.35, 0.18, 0.08),  # rust
    (0.16, 0.11, 0.07),  # oil
    (0.12, 0.12, 0.13),  # soot
    (0.45, 0.36, 0.20),  # dried water
    (0.20, 0.26, 0.12),  # algae
    (0.88, 0.87, 0.84),  # lime
)


def draw_crack(rng: np.random.Generator, side: int) -> np.ndarray:
    """A jagged dark line with branches, of uneven width, crumbling at its rims."""
    x_middle = np.full(2, side / 2)
    reach = 0.48 * side * rotation(rng.uniform(0, 2 * np.pi))[0]
    trunk = wandering(rng, x_middle - reach, x_middle + reach, rough=rng.uniform(0.06, 0.13))
    width = side * np.exp(rng.uniform(*np.log([0.009, 0.03])))
    core = stroke(trunk, _crack_widths(rng, width, tapers_in=rng.random() < 0.5), side)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        start = int(rng.integers(20, 110))
        along = trunk[min(start + 12, 128)] - trunk[start - 12]
        along /= max(float(np.hypot(*along)), 1e-6)
        turned = along @ rotation(rng.choice([-1, 1]) * rng.uniform(0.35, 1.1))
        branch = wandering(
            rng, trunk[start], trunk[start] + turned * side * rng.uniform(0.15, 0.4), rough=0.12
        )
        widths = _crack_widths(rng, 0.6 * width, tapers_in=False)
        core = np.maximum(core, stroke(branch, widths, side))
    grain = perlin(rng, side, 40, octaves=2)
    core = ragged(core, 0.7 * grain, reach=max(0.8, 0.2 * width))
    halo = soft(core, 0.8 * width) * rng.uniform(0.15, 0.5)  # rims that break away lie lower
    alpha = np.maximum(core * (0.92 + 0.1 * grain), halo)
    depth = rng.uniform(0.04, 0.18) * (
        1 + 0.8 * perlin(rng, side, 20)
    )  # daylight reaches down here and there
    return rgba(_tinted(rng, depth + 0.14 * (1 - core)), alpha)


def draw_scratch(rng: np.random.Generator, side: int) -> np.ndarray:
    """One to three thin bent lines that taper, bright where metal shows and dark along one side."""
    along = np.linspace(-1, 1, 65)
    turned, bend = rotation(rng.uniform(0, 2 * np.pi)), rng.uniform(-0.12, 0.12)
    light = bool(rng.random() < 0.6)
    groove = np.zeros((side, side), np.float32)
    shade = groove.copy()
    for number in range(rng.choice([1, 1, 2, 3])):
        length = side * 0.47 * (1 if number == 0 else rng.uniform(0.3, 0.9))
        width = max(2.0, side * rng.uniform(0.006, 0.014))
        shift = np.array([rng.uniform(-0.2, 0.2), 0.0 if number == 0 else rng.normal(0, 0.08)]) * side
        shift[0] *= number > 0
        line = np.stack([along * length, bend * length * along**2], axis=1) + shift
        pressure = 0.6 + 0.4 * np.interp(along, np.linspace(-1, 1, 9), rng.uniform(0, 1, 9))
        widths = width * np.sqrt(np.clip(1 - along**2, 0, 1)) * pressure
        groove = np.maximum(groove, stroke(line @ turned + side / 2, widths, side))
        beside = line + np.array([0, 0.8 * width])
        shade = np.maximum(shade, stroke(beside @ turned + side / 2, 0.8 * widths, side))
    bright, dark = rng.uniform(0.8, 1.0), rng.uniform(0.05, 0.3)
    inner, outer = (bright, dark) if light else (dark, bright)
    skips = (0.85 + 0.5 * perlin(rng, side, 24)).clip(0.25, 1)
    alpha = np.maximum(soft(groove, 0.7) * skips, rng.uniform(0.2, 0.5) * soft(shade, 1.0))
    return rgba(mixed([outer] * 3, [inner] * 3, soft(groove, 0.7) * 1.5), alpha)


def draw_blob(rng: np.random.Generator, side: int) -> np.ndarray:
    """A pit or a lump: irregular, opaque, lit from one side."""
    outline = round_outline(rng, np.full(2, side / 2), 0.45 * side, aspect=rng.uniform(0.45, 1), uneven=0.3)
    body = ragged(filled(outline, side), perlin(rng, side, 14, octaves=3), reach=0.02 * side)
    bump = rng.choice([-1, 1]) * rng.uniform(0.1, 0.3) * side * np.sqrt(soft(body, 0.1 * side))
    light = lit(
        bump + rng.uniform(0.5, 2) * perlin(rng, side, 9, octaves=3), rng, gloss=rng.choice([0.0, 0.3])
    )
    base = rng.uniform(0.1, 0.4) if rng.random() < 0.75 else rng.uniform(0.6, 0.85)
    rim = soft(body, 0.03 * side)
    return rgba(_tinted(rng, base * light), np.maximum(body, 0.4 * rim) * rng.uniform(0.85, 1))


def draw_pores(rng: np.random.Generator, side: int) -> np.ndarray:
    """A nest of small round holes, as gas leaves them in a casting, or grains that fell out of a surface."""
    holes, relief = (np.zeros((side, side), np.float32) for _ in range(2))
    for number in range(int(rng.integers(3, 12))):
        radius = side * (rng.uniform(0.05, 0.14) if number else 0.15)
        centre = np.clip(rng.normal(side / 2, 0.2 * side, 2), radius, side - radius)
        hole = filled(round_outline(rng, centre, radius, aspect=rng.uniform(0.6, 1), uneven=0.2), side)
        holes = np.maximum(holes, hole)
        relief -= 0.6 * radius * soft(hole, 0.3 * radius)
    depth = rng.uniform(0.08, 0.3)
    shade = depth + 0.35 * (lit(relief, rng) - 1)
    rim = soft(holes, 0.012 * side)
    inside = soft(holes, 0.03 * side) * holes
    return rgba(
        mixed([0.75] * 3, shade[..., None], (1.4 * rim).clip(0, 1)), np.maximum(0.9 * inside, 0.6 * rim)
    )


def draw_stain(rng: np.random.Generator, side: int) -> np.ndarray:
    """A translucent layer of oil, rust, soot or dried water, denser at its rim, with a few splashes."""
    outline = round_outline(rng, np.full(2, side / 2), 0.36 * side, aspect=rng.uniform(0.5, 1), uneven=0.35)
    body = filled(outline, side)
    for _ in range(rng.choice([0, 2, 5])):
        away = np.array([rng.uniform(0.36, 0.44) * side, 0]) @ rotation(rng.uniform(0, 2 * np.pi))
        splash = round_outline(rng, side / 2 + away, side * rng.uniform(0.015, 0.05), uneven=0.15)
        body = np.maximum(body, filled(splash, side))
    body = ragged(body, perlin(rng, side, 8, octaves=3), reach=side * rng.uniform(0.015, 0.05))
    body = soft(body, side * rng.uniform(0.008, 0.03))
    inner = soft(body, 0.06 * side)
    rim = np.clip(body - inner, 0, 1) * 2 * rng.uniform(0, 1)
    cloudy = 0.75 + 0.45 * perlin(rng, side, 5, octaves=4)
    alpha = np.clip(body * cloudy * rng.uniform(0.35, 0.8) + rim * body, 0, 0.9)
    colour = np.array(STAINS[rng.integers(len(STAINS))]) * rng.uniform(0.8, 1.2)
    return rgba(colour * (1 + 0.15 * perlin(rng, side, 12, octaves=2))[..., None], alpha)


def draw_missing_piece(rng: np.random.Generator, side: int) -> np.ndarray:
    """A piece broken out: angular, with a rough floor and a rim in light and shadow."""
    corners = int(rng.integers(5, 9))
    turn = np.sort(rng.uniform(0, 2 * np.pi / corners, corners) + np.arange(corners) * 2 * np.pi / corners)
    lengths = rng.uniform(0.26, 0.47, corners) * side
    points = side / 2 + np.stack([lengths * np.cos(turn), lengths * np.sin(turn)], axis=1)
    edges = [wandering(rng, points[i], points[(i + 1) % corners], rough=0.05)[:-1:4] for i in range(corners)]
    body = filled(np.concatenate(edges), side)
    floor = 0.12 * side * (1 - soft(body, 0.03 * side)) + 3 * perlin(rng, side, 6, octaves=4)
    shade = rng.uniform(0.2, 0.5) * lit(floor, rng) * (1 + 0.15 * perlin(rng, side, 60))
    return rgba(_tinted(rng, shade), soft(body, 0.6))


def draw_textured_patch(rng: np.random.Generator, side: int) -> np.ndarray:
    """Torn areas of Perlin noise, filled with a texture of two tones.

    Source: the noise masks of Zavrtanik, Kristan, Skocaj, "DRAEM" (2021).
    """
    x, y = grid(side)
    window = np.clip(1.25 - 1.5 * np.hypot(x, y), -1, 0.45)
    noise = perlin(rng, side, rng.uniform(2, 5), octaves=3)
    alpha = soft(np.clip((noise + window - 0.1) * 12, 0, 1).astype(np.float32), 1.0)
    first, second = rng.uniform(0.1, 0.85, (2, 1)) + rng.uniform(-0.03, 0.03, (2, 3))
    waves = perlin(rng, side, rng.uniform(6, 30), octaves=3)
    return rgba(mixed(first, second, 0.5 + 1.2 * waves), alpha * rng.uniform(0.7, 1))


def _tinted(rng: np.random.Generator, shade: np.ndarray) -> np.ndarray:
    """Colours (side, side, 3) of a grey shade that leans towards brown or, less often, blue."""
    warmth = rng.normal(0.05, 0.06)
    return shade[..., None] * np.array([1 + warmth, 1, 1 - warmth])


def _crack_widths(rng: np.random.Generator, width: float, *, tapers_in: bool) -> np.ndarray:
    """Widths (129,) along a crack that ends in nothing, and may begin so."""
    along = np.linspace(0, 1, 129)
    taper = np.clip((1 - along) * 2.5, 0, 1) ** 0.7
    if tapers_in:
        taper *= np.clip(along * 2.5, 0, 1) ** 0.7
    uneven = np.interp(along, np.linspace(0, 1, 49), rng.uniform(0.3, 1.7, 49))
    return np.maximum(width * taper * uneven, 1.2)


DEFECTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "scratch": draw_scratch,
    "crack": draw_crack,
    "blob": draw_blob,
    "pores": draw_pores,
    "stain": draw_stain,
    "missing piece": draw_missing_piece,
    "textured patch": draw_textured_patch,
}
