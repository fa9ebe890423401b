"""What is told of a whole stream, while it runs and when it has ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from anomalib_lite.report.files import replace_file
from anomalib_lite.types import InputError

SCHEMA, VERSION = "anomalib-lite/stream", 1


@dataclass(slots=True, kw_only=True)
class StreamSummary:
    """The content of stream.json; docs/results.md describes every field.

    Every frame that was read is either judged, or unreadable, or dropped.
    """

    source: str
    started: datetime
    updated: datetime
    ended: str | None = None  # why; None while it runs, and for ever if it was killed
    read: int = 0
    judged: int = 0
    unreadable: int = 0
    dropped: int = 0
    reconnects: int = 0
    verdicts: dict[str, int]
    frames_per_second: float = 0.0
    latency: dict[str, float | None]  # milliseconds: median, p99, largest
    lines: str
    video: str | None
    drift: dict[str, Any] | None = None  # the monitor's own summary
    drift_state: dict[str, Any] | None = None

    @property
    def all_good(self) -> bool:
        """Whether nothing was defective or rejected; unreadable frames are rejected ones."""
        return not self.verdicts["defective"] and not self.verdicts["rejected"]

    def state(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "source": self.source,
            "started": self.started.isoformat(timespec="milliseconds"),
            "updated": self.updated.isoformat(timespec="milliseconds"),
            "ended": self.ended,
            "frames": {
                "read": self.read,
                "judged": self.judged,
                "unreadable": self.unreadable,
                "dropped": self.dropped,
            },
            "reconnects": self.reconnects,
            "verdicts": self.verdicts,
            "frames_per_second": round(self.frames_per_second, 3),
            "latency_ms": self.latency,
            "lines": self.lines,
            "video": self.video,
            "drift": self.drift,
            "drift_state": self.drift_state,
        }

    def save(self, path: Path) -> None:
        """Write it so that a reader, or a crash, finds the old one or the whole new one."""
        try:
            replace_file(path, json.dumps(self.state(), indent=2).encode() + b"\n")
        except OSError as error:
            raise InputError(f"{path}: cannot write the summary: {error.strerror or error}") from None
