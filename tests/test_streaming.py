"""A stream is judged frame by frame: what is written, how it ends, and what stays if it does not end well."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from anomalib_lite.data.video import Frame, FrameReader, Stop, VideoFile
from anomalib_lite.stream_files import judged_paths, saved_drift
from anomalib_lite.streaming import inspect_stream
from anomalib_lite.types import Alignment, InputError, Prediction

GOOD, DEFECTIVE, REJECTED, UNJUDGED, REFUSED = 10, 60, 110, 160, 210  # grey levels, as pictures of such parts
SCHEMA = jsonschema.Draft202012Validator(
    json.loads((files("anomalib_lite") / "part.schema.json").read_text())
)
SQUARE = {
    "box": [8, 6, 8, 6],
    "area": 48,
    "area_mm2": None,
    "peak": 1.0,
    "mean": 1.0,
    "location": [11.5, 8.5],
}


@dataclass
class Shades:
    """Judges a part by its grey level; the lower right quarter of a defective one is above the pixel cut."""

    tau_: float | None = 0.5
    mm_per_pixel: float | None = None
    raw_cut: float | None = 2.0
    calibration: Any = None
    card: dict[str, Any] = field(default_factory=dict)
    then: Callable[[int], object] = lambda shade: None

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        assert photograph.dtype == np.float32
        shade = round(float(photograph[0, 0, 0]) * 255)
        self.then(shade)
        alignment = Alignment(np.eye(2, 3), quality=0.75)
        if shade == REFUSED:
            raise InputError(f"{path}: too small")
        if shade == REJECTED:
            alignment = Alignment(np.eye(2, 3), 0.125, False, "elsewhere")
            return Prediction(
                path, float("nan"), None, None, None, None, alignment, rejected="not aligned: elsewhere"
            )
        label = {GOOD: 0, DEFECTIVE: 1, UNJUDGED: None}[shade]
        score = None if label is None else 0.25 + label / 2
        anomaly_map = np.array([[0, 0], [0, 1 if label else 0]], np.float32)
        return Prediction(path, 1.5 + (label or 0), score, label, anomaly_map, None, alignment, error=0.125)

    def carry(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        carried = cv2.resize(anomaly_map, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
        return carried, carried > 0.5


class Given:
    """Gives frames that are there already; a stop leaves only what waits, `size` frames."""

    def __init__(self, frames: Iterable[Frame], *, size: int = 2, dropped: int = 0) -> None:
        self.frames, self.size, self.dropped, self.reconnects = list(frames), size, dropped, 0
        self.given, self.stops = 0, 0
        self.source: Any = SimpleNamespace(note="", fps=30.0)
        self.limits: list[int] = []

    @property
    def read(self) -> int:
        return self.given + self.dropped

    def take(self, limit: int) -> Sequence[Frame]:
        self.limits.append(limit)
        taken = self.frames[self.given : self.given + limit]
        self.given += len(taken)
        return taken

    def stop(self) -> None:
        self.stops += 1
        self.frames = self.frames[: self.given + self.size]


def frame(number: int, shade: int | None, *, size: tuple[int, int] = (12, 16), **settings: Any) -> Frame:
    image = None if shade is None else np.full((*size, 3), shade, np.uint8)
    moment = datetime(2026, 3, 2, 14, 0, tzinfo=UTC) + timedelta(seconds=number / 25)
    return Frame(number, number / 25, moment, image, error="" if image is not None else "corrupt", **settings)


def judge(frames: Sequence[Frame] | Given | FrameReader, output: Path, **settings: Any) -> Any:
    reader = frames if isinstance(frames, Given | FrameReader) else Given(frames)
    usual: dict[str, Any] = {
        "source": "belt.mkv", "lines": "file", "append": False, "video": False, "frames_per_second": None,
        "monitor": None, "progress": StringIO(),
    }  # fmt: skip
    inspector = settings.pop("inspector", Shades())
    return inspect_stream(inspector, reader, output, **usual | settings)


def written(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "stream.jsonl").read_text().splitlines()]
    for line in lines[:100]:
        SCHEMA.validate(line)
    return lines


def pictures(path: Path) -> list[np.ndarray]:
    reader, found = cv2.VideoCapture(str(path)), []
    while (picture := reader.read())[0]:
        found.append(picture[1][..., ::-1])
    return found


def test_every_frame_has_a_line_and_is_counted_once(tmp_path: Path) -> None:
    shades = [GOOD, DEFECTIVE, REJECTED, None, UNJUDGED, REFUSED, GOOD]
    reader = Given([frame(number, shade) for number, shade in enumerate(shades)], dropped=3)
    summary = judge(reader, tmp_path)
    lines = written(tmp_path)
    assert [line["frame"] for line in lines] == list(range(7))
    assert [line["seconds"] for line in lines] == [0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24]
    assert lines[1]["time"] == "2026-03-02T14:00:00.040+00:00"
    assert [line["verdict"] for line in lines] == [
        "good", "defective", "rejected", "rejected", "unjudged", "rejected", "good",
    ]  # fmt: skip
    assert [line["raw_score"] for line in lines] == [1.5, 2.5, None, None, 1.5, None, 1.5]
    assert [line["pred_score"] for line in lines] == [0.25, 0.75, None, None, None, None, 0.25]
    assert [line["rejected"] for line in lines] == [
        "", "", "not aligned: elsewhere", "corrupt", "", "frame 5: too small", "",
    ]  # fmt: skip
    assert [line["registration_quality"] for line in lines] == [0.75, 0.75, 0.125, 0, 0.75, 0, 0.75]
    assert [line["defects"] for line in lines] == [[], [SQUARE], [], [], [], [], []]
    assert {line["source"] for line in lines} == {"belt.mkv"}
    assert not any("path" in line or line["drift"] for line in lines)
    assert summary.verdicts == {"good": 2, "defective": 1, "rejected": 3, "unjudged": 1}
    assert (summary.read, summary.judged, summary.unreadable, summary.dropped) == (10, 6, 1, 3)
    assert not summary.all_good
    assert reader.stops == 1


def test_the_summary_on_disk_is_the_one_returned(tmp_path: Path) -> None:
    summary = judge([frame(0, GOOD), frame(1, None)], tmp_path, video=True)
    state = json.loads((tmp_path / "stream.json").read_text())
    assert state | {"updated": None} == summary.state() | {"updated": None}
    assert state["ended"] == "end of source"
    assert state["frames"] == {"read": 2, "judged": 1, "unreadable": 1, "dropped": 0}
    assert state["lines"] == str(tmp_path / "stream.jsonl")
    assert state["latency_ms"]["median"] > 1000  # these frames were read long ago
    assert state["started"] <= state["updated"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "annotated.mkv", "stream.json", "stream.jsonl",
    ]  # fmt: skip


def test_nothing_to_judge(tmp_path: Path) -> None:
    summary = judge([], tmp_path, video=True)
    assert summary.all_good
    assert summary.latency == {"median": None, "p99": None, "largest": None}
    assert written(tmp_path) == []


def test_watched_pictures_are_named_and_known_again(tmp_path: Path) -> None:
    frames = [frame(0, GOOD, path=Path("parts/a.png")), frame(1, None, path=Path("parts/b.png"))]
    judge(frames, tmp_path)
    assert [line["path"] for line in written(tmp_path)] == ["parts/a.png", "parts/b.png"]
    assert judged_paths(tmp_path) == {"parts/a.png", "parts/b.png"}
    assert judged_paths(tmp_path / "elsewhere") == set()


def test_the_video_shows_every_frame_above_its_bar(tmp_path: Path) -> None:
    shades = [GOOD, DEFECTIVE, REJECTED, None, GOOD]
    judge([frame(i, shade, size=(240, 320)) for i, shade in enumerate(shades)], tmp_path, video=True)
    shown = pictures(tmp_path / "annotated.mkv")
    assert [picture.shape for picture in shown] == [(264, 320, 3)] * 5
    words = [picture[243, 3].astype(int) for picture in shown]  # the block behind the verdict
    for word, colour in zip(
        words, [(0, 150, 80), (205, 30, 45), (190, 110, 0), (190, 110, 0), (0, 150, 80)], strict=True
    ):
        assert np.abs(word - colour).max() < 25
    assert np.abs(shown[0][:240].astype(int) - GOOD).max() < 8
    assert shown[3][:240].max() < 8  # black
    red, _, blue = shown[1][180, 240].astype(int)  # inside the region
    assert red > blue + 50
    red, green, blue = shown[1][160, 159].astype(int)  # its outline, magenta
    assert min(red, blue) > green + 50


@dataclass
class Told:
    """A monitor that finds drift where it is told to."""

    drifted: list[bool | None]
    seen: list[tuple[float, float | None, float]] = field(default_factory=list)

    def update(self, *, raw_score: float, error: float | None, quality: float) -> dict[str, Any]:
        self.seen.append((raw_score, error, quality))
        return {"drifted": self.drifted[len(self.seen) - 1], "advice": "recalibrate"}

    def known(self) -> dict[str, Any]:
        return {"drifted": None}

    def summary(self) -> dict[str, Any]:
        return {"parts": len(self.seen)}

    def state(self) -> dict[str, Any]:
        return {"seen": len(self.seen)}


def test_drift_is_looked_for_among_accepted_parts_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = Told([None, False, True, True, False, True])
    shades = [DEFECTIVE, GOOD, GOOD, REJECTED, GOOD, GOOD, None, GOOD, GOOD]
    with caplog.at_level(logging.WARNING):
        judge([frame(i, shade) for i, shade in enumerate(shades)], tmp_path, monitor=monitor)
    assert monitor.seen == [(1.5, 0.125, 0.75)] * 6
    drifted = [line["drift"] and line["drift"]["drifted"] for line in written(tmp_path)]
    assert drifted == [None, None, False, False, True, True, True, False, True]
    assert [record.getMessage() for record in caplog.records] == ["drift: recalibrate"] * 2
    state = json.loads((tmp_path / "stream.json").read_text())
    assert (state["drift"], state["drift_state"]) == ({"parts": 6}, {"seen": 6})
    assert saved_drift(tmp_path) == {"seen": 6}
    assert saved_drift(tmp_path / "elsewhere") is None


def test_a_password_in_the_source_is_not_written(tmp_path: Path) -> None:
    summary = judge([frame(0, GOOD)], tmp_path, source="rtsp://line:se:cret@10.0.0.2/live?a=b@c")
    assert summary.source == "rtsp://line:***@10.0.0.2/live?a=b@c"
    assert "cret" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_what_cannot_be_read_again_is_kept(tmp_path: Path) -> None:
    judge([frame(0, GOOD)], tmp_path, video=True)
    with (tmp_path / "stream.jsonl").open("a") as file:
        file.write('{"half": ')  # killed while writing
    judge([frame(1, GOOD), frame(2, GOOD)], tmp_path, append=True, video=True)
    assert [line["frame"] for line in written(tmp_path)] == [0, 1, 2]
    assert len(pictures(tmp_path / "annotated.mkv")) == 1
    assert len(pictures(tmp_path / "annotated-2.mkv")) == 2
    judge([frame(3, GOOD)], tmp_path, append=False, video=True)  # a file is judged anew
    assert [line["frame"] for line in written(tmp_path)] == [3]
    assert len(pictures(tmp_path / "annotated.mkv")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_stream_in_order(tmp_path: Path, number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    reader = Given([frame(i, DEFECTIVE if i == 2 else GOOD) for i in range(100)], size=5)
    inspector = Shades(then=lambda shade: os.kill(os.getpid(), number) if shade == DEFECTIVE else None)
    summary = judge(reader, tmp_path, inspector=inspector, video=True)
    assert summary.ended == number.name
    assert [line["frame"] for line in written(tmp_path)] == list(range(8))  # 3 and the 5 that waited
    assert len(pictures(tmp_path / "annotated.mkv")) == 8
    assert json.loads((tmp_path / "stream.json").read_text())["ended"] == number.name
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    summaries: list[Any] = []
    thread = threading.Thread(target=lambda: summaries.append(judge([frame(0, GOOD)], tmp_path)))
    thread.start()
    thread.join()
    assert summaries[0].ended == "end of source"


def test_an_error_of_ours_leaves_whole_files_and_says_so(tmp_path: Path) -> None:
    def fail(shade: int) -> None:
        if shade == DEFECTIVE:
            raise RuntimeError("a bug")

    reader = Given([frame(0, GOOD), frame(1, DEFECTIVE), frame(2, GOOD)])
    with pytest.raises(RuntimeError, match="a bug"):
        judge(reader, tmp_path, inspector=Shades(then=fail), video=True)
    assert len(written(tmp_path)) == len(pictures(tmp_path / "annotated.mkv")) == 1
    assert json.loads((tmp_path / "stream.json").read_text())["ended"] == "error: RuntimeError('a bug')"
    assert reader.stops == 1


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lines must be file or stdout, got both"):
        judge([], tmp_path, lines="both")
    with pytest.raises(InputError, match=r"frames_per_second must be in \(0, 1000\], got -1"):
        judge([frame(0, GOOD)], tmp_path, video=True, frames_per_second=-1)
    assert json.loads((tmp_path / "stream.json").read_text())["ended"].startswith("error: frames_per_second")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out/stream.jsonl: cannot write the verdicts: Not a dir"):
        judge([], tmp_path / "file" / "out")
    (tmp_path / "stream.jsonl").write_text("no JSON\n")
    with pytest.raises(InputError, match=r"stream.jsonl: line 1: expected a JSON object, found b'no JSON"):
        judged_paths(tmp_path)
    (tmp_path / "stream.json").write_text("[]")
    with pytest.raises(InputError, match=r"stream.json: expected the summary of a stream"):
        saved_drift(tmp_path)


# a stream of its own process, which may be killed: endless good parts in the place of a camera
CHILD = """
import resource, sys, time
import numpy as np
from io import StringIO
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_streaming as t
limit, pause, lines, video, output = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
class Endless(t.Given):
    def take(self, limit):
        if not self.stops:
            noisy = t.frame(self.given, t.GOOD, size=(120, 160))
            noisy.image[1:] = np.random.default_rng(self.given).integers(0, 255, (119, 160, 3))
            self.frames.append(noisy)
        return super().take(limit)
