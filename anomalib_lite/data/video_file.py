"""The frames of a video file, each accounted for: given, or reported as not decodable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import cv2

from anomalib_lite.data.frames import Frame, Stop, now
from anomalib_lite.data.images import MAX_PIXELS, open_file
from anomalib_lite.types import InputError

VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
LAST_TRIES = 3  # reads that fail in a row before the file's end is believed without packets to go by
SAME_TIME_S = 0.0015  # a packet and its frame: a tick of a container that counts milliseconds
LOOK_AHEAD = 64  # packets; more than any codec reorders
_EXPECTED = "expected a video (AVI, MP4, MOV, MKV, WebM, MPEG or WMV)"
_MPEG_PACKET = 188  # bytes of a transport stream's packet, each of which starts with the same one


class VideoFile:
    """A video file; `frames` gives every frame in order, as FFmpeg decodes it.

    A second pass over the file's packets, which are not decoded, tells which frames never came out of the decoder:
    these are frames with an error. Damage that FFmpeg conceals (MPEG-4, H.264 and JPEG fill gaps with what is
    around) is given as concealed. At the end, `note` tells where the header claims more frames than there were.
    Raises InputError for anything but a video that can be opened.

    >>> VideoFile(Path("no_such.avi"))
    Traceback (most recent call last):
    anomalib_lite.types.InputError: no_such.avi: expected a video, found no such file
    """

    live = False
    reconnects = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.note = ""
        self._is_avi = _check_content(path) == "AVI"
        capture = self._open()
        self.claimed = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # by the header; 0: it does not say
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps < 1e4 else None
        self._spacing = 1 / (self.fps or 25.0)  # seconds
        width, height = (
            int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        capture.release()
        if height * width > MAX_PIXELS:
            raise InputError(f"{path}: expected at most {MAX_PIXELS:,} pixels, found {height} x {width}")
        self.size = (height, width)

    def frames(self, stop: Stop) -> Iterator[Frame]:
        """Every frame of the file; `seconds` is its time in the video."""
        capture = self._open()
        packets = _Packets(self.path, tolerance_s=min(SAME_TIME_S, 0.5 * self._spacing))
        number = failures = 0
        late, seconds = None, 0.0
        try:
            while not stop.is_set:
                decoded, pixels = capture.read()
                if not decoded:
                    # A packet that the decoder refuses ends one read, not the video: its end is where none is left.
                    failures += 1
                    if failures > max(LAST_TRIES, packets.left(failures)):
                        break
                    continue
                claimed = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if (
                    late is None
                ):  # AVI knows the order of decoding only: its first frame may come late by some
                    late = claimed - packets.first() if self._is_avi and not failures else 0.0
                failures = 0
                seconds = (
                    claimed - late if not number or claimed - late > seconds else seconds + self._spacing
                )
                for lost in packets.until(seconds):
                    yield self._lost(number, lost)
                    number += 1
                yield Frame(number, seconds, now(), cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                number += 1
            if not stop.is_set:
                for lost in packets.rest():
                    yield self._lost(number, lost)
                    number += 1
                self._conclude(number, seconds)
        finally:
            capture.release()
            packets.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            capture.release()
            raise InputError(
                f"{self.path}: expected a whole video, found one that FFmpeg cannot open "
                "(cut short, damaged, or of an unknown codec)"
            )
        return capture

    def _lost(self, number: int, seconds: float) -> Frame:
        return Frame(number, seconds, now(), None, error=f"frame {number} of {self.name} cannot be decoded")

    def _conclude(self, number: int, seconds: float) -> None:
        """Note frames that the header claims and nothing is left of; `seconds`: the time of the last frame."""
        if number >= self.claimed:
            return
        spacing = max(self._spacing, seconds / max(1, number - 1))
        ends_early = self.claimed * self._spacing - seconds > 1.5 * spacing
        # Many containers claim a length only, from which frames are counted as if they came regularly.
        reason = (
            "it is cut short or damaged" if ends_early else "it is damaged, or its frames come irregularly"
        )
        self.note = f"{self.name}: {number} frames read of {self.claimed} that its header claims; {reason}"


class _Packets:
    """The times of a file's packets, to find those that no frame came from."""

    def __init__(self, path: Path, *, tolerance_s: float) -> None:
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        self._tolerance = tolerance_s
        self._pending: list[float] = []  # seconds, of packets whose frame has not come
        self._shown: deque[float] = deque(maxlen=2)  # seconds of the newest frames
        self._reliable = self._capture.isOpened()

    def first(self) -> float:
        """The time of the first packet without a frame; 0 without any."""
        self._fill(1)
        return self._pending[0] if self._pending else 0.0

    def until(self, seconds: float) -> list[float]:
        """The times of packets before the frame at `seconds` that no frame came from."""
        self._fill(LOOK_AHEAD)
        if not any(abs(pending - seconds) <= self._tolerance for pending in self._pending):
            self._reliable = False  # frames and packets are timed differently: nothing can be said
        self._shown.append(seconds)
        before = [pending for pending in self._pending if pending <= seconds + self._tolerance / 2]
        self._pending = [pending for pending in self._pending if pending > seconds + self._tolerance / 2]
        return self._unseen(before)

    def left(self, failures: int) -> int:
        """How many packets are still without a frame, looking `failures` further ahead."""
        self._fill(LOOK_AHEAD + failures)
        return len(self._pending)

    def rest(self) -> list[float]:
        """The times of packets that no frame came from, to the end of the file."""
        self._fill(None)
        rest, self._pending = self._pending, []
        return self._unseen(rest)

    def release(self) -> None:
        """Close the file."""
        self._capture.release()

    def _unseen(self, times: list[float]) -> list[float]:
        if not self._reliable:
            return []
        # A packet that shows nothing (VP8 has such) is timed beside one that does.
        seen = [*self._shown]
        return sorted(time for time in times if all(abs(time - other) > self._tolerance for other in seen))

    def _fill(self, count: int | None) -> None:
        failures = 0
        while (count is None or len(self._pending) < count) and failures < LAST_TRIES:
            if self._capture.grab():
                self._pending.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                failures = 0
            else:
                failures += 1


def _check_content(path: Path) -> str:
    """The container by the file's first bytes; raises InputError unless these are a video's.

    FFmpeg goes by content, whatever a file is called: a playlist would have it open other files and addresses.
    """
    try:
        with open_file(path, expected="a video") as stream:
            start = stream.read(2 * _MPEG_PACKET)
    except OSError as error:
        raise InputError(f"{path}: expected a video, cannot open it ({error.strerror})") from None
    known = {
        "AVI": start[:4] == b"RIFF" and start[8:12] == b"AVI ",
        "MP4": start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"),  # and MOV
        "Matroska": start[:4] == b"\x1aE\xdf\xa3",  # and WebM
        "MPEG": start[:4] in (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"),
        "MPEG transport stream": start[:1] == b"G" and start[_MPEG_PACKET : _MPEG_PACKET + 1] == b"G",
        "WMV": start[:8] == b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    }
    if any(known.values()):
        return next(name for name, matches in known.items() if matches)
    found = f"something else (it starts with {start[:8].hex(' ')})" if start else "an empty file"
    raise InputError(f"{path}: {_EXPECTED}, found {found}")
