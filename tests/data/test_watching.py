"""A watched folder: each picture once, when it is whole, whatever writes, renames and removes meanwhile."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anomalib_lite.data import watching
from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.data.video import Frame, FrameReader, Stop, WatchedFolder
from anomalib_lite.types import InputError

POLL_S = 0.02


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "line"
    place.mkdir()
    return place


def png(path: Path, grey: int = 51, age_s: float | None = None) -> bytes:
    """Write a picture, `age_s` old if given; its bytes."""
    write_png(path, np.random.default_rng(grey).integers(0, 255, (40, 40), np.uint8))
    if age_s is not None:
        then = time.time() - age_s
        os.utime(path, (then, then))
    return path.read_bytes()


def frames_until(source: WatchedFolder, count: int, seconds: float = 5.0) -> list[Frame]:
    """The first `count` frames; fewer when they do not come in time."""
    stop, taken = Stop(), []
    watchdog = threading.Timer(seconds, stop.set)
    watchdog.start()
    for frame in source.frames(stop):
        taken.append(frame)
        if len(taken) == count:
            break
    watchdog.cancel()
    return taken


def names(frames: list[Frame]) -> list[str]:
    return [frame.path.name for frame in frames if frame.path]


def watch(folder: Path, **settings: object) -> WatchedFolder:
    return WatchedFolder(folder, poll_s=POLL_S, **settings)  # type: ignore[arg-type]  # as each test gives them


def test_pictures_come_by_time_then_name(folder: Path) -> None:
    for name, age_s in (("a.png", 10), ("c.png", 30), ("d.PNG", 20)):
        png(folder / name, age_s=age_s)
    same = (folder / "d.PNG").stat().st_mtime_ns
    png(folder / "b.png")
    os.utime(folder / "b.png", ns=(same, same))
    frames = frames_until(watch(folder), 4)
    assert names(frames) == ["c.png", "b.png", "d.PNG", "a.png"]
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    for frame in frames:
        np.testing.assert_array_equal(frame.image, read_image(frame.path))


def test_new_pictures_come_as_they_appear_and_once(folder: Path) -> None:
    png(folder / "a.png", age_s=5)
    with FrameReader(watch(folder)) as reader:
        assert names(reader.take(5)) == ["a.png"]
        png(folder / "0.png", age_s=50)
        assert names(reader.take(5)) == ["0.png"]
        png(folder / "a.png", grey=7)  # the same name again
        time.sleep(5 * POLL_S)
        assert reader.waiting == 0
        reader.stop()
        assert list(reader) == []
    assert reader.policy == "block"


def test_names_seen_before_do_not_come_again(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        png(folder / name)
    source = watch(folder, seen=["a.png"])
    assert names(frames_until(source, 1)) == ["b.png"]
    assert source.seen == {"a.png", "b.png"}


def test_other_files_and_folders_are_left_alone(folder: Path) -> None:
    for name in (".hidden.png", "notes.txt", "b.png.part"):
        (folder / name).write_bytes(b"no picture")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    assert frames_until(watch(folder, damaged_after_s=0.0), 1, seconds=0.3) == []


def test_picture_that_is_being_written_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(folder.parent / "whole.png")
    tried: list[int] = []

    def read_and_note(path: Path) -> np.ndarray:
        tried.append(path.stat().st_size)
        return read_image(path)

    monkeypatch.setattr(watching, "read_image", read_and_note)

    def write_slowly() -> None:
        with (folder / "a.png").open("wb", buffering=0) as stream:
            for start in range(0, len(data), len(data) // 20):
                stream.write(data[start : start + len(data) // 20])
                time.sleep(POLL_S / 4)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    frames = frames_until(WatchedFolder(folder, poll_s=0.15), 1)  # rests shorter, however busy the machine is
    writer.join()
    assert names(frames) == ["a.png"]
    assert frames[0].error == ""
    np.testing.assert_array_equal(frames[0].image, read_image(folder / "a.png"))
    assert tried == [len(data)]


def test_picture_that_rests_half_written_is_waited_for(folder: Path) -> None:
    data = png(folder.parent / "whole.png")
    (folder / "a.png").write_bytes(data[: len(data) // 2])
    finish = threading.Timer(8 * POLL_S, (folder / "a.png").write_bytes, (data,))
    finish.start()
    frames = frames_until(watch(folder), 1)
    assert frames[0].error == ""
    assert frames[0].seconds > 6 * POLL_S
    np.testing.assert_array_equal(frames[0].image, read_image(folder.parent / "whole.png"))


def test_picture_that_stays_damaged_is_reported_once(folder: Path) -> None:
    data = png(folder.parent / "whole.png")
    (folder / "a.png").write_bytes(data[: len(data) // 2])
    (folder / "b.png").write_bytes(b"")
    frames = frames_until(watch(folder, damaged_after_s=0.15), 3, seconds=0.6)
    assert names(frames) == ["a.png", "b.png"]
    assert [frame.image for frame in frames] == [None, None]
    assert frames[0].error.startswith(
        f"{folder / 'a.png'}: expected a whole picture, found it cut short or damaged"
    )
    assert frames[1].error.endswith("found an empty file")
    assert frames[0].seconds >= 0.15


def test_renamed_into_place(folder: Path) -> None:
    with FrameReader(watch(folder)) as reader:
        for index in range(5):
            png(folder / f".{index}.part")
            os.replace(folder / f".{index}.part", folder / f"{index}.png")
            assert names(reader.take(1)) == [f"{index}.png"]


def test_picture_that_vanishes_is_no_trouble(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(folder / "a.png", age_s=20)
    png(folder / "b.png", age_s=10)

    def read_but_remove_a(path: Path) -> np.ndarray:
        if path.name == "a.png":
            path.unlink()
        return read_image(path)

    monkeypatch.setattr(watching, "read_image", read_but_remove_a)
    assert names(frames_until(watch(folder), 1)) == ["b.png"]


def test_folder_that_vanishes_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    png(folder / "a.png")
    with FrameReader(watch(folder)) as reader:
        assert names(reader.take(1)) == ["a.png"]
        os.rename(folder, folder.parent / "away")
        time.sleep(5 * POLL_S)
        os.rename(folder.parent / "away", folder)
        png(folder / "b.png")
        assert names(reader.take(1)) == ["b.png"]
        assert reader.reconnects == 1
    assert caplog.text.count("cannot be looked into (No such file or directory); waiting") == 1


def test_many_writers_and_nothing_lost(folder: Path) -> None:
    def write(writer: int) -> Iterator[None]:
        for index in range(20):
            png(folder / f"{writer}_{index}.png", grey=index)
            yield

    threads = [threading.Thread(target=lambda each=each: list(write(each))) for each in range(3)]
    for thread in threads:
        thread.start()
    frames = frames_until(watch(folder), 60)
    assert len(set(names(frames))) == len(frames) == 60
    assert all(frame.image is not None for frame in frames)


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: expected a folder to watch, found a file"):
        WatchedFolder(tmp_path / "a.png")
    with pytest.raises(InputError, match="poll_s must be above 0, got 0"):
        WatchedFolder(tmp_path, poll_s=0)