def hang(shade):
    if pause > 1:
        Path(output, "judging").touch()
    time.sleep(pause)
inspector = t.Shades(then=hang)
try:
    t.judge(Endless([]), Path(output), inspector=inspector, lines=lines, video=bool(video), append=True)
except t.InputError as error:
    sys.exit(f"error: {{error}}")
"""


def start(
    output: Path, *, limit: int = 0, pause: float = 0.001, lines: str = "file", video: bool = True
) -> Any:
    code = CHILD.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(limit), str(pause), lines, "yes" if video else "", str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def count(output: Path) -> int:
    path = output / "stream.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_any_moment_all_that_is_written_can_be_read(tmp_path: Path) -> None:
    judged = 0
    for _ in range(2):
        process = start(tmp_path)
        before = count(tmp_path)
        wait_for(lambda before=before: count(tmp_path) > before + 120)  # type: ignore[misc]
        process.kill()
        process.wait()
        judged = count(tmp_path)
    lines = (tmp_path / "stream.jsonl").read_text().split("\n")
    assert [json.loads(line)["verdict"] for line in lines[:judged]] == ["good"] * judged
    assert json.loads((tmp_path / "stream.json").read_text())["ended"] is None
    films = [len(pictures(tmp_path / name)) for name in ("annotated.mkv", "annotated-2.mkv")]
    assert min(films) > 0, films
    assert sum(films) <= judged


def test_a_second_signal_ends_a_stream_that_hangs(tmp_path: Path) -> None:
    process = start(tmp_path, pause=1000)
    wait_for(lambda: (tmp_path / "judging").exists())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM


def test_a_full_disk_is_told_once_and_the_lines_stay_whole(tmp_path: Path) -> None:
    process = start(tmp_path, limit=20_000, video=False)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        f"error: {tmp_path / 'stream.jsonl'}: cannot write the verdicts: File too large"
    )
    assert "Traceback" not in errors
    text = (tmp_path / "stream.jsonl").read_text()
    assert text.endswith("\n")
    numbers = [json.loads(line)["frame"] for line in text.splitlines()]
    assert numbers == list(range(len(numbers)))
    assert 20_000 - len(text) < 400  # all that fits
    state = json.loads((tmp_path / "stream.json").read_text())
    assert state["ended"] == errors.splitlines()[-1]
    assert state["frames"]["judged"] == len(numbers)


def test_a_video_that_did_not_fit_on_the_disk_is_told(tmp_path: Path) -> None:
    process = start(tmp_path, limit=20_000, lines="stdout", pause=0)
    wait_for(lambda: (tmp_path / "annotated.mkv").exists())
    for _ in range(200):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert re.search(r"error: .*annotated.mkv: expected \d+ frames written, the file ends before", errors)


def test_a_consumer_that_leaves_ends_the_stream_cleanly(tmp_path: Path) -> None:
    process = start(tmp_path, lines="stdout", video=False)
    numbers = [json.loads(process.stdout.readline())["frame"] for _ in range(3)]
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert numbers == [0, 1, 2]
    errors = process.stderr.read()
    assert "Error" not in errors, errors
    assert not (tmp_path / "stream.jsonl").exists()
    state = json.loads((tmp_path / "stream.json").read_text())
    assert state["ended"] == "who read the lines has closed stdout"
    assert state["lines"] == "stdout"


def record(path: Path, count: int) -> Path:
    """A video of good parts, the last of every ten defective, without loss."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), DEFECTIVE if number % 10 == 9 else GOOD, np.uint8))
    writer.release()
    return path


