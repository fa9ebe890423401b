"""Light and camera: a low-angle diffuse ring light, the bench with the part's shadow, lens, sensor."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from anomalib_lite.data.rendered.zipper_outlines import Array
from anomalib_lite.data.rendered.zipper_parts import FAMILIES, Bench, Finish, Geometry
from anomalib_lite.data.rendered.zipper_surface import Surface, cloud

RING_ELEVATIONS = np.deg2rad([10.0, 16.0, 22.0, 28.0, 34.0])
RING_WEIGHTS = (0.5, 1.0, 1.2, 1.0, 0.5)
RING_AZIMUTHS = np.arange(40) * (2 * np.pi / 40)
AMBIENT = 0.10  # radiance of the room above, where the flat metal mirrors it
TEXELS = 193
PATINA = np.array([0.075, 0.055, 0.040], dtype=np.float32)


@lru_cache(maxsize=len(FAMILIES))
def reflectance_map(finish: Finish) -> Array:
    """What a facet sends to the camera by its normal: (3 harmonics, N, N, 3 materials) float32.

    The harmonics are a ring of even brightness, one that varies as cos(azimuth) and one as sin(azimuth); the
    materials are the polished and the dull metal of reflectance 1 (GGX microfacets: Walter et al., EGSR 2007)
    and a white matt coat. Row and column of a normal (nx, ny, nz) are (ny + 1, nx + 1) * (N - 1) / 2.

    >>> maps = reflectance_map(FAMILIES[1].finish)
    >>> face, bevel = maps[0, 96, 96, 0], maps[0, 96, 96 + 55, 0]  # 96 is flat, 96 + 55 tilted by 35 degrees
    >>> bool(bevel > 5 * face)
    True
    """
    axis = np.linspace(-1, 1, TEXELS, dtype=np.float32)
    nx, ny = np.meshgrid(axis, axis)
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0.01, 1))
    camera = np.array([0.0, 0.0, 1.0])
    maps = np.zeros((3, TEXELS, TEXELS, 3), dtype=np.float32)
    for elevation, weight in zip(RING_ELEVATIONS, RING_WEIGHTS, strict=True):
        for azimuth in RING_AZIMUTHS:
            light = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)]) * np.cos(elevation)
            facing = np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0, 1)
            half = (light + camera) / np.linalg.norm(light + camera)
            lit = np.stack(
                [
                    _ggx(nx, ny, nz, half, finish.roughness) * np.clip(facing * 8, 0, 1),
                    _ggx(nx, ny, nz, half, _dulled(finish.roughness)) * np.clip(facing * 8, 0, 1),
                    facing,
                ],
                axis=-1,
            )
            for harmonic, factor in enumerate((1.0, np.cos(azimuth), np.sin(azimuth))):
                maps[harmonic] += np.float32(weight * factor) * lit
    maps /= maps[0, TEXELS // 2, TEXELS // 2, 2]  # a flat white coat has brightness 1
    lens = np.exp(-((nx - 0.03) ** 2 + (ny + 0.02) ** 2) / 0.05**2)  # flat metal mirrors the dark lens
    window = np.exp(
        -((nx + 0.13) ** 2 + (ny + 0.10) ** 2) / 0.07**2
    )  # and, tilted a little, the room behind it
    maps[0, ..., 0] += AMBIENT * (1 - 0.6 * lens + 0.9 * window)
    maps[0, ..., 1] += AMBIENT
    maps[0, ..., 2] += 0.25 * nz
    return maps


def _dulled(roughness: tuple[float, float]) -> tuple[float, float]:
    return min(0.6, roughness[0] * 1.7 + 0.06), min(0.6, roughness[1] * 1.7 + 0.06)


def _ggx(nx: Array, ny: Array, nz: Array, half: Array, roughness: tuple[float, float]) -> Array:
    """Radiance by an anisotropic GGX lobe, tangent along x, in units of a white matt coat's."""
    up = nx * half[0] + ny * half[1] + nz * half[2]
    length = np.sqrt(nz**2 + nx**2)
    along = (half[0] * nz - half[2] * nx) / length
    across_squared = np.clip(1 - up**2 - along**2, 0, 1)
    rx, ry = roughness
    lobe = 1 / (np.pi * rx * ry * (along**2 / rx**2 + across_squared / ry**2 + up**2) ** 2)
    return lobe * np.pi / (4 * np.maximum(nz, 0.35))


