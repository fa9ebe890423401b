"""The belt's video: the frames that the belt's set is made of, their truth, and one writer at a time."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data.rendered import belt_video as module
from anomalib_lite.data.rendered.belt import render_frame
from anomalib_lite.data.rendered.belt_video import (
    SPACING,
    belt_video,
    frame_truth,
    render_belt_video,
    truth_path,
)
from anomalib_lite.data.video import Stop, VideoFile
from anomalib_lite.types import InputError

SIZE, COUNT = (96, 72), 60  # frames 29 to 48 show the first ring


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "belt.avi"
    render_belt_video(path, count=COUNT, size=SIZE, seed=3)
    return path


def test_frames_are_the_rendered_ones_to_the_bit(video: Path) -> None:
    source = VideoFile(video)
    frames = list(source.frames(Stop()))
    assert (len(frames), source.fps, source.size, source.note) == (COUNT, 25.0, (72, 96), "")
    for number in (0, 35, COUNT - 1):
        rendered = render_frame(
            number=number, size=SIZE, seed=3, run="video", anomalies=("ring", "broken"), spacing=SPACING
        )
        np.testing.assert_array_equal(frames[number].image, rendered.image)


def test_truth_holds_every_frame_and_the_boxes_of_its_masks(video: Path) -> None:
    truth = frame_truth(truth_path(video))
    assert [frame.frame for frame in truth] == list(range(COUNT))
    labels = [frame.label for frame in truth]
    assert labels == sorted(labels[:40]) + sorted(
        labels[40:], reverse=True
    )  # one ring comes, passes, is gone
    assert 15 < sum(labels) < 25
    for number in (0, 35, COUNT - 1):
        mask = render_frame(
            number=number, size=SIZE, seed=3, run="video", anomalies=("ring", "broken"), spacing=SPACING
        ).mask
        assert truth[number].label == int(mask.any())
        boxes = [passing.box for passing in truth[number].passings]
        assert boxes == ([cv2.boundingRect(mask.astype(np.uint8))] if mask.any() else [])
    assert {(p.number, p.kind, p.strength) for frame in truth for p in frame.passings} == {(0, "ring", 0.5)}


def test_lines_name_what_is_seen(video: Path) -> None:
    rows = [json.loads(line) for line in truth_path(video).read_text().splitlines()]
    assert rows[0] == {"frame": 0, "label": 0, "type": "good", "anomalies": []}
    assert rows[35]["type"] == "ring"
    assert rows[35]["label"] == 1


def test_the_next_anomaly_is_another_number_and_kind() -> None:
    passings = module._Passings()
    for number, expected in ((35, (0, "ring")), (40, (0, "ring")), (112, (1, "broken")), (36, (0, "ring"))):
        frame = render_frame(number=number, size=SIZE, anomalies=module.DEFECTS, spacing=SPACING)
        line = module._truth_line(frame, passings)
        assert (line["anomalies"][0]["number"], line["type"]) == expected


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a.avi", 3), ("b.avi", 3), ("c.avi", 4)):
        render_belt_video(tmp_path / name, count=3, size=SIZE, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.avi", "b.avi", "c.avi"))
    assert a == b
    assert a != c
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".avi"] * 3 + [".jsonl"] * 3


def test_video_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = belt_video(tmp_path, count=2, size=SIZE)
    assert path == tmp_path / "belt_video_96x72_2_frames_25_fps_seed0_v1" / "belt.avi"
    assert json.loads((path.parent / "rendered.json").read_text())["note"].startswith(
        "These pictures are rendered"
    )
    monkeypatch.setattr(module, "render_belt_video", lambda *_, **__: pytest.fail("rendered again"))
    assert belt_video(tmp_path, count=2, size=SIZE) == path
    assert len(frame_truth(truth_path(path))) == 2


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "_check_written", fail)
    with pytest.raises(InputError, match="expected to write the rendered pictures there, found: disk full"):
        belt_video(tmp_path, count=2, size=SIZE)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_video_with_fewer_frames_than_written_is_noticed(video: Path, tmp_path: Path) -> None:
    module._check_written(video, COUNT)
    with pytest.raises(OSError, match="the video holds 60 whole frames of 61: is the disk full"):
        module._check_written(video, COUNT + 1)
    short = tmp_path / "short.avi"
    short.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(OSError, match="whole frames of 60"):
        module._check_written(short, COUNT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"fps": 0}, "fps must be at least 1, got 0"),
        ({"size": (95, 72)}, "size must be at least 96x72 pixels"),
        ({"seed": -2}, "seed must be at least 0, got -2"),
    ],
)
def test_what_cannot_be_rendered(tmp_path: Path, settings: dict, message: str) -> None:
    for render in (belt_video, lambda folder, **given: render_belt_video(folder / "belt.avi", **given)):
        with pytest.raises(InputError, match=message):
            render(tmp_path, **settings)


@pytest.mark.parametrize(
    "second",
    [
        "{}",
        "[]",
        "half a li",
        '{"frame": 2, "label": 0, "anomalies": []}',
        '{"frame": 1, "label": 1, "anomalies": []}',
        '{"frame": 1, "label": 1, "anomalies": [{"number": 0, "kind": "ring", "box": [1, 2], "strength": 1}]}',
    ],
)
def test_other_files_are_no_truth(tmp_path: Path, second: str) -> None:
    path = tmp_path / "belt.jsonl"
    path.write_text('{"frame": 0, "label": 0, "anomalies": []}\n' + second + "\n")
    with pytest.raises(InputError, match=r"belt\.jsonl: expected the ground truth of frame 1 in line 2"):
        frame_truth(path)
    with pytest.raises(
        InputError, match=r"no\.jsonl: expected a rendered video's ground truth, cannot read it"
    ):
        frame_truth(tmp_path / "no.jsonl")
