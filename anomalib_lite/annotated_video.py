"""A video of what was judged: each frame under its map, and a bar below that says verdict, score and frame."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from anomalib_lite.inspector import Examined
from anomalib_lite.types import InputError

# Matroska, since a process that is killed leaves it readable up to its last block of 256 KiB; an MP4 has its index at
# its end and is lost whole. MPEG-4 Visual is a fifth the size of Motion JPEG, as fast, and in every build of OpenCV.
# Measured with cv2 5.0, 300 frames of 320 x 240, kill -9 after the last: mp4/mp4v none of them readable, avi/MJPG 280
# (3.1 MB), mkv/MJPG 279 (3.1 MB), mkv/mp4v 267 (0.6 MB); no H.264 encoder; VP8 takes 8 times as long, VP9 40 times.
SUFFIX, CODEC = ".mkv", "mp4v"

MOST_PACE = 1000.0  # frames per second
LEAST_WIDTH = 320  # pixels, in which the bar can be read
MOST = 3840  # pixels of the long side; the codec ends at 8190, players before
BAR_SHARE = (0.1, 0.07)  # at most, of the frame's width and height
LEAST_BAR = 24  # pixels
LETTERS_SHARE = 0.42  # of the bar's height: capitals
FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPITALS = 21  # height in pixels of the font's capitals at scale 1
COLOURS = {
    "good": (0, 150, 80),
    "defective": (205, 30, 45),
    "rejected": (190, 110, 0),
    "unjudged": (110, 110, 115),
}  # RGB, each dark enough for white letters
INK, BACKGROUND, TRACK = (255, 255, 255), (26, 26, 30), (70, 70, 76)


class AnnotatedVideo:
    """Writes annotated frames to a video, whose size is that of the first; raises InputError where it can't.

    OpenCV says nothing of a write that fails, for instance on a full disk, so that `close` reads how much there is.

    Args:
        path: of the file, with `SUFFIX`; replaced if it is there.
        frames_per_second: at which it is played.
    """

    def __init__(self, path: Path, *, frames_per_second: float) -> None:
        if path.suffix != SUFFIX:
            raise InputError(f"{path}: expected a video's name with the suffix {SUFFIX}")
        if not 0 < frames_per_second <= MOST_PACE:
            raise InputError(f"frames_per_second must be in (0, {MOST_PACE:g}], got {frames_per_second}")
        self.path, self.frames_per_second = path, frames_per_second
        self.frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)  # width, height of the picture alone

    def write(self, picture: np.ndarray | None, examined: Examined, *, number: int, seconds: float) -> None:
        """Append a picture (H, W, 3) uint8 RGB, or an empty one for a frame that could not be read.

        Frames before the first that could be read are not in the video: its size is not known yet.
        """
        if self._writer is None:
            if picture is None:
                return
            self._open(picture)
        shown = np.zeros((self._size[1], self._size[0], 3), np.uint8)
        if picture is not None:
            shown = letterboxed(picture, self._size)
        drawn = with_bar(shown, examined, number=number, seconds=seconds)
        assert self._writer is not None
        self._writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self) -> None:
        """Finish the file; raises InputError if it does not hold all that was written."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        reader = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        # from the length in the header, which is written last of all
        held = round(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if held < self.frames:
            raise InputError(
                f"{self.path}: expected {self.frames} frames written, the file ends before: is the disk full?"
            )

    def _open(self, picture: np.ndarray) -> None:
        self._size = shown_size(picture.shape[1], picture.shape[0])
        size = (self._size[0], self._size[1] + bar_height(self._size))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = cv2.VideoWriter(
            str(self.path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*CODEC), self.frames_per_second, size
        )
        if not self._writer.isOpened():
            self._writer = None
            raise InputError(
                f"{self.path}: cannot write a video of {size[0]} x {size[1]}: disk, permissions, FFmpeg?"
            )


def shown_size(width: int, height: int) -> tuple[int, int]:
    """The size in which pictures of a size are shown: small ones enlarged, large ones reduced, even for the codec.

    >>> shown_size(320, 239), shown_size(64, 48), shown_size(12000, 800)
    ((320, 240), (320, 240), (3840, 256))
    """
    scale: float = max(1, -(-LEAST_WIDTH // width))
    scale = min(scale, MOST / max(width, height))
    width, height = (min(MOST, 2 * math.ceil(side * scale / 2)) for side in (width, height))
    return width, height


def letterboxed(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (h, w, 3) uint8 as large as fits into `size` (W, H), centred on black; (H, W, 3).

    >>> letterboxed(np.full((2, 2, 3), 9, np.uint8), (6, 4))[..., 0].tolist()
    [[0, 9, 9, 9, 9, 0], [0, 9, 9, 9, 9, 0], [0, 9, 9, 9, 9, 0], [0, 9, 9, 9, 9, 0]]
    """
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    if inner != (picture.shape[1], picture.shape[0]):
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST  # enlarged pixels are shown as such
        picture = cv2.resize(picture, inner, interpolation=method)
    if inner == size:
        return picture
    boxed = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    boxed[top : top + inner[1], left : left + inner[0]] = picture
    return boxed


def bar_height(size: tuple[int, int]) -> int:
    """Pixels of the bar below a frame of that size (width, height), an even number.

    >>> bar_height((320, 240)), bar_height((1920, 1080)), bar_height((360, 2700))
    (24, 76, 36)
    """
    share = min(size[0] * BAR_SHARE[0], size[1] * BAR_SHARE[1])
    return 2 * round(max(LEAST_BAR, share) / 2)


def with_bar(picture: np.ndarray, examined: Examined, *, number: int, seconds: float) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB above a bar with verdict, score or reason, frame number and time; uint8."""
    width = picture.shape[1]
    thick = bar_height((width, picture.shape[0]))
    bar = np.full((thick, width, 3), BACKGROUND, np.uint8)
    prediction, verdict = examined.prediction, examined.verdict
    place, word = f"#{number}  {_clock(seconds)}", verdict.upper()
    score = prediction.raw_score if prediction.pred_score is None else prediction.pred_score
    said = prediction.rejected or f"{score:.3f}"
    scale, gap = thick * LETTERS_SHARE / CAPITALS, thick // 3
    whole = "a reason" if prediction.rejected else said  # half a number would be another number
    wanted = 6 * gap + sum(_text_width(text, scale) for text in (word, place, whole))
    scale *= min(1.0, 0.98 * width / wanted)  # in a narrow frame, long numbers make small letters
    left = 2 * gap + _text_width(word, scale)
    right = width - gap - _text_width(place, scale)
    bar[:, :left] = COLOURS[verdict]
    _write(bar, word, gap, scale)
    _write(bar, place, right, scale)
    said = _shortened(said, right - left - 2 * gap, scale)
    _write(bar, said, left + gap, scale)
    if prediction.pred_score is not None and not prediction.rejected:
        start = left + 2 * gap + _text_width(said, scale)
        _draw_gauge(bar, start, right - gap, prediction.pred_score, COLOURS[verdict])
    return np.concatenate([picture, bar])


def _draw_gauge(bar: np.ndarray, left: int, right: int, level: float, colour: tuple[int, int, int]) -> None:
    """The score from 0 to 1 as a filled track, if there is room for one."""
    thick = bar.shape[0]
    if right - left < 2 * thick:
        return
    right = min(right, left + 8 * thick)
    top, bottom = round(thick * 0.36), round(thick * 0.64)
    bar[top:bottom, left:right] = TRACK
    bar[top:bottom, left : left + round(float(np.clip(level, 0, 1)) * (right - left))] = colour


def _write(bar: np.ndarray, text: str, left: int, scale: float) -> None:
    thick = bar.shape[0]
    baseline = round((thick + CAPITALS * scale) / 2)
    width = max(1, round(scale * 1.6))
    cv2.putText(bar, text, (left, baseline), FONT, scale, INK, width, cv2.LINE_AA)


def _text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, FONT, scale, max(1, round(scale * 1.6)))[0][0])


def _shortened(text: str, room: int, scale: float) -> str:
    """As much of a text as fits, in the letters that the font has."""
    text = text.encode("ascii", "replace").decode()
    if _text_width(text, scale) <= room:
        return text
    while text and _text_width(text + "...", scale) > room:
        text = text[:-1]
    return text + "..." if text else ""


def _clock(seconds: float) -> str:
    """
    >>> _clock(62.04), _clock(3600 * 30)
    ('1:02.0', '30:00:00')
    """
    tenths = round(seconds * 10)
    hours, minutes = divmod(tenths // 600, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{tenths // 10 % 60:02d}"
    return f"{minutes}:{tenths % 600 / 10:04.1f}"
