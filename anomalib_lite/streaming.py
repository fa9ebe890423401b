"""Judges the frames of a stream, and writes each verdict before the next frame is judged."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

import numpy as np

from anomalib_lite.annotated_video import MOST_PACE, AnnotatedVideo
from anomalib_lite.data.camera import without_secrets
from anomalib_lite.drift_watch import DriftWatch, Monitor
from anomalib_lite.inspector import VERDICTS, Examined, Inspector, annotate, examine, unreadable
from anomalib_lite.lines import part_line
from anomalib_lite.stopping import stopped_by_signals
from anomalib_lite.stream_files import (
    LINES,
    SUMMARY,
    VIDEO,
    ConsumerGone,
    LineFile,
    StandardOutput,
    free_name,
)
from anomalib_lite.stream_progress import Counted, Progress
from anomalib_lite.stream_summary import StreamSummary
from anomalib_lite.types import InputError

if TYPE_CHECKING:
    from anomalib_lite.data.frames import Frame, Source

SAVED = 10.0  # seconds between two summaries on disk
USUAL_PACE, PICTURES_PACE = 25.0, 2.0  # frames a second of a video, where the source does not know


class Frames(Counted, Protocol):
    """What gives the frames: `data.video.FrameReader`."""

    source: Source

    @property
    def read(self) -> int:
        """Frames that were read, also those that could not be decoded."""

    def take(self, limit: int) -> Sequence[Frame]:
        """At most `limit` frames that wait, at least one; none at the end."""

    def stop(self) -> None:
        """Read no more; what waits is still given."""


def inspect_stream(
    inspector: Inspector,
    reader: Frames,
    output: Path,
    *,
    source: str,
    lines: Literal["file", "stdout"],
    append: bool,
    video: bool,
    frames_per_second: float | None,
    monitor: Monitor | None,
    progress: TextIO,
) -> StreamSummary:
    """Judge the frames of a stream until it ends, a signal comes, or nobody reads its lines any more.

    Writes a line per frame (`lines.part_line`) to `stream.jsonl` or stdout, `annotated.mkv`, and `stream.json` anew
    every ten seconds and at the end. At the first SIGTERM or SIGINT the reader is stopped and what waits is judged; a
    second one ends the process. A frame that can't be read, or that the inspector refuses, is a rejected part.

    Args:
        inspector: judges a frame.
        reader: gives them; it is stopped at the end in any case.
        output: the folder for all files.
        source: what the frames are from, as the user named it; a password in an address is left out.
        lines: where they go.
        append: for what can't be read again: keep the lines and the videos that are in `output` already.
        video: whether to write one.
        frames_per_second: at which the video is played; None: the source's own, two pictures a second of a folder.
        monitor: told of every part that was accepted.
        progress: where a line with counts is shown.

    Raises:
        InputError: for files that can't be written, naming the one; what they hold is valid and stays.
    """
    if lines not in ("file", "stdout"):
        raise InputError(f"lines must be file or stdout, got {lines}")
    with ExitStack() as stack:
        stack.callback(reader.stop)
        sink = LineFile(output / LINES, append=append) if lines == "file" else StandardOutput()
        stream = _Stream(
            inspector=inspector,
            reader=reader,
            sink=sink,
            watch=DriftWatch(monitor),
            source=without_secrets(source),
            film_path=_film_path(output, append=append) if video else None,
            frames_per_second=frames_per_second,
            progress=Progress(progress, reader),
            summary_path=output / SUMMARY,
        )
        # before it is seen from outside that it runs
        stopped = stack.enter_context(stopped_by_signals(reader.stop))
        stack.enter_context(stream.recorded())
        stack.callback(stream.close)
        with stream.progress:
            while frames := reader.take(1):
                stream.judge(frames[0])
        stream.ended = stopped.name or "end of source"
        if reader.source.note:
            stream.ended += f": {reader.source.note}"
    return stream.saved


def _film_path(output: Path, *, append: bool) -> Path:
    return free_name(output / VIDEO) if append else output / VIDEO


@dataclass(slots=True)
class _Stream:
    inspector: Inspector
    reader: Frames
    sink: LineFile | StandardOutput
    watch: DriftWatch
    source: str
    film_path: Path | None
    frames_per_second: float | None
    progress: Progress
    summary_path: Path
    film: AnnotatedVideo | None = None
    ended: str | None = None
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    unreadable: int = 0
    saved: StreamSummary = field(init=False)
    _save_time: float = 0.0

    def judge(self, frame: Frame) -> None:
        """Judge a frame and write what is said of it."""
        photograph, examined = self._examine(frame)
        drift = self.watch.take(examined)
        self.sink.write(part_line(examined, time=frame.time, where=self._where(frame), drift=drift))
        self.unreadable += photograph is None
        self.progress.judged(examined.verdict, max(0.0, time.time() - frame.time.timestamp()))
        if self.film_path is not None:
            self._film(self.film_path, frame, photograph, examined)
        if time.monotonic() - self._save_time >= SAVED:
            self.save()

    def _examine(self, frame: Frame) -> tuple[np.ndarray | None, Examined]:
        path, photograph = frame.path or Path(f"frame {frame.number}"), frame.photograph
        if photograph is None:
            return None, unreadable(path, frame.error)
        try:
            return photograph, examine(self.inspector, photograph, path)
        except InputError as error:
            # of one frame that is too small, say: it must not end the night's inspection
            return photograph, unreadable(path, str(error))

    def _film(self, path: Path, frame: Frame, photograph: np.ndarray | None, examined: Examined) -> None:
        if self.film is None:  # not before a camera knows its pace, which is with its first frame
            pace = self.reader.source.fps or (USUAL_PACE if frame.path is None else PICTURES_PACE)
            self.film = AnnotatedVideo(path, frames_per_second=self.frames_per_second or min(pace, MOST_PACE))
        shown = None if photograph is None else annotate(photograph, examined)
        self.film.write(shown, examined, number=frame.number, seconds=frame.seconds)

    def close(self) -> None:
        """Close lines and video; raises InputError if a file does not hold all."""
        try:
            self.sink.close()
        finally:
            if self.film is not None:
                self.film.close()

    def _where(self, frame: Frame) -> dict[str, Any]:
        place = {"source": self.source, "frame": frame.number, "seconds": round(frame.seconds, 3)}
        return place if frame.path is None else place | {"path": str(frame.path)}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep a summary on disk from the start, and say there in the end why it ended."""
        self.save()
        try:
            yield
        except ConsumerGone as gone:
            self.ended = str(gone)
        except BaseException as error:
            self.ended = f"error: {error}" if isinstance(error, InputError) else f"error: {error!r}"
            with suppress(InputError):  # on a full disk, too; the first error is the one to tell
                self.save()
            raise
        self.save()

    def save(self) -> None:
        """Write stream.json."""
        self.saved = self._summary()
        self.saved.save(self.summary_path)
        self._save_time = time.monotonic()

    def _summary(self) -> StreamSummary:
        now, latencies = datetime.now().astimezone(), self.progress.latencies
        counts: dict[str, int] = {name: self.progress.verdicts[name] for name in VERDICTS}
        written = sum(counts.values())
        milliseconds = {
            "median": latencies.quantile(0.5),
            "p99": latencies.quantile(0.99),
            "largest": latencies.largest if latencies.count else None,
        }
        return StreamSummary(
            source=self.source,
            started=self.started,
            updated=now,
            ended=self.ended,
            read=self.reader.read,
            judged=written - self.unreadable,
            unreadable=self.unreadable,
            dropped=self.reader.dropped,
            reconnects=self.reader.reconnects,
            verdicts=counts,
            frames_per_second=written / max((now - self.started).total_seconds(), 1e-3),
            latency={name: value and round(value * 1000, 2) for name, value in milliseconds.items()},
            lines=str(getattr(self.sink, "path", "stdout")),
            video=None if self.film is None else str(self.film.path),
            drift=None if self.watch.monitor is None else self.watch.monitor.summary(),
            drift_state=None if self.watch.monitor is None else self.watch.monitor.state(),
        )
