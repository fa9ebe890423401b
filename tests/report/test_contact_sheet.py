"""The contact sheet: every panel in its place, one scale for all errors, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.report.contact_sheet import BORDER, contact_sheet
from anomalib_lite.report.gallery import BLUE_TO_RED


def flat(level: float) -> np.ndarray:
    return np.full((5, 7, 3), level)


def panel(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    y, x = row * (5 + BORDER) + BORDER, column * (7 + BORDER) + BORDER
    return sheet[y : y + 5, x : x + 7]


def test_panels_lie_in_their_places_between_white_lines() -> None:
    error = [np.zeros((5, 7)), np.ones((5, 7))]
    sheet = contact_sheet([flat(0), flat(0.2)], [flat(0.4), flat(0.6)], [flat(0.8), flat(2)], error)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (5 + BORDER) + BORDER, 4 * (7 + BORDER) + BORDER, 3)
    for row, levels in enumerate([(0, 102, 204), (51, 153, 255)]):
        for column, level in enumerate(levels):
            assert (panel(sheet, row, column) == level).all()
    assert (panel(sheet, 0, 3) == BLUE_TO_RED[0]).all()
    assert (panel(sheet, 1, 3) == BLUE_TO_RED[255]).all()
    covered = np.zeros(sheet.shape[:2], bool)
    for row in range(2):
        for column in range(4):
            y, x = row * (5 + BORDER) + BORDER, column * (7 + BORDER) + BORDER
            covered[y : y + 5, x : x + 7] = True
    assert (sheet[~covered] == 255).all()


def test_columns_that_are_not_given_are_not_shown() -> None:
    width = 7 + BORDER
    assert contact_sheet([flat(0)], [flat(0)]).shape[1] == 2 * width + BORDER
    assert contact_sheet([flat(0)], [flat(0)], [flat(0)]).shape[1] == 3 * width + BORDER
    assert contact_sheet([flat(0)], [flat(0)], error=[np.zeros((5, 7))]).shape[1] == 3 * width + BORDER


def test_no_error_anywhere_is_blue() -> None:
    sheet = contact_sheet([flat(0)], [flat(0)], error=[np.zeros((5, 7))])
    assert (panel(sheet, 0, 2) == BLUE_TO_RED[0]).all()


@pytest.mark.parametrize(
    "panels",
    [
        ([], []),
        ([flat(0)], [flat(0), flat(0)]),
        ([flat(0)], [np.zeros((5, 8, 3))]),
        ([flat(0)], [flat(0)], [flat(0)], [np.zeros((4, 7))]),
    ],
)
def test_panels_that_do_not_fit_are_refused(panels: tuple[list[np.ndarray], ...]) -> None:
    with pytest.raises(ValueError, match="expected as many panels in each column, all of one size"):
        contact_sheet(*panels)
