"""What reviewers say of parts, on disk, in the layout that training reads.

`data=folder data.normal_dir=<reviews>/good data.abnormal_dir=<reviews>/defective` trains on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from anomalib_lite.report.files import replace_file
from anomalib_lite.types import InputError

Mark = Literal["good", "defective"]
MARKS: tuple[Mark, ...] = ("good", "defective")
KINDS = {("defective", "good"): "false reject", ("good", "defective"): "miss"}  # (verdict, mark)
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif"}


class Reviews:
    """Writes marked parts to `<folder>/good` and `<folder>/defective`, and a line for each to `reviews.jsonl`.

    A picture lies in one of the two at any moment: marked again, it moves, also after a restart. Names are made from
    the time and the content.

    Args:
        folder: made when first needed.
        bundle: the name of what judges, for the record.
    """

    def __init__(self, folder: Path, *, bundle: str) -> None:
        self.folder, self.bundle = folder, bundle
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises InputError where nothing can be written: before a reviewer's work, not after."""
        probe = self.folder / ".writable"
        try:
            for mark in MARKS:
                (self.folder / mark).mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"reviews={self.folder}: expected a folder to write to: {error.strerror or error}"
            ) from None

    def mark(self, facts: dict[str, Any], original: bytes | np.ndarray, mark: Mark | None) -> Path | None:
        """Say what a part is, whatever was said before; None takes it back.

        Args:
            facts: the part's verdict, scores and time, as `lines.part_line`.
            original: the uploaded file as it came, or a frame (H, W, 3) uint8 RGB, written as PNG.

        Returns:
            The picture's file, None where it was taken back. Raises OSError where it cannot be written.
        """
        content = original if isinstance(original, bytes) else _png(original)
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            now = datetime.now().astimezone()
            found = [path for name in MARKS for path in (self.folder / name).glob(f"*-{digest[:32]}.*")]
            target = None
            if mark is not None:
                name = f"{now:%Y%m%d-%H%M%S}-{digest[:32]}{_suffix(content)}"
                target = self.folder / mark / (found[0].name if found else name)
                if found:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(found.pop(0), target)  # at once: never in both folders
                else:
                    replace_file(target, content)
            for path in found:
                path.unlink()
            verdict = facts["verdict"]
            self._note(
                {
                    "schema": "anomalib-lite/review",
                    "version": 1,
                    "time": now.isoformat(timespec="milliseconds"),
                    "mark": mark,
                    "kind": None if mark is None else KINDS.get((verdict, mark), "other"),
                    "file": None if target is None else target.relative_to(self.folder).as_posix(),
                    "sha256": digest,
                    "bundle": self.bundle,
                    "judged": facts["time"],
                    "verdict": verdict,
                    **{name: facts.get(name) for name in ("raw_score", "pred_score", "rejected")},
                    **{name: facts[name] for name in ("path", "source", "frame") if name in facts},
                }
            )
        return target

    def _note(self, line: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "reviews.jsonl").open("a+b") as file:
            torn = b""
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = b"" if file.read(1) == b"\n" else b"\n"  # a crash has cut the last line short
            file.write(torn + json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _png(frame: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(frame[..., ::-1]))[1].tobytes()


def _suffix(content: bytes) -> str:
    """By content, of a picture that `read_image` has taken."""
    return next(suffix for start, suffix in _SUFFIXES.items() if content.startswith(start))
