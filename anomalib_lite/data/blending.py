"""How a stamp, a cut-out ready to be pasted, becomes part of the picture below it.

A stamp is (h, w, 4) float32, colours premultiplied with alpha; a picture (H, W, 3) float32 in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

from anomalib_lite.data.synthetic import VISIBLE

# with less, a defect is inverted: a crack is dark in concrete, but bright in dark glass
CONTRAST_MINIMUM = 0.15
MARGIN = 6  # pixels around an object for Poisson blending, which erodes its mask by three

Window = tuple[slice, slice]  # rows and columns


def overlap(
    stamp: np.ndarray, anchor: tuple[int, int], pixel: tuple[int, int], shape: tuple[int, ...]
) -> tuple[Window, Window]:
    """The parts of a stamp and of a picture of `shape` that coincide with `anchor` (y, x) lying on `pixel`."""
    inside, window = [], []
    for axis in (0, 1):
        offset = pixel[axis] - anchor[axis]
        start, stop = max(offset, 0), min(offset + stamp.shape[axis], shape[axis])
        window.append(slice(start, stop))
        inside.append(slice(start - offset, stop - offset))
    return (inside[0], inside[1]), (window[0], window[1])


def in_contrast(stamp: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The stamp, with light and dark exchanged if that shows better and it hardly shows."""
    contrast = _contrast(stamp, below)
    if contrast >= CONTRAST_MINIMUM:
        return stamp
    colours, alpha = stamp[..., :3], stamp[..., 3:]
    # light becomes dark, but brown does not become blue
    turned = np.clip(colours + alpha - 2 * colours.mean(axis=2, keepdims=True), 0, alpha)
    inverted = np.concatenate([turned, alpha], axis=2)
    return inverted if _contrast(inverted, below) > contrast else stamp


def _contrast(stamp: np.ndarray, below: np.ndarray) -> float:
    """Mean difference between a stamp's own colours and those it covers, the largest channel's."""
    alpha = stamp[..., 3:]
    difference = np.abs(stamp[..., :3] - alpha * below).max(axis=2)
    return float(difference.sum() / max(float(alpha.sum()), 1e-6))


def silhouette(stamp: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The stamp in what differs most from `colour`, black or white, and its most opaque place (y, x), now opaque."""
    peak = stamp[..., 3].max()
    alpha = stamp[..., 3:] / peak if peak > 0 else np.ones_like(stamp[..., 3:])
    white = 1 - colour.min() > colour.max()
    y, x = np.unravel_index(int(alpha.argmax()), alpha.shape[:2])
    return np.concatenate([alpha * np.float32(white)] * 3 + [alpha], axis=2), (int(y), int(x))


def blend_alpha(canvas: np.ndarray, window: Window, stamp: np.ndarray) -> np.ndarray:
    """What the window shows with the stamp laid over it, as opaque as its alpha.

    >>> stamp = np.full((1, 1, 4), 0.5, np.float32)  # white, half transparent
    >>> blend_alpha(np.full((2, 2, 3), 0.5, np.float32), np.s_[:1, 1:], stamp)
    array([[[0.75, 0.75, 0.75]]], dtype=float32)
    """
    return np.clip(canvas[window] * (1 - stamp[..., 3:]) + stamp[..., :3], 0, 1)


def blend_poisson(canvas: np.ndarray, window: Window, stamp: np.ndarray) -> np.ndarray:
    """Carry over the stamp's gradients on grey where they are stronger than those below.

    Source: Perez, Gangnet, Blake, "Poisson image editing" (2003), mixed gradients.
    """
    rows, columns = window
    height, width = canvas.shape[:2]
    top, left = max(rows.start - MARGIN, 0), max(columns.start - MARGIN, 0)
    bottom, right = min(rows.stop + MARGIN, height), min(columns.stop + MARGIN, width)
    around = (np.clip(canvas[top:bottom, left:right], 0, 1) * 255).round().astype(np.uint8)
    # an object cut off by the picture's border goes on behind it
    missing = (
        MARGIN - (rows.start - top), MARGIN - (bottom - rows.stop),
        MARGIN - (columns.start - left), MARGIN - (right - columns.stop),
    )  # fmt: skip
    around = cv2.copyMakeBorder(around, *missing, cv2.BORDER_REPLICATE)
    stamp = cv2.copyMakeBorder(stamp, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REPLICATE)
    source = ((stamp[..., :3] + 0.5 * (1 - stamp[..., 3:])) * 255).round().astype(np.uint8)
    reach = np.ones((2 * MARGIN - 3, 2 * MARGIN - 3), np.uint8)
    mask = cv2.dilate((stamp[..., 3] > VISIBLE).astype(np.uint8), reach) * 255
    mask[[0, -1]] = mask[:, [0, -1]] = 0
    if not mask.any():
        return canvas[window]
    x, y, mask_width, mask_height = cv2.boundingRect(mask)
    centre = (x + mask_width // 2, y + mask_height // 2)
    cloned = cv2.seamlessClone(source, around, mask, centre, cv2.MIXED_CLONE)
    change = (cloned.astype(np.float32) - around)[MARGIN:-MARGIN, MARGIN:-MARGIN] / 255
    return np.clip(canvas[window] + change, 0, 1)


def visible(changed: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Where two pictures (h, w, 3) differ by more than `VISIBLE`, bool (h, w)."""
    return np.abs(changed - image).max(axis=2) > VISIBLE
