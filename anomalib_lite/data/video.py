"""Sources of frames: a video file, a camera, a network stream, a folder that pictures are put into."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from anomalib_lite.data.camera import SCHEMES, Camera
from anomalib_lite.data.frame_reader import FrameReader, Policy
from anomalib_lite.data.frames import Frame, Source, Stop
from anomalib_lite.data.video_file import VIDEO_SUFFIXES, VideoFile
from anomalib_lite.data.watching import WatchedFolder
from anomalib_lite.types import InputError

__all__ = [
    "VIDEO_SUFFIXES",
    "Camera",
    "Frame",
    "FrameReader",
    "Policy",
    "Source",
    "Stop",
    "VideoFile",
    "WatchedFolder",
    "is_stream",
    "open_source",
]


def is_stream(text: str) -> bool:
    """Whether a source by its text is a camera, an address or a video file: anything but pictures and folders.

    >>> [is_stream(text) for text in ("0", "rtsp://10.0.0.7/ch1", "belt.MP4", "part.png", "new_parts")]
    [True, True, True, False, False]
    """
    return _is_index(text) or "://" in text or Path(text).suffix.lower() in VIDEO_SUFFIXES


def open_source(text: str, *, poll_s: float = 0.5, seen: Collection[str] = ()) -> Source:
    """The source that a text names: digits are a camera, what has :// an address, else a video file or a folder.

    `poll_s` and `seen` (names already judged) are a watched folder's. Raises InputError for anything else.

    >>> open_source("0").name
    'camera 0'
    >>> open_source("part.png")
    Traceback (most recent call last):
    anomalib_lite.types.InputError: part.png: expected a camera's index (0), an address (rtsp://...), a video file \
(.avi .mp4 .m4v .mov .mkv .webm .mpg .mpeg .ts .wmv) or a folder to watch, found nothing there
    """
    if _is_index(text):
        return Camera(int(text))
    if "://" in text:
        return Camera(text)
    path = Path(text)
    if path.is_dir():
        return WatchedFolder(path, poll_s=poll_s, seen=seen)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFile(path)
    found = "another file" if path.exists() else "nothing there"
    raise InputError(
        f"{text}: expected a camera's index (0), an address ({SCHEMES[0]}://...), a video file "
        f"({' '.join(VIDEO_SUFFIXES)}) or a folder to watch, found {found}"
    )


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4
