"""What every source of pictures has in common: frames one after the other, and a way to be told to stop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

# FFmpeg and OpenCV print what becomes a frame's error here. The variable is read when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

POLL_S = 0.05  # how long a stop may go unnoticed by what waits


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a source, or the report that it could not be read.

    `image` is (H, W, 3) RGB: uint8 of a video or a camera, float32 in [0, 1] of a picture file. Numbers count from 0
    without gaps, frames that could not be read among them.
    """

    number: int
    seconds: float  # in the video's own time; since the first frame for what is live
    time: datetime  # when it was read, with its zone
    image: np.ndarray | None  # None: could not be read
    error: str = ""  # why not
    path: Path | None = None  # of a picture file

    @property
    def photograph(self) -> np.ndarray | None:
        """The picture (H, W, 3) RGB as float32 in [0, 1]; None: could not be read."""
        if self.image is None or self.image.dtype != np.uint8:
            return self.image
        return self.image.astype(np.float32) / 255


class Stop:
    """Asks threads to end; a signal handler may set it.

    Without a lock: a handler that interrupts its own thread inside of `threading.Event` would wait for ever.

    >>> stop = Stop()
    >>> stop.set()
    >>> stop.wait(60.0)
    True
    """

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Ask."""
        self.is_set = True

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until asked; whether it was."""
        end = time.monotonic() + seconds
        while not self.is_set and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))
        return self.is_set


class Source(Protocol):
    """Where frames come from."""

    name: str  # as shown to people, without a password
    live: bool  # its frames come whether or not somebody takes them
    fps: float | None  # None where unknown; of a camera known from its first frame on
    reconnects: int  # times that it was lost and came back
    note: str  # what must be said at its end; "" for nothing

    def frames(self, stop: Stop) -> Iterator[Frame]:
        """Its frames until it ends or `stop` is set. Raises InputError where it cannot be read at all."""


def now() -> datetime:
    """This moment in the machine's own zone."""
    return datetime.now().astimezone()
