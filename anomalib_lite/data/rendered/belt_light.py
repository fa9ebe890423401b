"""Light over the rendered belt: two lamp panels along its sides, and the camera that looks straight down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from anomalib_lite.data.rendered.belt_layout import View

Array = np.ndarray  # of float32
LAMP_HEIGHT = 190.0  # units above the belt
LAMP_HALF_LENGTH = 170.0
LAMP_HALF_WIDTH = 26.0
AMBIENT = 0.13  # light from the hall, from everywhere above
KNEE = 0.7  # radiance from which the camera holds back
BRIGHTEST = 1.7  # radiance beyond which all is white
WHITE_BALANCE = np.array([1.015, 1.0, 0.965], np.float32)


@dataclass(frozen=True, slots=True)
class Lamp:
    """A panel parallel to the belt, `y` units from its middle."""

    y: float
    x: float
    strength: float  # irradiance below it
    radiance: float  # as mirrored


LAMPS = (Lamp(-175.0, -25.0, 0.78, 15.0), Lamp(165.0, 35.0, 0.24, 5.0))


def irradiance(
    lamp: Lamp, x: Array, y: Array, normal: tuple[Array, Array, Array], wrap: float = 0.0
) -> Array:
    """Of a lamp on a surface at (x, y) units from the frame's middle; `wrap` lets it reach round the edge."""
    along = np.clip(x - lamp.x, -0.8 * LAMP_HALF_LENGTH, 0.8 * LAMP_HALF_LENGTH) + lamp.x - x
    across = lamp.y - y
    distance = np.sqrt(along * along + across * across + LAMP_HEIGHT**2)
    cosine = (normal[0] * along + normal[1] * across + normal[2] * LAMP_HEIGHT) / distance
    nearer = math.hypot(LAMP_HEIGHT, lamp.y) / distance
    return lamp.strength * np.maximum((cosine + wrap) / (1 + wrap), 0) * nearer * nearer * 1.35


def mirrored(x: Array, y: Array, normal: tuple[Array, Array, Array], blur: float) -> Array:
    """Radiance of the lamps that a glossy surface at (x, y) mirrors up into the camera; `blur` in units."""
    up = 2 * normal[2] * normal[2] - 1  # of the view ray (0, 0, 1), reflected
    safe = np.maximum(up, 0.08)
    hit_x = x + 2 * normal[2] * normal[0] / safe * LAMP_HEIGHT
    hit_y = y + 2 * normal[2] * normal[1] / safe * LAMP_HEIGHT
    light = np.zeros_like(x)
    for lamp in LAMPS:
        inside_x = _soft_step((LAMP_HALF_LENGTH - np.abs(hit_x - lamp.x)) / (blur + 12))
        inside_y = _soft_step((LAMP_HALF_WIDTH - np.abs(hit_y - lamp.y)) / blur)
        light += lamp.radiance * inside_x * inside_y
    return light * _soft_step((up - 0.16) / 0.16)


def photograph(rng: np.random.Generator, scene: Array, view: View, number: int) -> np.ndarray:
    """Expose frame `number`: uint8 (H, W, 3) from linear radiance (H, W, 3)."""
    scene = cv2.GaussianBlur(scene, (0, 0), 0.35 + 0.15 * view.scale)
    y, x = np.mgrid[-1 : 1 : view.height * 1j, -1 : 1 : view.width * 1j].astype(np.float32)
    flicker = 1 + 0.018 * np.sin(2 * np.pi * 0.137 * number) + rng.normal(0, 0.006)  # lamps against shutter
    gain = (1 - 0.11 * (x * x + y * y)) * np.float32(flicker)
    light = scene * gain[..., None] * WHITE_BALANCE
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light = light + noise * np.sqrt(0.00034 * np.maximum(light, 0) + 0.0028**2)
    return _develop(light)


def _develop(light: Array) -> np.ndarray:
    """Tone curve: linear at first, a shoulder towards white, gamma."""
    curve = _tone_curve()
    return curve[np.clip(light * (len(curve) - 1) / BRIGHTEST, 0, len(curve) - 1).astype(np.uint16)]


@lru_cache(maxsize=1)
def _tone_curve() -> np.ndarray:
    light = np.linspace(0, BRIGHTEST, 2**14)
    shoulder = KNEE + (1 - KNEE) * np.tanh((light - KNEE) / (1 - KNEE) * 0.8)
    return np.rint(255 * np.where(light > KNEE, shoulder, light) ** (1 / 2.2)).astype(np.uint8)


def _soft_step(value: Array) -> Array:
    """0 below -1, 1 above 1, smooth between."""
    value = np.clip(value * 0.5 + 0.5, 0, 1)
    return value * value * (3 - 2 * value)