def test_every_frame_of_a_file_is_accounted_for(tmp_path: Path) -> None:
    path = record(tmp_path / "belt.avi", 60)
    with FrameReader(VideoFile(path), size=4) as reader:
        summary = judge(reader, tmp_path / "out", source=str(path), video=True)
    lines = written(tmp_path / "out")
    assert [line["frame"] for line in lines] == list(range(60))
    assert [line["seconds"] for line in lines] == pytest.approx(np.arange(60) / 25, abs=1e-3)
    assert [line["pred_label"] for line in lines] == [int(number % 10 == 9) for number in range(60)]
    assert len(pictures(tmp_path / "out" / "annotated.mkv")) == 60
    assert (summary.read, summary.judged, summary.dropped) == (60, 60, 0)
    assert 0 < summary.latency["median"] <= summary.latency["p99"] <= summary.latency["largest"] < 30_000


def test_a_slow_inspector_drops_what_is_old_and_counts_it(tmp_path: Path) -> None:
    path = record(tmp_path / "belt.avi", 60)
    slow = Shades(then=lambda shade: time.sleep(0.02))
    with FrameReader(VideoFile(path), policy="latest", size=2) as reader:
        summary = judge(reader, tmp_path / "out", inspector=slow)
    assert summary.read == 60
    assert summary.dropped == 60 - summary.judged > 0
    numbers = [line["frame"] for line in written(tmp_path / "out")]
    assert numbers[-1] == 59
    assert numbers == sorted(set(numbers))


