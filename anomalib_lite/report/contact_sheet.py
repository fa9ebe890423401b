"""One picture that shows what a denoising model was given and what it made of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anomalib_lite.report.gallery import BLUE_TO_RED

BORDER = 2  # pixels around every panel


def contact_sheet(
    originals: Sequence[np.ndarray],
    corrupted: Sequence[np.ndarray],
    cleaned: Sequence[np.ndarray] | None = None,
    error: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """A row for each picture, left to right original / synthesised / cleaned / error, as far as given.

    Pictures are (h, w, 3) in [0, 1] and errors (h, w), all of one size; all errors share one scale, blue at 0, red
    at the strongest thousandth of their pixels. Returns uint8 (H, W, 3) on white. Raises ValueError for no
    pictures and for sizes or numbers that differ.

    Source: the debugging picture of Rojas, Morton, Perez, Andrade (2020).

    >>> pictures = [np.zeros((4, 6, 3))] * 3
    >>> contact_sheet(pictures, pictures).shape
    (20, 18, 3)
    """
    columns = [list(originals), list(corrupted)]
    if cleaned is not None:
        columns.append(list(cleaned))
    if error is not None:
        columns.append(_coloured(error))
    counts = {len(column) for column in columns}
    shapes = {panel.shape for column in columns for panel in column}
    if len(counts) != 1 or len(shapes) != 1:
        raise ValueError(
            f"expected as many panels in each column, all of one size, got {[len(column) for column in columns]} "
            f"panels of sizes {sorted(shapes)}"
        )
    height, width = shapes.pop()[:2]
    rows, step_y, step_x = counts.pop(), height + BORDER, width + BORDER
    sheet = np.full((rows * step_y + BORDER, len(columns) * step_x + BORDER, 3), 255, np.uint8)
    for i, column in enumerate(columns):
        for j, panel in enumerate(column):
            y, x = j * step_y + BORDER, i * step_x + BORDER
            sheet[y : y + height, x : x + width] = (np.clip(panel, 0, 1) * 255).round()
    return sheet


def _coloured(error: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Errors (h, w) as pictures (h, w, 3) in [0, 1]."""
    values = np.concatenate([np.ravel(panel) for panel in error] or [np.zeros(1)])
    top = max(float(np.percentile(values, 99.9)), 1e-12)
    return [BLUE_TO_RED[(np.clip(panel / top, 0, 1) * 255).round().astype(int)] / 255 for panel in error]
