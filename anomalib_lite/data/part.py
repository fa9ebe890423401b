"""Where the part lies in registered views of good parts, told from the background that the border shows."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[int, int, int, int]  # x, y, width, height in pixels

BORDER = 0.03  # of the view's sides: shows the background, if there is one
CONTRAST = 0.1  # least difference, of 1, between part and background in the channel that shows it best
FAINT = 0.2  # of the part's strongest difference: what differs less is background
STEADY = 0.9  # share of the border that must look like one background
OFTEN = 0.05  # share of the views in which a pixel must belong to the part to be kept
MARGIN = 0.04  # of the view's long side, left free around the part
WORTHWHILE = 0.9  # share of the view's area above which a crop is not worth having


def part_box(views: Sequence[np.ndarray]) -> Box | None:
    """The box around the part, with a margin, in views (h, w, 3) of one size in [0, 1].

    None where there is no plain background, the part moves from view to view, or it fills the view.

    >>> view = np.zeros((100, 100, 3), np.float32)
    >>> view[40:60, 20:70] = 0.8
    >>> part_box([view, view])
    (16, 36, 58, 28)
    """
    masks = [part_mask(view) for view in views]
    found = [mask for mask in masks if mask is not None]
    if not masks or len(found) < STEADY * len(masks):
        return None
    height, width = found[0].shape
    occupied = np.mean(found, axis=0)
    usual, ever = (occupied >= 0.5, occupied >= OFTEN)
    if not usual.any():
        return None
    margin = max(1, round(MARGIN * max(height, width)))
    inner, outer = extent(usual), extent(ever)
    if np.abs(inner - outer).max() > margin:  # it moves: a crop would cut off the next one
        return None
    left, top = np.maximum(outer[:2] - margin, 0).tolist()
    right, bottom = np.minimum(outer[2:] + margin, (width, height)).tolist()
    if (right - left) * (bottom - top) > WORTHWHILE * width * height:
        return None
    return left, top, right - left, bottom - top


def part_mask(view: np.ndarray) -> np.ndarray | None:
    """Pixels (h, w) of a view (h, w, 3) that differ from its border; None if the border is not plain.

    >>> view = np.zeros((40, 40, 3), np.float32)
    >>> view[10:20, 10:30] = 0.5
    >>> int(part_mask(view).sum())
    200
    """
    height, width = view.shape[:2]
    edge = max(1, round(BORDER * max(height, width)))
    border = np.ones((height, width), bool)
    border[edge:-edge, edge:-edge] = False
    difference = np.abs(view - np.median(view[border], axis=0)).max(axis=2)
    strongest = float(np.percentile(difference, 99))
    threshold = FAINT * strongest
    if strongest < CONTRAST or (difference[border] <= threshold).mean() < STEADY:
        return None
    mask = (difference > threshold).astype(np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0  # dust is not the part


def extent(mask: np.ndarray) -> np.ndarray:
    """The first column and row and the last ones plus one of a mask (h, w) that is not empty.

    >>> extent(np.array([[False, False, False], [False, True, True]])).tolist()
    [1, 1, 3, 2]
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
