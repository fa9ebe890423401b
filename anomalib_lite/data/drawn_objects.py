"""Cut-outs that have nothing to do with any part: each drawing gives uint8 (side, side, 4)."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

from anomalib_lite.data.drawing import (
    filled,
    grid,
    lit,
    mixed,
    perlin,
    rgba,
    rotation,
    round_outline,
    soft,
    stroke,
)

METALS = ((0.72, 0.73, 0.75), (0.78, 0.62, 0.28), (0.62, 0.38, 0.24), (0.35, 0.36, 0.39))
LETTERS = "ABEGKMRSZ2345789&@#?"
FONTS = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX)


def draw_washer(rng: np.random.Generator, side: int) -> np.ndarray:
    """A flat metal ring with turning marks."""
    x, y = grid(side)
    radius = np.hypot(x, y)
    hole = rng.uniform(0.35, 0.6)
    body = _inside(0.95 - radius, side) * _inside(radius - hole, side)
    relief = 6 * soft(body, 3.0) + 0.12 * np.sin(radius * rng.uniform(90, 130))
    return rgba(_metal(rng, relief, side), body)


def draw_nut(rng: np.random.Generator, side: int) -> np.ndarray:
    """A hexagon nut from above, its thread in the hole."""
    x, y = grid(side)
    radius = np.hypot(x, y)
    turn = np.pi / 3 * np.arange(6)
    outline = side / 2 + 0.47 * side * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    hexagon = filled(outline, side)
    hole = rng.uniform(0.4, 0.5)
    body = hexagon * _inside(radius - hole, side)
    chamfer = 40 * np.clip(radius - 0.8, 0, 1)
    relief = 8 * soft(hexagon, 4.0) - chamfer + 5 * _inside(radius - hole - 0.06, side)
    return rgba(_metal(rng, relief, side), body)


def draw_screw(rng: np.random.Generator, side: int) -> np.ndarray:
    """A screw from the side: head, shank with thread, point."""
    x, y = grid(side)
    half, neck = rng.uniform(0.13, 0.2), rng.uniform(-0.66, -0.55)
    pitch = rng.uniform(50, 75)
    thread = half * (0.82 + 0.18 * np.abs(((x * pitch / 2 + y * 6) % 2) - 1))
    point = np.clip((0.97 - x) * rng.uniform(1.5, 4), 0, 1)
    shank = _inside(thread * point - np.abs(y), side) * _inside(x - neck, side)
    head_half = 2 * half
    head = _inside(head_half - np.abs(y) - 0.25 * np.clip(-x - 0.85, 0, 1), side)
    head = head * _inside(neck + 0.03 - x, side) * _inside(x + 0.97, side)
    body = np.maximum(shank, head)
    width = np.where(x < neck, head_half, np.maximum(half, 1e-3))
    bulge = np.sqrt(np.clip(1 - (y / width) ** 2, 0, 1)) * width * side / 2
    relief = bulge + 2.0 * np.sin(x * pitch * np.pi / 2 + y * 18) * (x > neck)
    return rgba(_metal(rng, relief.astype(np.float32), side), body)


def draw_leaf(rng: np.random.Generator, side: int) -> np.ndarray:
    """A leaf with its veins, green to autumn red."""
    along = np.linspace(0, 1, 60)
    bend, width = rng.uniform(-0.2, 0.2), rng.uniform(0.2, 0.36)
    middle = np.stack([0.06 + 0.8 * along, 0.5 + bend * np.sin(np.pi * along) * 0.5], axis=1) * side
    half = width * side * np.sin(np.pi * along**0.8) ** 0.8
    teeth = 1 + rng.uniform(0, 0.08) * np.abs(((along * 16) % 2) - 1)
    up, down = middle.copy(), middle.copy()
    up[:, 1] -= half * teeth
    down[:, 1] += half * teeth
    blade = filled(np.concatenate([up, down[::-1]]), side)
    stalk = stroke(
        np.array([[0.82 * side, middle[-1, 1]], [0.98 * side, middle[-1, 1] + 8]]), np.full(2, 6.0), side
    )
    veins = stroke(middle, np.linspace(2, 6, 60), side)
    for place in np.linspace(8, 52, 7).astype(int):
        for edge in (up, down):
            tip = edge[max(place - 8, 0)] * 0.9 + middle[place] * 0.1
            veins = np.maximum(veins, stroke(np.stack([middle[place], tip]), np.array([3.0, 1.5]), side))
    hue = rng.choice([0.27, 0.3, 0.2, 0.11, 0.05])
    green = np.array(colorsys.hsv_to_rgb(hue, 0.75, rng.uniform(0.4, 0.7)))
    light = lit(5 * perlin(rng, side, 8, octaves=3) - 4 * soft(veins, 2.0), rng)
    colour = mixed(green, green * 0.4 + 0.5, 0.7 * veins + stalk) * light[..., None]
    return rgba(colour, np.maximum(blade, stalk))


def draw_letter(rng: np.random.Generator, side: int) -> np.ndarray:
    """A printed letter or digit in a strong colour."""
    text, font = LETTERS[rng.integers(len(LETTERS))], FONTS[rng.integers(len(FONTS))]
    thick = int(rng.integers(side // 25, side // 11))
    (width, height), _ = cv2.getTextSize(text, font, 1.0, 1)
    size = 0.8 * side / max(width, height)
    canvas = np.zeros((side, side), np.uint8)
    corner = (round((side - width * size) / 2), round((side + height * size) / 2))
    cv2.putText(canvas, text, corner, font, size, 255, thick, cv2.LINE_AA)
    return rgba(_strong(rng), canvas.astype(np.float32) / 255)


def draw_ring(rng: np.random.Generator, side: int) -> np.ndarray:
    """A rubber ring, squeezed a little."""
    x, y = grid(side)
    squeeze = rng.uniform(0.65, 1)
    thick = rng.uniform(0.09, 0.17)
    away = np.hypot(x, y / squeeze) - (0.95 - thick)
    body = _inside(thick - np.abs(away), side)
    relief = side / 2 * np.sqrt(np.clip(thick**2 - away**2, 0, 1))
    colour = _strong(rng) if rng.random() < 0.6 else np.full(3, 0.13)
    return rgba(_lit_colour(colour, lit(relief, rng, gloss=0.5)), body)


def draw_button(rng: np.random.Generator, side: int) -> np.ndarray:
    """A button with a raised rim and four holes."""
    x, y = grid(side)
    radius = np.hypot(x, y)
    body = _inside(0.95 - radius, side)
    for across in (-0.2, 0.2):
        for down in (-0.2, 0.2):
            body = body * _inside(np.hypot(x - across, y - down) - rng.uniform(0.09, 0.1), side)
    rim = np.exp(-(((radius - 0.8) / 0.1) ** 2))
    relief = 14 * rim + 6 * soft(body, 3.0)
    swirl = 0.5 + 0.5 * perlin(rng, side, 4, octaves=3)
    colour = _strong(rng)
    return rgba(_lit_colour(mixed(colour, 0.6 * colour + 0.35, swirl), lit(relief, rng, gloss=0.3)), body)


def draw_clip(rng: np.random.Generator, side: int) -> np.ndarray:
    """A paper clip of wire, bare or coated."""
    half = np.array([0.22, 0.15, 0.08])
    ends = np.array([[-0.3, 0.25], [-0.24, 0.2], [-0.2, 0.12]])
    line = [np.array([[-0.1, -0.22]])]
    for i in range(3):
        arc = np.linspace(-np.pi / 2, np.pi / 2, 20)
        line.append(np.stack([ends[i, 1] + half[i] * np.cos(arc), half[i] * np.sin(arc)], axis=1))
        if i < 2:
            back = np.linspace(np.pi / 2, 3 * np.pi / 2, 20)
            middle, radius = (half[i] - half[i + 1]) / 2, (half[i] + half[i + 1]) / 2
            line.append(
                np.stack([ends[i, 0] + radius * np.cos(back), middle + radius * np.sin(back)], axis=1)
            )
    line.append(np.array([[0.0, half[2]]]))
    path = side * (0.5 + np.concatenate(line))
    thick = side * rng.uniform(0.028, 0.045)
    body = stroke(path, np.full(len(path), thick), side)
    light = lit(1.5 * soft(body, 0.25 * thick) * thick / 2, rng, gloss=0.6)
    colour = np.array(METALS[0]) if rng.random() < 0.4 else _strong(rng)
    return rgba(_lit_colour(colour, light), body)


def draw_scrap(rng: np.random.Generator, side: int) -> np.ndarray:
    """A torn or cut scrap with a print of stripes, checks or dots."""
    width, height = 0.48 * side, side * rng.uniform(0.25, 0.45)
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]])
    corners += rng.uniform(0, 0.12, (4, 2)) * -np.sign(corners) * side
    body = filled(side / 2 + corners, side)
    x, y = grid(side)
    turned = rotation(rng.uniform(0, np.pi))
    across, down = x * turned[0, 0] + y * turned[1, 0], x * turned[0, 1] + y * turned[1, 1]
    waves = rng.uniform(4, 9)
    patterns = (
        np.sin(across * waves * np.pi),
        np.sin(across * waves * np.pi) * np.sin(down * waves * np.pi),
        np.cos(across * waves * np.pi) + np.cos(down * waves * np.pi) - 0.8,
    )
    paper, ink = np.full(3, rng.uniform(0.85, 0.97)), _strong(rng)
    printed = np.clip(patterns[rng.integers(3)] * side / waves / 4 + 0.5, 0, 1)
    return rgba(mixed(paper, ink, printed) * lit(8 * perlin(rng, side, 3), rng)[..., None], body)


def draw_fibre(rng: np.random.Generator, side: int) -> np.ndarray:
    """A curled thread of strong colour."""
    along = np.linspace(0, 1, 120)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(
        np.interp(along, np.linspace(0, 1, 8), rng.normal(0, 0.11, 8))
    )
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    path -= (path.max(axis=0) + path.min(axis=0)) / 2
    path *= 0.46 * side / np.abs(path).max()
    thick = side * rng.uniform(0.02, 0.04)
    body = stroke(path + side / 2, np.full(120, thick), side)
    twist = 0.5 + 0.5 * perlin(rng, side, 50)
    colour = _strong(rng)
    return rgba(mixed(colour, 0.5 * colour, twist), soft(body, 0.8))


def draw_bead(rng: np.random.Generator, side: int) -> np.ndarray:
    """A glossy bead or berry of uneven shape, marbled in two colours."""
    outline = round_outline(rng, np.full(2, side / 2), 0.46 * side, aspect=rng.uniform(0.7, 1), uneven=0.06)
    body = filled(outline, side)
    x, y = grid(side)
    relief = 0.35 * side * np.sqrt(np.clip(1.05 - x**2 - y**2, 0.02, 1))
    marble = 0.5 + 1.5 * np.sin(6 * (x + perlin(rng, side, 3, octaves=2)))
    colour = mixed(_strong(rng), _strong(rng), marble)
    return rgba(_lit_colour(colour, lit(relief.astype(np.float32), rng, gloss=0.8)), body)


def _inside(distance: np.ndarray, side: int) -> np.ndarray:
    """Coverage from a distance to an outline, positive inside, in units of `grid`."""
    return np.clip(distance * side / 2 + 0.5, 0, 1).astype(np.float32)


def _metal(rng: np.random.Generator, relief: np.ndarray, side: int) -> np.ndarray:
    """Colours (side, side, 3) of a metal surface of that relief (pixels), slightly worn."""
    colour = np.array(METALS[rng.integers(len(METALS))])
    worn = 1 + 0.12 * perlin(rng, side, 6, octaves=4)
    return _lit_colour(colour, lit(relief, rng, gloss=0.5) * worn)


def _lit_colour(colour: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A colour under a light (side, side): what is brighter than 1 turns white."""
    shaded = colour * np.minimum(light, 1)[..., None]
    return shaded + np.clip(light - 1, 0, 1)[..., None] * (1 - shaded)


def _strong(rng: np.random.Generator) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.65, 0.95), rng.uniform(0.5, 0.95)))


OBJECTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "washer": draw_washer,
    "nut": draw_nut,
    "screw": draw_screw,
    "leaf": draw_leaf,
    "letter": draw_letter,
    "ring": draw_ring,
    "button": draw_button,
    "clip": draw_clip,
    "scrap": draw_scrap,
    "fibre": draw_fibre,
    "bead": draw_bead,
}
