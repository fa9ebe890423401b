"""Verdicts, rows and pictures of new photographs, with a detector that is told what to say."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomalib_lite.data.images import write_png
from anomalib_lite.detector import not_aligned
from anomalib_lite.inspection import inspect, overlay
from anomalib_lite.types import Alignment, InputError, Prediction


class Enlarged:
    """Carries a map to the photograph's pixels, each of its pixels becoming a square."""

    def to_photograph(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> np.ndarray:
        return np.kron(anomaly_map, np.ones((size[0] // 2, size[1] // 2), np.float32))


@dataclass
class Told:
    """Says of a file what stands for its name: a label, None, or why the part is rejected."""

    verdicts: dict[str, int | str | None]
    tau_: float | None = 0.5
    preparation: Enlarged = field(default_factory=Enlarged)

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        verdict, alignment = self.verdicts[path.stem], Alignment(np.eye(2, 3), quality=0.75)
        if isinstance(verdict, str):
            return not_aligned(path, Alignment(np.eye(2, 3), 0.1, False, verdict))
        anomaly_map = np.array([[0, 0], [0, 1]], np.float32)
        score = None if verdict is None else 0.25 + verdict / 2
        return Prediction(path, 2.0, score, verdict, anomaly_map, anomaly_map > 0.5, alignment)


def judge(folder: Path, verdicts: dict[str, Any], output: Path, **settings: Any) -> dict[str, int]:
    folder.mkdir(exist_ok=True)
    for name in verdicts:
        write_png(folder / f"{name}.png", np.full((8, 12, 3), 100, np.uint8))
    detector: Any = Told(verdicts)
    return inspect(detector, folder, output, **{"pictures": True, "on_bad_image": "reject", **settings})


def test_every_part_is_counted_once_and_has_a_row(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "e.png").write_bytes(b"")
    verdicts = {"a": 0, "b": 1, "c": "correlation 0.1", "d": None}
    counts = judge(tmp_path / "parts", verdicts, tmp_path / "out")
    assert counts == {"good": 1, "defective": 1, "rejected": 2, "unjudged": 1}
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [Path(row["path"]).stem for row in rows] == list("abcde")
    assert [row["pred_label"] for row in rows] == [0, 1, None, None, None]
    assert [row["pred_score"] for row in rows] == [0.25, 0.75, None, None, None]
    assert [row["raw_score"] for row in rows] == [2.0, 2.0, None, 2.0, None]
    assert [row["registration_quality"] for row in rows] == [0.75, 0.75, 0.1, 0.75, 0.0]
    assert rows[2]["rejected"] == "not aligned: correlation 0.1"
    assert "e.png: expected a PNG, JPEG, BMP or TIFF picture, found an empty file" in rows[4]["rejected"]
    table = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ] == table


def test_pictures_lie_in_the_photographs_pixels(tmp_path: Path) -> None:
    judge(tmp_path / "parts", {"a": 1, "b": "not there"}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["00000_a.png"]
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "00000_a.png"), cv2.IMREAD_UNCHANGED)
    expected = np.zeros((8, 12), np.uint8)
    expected[4:, 6:] = 255
    assert np.array_equal(mask, expected)
    shown = cv2.imread(str(tmp_path / "out" / "overlays" / "00000_a.png"))[..., ::-1]
    assert (shown[:4] == 100).all()  # a good region stays as photographed
    assert (shown[4:, 6:] == shown[7, 11]).all()
    red, _, blue = shown[7, 11].tolist()
    assert red > blue


def test_scores_only(tmp_path: Path) -> None:
    judge(tmp_path / "parts", {"a": 1}, tmp_path / "out", pictures=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.jsonl"]


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_png(tmp_path / "parts" / "a.bmp.png", np.zeros((8, 12, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "parts" / "a.bmp"), np.zeros((8, 12, 3), np.uint8))
    judge(tmp_path / "parts", {"a": 1, "a.bmp": 1}, tmp_path / "out")
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3


def test_what_is_judged_is_kept_when_a_later_picture_stops_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "b.png").write_text("no picture")
    with pytest.raises(InputError, match=r"b\.png: expected a PNG, .* found a text file"):
        judge(tmp_path / "parts", {"a": 0}, tmp_path / "out", on_bad_image="error")
    assert len((tmp_path / "out" / "scores.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 2


def test_a_detector_without_a_pixel_cut_marks_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    write_png(folder / "a.png", np.full((8, 12, 3), 100, np.uint8))
    detector: Any = Told({"a": 1}, tau_=None)
    inspect(detector, folder / "a.png", tmp_path / "out", pictures=True, on_bad_image="error")
    assert cv2.imread(str(tmp_path / "out" / "masks" / "00000_a.png"), cv2.IMREAD_UNCHANGED).max() == 0


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on_bad_image must be reject or error, got ignore"):
        judge(tmp_path / "parts", {"a": 0}, tmp_path / "out", on_bad_image="ignore")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out: cannot write the results: Not a directory"):
        judge(tmp_path / "parts", {"a": 0}, tmp_path / "file" / "out")


def test_overlay_is_half_way_at_the_cut() -> None:
    photograph = np.full((1, 3, 3), 0.5, np.float32)
    shown = overlay(photograph, np.array([[0.0, 0.2, 9.0]], np.float32), cut=0.2)
    jet = cv2.applyColorMap(np.array([[127, 255]], np.uint8), cv2.COLORMAP_JET)[0, :, ::-1].astype(float)
    assert shown[0, 0].tolist() == [128, 128, 128]
    assert shown[0, 1].tolist() == pytest.approx((127.5 * 0.7 + jet[0] * 0.3).round().tolist(), abs=1)
    assert shown[0, 2].tolist() == pytest.approx((127.5 * 0.4 + jet[1] * 0.6).round().tolist(), abs=1)