def shade(surface: Surface, finish: Finish, part: Geometry, tilt: tuple[float, float]) -> Array:
    """Linear radiance (H, W, 3) of a part; the ring is brighter by `tilt` (cos, sin of its harmonics)."""
    harmonics = reflectance_map(finish)
    maps = harmonics[0] + np.float32(tilt[0]) * harmonics[1] + np.float32(tilt[1]) * harmonics[2]
    half = np.float32(0.5 * part.scale)
    slope_x = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, ksize=1) * half
    slope_y = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, ksize=1) * half
    slope_x += 0.16 * part.x  # the camera is not infinitely far away
    slope_y += 0.16 * part.y
    slope_y += surface.brushing
    flat = np.float32((TEXELS - 1) / 2)
    steepness = flat / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    lit = cv2.remap(maps, flat - slope_x * steepness, flat - slope_y * steepness, cv2.INTER_LINEAR)
    polished, dull, coat = cv2.split(lit)
    mirror = polished + surface.dull * (dull - polished)
    reflected = _tinted(mirror * (1 - 0.45 * part.recess), finish.metal, surface)
    bare = 1 - surface.patina
    film = surface.film * np.float32(0.9)
    radiance = np.empty((*mirror.shape, 3), dtype=np.float32)
    for channel in range(3):
        matt = np.float32(finish.paint[channel]) + PATINA[channel] * surface.patina
        body = reflected[channel] * (bare + 0.06 * surface.patina) + coat * matt
        radiance[..., channel] = body + film * (coat * surface.film_colour[channel] - body)
    return radiance


def _tinted(mirror: Array, metal: tuple[float, float, float], surface: Surface) -> list[Array]:
    if surface.stain is None:
        return [mirror * np.float32(value) for value in metal]
    pairs = zip(metal, surface.stain_colour, strict=True)
    return [
        mirror * (1 + surface.stain * np.float32(stain - 1)) * np.float32(value) for value, stain in pairs
    ]


@lru_cache(maxsize=2)
def bench_picture(set_number: int, size: tuple[int, int]) -> Array:
    """Linear radiance (H, W, 3) of the empty bench: the same in every picture of a set.

    >>> [round(float(level), 1) for level in bench_picture(1, (160, 120)).mean(axis=(0, 1))]
    [0.3, 0.3, 0.3]
    """
    bench = FAMILIES[set_number].bench
    width, height = size
    rng = np.random.default_rng([2022, set_number])
    scale = min(height, 0.75 * width)
    texture = _bench_texture(rng, bench, (height, width), scale)
    tint = 1 + 0.008 * np.stack([cloud(rng, (height, width), 0.2 * scale) for _ in range(3)], axis=-1)
    colour = np.array(bench.colour, dtype=np.float32)
    return np.clip(colour * tint * np.exp(bench.contrast * texture)[..., None], 0, 1).astype(np.float32)


