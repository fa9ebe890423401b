"""Frames of a camera or a network stream, which may vanish and come back."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator

import cv2
import numpy as np

from anomalib_lite.data.frames import Frame, Stop, now
from anomalib_lite.types import InputError

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "rtp", "udp", "tcp")
TRIES = 3  # reads that fail at once before a camera counts as lost: one damaged frame is no loss
FIRST_PAUSE_S, GROWTH = 0.5, 2.0

log = logging.getLogger(__name__)


class Camera:
    """A camera by its index, or a stream by its address (rtsp, http ...); `frames` ends only when stopped.

    A camera that vanishes is looked for again after pauses that grow up to `longest_pause_s`, for ever, or until it
    has been away for `give_up_s`; the frames' numbers go on and `reconnects` counts. A frame that cannot be decoded
    is a frame with an error. Of a stream, opening and reading each fail after `timeout_s`. A stream that has an end
    (a film on a server) looks like a camera that vanishes: fetch it and inspect the file. Raises InputError for
    an unknown kind of address.

    >>> Camera("rtsp://admin:secret@10.0.0.7/ch1").name
    'rtsp://10.0.0.7/ch1'
    """

    live = True

    def __init__(
        self,
        index_or_url: int | str,
        *,
        timeout_s: float = 10.0,
        longest_pause_s: float = 30.0,
        give_up_s: float | None = None,
    ) -> None:
        scheme = "" if isinstance(index_or_url, int) else index_or_url.partition("://")[0].lower()
        self.name = (
            f"camera {index_or_url}" if isinstance(index_or_url, int) else without_password(index_or_url)
        )
        if scheme and scheme not in SCHEMES:
            raise InputError(f"{self.name}: expected one of {', '.join(SCHEMES)}, found {scheme}://")
        self.fps: float | None = None
        self.reconnects = 0
        self.note = ""
        self._address = index_or_url
        self._timeout_s = timeout_s
        self._longest_pause_s = longest_pause_s
        self._give_up_s = give_up_s

    def frames(self, stop: Stop) -> Iterator[Frame]:
        """Frames as they come; `seconds` counts from the first one.

        Raises InputError where the first connection gives no frame, and when it gives up.
        """
        capture, pixels = self._connect()
        if capture is None or pixels is None:
            raise InputError(self._not_found())
        start, number = time.monotonic(), 0
        try:
            while not stop.is_set:
                yield self._frame(number, start, pixels)
                number += 1
                pixels, failures = self._read(capture)
                if failures and pixels is not None:
                    yield self._frame(number, start, None)
                    number += 1
                if pixels is None and not stop.is_set:
                    log.warning("%s: lost after %d frames; trying again", self.name, number)
                    capture.release()
                    capture, pixels = self._reconnect(stop)
                    if capture is None or pixels is None:
                        return
                    self.reconnects += 1
                    log.warning("%s: back (%d. time)", self.name, self.reconnects)
        finally:
            if capture is not None:
                capture.release()

    def _frame(self, number: int, start: float, pixels: np.ndarray | None) -> Frame:
        seconds = time.monotonic() - start
        if pixels is None:
            return Frame(
                number, seconds, now(), None, error=f"frame {number} of {self.name} cannot be decoded"
            )
        return Frame(number, seconds, now(), cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))

    def _read(self, capture: cv2.VideoCapture) -> tuple[np.ndarray | None, int]:
        """The next picture (H, W, 3) BGR, None if the camera is lost, and how many reads failed before."""
        start = time.monotonic()
        for failures in range(TRIES):
            decoded, pixels = capture.read()
            if decoded:
                return pixels, failures
            if time.monotonic() - start > self._timeout_s / 2:  # it did not fail, it waited in vain
                break
        return None, TRIES

    def _connect(self) -> tuple[cv2.VideoCapture | None, np.ndarray | None]:
        """An open camera and its first picture, or (None, None)."""
        if isinstance(self._address, int):
            capture = cv2.VideoCapture(self._address)
        else:
            limit = int(1000 * self._timeout_s)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
            capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, limits)
        pixels = self._read(capture)[0] if capture.isOpened() else None
        if pixels is None:
            capture.release()
            return None, None
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else None
        return capture, pixels

    def _reconnect(self, stop: Stop) -> tuple[cv2.VideoCapture | None, np.ndarray | None]:
        """Try until it is back; (None, None) when stopped."""
        lost, pause = time.monotonic(), min(FIRST_PAUSE_S, self._longest_pause_s)
        while not stop.wait(pause):
            capture, pixels = self._connect()
            if capture is not None:
                return capture, pixels
            away = time.monotonic() - lost
            if self._give_up_s is not None and away > self._give_up_s:
                raise InputError(f"{self.name}: lost, and not back within {away:.0f} s")
            pause = min(pause * GROWTH, self._longest_pause_s)
        return None, None

    def _not_found(self) -> str:
        if isinstance(self._address, int):
            return f"{self.name}: expected a camera that gives frames, found none (tried with OpenCV)"
        limit = f"{self._timeout_s:g} s"
        return f"{self.name}: expected a stream that gives frames, found none (tried FFmpeg, {limit} at most)"


def without_password(url: str) -> str:
    """An address as it may be shown and logged; cameras take passwords in front of the host, or as a parameter.

    >>> without_password("http://10.0.0.7/a@b")
    'http://10.0.0.7/a@b'
    """
    return re.sub(r"(?<=://)[^/?#]*@", "", without_secrets(url))


def without_secrets(url: str) -> str:
    """The same with the user's name, for records that must tell two users' streams apart.

    >>> without_secrets("rtsp://line:secret@10.0.0.7/ch1?token=secret&size=2")
    'rtsp://line:***@10.0.0.7/ch1?token=***&size=2'
    >>> without_secrets("rtsp://line:p@ss@10.0.0.7/ch1")
    'rtsp://line:***@10.0.0.7/ch1'
    """
    url = re.sub(r"(://[^/@:\s]*):[^/?#\s]*@", r"\1:***@", url)  # to the last @: a password may hold one
    return re.sub(r"(?i)(\b(?:pass\w*|pwd|token|key|secret)=)[^&/?#]*", r"\1***", url)
