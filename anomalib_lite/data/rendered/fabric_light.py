"""How the light falls on woven cloth and what the camera makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.data.rendered.fabric_weave import Array, Colour, Surface, Weave

FIBRE_CELLS = (256, 512)  # of the fibres' pattern, which repeats
TABLE_COLOUR = (0.030, 0.031, 0.033)  # what lies under the cloth
OIL_COLOUR = (0.60, 0.47, 0.27)  # transmission of a soaked thread
ELEVATION = 38.0  # of the lamp, in degrees: low enough to bring out the weave
AMBIENT = 0.42


@dataclass(frozen=True, slots=True)
class Lighting:
    """One picture's lamp and lens, drawn once so that a defect does not change them."""

    azimuth: float  # radians: where the light comes from
    field: Array  # (H, W, 3): uneven brightness, exposure and white balance
    fibres: Array  # FIBRE_CELLS: a pattern of unit spread, long along x
    hairs: tuple[np.ndarray, ...]  # loose fibres' courses, (points, 2) fine pixels


def draw_lighting(
    rng: np.random.Generator, size: tuple[int, int], pitch: float, *, finer: int, hairs: int
) -> Lighting:
    """A lamp at the upper left, a little elsewhere for each picture of `size` (width, height).

    `pitch` is in the fine pixels of which there are `finer` for each of the picture's.

    >>> lighting = draw_lighting(np.random.default_rng(0), (60, 40), 16.0, finer=2, hairs=3)
    >>> lighting.field.shape, len(lighting.hairs)
    ((40, 60, 3), 3)
    """
    width, height = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    slope = rng.normal((-0.07, -0.05), 0.03)
    middle = rng.normal(0, 0.15, 2)
    falloff = rng.uniform(0.05, 0.10) * ((x - middle[0]) ** 2 + (y - middle[1]) ** 2)
    exposure = np.float32(np.exp(rng.normal(0, 0.05)))
    balance = np.exp(rng.normal(0, 0.008, 3)).astype(np.float32)
    field = (exposure * (1 + slope[0] * x + slope[1] * y - falloff))[..., None] * balance
    noise = np.pad(rng.standard_normal(FIBRE_CELLS, dtype=np.float32), 64, mode="wrap")  # without a seam
    fine = cv2.GaussianBlur(noise, (0, 0), sigmaX=14, sigmaY=1.3)
    coarse = cv2.GaussianBlur(noise, (0, 0), sigmaX=20, sigmaY=4.5)
    fibres = (fine / fine.std() + 0.8 * coarse / coarse.std())[64:-64, 64:-64] / np.float32(1.28)
    courses = tuple(_draw_hair(rng, (width * finer, height * finer), pitch) for _ in range(hairs))
    return Lighting(
        azimuth=float(np.deg2rad(rng.normal(222, 4))),
        field=field.astype(np.float32),
        fibres=np.ascontiguousarray(fibres, dtype=np.float32),
        hairs=courses,
    )


def _draw_hair(rng: np.random.Generator, size: tuple[int, int], pitch: float) -> np.ndarray:
    """A fibre that stands off the cloth: a short, smoothly bent line (points, 2)."""
    points = 14
    length = pitch * rng.gamma(3.0, 0.45)
    bend = np.cumsum(rng.normal(0, 0.16, points)) + np.linspace(0, rng.normal(0, 1.2), points)
    angles = rng.uniform(0, 2 * np.pi) + bend
    steps = np.stack((np.cos(angles), np.sin(angles)), axis=1) * (length / points)
    return np.asarray(rng.uniform((0, 0), size) + np.cumsum(steps, axis=0))


def shade(surface: Surface, weave: Weave, lighting: Lighting, pitch: float) -> Array:
    """Linear light (H, W, 3) from a cloth's surface, whose warp pitch is `pitch` pixels.

    >>> from anomalib_lite.data.rendered.fabric_weave import WEAVES, look_from_above, weave_cloth
    >>> rng, weave = np.random.default_rng(0), WEAVES["twill"]
    >>> v, u = np.mgrid[4:8:0.1, 4:8:0.1].astype(np.float32)
    >>> surface = look_from_above(weave_cloth(rng, weave, warps=12, wefts=12), u, v)
    >>> lighting = draw_lighting(rng, (20, 20), 10.0, finer=2, hairs=0)
    >>> light = shade(surface, weave, lighting, 10.0)
    >>> light.shape, bool(light[..., 2].mean() > light[..., 0].mean())  # indigo
    ((40, 40, 3), True)
    """
    fibres = _fibres(surface, weave, lighting)
    height = surface.height + 0.022 * fibres * surface.is_thread
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=pitch / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=pitch / 8)
    elevation = math.radians(ELEVATION)
    toward_x = math.cos(elevation) * math.cos(lighting.azimuth)
    toward_y = math.cos(elevation) * math.sin(lighting.azimuth)
    facing = math.sin(elevation) - toward_x * slope_x - toward_y * slope_y
    facing /= np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    # wrapped: light enters a thread and comes out again beside, so shade is never quite dark
    diffuse = np.maximum((facing + 0.25) / 1.25, 0)
    lit = 1 - 0.75 * _shadow(surface.height, lighting.azimuth, pitch)
    buried = cv2.GaussianBlur(surface.height, (0, 0), 0.55 * pitch) - surface.height
    open_ = np.clip(1 - 1.9 * np.maximum(buried, 0), 0.12, 1)
    light = 1.25 * lit * diffuse * np.sqrt(open_) + AMBIENT * open_
    light *= 1 + 0.11 * fibres * surface.is_thread
    # oil fills the gaps between the fibres, which then shine where they mirror the lamp
    shine = 0.2 * surface.stain * np.clip(facing - 0.75, 0, 1)
    # dye stays near a thread's surface: single fibres that were rubbed show what is inside
    undyed = np.clip(0.10 * (fibres - 0.9), 0, 0.25) * surface.is_warp
    channels = [
        light * _reflectance(surface, weave, undyed, channel) + shine for channel in range(3)
    ]  # one after the other: (H, W, 3) in one go is several times slower
    return np.asarray(cv2.merge(channels))