def test_a_file_cut_short_is_judged_to_its_end_and_said(tmp_path: Path) -> None:
    path = record(tmp_path / "belt.avi", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with FrameReader(VideoFile(path)) as reader:
        summary = judge(reader, tmp_path / "out", video=True)
    assert 10 < summary.judged < 60
    assert summary.ended == f"end of source: {reader.source.note}"
    assert "60" in reader.source.note
    assert len(written(tmp_path / "out")) == summary.read


def test_a_source_that_fails_is_told_after_its_frames(tmp_path: Path) -> None:
    class Failing:
        name, live, fps, reconnects, note = "failing", False, 25.0, 0, ""

        def frames(self, stop: Stop) -> Iterator[Frame]:
            yield from (frame(number, GOOD) for number in range(5))
            raise InputError("camera 0: gone")

    with (
        FrameReader(Failing(), size=2) as reader,
        pytest.raises(InputError, match="camera 0: gone"),
    ):
        judge(reader, tmp_path)
    assert len(written(tmp_path)) == 5
    assert json.loads((tmp_path / "stream.json").read_text())["ended"] == "error: camera 0: gone"


def resident() -> int:
    """Bytes of memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_frames(tmp_path: Path) -> None:
    # over the first 15,000 the allocator settles: 2 MB, after which nothing more is asked of the system
    settling, measured = 15_000, 10_000
    used: list[tuple[int, float]] = []

    class Camera:
        name, live, fps, reconnects, note = "camera", False, 25.0, 0, ""

        def frames(self, stop: Stop) -> Iterator[Frame]:
            shades = (GOOD, GOOD, DEFECTIVE, REJECTED, None)
            for number in range(settling + measured):
                if number % 50 == 0:
                    used.append((number, resident() / 1024))
                yield frame(number, shades[number % 5], size=(240, 320))

    with FrameReader(Camera()) as reader:
        judge(reader, tmp_path, video=True)
    settled = np.array([each for each in used if each[0] >= settling])
    slope = np.polyfit(settled[:, 0], settled[:, 1], 1)[0]  # KiB a frame
    print(f"{slope:.4f} KiB a frame, {settled[:, 1].min():.0f} to {settled[:, 1].max():.0f} KiB")
    assert slope < 0.02, settled[::20]  # 200 KiB in 10,000 frames
    assert used[-1][1] - used[20][1] < 8 * 1024  # and the settling is no leak by another name
    assert len(written(tmp_path)) == settling + measured
