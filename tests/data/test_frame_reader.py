"""A reader's thread: nothing lost with "block", the newest with "latest", and an end that always comes."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data import frame_reader
from anomalib_lite.data.video import Frame, FrameReader, Stop, VideoFile
from anomalib_lite.types import InputError

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Counting:
    """A source of `count` frames that notes what becomes of it."""

    name = "counting"
    fps = None
    reconnects = 3
    note = ""

    def __init__(self, count: int | None = None, *, live: bool = False, pause: float = 0.0) -> None:
        self.count, self.live, self.pause = count, live, pause
        self.made = 0
        self.closed = False
        self.failure: Exception | None = None

    def frames(self, stop: Stop) -> Iterator[Frame]:
        try:
            while self.made != self.count and not stop.is_set:
                self.made += 1
                yield Frame(self.made - 1, 0.0, datetime.now(UTC), IMAGE)
                time.sleep(self.pause)
            if self.failure:
                raise self.failure
        finally:
            self.closed = True


def until(condition: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def test_block_loses_nothing_to_a_slow_consumer() -> None:
    source = Counting(60)
    with FrameReader(source, size=4) as reader:
        numbers = []
        for frame in reader:
            assert source.made <= frame.number + 1 + 4 + 1  # the queue, and the one that waits to get in
            numbers.append(frame.number)
            time.sleep(0.002)
    assert numbers == list(range(60))
    assert (reader.read, reader.given, reader.dropped, reader.reconnects) == (60, 60, 0, 3)
    assert source.closed


def test_latest_gives_the_newest_and_counts_the_rest() -> None:
    source = Counting(100, live=True)
    with FrameReader(source, size=3) as reader:
        until(lambda: source.closed)
        assert [frame.number for frame in reader] == [97, 98, 99]
    assert (reader.policy, reader.read, reader.given, reader.dropped) == ("latest", 100, 3, 97)


def test_latest_with_a_slow_consumer_accounts_for_every_frame() -> None:
    numbers = []
    with FrameReader(Counting(300, live=True, pause=0.0005), size=2) as reader:
        for frame in reader:
            numbers.append(frame.number)
            time.sleep(0.005)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 299  # the newest is never the one dropped
    assert reader.dropped == 300 - len(numbers) > 100


@pytest.mark.parametrize(("live", "policy"), [(True, "latest"), (False, "block")])
def test_policy_follows_the_source(live: bool, policy: str) -> None:
    with FrameReader(Counting(1, live=live)) as reader:
        assert reader.policy == policy


def test_unknown_policy() -> None:
    with pytest.raises(InputError, match="policy must be one of block, latest, got newest"):
        FrameReader(Counting(1), policy="newest")  # type: ignore[arg-type]  # as a config may


def test_take_gives_what_waits_up_to_a_limit() -> None:
    with FrameReader(Counting(10), size=6) as reader:
        until(lambda: reader.waiting == 6)
        assert [frame.number for frame in reader.take(4)] == [0, 1, 2, 3]
        until(lambda: reader.waiting == 6)
        assert [frame.number for frame in reader.take(100)] == [4, 5, 6, 7, 8, 9]
        assert reader.take(1) == []
        assert reader.take(1) == []
        with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
            reader.take(0)


def test_take_waits_for_the_first_frame_only() -> None:
    with FrameReader(Counting(2, pause=0.1)) as reader:
        assert len(reader.take(2)) == 1


@pytest.mark.parametrize("live", [True, False])
def test_stop_gives_what_was_read_and_ends(live: bool) -> None:
    source = Counting(live=live, pause=0.001)
    reader = FrameReader(source, size=4)
    until(lambda: reader.waiting == 4)
    reader.stop()
    left = [frame.number for frame in reader]
    assert 4 <= len(left) <= 5
    assert reader.read == reader.given + reader.dropped == source.made
    assert left == list(range(left[0], source.made))
    assert source.closed


def test_stop_from_a_signal_handler_ends_a_waiting_consumer() -> None:
    reader = FrameReader(Counting(1, pause=60))  # hangs after a frame
    previous = signal.signal(signal.SIGUSR1, lambda *_: reader.stop())
    frame_reader_patience, frame_reader.JOIN_S = frame_reader.JOIN_S, 0.2
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        start = time.monotonic()
        assert [frame.number for frame in reader] == [0]
        assert time.monotonic() - start < 2.0
    finally:
        frame_reader.JOIN_S = frame_reader_patience
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("failure", [InputError("camera 0: gone"), RuntimeError("a bug")])
def test_failure_reaches_the_consumer_after_the_frames_before(failure: Exception) -> None:
    source = Counting(3)
    source.failure = failure
    with FrameReader(source) as reader:
        until(lambda: source.closed)
        assert len(reader.take(10)) == 3
        with pytest.raises(type(failure), match=str(failure)):
            reader.take(1)
        assert reader.take(1) == []


def test_leaving_early_ends_the_thread_and_counts_what_was_not_taken() -> None:
    threads, source = threading.active_count(), Counting()
    with FrameReader(source, size=5) as reader:
        assert reader.take(1)[0].number == 0
    assert threading.active_count() == threads
    assert source.closed
    assert reader.read == reader.given + reader.dropped


def write_tiny(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 32))
    for _ in range(count):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    return path


def test_no_file_or_thread_is_left_open(tmp_path: Path) -> None:
    video = write_tiny(tmp_path / "a.avi", 20)

    def read_one(whole: bool) -> None:
        with FrameReader(VideoFile(video), size=2) as reader:
            assert len(list(reader) if whole else reader.take(1)) == (20 if whole else 1)

    read_one(True)
    gc.collect()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for index in range(10):
        read_one(index % 2 == 0)
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_frames(tmp_path: Path) -> None:
    video = write_tiny(tmp_path / "a.avi", 10_000)
    frames, memory = [], []
    with FrameReader(VideoFile(video)) as reader:
        for frame in reader:
            if frame.number % 100 == 0 and frame.number >= 2000:
                frames.append(frame.number)
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory.append(pages * os.sysconf("SC_PAGESIZE"))
    assert reader.given == 10_000
    slope = np.polyfit(frames, memory, 1)[0]
    print(f"{slope:.1f} bytes per frame")
    assert abs(slope) < 100  # a frame is 3072 bytes, its record over 200
