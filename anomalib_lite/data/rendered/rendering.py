"""What the rendered data sets share: a folder that is whole or absent, its record, PNG files, checks."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from anomalib_lite.types import InputError

RENDERED_NOTE = "These pictures are rendered, not photographed"
RECORD = "rendered.json"
STALE_SECONDS = 3600.0  # what a killed run left is removed after this time


def render_folder(folder: Path, *, description: dict[str, Any], write_into: Callable[[Path], None]) -> Path:
    """Have `write_into` fill a new folder, or find `folder` already there with this `description`; `folder`.

    It appears only when it is whole, whatever else runs or is killed meanwhile. `description` holds plain JSON
    values and is kept in it as `RECORD`. Raises InputError where `folder` cannot be written, and where
    something else bears its name.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> grey = np.full((2, 3), 128, np.uint8)
    >>> folder = render_folder(
    ...     root / "grey_v1", description={"seed": 0}, write_into=lambda new: write_png(new / "000.png", grey)
    ... )
    >>> sorted(path.name for path in folder.iterdir())
    ['000.png', 'rendered.json']
    """
    try:
        if _is_whole(folder, description):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not _is_whole(folder, description):
                _remove_stale(folder)
                _write_beside(folder, description, write_into)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{folder}: expected to write the rendered pictures there, found: {reason}"
        ) from error
    return folder


def check_size_and_seed(size: tuple[int, int], *, minimum: tuple[int, int], seed: int) -> None:
    """Raise InputError for a (width, height) below `minimum` or a negative seed.

    >>> check_size_and_seed((96, 72), minimum=(96, 72), seed=0)
    """
    if size[0] < minimum[0] or size[1] < minimum[1]:
        least = "x".join(map(str, minimum))
        raise InputError(f"size must be at least {least} pixels (width x height), got {size[0]}x{size[1]}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")


def defect_strength(index: int) -> float:
    """How plain the defect of a type's `index`-th picture is: 0 barely visible .. 1 plain, evenly spread.

    >>> [round(defect_strength(index), 2) for index in range(4)]
    [0.5, 0.12, 0.74, 0.35]
    """
    return (0.5 + index * 0.6180339887498949) % 1.0


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey as PNG; missing folders are made. Raises OSError.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "good" / "000.png"
    >>> write_png(path, np.full((2, 3, 3), (255, 0, 0), np.uint8))
    >>> cv2.imread(str(path))[0, 0].tolist()  # OpenCV reads BGR
    [0, 0, 255]
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image if image.ndim == 2 else image[..., ::-1]
    _, encoded = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(encoded.tobytes())  # not cv2.imwrite, which keeps a full disk to itself


def _is_whole(folder: Path, description: dict[str, Any]) -> bool:
    """True for a finished set, False where there is none; another thing of that name raises InputError."""
    if not folder.exists():
        return False
    record = folder / RECORD
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{record}: expected the record of a rendered set, found {error}; remove {folder}"
        ) from error
    if found != description:
        raise InputError(f"{record}: expected {description}, found {found}; remove {folder}")
    return True


def _write_beside(folder: Path, description: dict[str, Any], write_into: Callable[[Path], None]) -> None:
    """Write beside the folder, then rename: what bears the folder's name is whole."""
    unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.part"
    try:
        unfinished.mkdir()
        write_into(unfinished)
        (unfinished / RECORD).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs left; only under the lock, and not what may belong to another host's run."""
    for leftover in folder.parent.glob(f".{folder.name}.*.part"):
        if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
