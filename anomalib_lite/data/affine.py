"""Affine maps between pixels: a (2, 3) float64 array maps (x, y, 1) to (x, y), pixel centres at integers."""

from __future__ import annotations

import math

import cv2
import numpy as np


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The affine that applies `inner`, then `outer`.

    >>> compose(scaling(2, 2), np.array([[1.0, 0, 3], [0, 1, 0]])).tolist()
    [[2.0, 0.0, 6.5], [0.0, 2.0, 0.5]]
    """
    linear = outer[:, :2] @ inner[:, :2]
    return np.column_stack([linear, outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def invert(matrix: np.ndarray) -> np.ndarray:
    """The affine that undoes `matrix`.

    >>> invert(np.array([[2.0, 0, 6], [0, 2, 0]])).tolist()
    [[0.5, 0.0, -3.0], [0.0, 0.5, 0.0]]
    """
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]]) + 0.0  # + 0.0 turns -0.0 into 0.0


def translation(x: float, y: float) -> np.ndarray:
    """The affine that moves every pixel by (x, y).

    >>> translation(5, -2).tolist()
    [[1.0, 0.0, 5.0], [0.0, 1.0, -2.0]]
    """
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def scaling(x: float, y: float) -> np.ndarray:
    """Pixel of a picture -> pixel of it enlarged `x` and `y` times; edges, not centres, coincide.

    >>> scaling(3, 1).tolist()  # pixel 0 covers the enlarged pixels 0, 1, 2: its centre is 1
    [[3.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    return np.array([[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2]])


def rotation(degrees: float, size: tuple[int, int]) -> np.ndarray:
    """Rotation about the centre of a picture of `size` (height, width), from x towards y.

    >>> rotation(90, (3, 5)).round(6).tolist()
    [[0.0, -1.0, 3.0], [1.0, 0.0, -1.0]]
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = np.array([[cosine, -sine], [sine, cosine]])
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.column_stack([linear, centre - linear @ centre])


def quarter_turns(picture: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture after `np.rot90(picture, count)`, and before it the affine that maps its pixels back.

    >>> turn, turned = quarter_turns(np.arange(6).reshape(2, 3), 1)
    >>> turned[0].tolist(), turn.tolist()  # the first row was the last column
    ([2, 5], [[0.0, -1.0, 2.0], [1.0, 0.0, 0.0]])
    """
    matrix = np.eye(2, 3)
    for _ in range(count % 4):
        matrix = compose(matrix, np.array([[0.0, -1.0, picture.shape[1] - 1], [1.0, 0.0, 0.0]]))
        picture = np.rot90(picture)
    return matrix, np.ascontiguousarray(picture)


def angle(matrix: np.ndarray) -> float:
    """Degrees by which an affine rotates, in (-180, 180].

    >>> round(angle(rotation(30, (8, 8))), 6)
    30.0
    """
    return math.degrees(math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1]))


def warp(picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Picture of `size` (height, width) whose pixel x shows `picture` at `matrix` x; borders are replicated.

    >>> warp(np.eye(3, dtype=np.float32), np.array([[1.0, 0, 1], [0, 1, 1]]), (2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
