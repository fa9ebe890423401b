"""The parts that the page shows: the newest hundred, their pictures within a limit of memory, and counts of all."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import cv2
import numpy as np

from anomalib_lite.inspector import OUTLINE, OUTLINE_SHARE, VERDICTS, Examined
from anomalib_lite.lines import part_line

LONGEST_SIDE = 1280  # of a picture on the page, in pixels
THUMBNAIL_SIDE = 128
LISTED_DEFECTS = 100  # a noisy map may have thousands: the worst are listed, all are counted


class Pictures:
    """A judged photograph as the page shows it, at most `LONGEST_SIDE` pixels long; encoded when asked for.

    Args:
        photograph: (H, W, 3) in [0, 1].
        examined: what was said of it.

    >>> from anomalib_lite.inspector import unreadable
    >>> pictures = Pictures(np.zeros((30, 40, 3), np.float32), unreadable("x", "cut short"))
    >>> pictures.photograph()[:3], pictures.overlay() is None
    (b'\\xff\\xd8\\xff', True)
    """

    def __init__(self, photograph: np.ndarray, examined: Examined) -> None:
        small = _reduced(photograph, LONGEST_SIDE)
        self._picture = np.rint(small * 255).clip(0, 255).astype(np.uint8)
        self._level: np.ndarray | None = None  # (h, w) uint8: 0 to twice the cut
        self._mask: np.ndarray | None = None  # (h, w) bool
        localised = examined.localised
        if localised is not None:
            level = _reduced(localised.anomaly_map, LONGEST_SIDE) / (2 * localised.cut)
            self._level = np.rint(level.clip(0, 1) * 255).astype(np.uint8)
            # the smallest region stays visible
            self._mask = _reduced(localised.mask.astype(np.float32), LONGEST_SIDE) > 0

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return sum(array.nbytes for array in (self._picture, self._level, self._mask) if array is not None)

    def photograph(self) -> bytes:
        """A JPEG."""
        return _jpeg(self._picture, quality=92)

    def thumbnail(self) -> bytes:
        """A JPEG of at most `THUMBNAIL_SIDE` pixels."""
        return _jpeg(_reduced(self._picture, THUMBNAIL_SIDE), quality=80)

    def overlay(self) -> bytes | None:
        """The map's colours as a PNG, the clearer the lower, and lines around the defects; None without a map.

        At an opacity of 0.6 over the photograph it looks like `inspector.annotate`.
        """
        if self._level is None or self._mask is None:
            return None
        coloured = cv2.applyColorMap(self._level, cv2.COLORMAP_JET)
        drawn = np.dstack([coloured, self._level])  # BGR and how much of it
        width = max(1, round(max(self._mask.shape) / OUTLINE_SHARE))
        square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        ring = cv2.dilate(self._mask.astype(np.uint8), square).astype(bool) & ~self._mask
        drawn[ring] = (*OUTLINE[::-1], 255)
        return cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


@dataclass(slots=True)
class Part:
    """One judged part."""

    number: int
    facts: dict[str, Any]  # JSON values, as `lines.part_line`
    pictures: Pictures | None  # None: nothing was read, or no longer kept
    original: bytes | np.ndarray | None  # the uploaded file, or a frame (H, W, 3) uint8; None: no longer kept
    mark: str | None = None  # what a reviewer says it is
    thumbnail: bytes | None = None  # where the pictures are no longer kept

    @property
    def size(self) -> int:
        """Bytes of memory that pictures and original take."""
        original = (
            self.original.nbytes if isinstance(self.original, np.ndarray) else len(self.original or b"")
        )
        return original + (self.pictures.size if self.pictures else 0)

    def forget(self) -> None:
        """Keep a thumbnail only."""
        if self.pictures is not None:
            self.thumbnail = self.pictures.thumbnail()
        self.pictures = self.original = None

    def state(self) -> dict[str, Any]:
        """What the page is told."""
        return {"id": self.number, **self.facts, "mark": self.mark}


def part_facts(
    examined: Examined,
    *,
    time: datetime,
    where: Mapping[str, Any],
    size: tuple[int, int] | None,
    drift: dict[str, Any] | None,
) -> dict[str, Any]:
    """What is said of a part whose photograph has `size` (H, W), with the worst defects only."""
    line = part_line(examined, time=time, where=dict(where), drift=drift)
    height, width = size or (None, None)
    return line | {
        "defects": line["defects"][:LISTED_DEFECTS],
        "defect_count": len(line["defects"]),
        "height": height,
        "width": width,
        "localised": examined.localised is not None,
    }


@dataclass
class PartTable:
    """The newest parts by number, and counts of all; safe to use from several threads.

    Args:
        kept: how many parts are listed.
        memory: bytes that their pictures and originals may take; the oldest go first, the newest stays.

    >>> table = PartTable(kept=2)
    >>> for verdict in ("good", "good", "defective"):
    ...     _ = table.add({"verdict": verdict}, None, None)
    >>> [part.facts["verdict"] for part in table.after(0)], table.counts["good"]
    (['good', 'defective'], 2)
    """

    kept: int = 100
    memory: int = 2**29
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))

    def __post_init__(self) -> None:
        # numbers of a server that ran before must not come again: browsers keep pictures by address
        self.session = self._number = time.time_ns() // 1_000_000
        self._parts: OrderedDict[int, Part] = OrderedDict()
        self._lock = threading.Lock()

    def add(
        self, facts: dict[str, Any], pictures: Pictures | None, original: bytes | np.ndarray | None
    ) -> Part:
        """Number a part and keep it."""
        with self._lock:
            self._number += 1
            part = self._parts[self._number] = Part(self._number, facts, pictures, original)
            self.counts[facts["verdict"]] += 1
            while len(self._parts) > self.kept:
                self._parts.popitem(last=False)
            taken = sum(part.size for part in self._parts.values())
            for old in list(self._parts.values())[:-1]:
                if taken <= self.memory:
                    break
                taken -= old.size
                old.forget()
        return part

    def get(self, number: int) -> Part | None:
        """None for a number that is not, or no longer, here."""
        with self._lock:
            return self._parts.get(number)

    def after(self, number: int) -> list[Part]:
        """The parts that came after a number, oldest first."""
        with self._lock:
            return [part for part in self._parts.values() if part.number > number]

    def state(self, after: int) -> dict[str, Any]:
        """What the page asks for again and again: parts after a number, counts, and what reviewers said."""
        with self._lock:
            parts = list(self._parts.values())
            return {
                "session": self.session,
                "parts": [part.state() for part in parts if part.number > after],
                "counts": dict(self.counts),
                "marks": {str(part.number): part.mark for part in parts if part.mark},
                "oldest": parts[0].number if parts else 0,
                # pictures are forgotten from the oldest on
                "pictured": next((part.number for part in parts if part.original is not None), 0),
            }


def _reduced(picture: np.ndarray, longest: int) -> np.ndarray:
    """The picture (H, W) or (H, W, 3) if it is at most `longest` pixels long, else a smaller one."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _jpeg(picture: np.ndarray, *, quality: int) -> bytes:
    # colour at full resolution: defects may be thin coloured lines
    settings = [
        cv2.IMWRITE_JPEG_QUALITY, quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    return cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), settings)[1].tobytes()
