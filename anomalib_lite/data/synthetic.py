"""Defects drawn onto pictures of good parts, with exact masks: validation needs something to tell apart."""

from __future__ import annotations

import cv2
import numpy as np

VISIBLE = 4 / 255  # the smallest change of a channel that counts as defect
EXTENTS = (0.02, 0.15)  # length or diameter of a defect, as a share of the picture's shorter side
CONTRASTS = (0.08, 0.8)  # change in the middle of a defect: faint to plain
FRAME = 0.02  # width of the frame that shows the background's colour, as a share of the shorter side
FOREGROUND_DISTANCE = 0.06  # a part's colour differs from the background's by more than this
FOREGROUND_SHARES = (0.02, 0.95)  # of the picture: outside these, the frame did not show the background
SUBPIXEL_BITS = 4  # OpenCV draws polygons at 1/16 pixel


def add_defect(
    image: np.ndarray, rng: np.random.Generator, *, foreground: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scratch or a blob onto (H, W, 3) float32 in [0, 1]; returns the picture and a mask bool (H, W).

    The defect lies on `foreground` (bool, H x W; None: what `estimate_foreground` finds). It is darker,
    lighter or coloured, soft at the edges, from faint to plain. The mask is never empty, and nothing changes
    outside it. Raises ValueError for an empty foreground.

    >>> image = np.full((64, 64, 3), 0.5, np.float32)
    >>> defective, mask = add_defect(image, np.random.default_rng(0))
    >>> np.array_equal(mask, (defective != image).any(axis=2)), bool(mask.any())
    (True, True)
    """
    return (add_scratch if rng.random() < 0.5 else add_blob)(image, rng, foreground=foreground)


def add_scratch(
    image: np.ndarray, rng: np.random.Generator, *, foreground: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a thin, slightly bent line that tapers at both ends; see `add_defect`."""
    foreground = estimate_foreground(image) if foreground is None else foreground
    centre = _draw_pixel(foreground, rng)
    length = _draw_extent(image, rng)
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.15, 0.15)
    width = max(1.0, length * rng.uniform(0.02, 0.06))

    along = np.linspace(-1, 1, 33)
    middle = np.stack([along * length / 2, bend * length * along**2], axis=1)  # (33, 2) through (0, 0)
    half = np.stack([np.zeros_like(along), width / 2 * np.sqrt(1 - along**2)], axis=1)
    outline = np.concatenate([middle + half, (middle - half)[::-1]])
    coverage = _fill(image.shape[:2], centre + outline @ _rotation(angle), softness=0.5)
    return _blend(image, coverage * foreground, rng)


def add_blob(
    image: np.ndarray, rng: np.random.Generator, *, foreground: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a stain of irregular outline; see `add_defect`."""
    foreground = estimate_foreground(image) if foreground is None else foreground
    centre = _draw_pixel(foreground, rng)
    diameter = _draw_extent(image, rng)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.5, 1)

    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = np.arange(2, 6)
    phases, heights = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0, 0.4, 4) / waves
    radius = 1 + (heights * np.cos(waves * turn[:, None] + phases)).sum(axis=1)  # (64,)
    radius *= diameter / 2 / radius.max()
    outline = np.stack([radius * np.cos(turn), aspect * radius * np.sin(turn)], axis=1)
    softness = max(0.5, diameter * rng.uniform(0.02, 0.12))
    coverage = _fill(image.shape[:2], centre + outline @ _rotation(angle), softness)
    return _blend(image, coverage * foreground, rng)


def estimate_foreground(image: np.ndarray) -> np.ndarray:
    """Where (H, W, 3) differs from the colour of its frame, bool (H, W); everywhere if that tells nothing."""
    height, width = image.shape[:2]
    side = min(height, width)
    smooth = cv2.GaussianBlur(image, (0, 0), max(0.5, side / 200))
    frame = np.ones((height, width), bool)
    inset = max(1, round(FRAME * side))
    frame[inset:-inset, inset:-inset] = False
    background = np.median(smooth[frame], axis=0)
    distance = np.abs(smooth - background).max(axis=2)
    # A frame of uneven brightness, or one that the part touches here and there, asks for more.
    foreground = distance > max(FOREGROUND_DISTANCE, 3 * float(np.median(distance[frame])))
    outlines, _ = cv2.findContours(foreground.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros((height, width), np.uint8), outlines, -1, 1, cv2.FILLED)
    reach = 2 * max(1, side // 100) + 1
    inside = cv2.erode(filled, np.ones((reach, reach), np.uint8)) > 0
    low, high = FOREGROUND_SHARES
    return inside if low <= inside.mean() <= high else np.ones((height, width), bool)


def _draw_pixel(foreground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pixel (x, y) of the foreground."""
    inside = np.flatnonzero(foreground)
    if not len(inside):
        raise ValueError("expected a foreground with at least one pixel, got an empty one")
    y, x = divmod(int(inside[rng.integers(len(inside))]), foreground.shape[1])
    return np.array([x, y], np.float64)


def _draw_extent(image: np.ndarray, rng: np.random.Generator) -> float:
    """Pixels; small defects are as frequent as large ones on a logarithmic scale."""
    return max(3.0, min(image.shape[:2]) * _log_uniform(EXTENTS, rng))


def _log_uniform(limits: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _fill(size: tuple[int, int], outline: np.ndarray, softness: float) -> np.ndarray:
    """Coverage (H, W) in [0, 1] of each pixel by a polygon (n, 2) of (x, y), blurred by `softness` pixels."""
    canvas = np.zeros(size, np.uint8)
    points = np.round(outline * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), softness)


def _blend(
    image: np.ndarray, coverage: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Shift the colour where there is coverage; the texture below stays."""
    coverage = coverage / coverage.max()
    shift = _draw_shift(image[np.unravel_index(coverage.argmax(), coverage.shape)], rng)
    defective = np.clip(image + coverage[..., None] * shift, 0, 1).astype(np.float32)
    mask = np.abs(defective - image).max(axis=2) > VISIBLE
    return np.where(mask[..., None], defective, image), mask


def _draw_shift(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A change (3,) that shows on `colour`: darker, lighter, or towards another colour."""
    contrast = _log_uniform(CONTRASTS, rng)
    if rng.random() < 0.25:
        direction = rng.uniform(-1, 1, 3)
        direction /= np.abs(direction).max()
    else:
        direction = np.full(3, rng.choice([-1.0, 1.0]))
    shift = contrast * direction
    # White can't become lighter: where clipping would take more than half of the contrast, turn round.
    kept = np.abs(np.clip(colour + shift, 0, 1) - colour).max()
    return (shift if kept >= contrast / 2 else -shift).astype(np.float32)
