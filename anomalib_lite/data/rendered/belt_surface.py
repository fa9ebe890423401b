"""The rendered belt itself, a loop that comes round again, and the rails beside it, which stand still."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from anomalib_lite.data.rendered.belt_layout import GAP, View
from anomalib_lite.data.rendered.belt_light import AMBIENT, LAMPS, Array, irradiance

LOOP = 1280.0  # units until the belt comes round
WEAVE = 3.2  # units from thread to thread of the fabric that shows through the rubber
REFLECTANCE = 0.062
TINT = np.array([0.90, 1.0, 1.02], np.float32)


@lru_cache(maxsize=2)
def belt_loop(seed: int, view: View) -> Array:
    """Reflectance of the whole belt, (H, loop) samples; it goes on at its start.

    >>> belt_loop(0, View(96, 72)).shape
    (144, 768)
    """
    rng = np.random.default_rng([seed, 7])
    density, rows = view.density, view.shape[0]
    columns = round(LOOP * density)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) / np.float32(density)
    bend = 0.35 * loop_noise(rng, (rows, columns), (14 * density, 14 * density))
    turn = np.float32(2 * np.pi / WEAVE)
    weave = np.cos(turn * (x + bend)) * np.cos(turn * (y + 0.6 * bend))
    relief = 0.16 * weave * (1 + 0.5 * loop_noise(rng, weave.shape, (20 * density, 8 * density)))
    for share, along, across in (
        (0.10, 0.5, 0.5),
        (0.055, 2.0, 2.0),
        (0.05, 9.0, 7.0),
        (0.075, 60.0, 40.0),
        (0.055, 70.0, 1.1),  # wear along the belt
        (0.05, 200.0, 6.0),
    ):
        relief += share * loop_noise(rng, weave.shape, (along * density, across * density))
    relief += _scuffs(rng, weave.shape, density) + _specks(rng, weave.shape, density)
    relief += _splice(x, y - np.float32(view.height / view.scale / 2))
    return (REFLECTANCE * np.exp(relief)).astype(np.float32)


def belt_window(loop: Array, start: float, columns: int) -> Array:
    """The loop's samples from column `start` on, between samples interpolated, (H, columns)."""
    first = int(np.floor(start))
    part = np.float32(start - first)
    window = loop.take(np.arange(first, first + columns + 1), axis=1, mode="wrap")
    return (1 - part) * window[:, :-1] + part * window[:, 1:]


def loop_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, float]) -> Array:
    """Gaussian noise of unit variance, smooth over `sigma` (along, across) samples, periodic."""
    white = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    across = np.fft.fftfreq(shape[0])[:, None] * sigma[1]
    along = np.fft.rfftfreq(shape[1])[None] * sigma[0]
    smooth = np.fft.irfft2(white * np.exp(-2 * np.pi**2 * (across**2 + along**2)), s=shape)
    return (smooth / max(float(smooth.std()), 1e-12)).astype(np.float32)


@lru_cache(maxsize=2)
def lamp_fields(view: View) -> tuple[Array, ...]:
    """What each lamp gives to the flat belt, (H, W) samples each."""
    x, y = sample_positions(view)
    flat = (np.zeros_like(x), np.zeros_like(x), np.ones_like(x))
    return tuple(irradiance(lamp, x, y, flat) for lamp in LAMPS)


@lru_cache(maxsize=2)
def rails(view: View) -> tuple[Array, Array]:
    """Light of the rails and the gaps (H, W, 3), and how much of a pixel they cover (H, W, 1), in pixels."""
    rng = np.random.default_rng(11)
    rows, columns = view.shape
    _, y = sample_positions(view)
    depth = np.abs(y) - view.half_belt  # from the belt's edge outwards
    brushed = loop_noise(rng, (rows, columns), (40 * view.density, 0.35 * view.density))
    brushed += 0.6 * loop_noise(rng, (rows, columns), (160 * view.density, 2 * view.density))
    profile = 0.30 + 0.045 * brushed
    profile *= 1 + 0.9 * np.exp(-(((depth - GAP - 1.2) / 0.9) ** 2))  # the bright bevel
    profile *= 1 - 0.55 * np.exp(-(((depth - GAP - 6.0) / 0.8) ** 2))  # the slot
    lit = sum(lamp_fields(view), np.float32(AMBIENT)) * profile
    inside_gap = np.clip((GAP - depth) * view.density + 0.5, 0, 1)
    grey = lit * (1 - inside_gap) + 0.006 * inside_gap
    cover = np.clip(depth * view.density + 0.5, 0, 1)
    light = to_pixels(cover * grey, view)[..., None] * np.array([0.97, 1.0, 1.03], np.float32)
    return light.astype(np.float32), to_pixels(cover, view)[..., None]


def to_pixels(samples: Array, view: View) -> Array:
    """Samples averaged to pixels."""
    if view.oversampling == 1:
        return samples
    return cv2.resize(samples, (view.width, view.height), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=2)
def sample_positions(view: View) -> tuple[Array, Array]:
    """x and y of every sample in units from the frame's middle, (H, W) each."""
    rows, columns = view.shape
    y = (np.arange(rows, dtype=np.float32) + 0.5 - rows / 2) / np.float32(view.density)
    x = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) / np.float32(view.density)
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


def _scuffs(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """Light scratches, most of them along the belt."""
    canvas = np.zeros(shape, np.float32)
    for _ in range(46):
        start = rng.uniform((0, 0), (shape[1], shape[0]))
        length, angle = (
            rng.gamma(2, 14) * density,
            rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(0, 3),
        )
        bend = rng.normal(0, 0.06)
        along = np.linspace(0, 1, 12)
        points = start + length * np.stack(
            [along * np.cos(angle), along * np.sin(angle) + bend * along * (1 - along)], axis=1
        )
        stroke = np.zeros(shape, np.uint8)
        for turn in (-shape[1], 0):  # what leaves the loop's end comes in at its start
            fixed = np.rint((points + np.array([turn, 0])) * 16).astype(np.int32)
            cv2.polylines(stroke, [fixed], False, 255, max(1, round(0.35 * density)), cv2.LINE_AA, shift=4)
        canvas += np.float32(rng.uniform(0.10, 0.55) / 255) * stroke
    return canvas


def _specks(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """Dust: light specks of half a unit and less, and dark ones."""
    specks = np.zeros(shape, np.float32)
    count = round(shape[0] * shape[1] / density**2 / 420)
    rows, columns = rng.integers(shape[0], size=count), rng.integers(shape[1], size=count)
    specks[rows, columns] = rng.exponential(1.0, count) * np.where(rng.random(count) < 0.75, 1, -0.8)
    sigma = 0.32 * density
    return 2 * np.pi * sigma**2 * 0.42 * cv2.GaussianBlur(specks, (0, 0), sigma)


def _splice(x: Array, y: Array) -> Array:
    """Where the belt's ends are joined: a zigzag of fingers, welded, darker along the cut."""
    finger = 26.0
    saw = np.abs((y / finger) % 1 - 0.5) * 2  # 0..1
    away = x - 0.62 * LOOP - 34 * (saw - 0.5)
    cut = np.exp(-((away / 1.5) ** 2))
    pressed = np.exp(-(((x - 0.62 * LOOP) / 34) ** 4))
    return -0.5 * cut + 0.10 * pressed
