"""A thread of its own that reads frames ahead, into a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Literal, get_args

from anomalib_lite.data.frames import POLL_S, Frame, Source, Stop
from anomalib_lite.types import InputError

Policy = Literal["block", "latest"]
JOIN_S = 5.0  # a camera may hang in a read that nothing can interrupt; its thread is left behind after this


class FrameReader:
    """Reads `source` ahead; iterating gives its frames.

    `policy` says what happens when `size` frames wait already: with "block" the thread waits and no frame is lost,
    with "latest" the oldest one is dropped. None takes "latest" for live sources and "block" for the others.
    At any time, frames read = given + dropped + waiting. What the source raises is raised where frames are taken,
    after the frames that were read before. Raises InputError for another policy and a size below 1.

    >>> from anomalib_lite.data.video import open_source
    >>> FrameReader(open_source("0"), size=0)
    Traceback (most recent call last):
    anomalib_lite.types.InputError: size of the queue must be at least 1, got 0
    """

    def __init__(self, source: Source, *, policy: Policy | None = None, size: int = 8) -> None:
        if size < 1:
            raise InputError(f"size of the queue must be at least 1, got {size}")
        if policy not in (None, *get_args(Policy)):
            raise InputError(f"policy must be one of {', '.join(get_args(Policy))}, got {policy}")
        self.source = source
        self.policy: Policy = policy or ("latest" if source.live else "block")
        self.size = size
        self.read = 0  # frames that the source has given
        self.dropped = 0  # of these, overwritten by newer ones
        self.given = 0  # of these, taken
        self._waiting: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._stop = Stop()
        self._failure: BaseException | None = None
        self._finished = False
        self._patience_ends: float | None = None  # when a thread that does not notice the stop is left behind
        # A daemon, because a hanging camera must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"frames of {source.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        while frames := self.take(1):
            yield frames[0]

    @property
    def reconnects(self) -> int:
        """Times that the source was lost and came back."""
        return self.source.reconnects

    @property
    def waiting(self) -> int:
        """Frames that are read and not yet taken."""
        return len(self._waiting)

    def take(self, limit: int) -> list[Frame]:
        """1 to `limit` frames, oldest first, as many as wait; waits for the first one; empty at the end.

        Raises what the source raised, once its frames are taken.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        while True:
            with self._changed:
                if self._waiting:
                    taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
                    self.given += len(taken)
                    self._changed.notify_all()
                    return taken
                if self._finished:
                    break
                self._changed.wait(POLL_S)  # not for ever: stop() cannot notify
            if self._stop.is_set:
                self._patience_ends = self._patience_ends or time.monotonic() + JOIN_S
                if time.monotonic() > self._patience_ends:
                    return []
        self._thread.join(JOIN_S)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return []

    def stop(self) -> None:
        """Read no further; what waits is still given. May be called from a signal handler."""
        self._stop.set()

    def close(self) -> None:
        """Read no further and forget what waits (counted as dropped)."""
        self._stop.set()
        self._thread.join(JOIN_S)
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        frames = self.source.frames(self._stop)
        try:
            for frame in frames:
                self._put(frame)
                if self._stop.is_set:
                    break
        except BaseException as failure:  # to be raised where it is noticed
            self._failure = failure
        finally:
            self._close_source(frames)
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _close_source(self, frames: Iterator[Frame]) -> None:
        close = getattr(frames, "close", None)  # a generator's: releases the camera now, not when collected
        try:
            if close is not None:
                close()
        except Exception as failure:
            self._failure = self._failure or failure

    def _put(self, frame: Frame) -> None:
        with self._changed:
            self.read += 1
            if self.policy == "latest":
                while len(self._waiting) >= self.size:
                    self._waiting.popleft()
                    self.dropped += 1
            else:
                # After a stop the frame at hand joins the others: it was read, so it is given.
                while len(self._waiting) >= self.size and not self._stop.is_set:
                    self._changed.wait(POLL_S)
            self._waiting.append(frame)
            self._changed.notify_all()
