"""A rendered video of the belt with its ground truth, in place of a plant's own recording."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.data.rendered.belt import DEFECTS, MINIMUM_SIZE, RENDERER_VERSION, Frame, frames
from anomalib_lite.data.rendered.rendering import RENDERED_NOTE, check_size_and_seed, render_folder
from anomalib_lite.types import GOOD, InputError

VIDEO_NAME = "belt.avi"
FRAMES, FPS = 500, 25
SPACING = 4  # cells from anomaly to anomaly: about 20 frames of every 74 show one
# Lossless, or a model trained on the belt's pictures would take the compression for the anomaly: JPEG's departs from
# them by 3 of 255 on the average, more than the camera's noise. 120 kB a frame at 320 x 240, each on its own and with
# a checksum. In an AVI, because a Matroska file of the same frames differs every time it is written.
CODEC, SUFFIX = "FFV1", ".avi"


@dataclass(frozen=True, slots=True)
class Passing:
    """An anomaly as one frame shows it."""

    number: int  # of the anomaly that passes, from 0: the same in all frames that show it
    kind: str  # "ring" or "broken"
    box: tuple[int, int, int, int]  # x, y, width, height of its visible pixels
    strength: float  # 0 barely visible .. 1 plain


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """What a frame really shows."""

    frame: int
    label: int  # 1: some pixel is anomalous
    passings: tuple[Passing, ...]


def belt_video(
    folder: Path, *, count: int = FRAMES, size: tuple[int, int] = (320, 240), fps: int = FPS, seed: int = 0
) -> Path:
    """Render the video under `folder`, or find it there; its path, the ground truth beside it.

    Frames are as those that a model sees with data=belt, of another stretch of the belt. It appears only when it is
    whole, whatever else runs or is killed meanwhile. Raises InputError as `render_belt_video` does.

    >>> belt_video(Path("data"), seed=-1)
    Traceback (most recent call last):
    anomalib_lite.types.InputError: seed must be at least 0, got -1
    """
    _check(count, size, fps, seed)
    description = {
        "note": RENDERED_NOTE,
        "renderer_version": RENDERER_VERSION,
        "size": list(size),
        "seed": seed,
        "frames": count,
        "fps": fps,
        "codec": CODEC,
    }

    def write_into(unfinished: Path) -> None:
        render_belt_video(unfinished / VIDEO_NAME, count=count, size=size, fps=fps, seed=seed)

    name = f"belt_video_{size[0]}x{size[1]}_{count}_frames_{fps}_fps_seed{seed}_v{RENDERER_VERSION}"
    return render_folder(folder / name, description=description, write_into=write_into) / VIDEO_NAME


def render_belt_video(
    path: Path, *, count: int = FRAMES, size: tuple[int, int] = (320, 240), fps: int = FPS, seed: int = 0
) -> None:
    """Write a video of the belt to `path` (.avi) and its ground truth to `truth_path(path)`.

    `size` is (width, height); one in `SPACING` belt cells holds a ring or a broken capsule. The same seed gives the
    same bytes. The video appears last, and whole. Raises InputError for a size below `MINIMUM_SIZE`, a
    negative seed, no frames and another suffix; OSError where it cannot be written.

    >>> render_belt_video(Path("belt.mp4"))
    Traceback (most recent call last):
    anomalib_lite.types.InputError: belt.mp4: expected a name that ends in .avi
    """
    _check(count, size, fps, seed)
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"{path}: expected a name that ends in {SUFFIX}")
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part{SUFFIX}")
    unfinished_truth = truth_path(unfinished)
    writer = cv2.VideoWriter(str(unfinished), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*CODEC), fps, size)
    try:
        if not writer.isOpened():
            raise OSError(f"cannot write the video {path}")
        passings = _Passings()
        with unfinished_truth.open("w", encoding="utf-8") as truth:
            video = frames(count=count, size=size, seed=seed, run="video", anomalies=DEFECTS, spacing=SPACING)
            for frame in tqdm(video, desc="rendering the belt", total=count, unit="frame", disable=None):
                writer.write(np.ascontiguousarray(frame.image[..., ::-1]))
                truth.write(json.dumps(_truth_line(frame, passings)) + "\n")
        writer.release()
        _check_written(unfinished, count)
        os.replace(unfinished_truth, truth_path(path))
        os.replace(unfinished, path)
    finally:
        writer.release()
        unfinished.unlink(missing_ok=True)
        unfinished_truth.unlink(missing_ok=True)


def truth_path(video: Path) -> Path:
    """Where a rendered video's ground truth is.

    >>> truth_path(Path("videos/belt.avi")).as_posix()
    'videos/belt.jsonl'
    """
    return video.with_suffix(".jsonl")


def frame_truth(path: Path) -> list[FrameTruth]:
    """The ground truth in a `truth_path` file, frame after frame; raises InputError for anything else."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a rendered video's ground truth, cannot read it ({error})"
        ) from None
    truth = []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            passings = tuple(
                Passing(int(part["number"]), str(part["kind"]), _box(part["box"]), float(part["strength"]))
                for part in row["anomalies"]
            )
            known = (row["frame"], row["label"]) == (number, int(bool(passings)))
        except (ValueError, TypeError, KeyError, RecursionError):
            known = False
        if not known:
            raise InputError(f"{path}: expected the ground truth of frame {number} in line {number + 1}")
        truth.append(FrameTruth(number, int(bool(passings)), passings))
    return truth


class _Passings:
    """Numbers anomalies as they come into the picture."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, float], int] = {}  # by what tells one anomaly from another

    def number(self, kind: str, strength: float) -> int:
        """The number of an anomaly, a new one for one not seen before."""
        return self._numbers.setdefault((kind, strength), len(self._numbers))


def _truth_line(frame: Frame, passings: _Passings) -> dict[str, Any]:
    anomalies = [
        {
            "number": passings.number(part.kind, part.strength),
            "kind": part.kind,
            "box": list(part.box),
            "strength": round(part.strength, 3),
        }
        for part in frame.anomalies
    ]
    label = int(bool(anomalies))
    kinds = sorted({part.kind for part in frame.anomalies})
    return {"frame": frame.number, "label": label, "type": "+".join(kinds) or GOOD, "anomalies": anomalies}


def _box(value: list[int]) -> tuple[int, int, int, int]:
    x, y, width, height = value
    return int(x), int(y), int(width), int(height)


def _check(count: int, size: tuple[int, int], fps: int, seed: int) -> None:
    check_size_and_seed(size, minimum=MINIMUM_SIZE, seed=seed)
    for name, value in (("count", count), ("fps", fps)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def _check_written(path: Path, count: int) -> None:
    """Raise OSError unless the file holds `count` frames: OpenCV keeps a full disk to itself."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    last = found == count and capture.set(cv2.CAP_PROP_POS_FRAMES, count - 1) and capture.read()[0]
    capture.release()
    if not last:
        raise OSError(f"the video holds {found} whole frames of {count}: is the disk full?")
