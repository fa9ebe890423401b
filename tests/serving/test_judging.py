"""Streams and uploads through one thread, drift on what is accepted, and what is kept of it."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from anomalib_lite.data.images import write_png
from anomalib_lite.data.video import FrameReader, open_source
from anomalib_lite.drift import DriftMonitor
from anomalib_lite.inspector import Examined, Localised, unreadable
from anomalib_lite.serving.judging import Judge
from anomalib_lite.serving.parts import PartTable, Pictures
from anomalib_lite.types import Alignment, InputError, Prediction

HOLE = (20, 10, 6, 4)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def judge(darkness):
    judge = Judge(darkness(), PartTable())
    yield judge
    judge.close()


@pytest.fixture
def video(tmp_path, picture):
    """Twelve frames without loss, every third one defective."""
    path = tmp_path / "belt.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, (60, 40))
    for number in range(12):
        holes = (HOLE,) if number % 3 == 0 else ()
        writer.write(np.ascontiguousarray(picture(*holes, seed=number)[..., ::-1]))
    writer.release()
    return path


def test_every_frame_of_a_file_is_judged_in_order(judge, video, picture):
    judge.follow(FrameReader(open_source(str(video)), size=2))
    wait_for(lambda: judge.stream()["state"] != "running")
    assert judge.stream() | {"note": ""} == {
        "source": open_source(str(video)).name, "state": "ended", "note": "", "read": 12, "dropped": 0, "reconnects": 0,
    }  # fmt: skip
    parts = judge.table.after(0)
    assert [part.facts["frame"] for part in parts] == list(range(12))
    assert [part.facts["verdict"] for part in parts] == ["defective", "good", "good"] * 4
    assert np.abs(parts[0].original.astype(int) - picture(HOLE, seed=0)).max() <= 3  # by way of YUV
    assert parts[5].facts["seconds"] == pytest.approx(0.2)


def test_uploads_come_in_between_and_one_thread_judges_all(darkness, video, picture, encode):
    threads, prepared = set(), []

    class Watched(darkness):
        def predict(self, photograph, path):
            threads.add(threading.current_thread().name)
            time.sleep(0.05)
            return super().predict(photograph, path)

    judge = Judge(Watched(), PartTable(), prepare=lambda: prepared.append(threading.current_thread().name))
    judge.follow(FrameReader(open_source(str(video))))
    wait_for(lambda: judge.table.after(0))
    number = judge.upload(encode(picture()), "x.png").result(timeout=20).number
    wait_for(lambda: judge.stream()["state"] == "ended")
    assert number - judge.table.session < 8  # not behind all of the stream
    assert len(judge.table.after(0)) == 13
    judge.close()
    assert len(threads) == 1
    assert prepared == list(threads)


def test_a_watched_folder(judge, tmp_path, picture):
    write_png(tmp_path / "a.png", picture(HOLE))
    content = (tmp_path / "a.png").read_bytes()
    judge.follow(FrameReader(open_source(str(tmp_path), poll_s=0.05)))
    wait_for(lambda: judge.table.after(0))
    (part,) = judge.table.after(0)
    assert (part.facts["verdict"], part.facts["path"]) == ("defective", str(tmp_path / "a.png"))
    assert part.original == content
    judge.close()
    assert judge.stream()["state"] == "ended"


def test_a_stream_that_fails_says_why_without_its_password_and_uploads_go_on(judge, picture, encode):
    judge.follow(FrameReader(open_source("http://user:secret@127.0.0.1:1/stream.mjpg")))
    wait_for(lambda: judge.stream()["state"] != "running")
    state = judge.stream()
    assert state["state"] == "failed"
    assert "127.0.0.1:1" in state["note"]
    assert "secret" not in str(state)
    assert judge.upload(encode(picture()), "x.png").result(timeout=20).facts["verdict"] == "good"


def test_an_inspector_that_fails_ends_the_stream_only(judge, video, picture, encode):
    judge.inspector.predict = None
    judge.follow(FrameReader(open_source(str(video))))
    wait_for(lambda: judge.stream()["state"] != "running")
    assert judge.stream()["note"] == "internal error (TypeError), see the log"
    del judge.inspector.predict
    assert judge.upload(encode(picture()), "x.png").result(timeout=20).facts["verdict"] == "good"


def test_closing_does_not_wait_for_the_rest_of_a_stream(darkness, video):
    class Slow(darkness):
        def predict(self, photograph, path):
            time.sleep(0.2)
            return super().predict(photograph, path)

    judge = Judge(Slow(), PartTable())
    judge.follow(FrameReader(open_source(str(video))))
    wait_for(lambda: judge.table.after(0))
    start = time.monotonic()
    judge.close()
    assert time.monotonic() - start < 1.5
    assert len(judge.table.after(0)) < 12
    assert not [thread for thread in threading.enumerate() if thread.name in ("stream", "judge_0")]


def test_drift_is_told_of_accepted_parts_only(darkness, picture, encode, caplog):
    inspector = darkness()
    monitor = DriftMonitor(inspector.calibration, 10.0, window=10, false_alarms=1e-2)
    judge = Judge(inspector, PartTable(), monitor=monitor)
    assert judge.drift["drifted"] is None
    for content in (encode(picture(HOLE)), encode(np.full((40, 60, 3), 255, np.uint8))):
        judge.upload(content, "x").result(timeout=20)
    assert judge.drift["parts"] == 0
    for seed in range(20):  # all without a dark pixel: not what the calibration set was
        part = judge.upload(encode(picture(seed=seed)), "x").result(timeout=20)
    assert (judge.drift["drifted"], judge.drift["parts"]) == (True, 20)
    assert part.facts["drift"] == judge.drift
    assert [record.message for record in caplog.records if "drift" in record.message] == [
        f"drift: {part.facts['drift']['advice']}".replace(str(judge.drift), "")
    ]
    judge.close()


def test_an_upload_that_is_no_picture(judge):
    with pytest.raises(InputError, match="found a text file"):
        judge.upload(b"text", "x.png").result(timeout=20)
    assert judge.table.after(0) == []


def examined(level):
    prediction = Prediction(None, 1.0, None, 1, level, None, Alignment(np.eye(2, 3)))
    return Examined(prediction, Localised(level, level > 0.5, 0.5))


def test_large_pictures_are_shown_smaller_and_small_defects_stay_visible():
    level = np.zeros((1500, 2000), np.float32)
    level[750, 1000] = 1
    pictures = Pictures(np.full((1500, 2000, 3), 0.5, np.float32), examined(level))
    shown = cv2.imdecode(np.frombuffer(pictures.photograph(), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (960, 1280, 3)
    assert abs(int(shown.mean()) - 128) < 2
    overlay = cv2.imdecode(np.frombuffer(pictures.overlay(), np.uint8), cv2.IMREAD_UNCHANGED)
    rows, columns = np.nonzero(overlay[..., 3] == 255)  # a line around one pixel
    assert (abs(rows.mean() - 480) < 2, abs(columns.mean() - 640) < 2) == (True, True)
    assert overlay[rows[0], columns[0]].tolist() == [255, 0, 255, 255]
    assert pictures.size == 960 * 1280 * 5
    narrow = Pictures(np.zeros((1, 9000, 3), np.float32), unreadable("x", "y"))
    assert cv2.imdecode(np.frombuffer(narrow.thumbnail(), np.uint8), 1).shape == (1, 128, 3)


def test_the_table_keeps_within_its_memory_and_the_newest_whatever_its_size():
    table = PartTable(kept=5, memory=1000)
    for size in (400, 400, 400, 5000):
        table.add({"verdict": "good"}, None, bytes(size))
    kept = [part.original is not None for part in table.after(0)]
    assert kept == [False, False, False, True]
    assert table.state(0)["pictured"] == table.after(0)[-1].number
    for size in (400, 400):
        table.add({"verdict": "good"}, None, bytes(size))
    assert [len(part.original or b"") for part in table.after(0)] == [0, 0, 0, 400, 400]
    assert table.counts["good"] == 6
