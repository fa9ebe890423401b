"""Sizes, and the antialiased resize of `data.resize` without torch, for the runtime and for exported graphs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


def resize_array(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture (H, W, C) float32 to (*size, C), antialiased bilinear; the same array if nothing changes.

    As `data.resize.resize` within 1e-6 for pictures in [0, 1].

    >>> resize_array(np.ones((8, 6, 3), np.float32), (4, 3)).shape
    (4, 3, 3)
    """
    if picture.shape[:2] == tuple(size):
        return picture
    rows = _combine(picture, size[0])
    return np.ascontiguousarray(_combine(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1))


def fit_long_side(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """The (height, width) with `size`'s aspect whose longer side is `long_side` pixels; None: as it is.

    Smaller pictures are enlarged, so that a part fills the same view whatever the camera.

    >>> fit_long_side((1200, 1600), 512)
    (384, 512)
    >>> fit_long_side((30, 40), 80)
    (60, 80)
    """
    height, width = size
    if long_side is None:
        return height, width
    scale = long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def axis_weights(length: int, size: int) -> np.ndarray:
    """The matrix (size, length) float32 that resizes one axis.

    >>> axis_weights(4, 2)
    array([[0.42857143, 0.42857143, 0.14285715, 0.        ],
           [0.        , 0.14285715, 0.42857143, 0.42857143]], dtype=float32)
    """
    first, taps = _taps(length, size)
    weights = np.zeros((size, length), np.float32)
    for tap in range(taps.shape[1]):
        place = np.minimum(first + tap, length - 1)
        weights[np.arange(size), place] += taps[:, tap]
    return weights


def _combine(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize the first axis."""
    length = picture.shape[0]
    if length == size:
        return picture
    return (_sparse(length, size) @ picture.reshape(length, -1)).reshape(size, *picture.shape[1:])


@lru_cache(maxsize=32)
def _sparse(length: int, size: int) -> Any:
    """`axis_weights` with its zeros left out: of a photograph's axis, all but a few in a row."""
    from scipy.sparse import csr_array  # when it is needed: an export's graph takes the whole matrix

    return csr_array(axis_weights(length, size))


def _taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel (size,) that each one of the result takes from, and weights (size, taps) float32 from there on.

    A triangle as wide as a pixel of the result, or of the picture where that is the coarser one, cut off at the border.
    """
    scale = np.float32(length / size)
    support = max(scale, np.float32(1))
    # in float32, as torch does: exact places would be others by up to 1e-4 pixels in a photograph
    centre = scale * (np.arange(size, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), length)
    place = first[:, None] + np.arange((last - first).max())
    distance = (place.astype(np.float32) - centre[:, None] + np.float32(0.5)) / support
    weights = np.maximum(1 - np.abs(distance), 0)
    weights[place >= last[:, None]] = 0
    return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
