"""Verdicts, rows and pictures of new photographs, with a detector that is told what to say."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anomalib_lite.data.images import write_png
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.detector import Detector
from anomalib_lite.inspection import inspect
from anomalib_lite.inspector import not_aligned, outlined, overlay
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.types import Alignment, InputError, Prediction

# what Told marks by default: the lower right quarter of 12 x 8 pixels
SQUARE = {"box": [6, 4, 6, 4], "area": 24, "area_mm2": None, "peak": 1.0, "mean": 1.0, "location": [8.5, 5.5]}


class Enlarged:
    """Carries a map to the photograph's pixels, each of its pixels becoming a square."""

    def to_photograph(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> np.ndarray:
        return np.kron(anomaly_map, np.ones((size[0] // 2, size[1] // 2), np.float32))


@dataclass
class Drawn:
    """Carries a map to squares of so many pixels, whatever the photograph's size."""

    side: int

    def to_photograph(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> np.ndarray:
        return np.kron(anomaly_map, np.ones((self.side, self.side), np.float32))


@dataclass
class Told:
    """Says of a file what stands for its name: a label, None, or why the part is rejected."""

    verdicts: dict[str, int | str | None]
    tau_: float | None = 0.5
    preparation: Any = field(default_factory=Enlarged)
    anomaly_map: list[list[float]] = field(default_factory=lambda: [[0, 0], [0, 1]])
    postprocess: PostProcess = field(default_factory=PostProcess)
    mm_per_pixel = Detector.mm_per_pixel
    carry = Detector.carry

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        verdict, alignment = self.verdicts[path.stem], Alignment(np.eye(2, 3), quality=0.75)
        if isinstance(verdict, str):
            return not_aligned(path, Alignment(np.eye(2, 3), 0.1, False, verdict))
        anomaly_map = np.array(self.anomaly_map, np.float32)
        score = None if verdict is None else 0.25 + verdict / 2
        mask = None if self.tau_ is None else self.postprocess.mask_rule(anomaly_map, self.tau_)
        return Prediction(path, 2.0, score, verdict, anomaly_map, mask, alignment)


class Blind(Told):
    """Judges without an anomaly map."""

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        prediction = super().predict(photograph, path)
        prediction.anomaly_map = prediction.pred_mask = None
        return prediction


def judge(folder: Path, verdicts: dict[str, Any], output: Path, **settings: Any) -> dict[str, int]:
    folder.mkdir(exist_ok=True)
    for name in verdicts:
        write_png(folder / f"{name}.png", np.full((8, 12, 3), 100, np.uint8))
    detector: Any = settings.pop("detector", Told)(verdicts)
    return inspect(detector, folder, output, **{"pictures": True, "on_bad_image": "reject", **settings})


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]


def test_every_part_is_counted_once_and_has_a_row(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "e.png").write_bytes(b"")
    verdicts = {"a": 0, "b": 1, "c": "correlation 0.1", "d": None}
    counts = judge(tmp_path / "parts", verdicts, tmp_path / "out")
    assert counts == {"good": 1, "defective": 1, "rejected": 2, "unjudged": 1}
    rows = lines(tmp_path / "out")
    assert [Path(row["path"]).stem for row in rows] == list("abcde")
    assert [row["pred_label"] for row in rows] == [0, 1, None, None, None]
    assert [row["pred_score"] for row in rows] == [0.25, 0.75, None, None, None]
    assert [row["raw_score"] for row in rows] == [2.0, 2.0, None, 2.0, None]
    assert [row["registration_quality"] for row in rows] == [0.75, 0.75, 0.1, 0.75, 0.0]
    assert rows[2]["rejected"] == "not aligned: correlation 0.1"
    assert "e.png: expected a PNG, JPEG, BMP or TIFF picture, found an empty file" in rows[4]["rejected"]
    table = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert [row.pop("defects") for row in rows] == [[SQUARE], [SQUARE], [], [SQUARE], []]
    assert [row.pop("defects") for row in table] == ["1", "1", "0", "1", "0"]
    assert [row["verdict"] for row in rows] == ["good", "defective", "rejected", "unjudged", "rejected"]
    assert [
        {name: "" if row[name] is None else str(row[name]) for name in columns}
        for row, columns in zip(rows, table, strict=True)
    ] == table


def test_pictures_lie_in_the_photographs_pixels(tmp_path: Path) -> None:
    judge(tmp_path / "parts", {"a": 1, "b": "not there"}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["00000_a.png"]
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "00000_a.png"), cv2.IMREAD_UNCHANGED)
    expected = np.zeros((8, 12), np.uint8)
    expected[4:, 6:] = 255
    assert np.array_equal(mask, expected)
    shown = cv2.imread(str(tmp_path / "out" / "overlays" / "00000_a.png"))[..., ::-1]
    outline = np.zeros((8, 12), bool)
    outline[3, 5:] = outline[3:, 5] = True  # one pixel, just outside
    assert (shown[outline] == [255, 0, 255]).all()
    assert (shown[(expected == 0) & ~outline] == 100).all()  # a good region stays as photographed
    assert (shown[4:, 6:] == shown[7, 11]).all()
    red, _, blue = shown[7, 11].tolist()
    assert red > blue


def test_lines_go_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(tmp_path / "parts", {"a": 1, "b": 0}, tmp_path / "out", lines="stdout", pictures=False)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in said] == ["a.png", "b.png"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.csv"]


class Counting:
    """A monitor that finds drift at the second accepted part."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def known(self) -> dict[str, Any]:
        return {"drifted": None}

    def update(self, **told: Any) -> dict[str, Any]:
        self.told.append(told)
        return {"drifted": len(self.told) >= 2, "advice": "recalibrate: the light has changed"}


def test_accepted_parts_are_watched_for_drift(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = Counting()
    verdicts = {"a": 0, "b": 1, "c": "correlation 0.1", "d": 0, "e": 0}
    judge(tmp_path / "parts", verdicts, tmp_path / "out", pictures=False, monitor=monitor)
    assert monitor.told == [{"raw_score": 2.0, "error": None, "quality": 0.75}] * 3
    drifted = [line["drift"] and line["drift"]["drifted"] for line in lines(tmp_path / "out")]
    assert drifted == [False, False, False, True, True]
    assert caplog.messages == ["drift: recalibrate: the light has changed"]  # once


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


def test_defects_are_listed_largest_peak_first_with_their_size_in_mm(tmp_path: Path) -> None:
    postprocess = PostProcess(mm_per_pixel=0.5)
    told = partial(
        Told, anomaly_map=[[0.75, 0], [0, 0], [0, 1]], postprocess=postprocess, preparation=Drawn(4)
    )
    judge(tmp_path / "parts", {"a": 0}, tmp_path / "out", detector=told, pictures=False)
    (row,) = lines(tmp_path / "out")
    assert row["pred_label"] == 0  # the image cut and the pixel cut are two rules
    corner = {"area": 16, "area_mm2": 4.0}
    assert row["defects"] == [
        corner | {"box": [4, 8, 4, 4], "peak": 1.0, "mean": 1.0, "location": [5.5, 9.5]},
        corner | {"box": [0, 0, 4, 4], "peak": 0.75, "mean": 0.75, "location": [1.5, 1.5]},
    ]
    assert next(csv.DictReader((tmp_path / "out" / "scores.csv").open()))["defects"] == "2"


def test_nothing_is_listed_where_nothing_could_be_looked_for(tmp_path: Path) -> None:
    judge(tmp_path / "parts", {"a": 1, "b": "not there"}, tmp_path / "blind", detector=Blind)
    judge(tmp_path / "other", {"a": 1}, tmp_path / "uncut", detector=partial(Told, tau_=None))
    assert [row["defects"] for row in lines(tmp_path / "blind") + lines(tmp_path / "uncut")] == [[], [], []]
    assert list((tmp_path / "blind" / "masks").iterdir()) == []


def test_what_the_minimum_area_removes_does_not_come_back_in_the_photograph(tmp_path: Path) -> None:
    photograph = np.full((96, 144, 3), 0.5, np.float32)
    preparation = Preparation(registration=Registration(method="none"), crop=None, size=20)
    preparation.fit([photograph, photograph], [Path("a.png"), Path("b.png")])
    anomaly_map = np.full((13, 20), 0.499, np.float32)
    anomaly_map[2:4, 2:4] = 0.9  # a speck of four
    anomaly_map[6:9, 10:14] = 0.8  # and a stain of twelve
    (tmp_path / "parts").mkdir()
    write_png(tmp_path / "parts" / "a.png", (photograph * 255).astype(np.uint8))
    found, masks = {}, {}
    for area in (0, 5, 13):
        detector: Any = Told(
            {"a": 1},
            preparation=preparation,
            anomaly_map=anomaly_map.tolist(),
            postprocess=PostProcess(minimum_area=area),
        )
        output = tmp_path / str(area)
        inspect(detector, tmp_path / "parts", output, pictures=True, on_bad_image="error")
        found[area] = lines(output)[0]["defects"]
        masks[area] = cv2.imread(str(output / "masks" / "00000_a.png"), cv2.IMREAD_UNCHANGED) > 0
    assert [round(defect["peak"], 3) for defect in found[0]] == [0.9, 0.8]
    assert found[5] == found[0][1:]  # the other is as it was
    assert found[13] == []
    carried = preparation.to_photograph(anomaly_map, Alignment(np.eye(2, 3)), (96, 144))
    assert np.array_equal(masks[0], carried > 0.5)  # without a minimum area: what is above the cut
    assert np.array_equal(masks[5][:, :60], np.zeros((96, 60), bool))
    assert np.array_equal(masks[5][:, 60:], masks[0][:, 60:])
    assert not masks[13].any()


def test_a_pixel_cut_of_zero_marks_all_that_is_above_it(tmp_path: Path) -> None:
    told = partial(Told, tau_=0.0, anomaly_map=[[0, 0], [0, 1e-3]])
    judge(tmp_path / "parts", {"a": 1}, tmp_path / "out", detector=told)
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "00000_a.png"), cv2.IMREAD_UNCHANGED)
    assert (mask > 0).sum() == 24
    assert [defect["box"] for defect in lines(tmp_path / "out")[0]["defects"]] == [SQUARE["box"]]
    red, _, blue = cv2.imread(str(tmp_path / "out" / "overlays" / "00000_a.png"))[7, 11, ::-1].tolist()
    assert red > blue  # as far above the cut as the colours go


def test_a_detector_without_a_pixel_cut_marks_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    write_png(folder / "a.png", np.full((8, 12, 3), 100, np.uint8))
    detector: Any = Told({"a": 1}, tau_=None)
    inspect(detector, folder / "a.png", tmp_path / "out", pictures=True, on_bad_image="error")
    assert list((tmp_path / "out" / "overlays").iterdir())
    assert not list((tmp_path / "out" / "masks").iterdir())  # a black one would say that nothing is wrong


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


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(1, 40), long_side=st.sampled_from([40, 1500]))
def test_the_outline_lies_just_outside(height: int, width: int, long_side: int) -> None:
    rng = np.random.default_rng(height * width)
    mask = np.zeros((height, long_side), bool)
    mask[:, :width] = rng.random((height, width)) > 0.8
    picture = rng.integers(0, 255, (height, long_side, 3), np.uint8)
    before = picture.copy()
    drawn = outlined(picture, mask)
    assert np.array_equal(picture, before)
    distance = ndimage.distance_transform_cdt(~mask, "chessboard") if mask.any() else np.full(mask.shape, 99)
    ring = (distance > 0) & (distance <= (1 if long_side == 40 else 2))  # thicker where it is shown smaller
    assert (drawn[ring] == [255, 0, 255]).all()
    assert np.array_equal(drawn[~ring], picture[~ring])
