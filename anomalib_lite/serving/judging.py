"""One thread judges, whatever the parts come from: uploads wait their turn, a stream's frames go in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.data.frame_reader import FrameReader
from anomalib_lite.data.frames import Frame
from anomalib_lite.drift_watch import DriftWatch, Monitor
from anomalib_lite.inspector import Inspector, examine, unreadable
from anomalib_lite.serving.parts import Part, PartTable, Pictures, part_facts
from anomalib_lite.serving.uploads import read_upload
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)


class TooManyError(RuntimeError):
    """So many uploads wait that another is not taken."""


class Judge:
    """Judges uploads and a stream's frames one after the other, and keeps them in a table.

    Args:
        inspector: a detector or an export.
        table: where judged parts go.
        monitor: told of every accepted part; None: drift is not watched.
        waiting: uploads that may be under way at once, the one being judged included.
        prepare: called once in the thread that judges, for settings that belong to a thread.
    """

    def __init__(
        self,
        inspector: Inspector,
        table: PartTable,
        *,
        monitor: Monitor | None = None,
        waiting: int = 8,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.inspector, self.table, self.waiting = inspector, table, waiting
        self.watch = DriftWatch(monitor)
        self.drift = self.watch.known
        self._stream: dict[str, Any] = {}
        self._under_way = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="judge", initializer=prepare)
        self._pump: threading.Thread | None = None
        self._frames: FrameReader | None = None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for one upload, from its first byte to its verdict; for the event loop's thread.

        Raises:
            TooManyError: if there is none.
        """
        if self._under_way >= self.waiting:
            raise TooManyError(f"too many uploads at once ({self.waiting}): try again soon")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def upload(self, content: bytes, name: str) -> Future[Part]:
        """Judge an uploaded file; the future raises InputError for one that is no picture."""
        return self._worker.submit(self._judge_upload, content, name)

    def follow(self, frames: FrameReader) -> None:
        """Judge a stream's frames from now on."""
        self._frames, self._stream = frames, {"source": frames.source.name, "state": "running", "note": ""}
        self._pump = threading.Thread(target=self._follow, args=(frames,), name="stream", daemon=True)
        self._pump.start()

    def stream(self) -> dict[str, Any] | None:
        """Source, state and what was read and dropped; None without a stream."""
        frames = self._frames
        if frames is None:
            return None
        counts = {"read": frames.read, "dropped": frames.dropped, "reconnects": frames.reconnects}
        return self._stream | counts

    def close(self) -> None:
        """End the stream, then the thread; what is being judged is finished, what waits is not."""
        if self._frames is not None:
            self._frames.close()
        if self._pump is not None:
            self._pump.join(timeout=10)
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _follow(self, frames: FrameReader) -> None:
        ended = {"state": "ended"}
        try:
            for frame in frames:
                self._worker.submit(self._judge_frame, frame, frames.source.name).result()
            ended["note"] = frames.source.note
        except InputError as error:
            ended = {"state": "failed", "note": str(error)}
        except Exception as error:  # the page goes on; the stream does not
            log.exception("the stream failed")
            ended = {"state": "failed", "note": f"internal error ({type(error).__name__}), see the log"}
        self._stream = self._stream | ended
        frames.close()

    def _judge_upload(self, content: bytes, name: str) -> Part:
        photograph = read_upload(content)
        return self._judge(photograph, content, time=datetime.now().astimezone(), where={"path": name})

    def _judge_frame(self, frame: Frame, source: str) -> Part:
        where: dict[str, Any] = {"source": source, "frame": frame.number, "seconds": frame.seconds}
        if frame.path is not None:
            where = {"path": str(frame.path)}
        photograph = frame.photograph
        if frame.image is None or photograph is None:
            examined = unreadable(Path("part"), frame.error)
            facts = part_facts(examined, time=frame.time, where=where, size=None, drift=self.drift)
            return self.table.add(facts, None, None)
        original: bytes | np.ndarray = frame.image
        if frame.image.dtype != np.uint8:
            original = _content(frame.path) or np.rint(frame.image * 255).astype(np.uint8)
        return self._judge(photograph, original, time=frame.time, where=where)

    def _judge(
        self, photograph: np.ndarray, original: bytes | np.ndarray, *, time: datetime, where: dict[str, Any]
    ) -> Part:
        # the path is a label here: nothing is read from it, and it is nothing that a request has said
        examined = examine(self.inspector, photograph, Path("part"))
        self.drift = self.watch.take(examined)
        size = (photograph.shape[0], photograph.shape[1])
        facts = part_facts(examined, time=time, where=where, size=size, drift=self.drift)
        return self.table.add(facts, Pictures(photograph, examined), original)


def _content(path: Path | None) -> bytes | None:
    """None for a file that has gone since it was read."""
    try:
        return None if path is None else path.read_bytes()
    except OSError:
        return None