def _fibres(surface: Surface, weave: Weave, lighting: Lighting) -> Array:
    """The twisted fibres' pattern on the topmost threads, of unit spread."""
    turn = np.arcsin(np.clip(surface.across, -1, 1))  # a thread is round: its pattern narrows at the edges
    twist = np.where(surface.is_warp, np.float32(weave.warp_twist), np.float32(weave.weft_twist))
    rows = (977 * surface.twist + 20 * turn + 40 * twist * surface.along) / FIBRE_CELLS[0]
    columns = (44 * surface.along + 3571 * surface.twist) / FIBRE_CELLS[1]
    rows = (rows - np.floor(rows)) * FIBRE_CELLS[0]
    columns = (columns - np.floor(columns)) * FIBRE_CELLS[1]
    return np.asarray(cv2.remap(lighting.fibres, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _reflectance(surface: Surface, weave: Weave, undyed: Array, channel: int) -> Array:
    """One channel's reflectance (H, W): dyed threads, oil, and the table where one sees through."""
    warp, weft = np.float32(weave.warp_colour[channel]), np.float32(weave.weft_colour[channel])
    colour = np.where(surface.is_warp, warp, weft) * surface.tone
    colour += (weft - colour) * undyed
    colour *= 1 + np.float32(OIL_COLOUR[channel] - 1) * surface.stain
    return np.where(surface.is_thread, colour, np.float32(TABLE_COLOUR[channel]))


def _shadow(height: Array, azimuth: float, pitch: float) -> Array:
    """How much higher cloth towards the lamp keeps its light off (H, W), 0..1."""
    rise = math.tan(math.radians(ELEVATION))
    shadow = np.zeros_like(height)
    for distance in (0.15, 0.3, 0.5, 0.8):
        reach = distance * pitch
        frame = np.array([[1, 0, reach * math.cos(azimuth)], [0, 1, reach * math.sin(azimuth)]])
        nearer = cv2.warpAffine(
            height,
            frame,
            height.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        shadow = np.maximum(shadow, nearer - distance * rise - height)
    return np.asarray(cv2.GaussianBlur(np.clip(shadow * 9, 0, 1), (0, 0), 0.06 * pitch))


def lay_hairs(
    light: Array, courses: tuple[np.ndarray, ...], colour: Colour, pitch: float, *, width: float, cover: float
) -> None:
    """Lay fibres `width` pitches wide over linear light (H, W, 3), in place; `cover` is how much they hide.

    >>> light = np.zeros((9, 9, 3), np.float32)
    >>> lay_hairs(light, (np.array([[0, 4], [8, 4]]),), (1.0, 0.5, 0.0), 8.0, width=0.1, cover=0.5)
    >>> bool(0.4 < light[4, 4, 0] <= 0.5), light[0, 0].tolist()
    (True, [0.0, 0.0, 0.0])
    """
    if not courses:
        return
    thickness = max(1, round(width * pitch))
    points = np.concatenate(courses)
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - thickness - 2, 0)
    right, bottom = np.maximum(np.ceil(points.max(axis=0)).astype(int) + thickness + 3, 0)
    part = light[top:bottom, left:right]  # most lie in a small part of the picture
    if part.size == 0:
        return
    canvas = np.zeros(part.shape[:2], np.uint8)
    lines = [np.round((course - (left, top)) * 16).astype(np.int32) for course in courses]
    cv2.polylines(canvas, lines, False, 255, thickness, cv2.LINE_AA, shift=4)
    share = canvas.astype(np.float32)[..., None] * np.float32(cover / 255)
    part += share * (np.asarray(colour, np.float32) - part)


def expose(light: Array, field: Array, size: tuple[int, int], pitch: float) -> Array:
    """The lens: from finely sampled light to `size` (width, height), slightly blurred, unevenly lit."""
    small = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), max(0.45, 0.06 * pitch)) * field)


def develop(light: Array, noise: Array) -> np.ndarray:
    """The sensor: linear light (H, W, 3) and unit noise of that shape to uint8.

    >>> develop(np.full((1, 1, 3), 0.5, np.float32), np.zeros((1, 1, 3), np.float32))[0, 0].tolist()
    [186, 186, 186]
    """
    noisy = light + noise * np.sqrt(0.00022 * np.maximum(light, 0) + 1.2e-6)
    return np.round(255 * tone_curve(noisy)).astype(np.uint8)


def tone_curve(light: Array) -> Array:
    """Linear light to a picture's values in [0, 1]."""
    return np.asarray(np.clip(light, 0, 1) ** np.float32(1 / 2.2), dtype=np.float32)
