"""What counts as the same answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.data.images import write_png
from anomalib_lite.exporting.parity import check_parity
from anomalib_lite.types import Alignment, InputError, Prediction


class Judging:
    """An inspector that gives the same prediction of every photograph, but for what is changed."""

    def __init__(self, **changes: Any) -> None:
        anomaly_map = np.full((4, 4), 0.5, np.float32)
        alignment = Alignment(np.eye(3), 1.0, True)
        found = Prediction(Path("a.png"), 2.0, 0.5, 0, anomaly_map, None, alignment)
        self.found = replace(found, **changes)
        self.raw_cut = 2.0
        self.threshold, self.calibration = self, None

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        return self.found


REJECTED = {"rejected": "not aligned: too dark", "anomaly_map": None, "raw_score": float("nan")}
LARGER = np.full((4, 4), 0.5, np.float32)
LARGER[1, 2] = 0.506


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"raw_score": 2.0021}, "raw score: expected 2.0, as the bundle says, the export found 2.0021"),
        ({"raw_score": float("nan")}, "raw score: expected 2.0, as the bundle says, the export found nan"),
        ({"raw_score": 2.001, "pred_label": 1}, r"label \(the cut is 2.0\): expected 0 of the score 2.0, .* 1 of 2"),
        ({"anomaly_map": LARGER}, r"map: expected at most 0.5, .* found 1.20% of that away"),
        ({"anomaly_map": None}, "map: expected True, as the bundle says, the export found False"),
        (REJECTED, "alignment: expected aligned, as the bundle says, the export found not aligned: too dark"),
    ],
)  # fmt: skip
def test_what_differs_is_named(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=rf"a\.png at 40 x 60: {text}"):
        check_parity(Judging(), Judging(**changes), [tmp_path / "a.png"])


def test_what_is_within_the_tolerance(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    near = Judging(raw_score=2.0019, anomaly_map=LARGER - 0.002)
    parities = check_parity(Judging(), near, [tmp_path / "a.png"])
    assert [parity.scale for parity in parities] == [1.0, 0.5, 0.75, 1.5]
    assert parities[0].score == pytest.approx(0.00095)
    assert parities[0].map == pytest.approx(0.008, rel=1e-4)


def test_nothing_to_compare_is_no_agreement(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"none of the 1 photographs \(first: .*a\.png\) could be aligned"):
        check_parity(Judging(**REJECTED), Judging(**REJECTED), [tmp_path / "a.png"])