def _bench_texture(rng: np.random.Generator, bench: Bench, shape: tuple[int, int], scale: float) -> Array:
    noise = rng.standard_normal(shape, dtype=np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), max(0.6, 0.0010 * scale))
    if bench.stretch > 1:
        fine = cv2.blur(fine, (max(3, int(bench.stretch * 0.004 * scale)), 1))
    broad = cloud(rng, shape, 0.3 * scale, octaves=5)
    marks = np.zeros(shape, dtype=np.float32)
    for _ in range(14):  # knife and sliding marks
        start = rng.uniform(0, 1, 2) * shape[::-1]
        end = start + rng.normal(0, 0.15 * scale, 2)
        points = [(int(start[0] * 16), int(start[1] * 16)), (int(end[0] * 16), int(end[1] * 16))]
        line = cv2.line(np.zeros(shape, np.uint8), points[0], points[1], 255, 1, cv2.LINE_AA, 4)
        marks += line * np.float32(rng.uniform(-0.7, 1.0) / 255)
    return fine / fine.std() + 0.45 * broad + cv2.GaussianBlur(marks, (0, 0), max(0.5, 0.001 * scale))


def photograph(
    rng: np.random.Generator, part_light: Array, coverage: Array, bench: Array, scale: float
) -> Array:
    """Expose a part on the bench: (H, W, 3) uint8 from linear radiance that is 0 beside the part."""
    scene = bench * _contact_shadow(coverage, scale)[..., None] * (1 - coverage)[..., None] + part_light
    height, width = coverage.shape
    glow = cv2.resize(np.minimum(scene, 6.0), (width // 8, height // 8), interpolation=cv2.INTER_AREA)
    glow = cv2.GaussianBlur(glow, (0, 0), max(0.8, 0.02 * scale / 8))
    scene += 0.035 * (cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR) - scene)
    defocus = scale * rng.uniform(0.0005, 0.0010)
    scene = cv2.GaussianBlur(scene, (0, 0), max(0.35, defocus))
    scene *= _falloff(rng, height, width)[..., None]
    scene *= np.float32(rng.uniform(0.975, 1.025) * (1 + rng.normal(0, 0.005, 3)))
    return _develop(_sense(rng, scene))


def _contact_shadow(coverage: Array, scale: float) -> Array:
    """How much of the ring each point of the bench sees, (H, W) in 0..1: the part stands in the low light."""
    height, width = coverage.shape
    small = cv2.resize(coverage, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    near = cv2.GaussianBlur(small, (0, 0), 0.011 * scale / 2)
    far = cv2.GaussianBlur(small, (0, 0), 0.05 * scale / 2)
    shadow = (1 - 0.75 * near) * (1 - 0.9 * far)
    return cv2.resize(shadow, (width, height), interpolation=cv2.INTER_LINEAR)


def _falloff(rng: np.random.Generator, height: int, width: int) -> Array:
    """Vignetting and a slight slope of the light, (H, W)."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    across, down = rng.normal(0, 0.007, 2).astype(np.float32)
    return (1 - 0.11 * (x * x + y * y)) * (1 + across * x + down * y)


def _sense(rng: np.random.Generator, scene: Array) -> Array:
    """Add photon and read noise, correlated between neighbours as demosaicing leaves it."""
    noise = cv2.GaussianBlur(rng.standard_normal(scene.shape, dtype=np.float32), (3, 3), 0.55)
    spread = cv2.sqrt(np.maximum(scene, 0) * 0.00006 + 0.000004)
    return scene + spread * noise


@lru_cache(maxsize=1)
def _tone_curve() -> Array:
    """Radiance 0..8 in 16 bits -> sRGB byte, with a shoulder that keeps highlights from clipping hard."""
    radiance = np.linspace(0, 8, 65536)
    toned = radiance * (1 + radiance / 9) / (1 + 0.55 * radiance)
    toned = np.clip(toned, 0, 1)
    srgb = np.where(toned <= 0.0031308, 12.92 * toned, 1.055 * toned ** (1 / 2.4) - 0.055)
    contrast = srgb + 0.35 * (srgb * srgb * (3 - 2 * srgb) - srgb)
    return np.rint(255 * contrast).astype(np.uint8)


def _develop(scene: Array) -> Array:
    levels = np.clip(scene * np.float32(65535 / 8), 0, 65535).astype(np.uint16)
    return _tone_curve()[levels]
