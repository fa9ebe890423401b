"""One JSON object per judged part, for the programs that come after; docs/results.md describes every field."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, TextIO

from anomalib_lite.inspector import Examined

SCHEMA, VERSION = "anomalib-lite/part", 1


def part_line(
    examined: Examined, *, time: datetime, where: dict[str, Any], drift: dict[str, Any] | None
) -> dict[str, Any]:
    """What is written of one part; `where` says which one it is: `path`, or `source`, `frame` and `seconds`."""
    prediction = examined.prediction
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "time": time.isoformat(timespec="milliseconds"),
        **where,
        "verdict": examined.verdict,
        "raw_score": None if prediction.rejected else prediction.raw_score,
        "pred_score": prediction.pred_score,
        "pred_label": prediction.pred_label,
        "rejected": prediction.rejected,
        "registration_quality": prediction.alignment.quality,
        "error": prediction.error,
        "defects": examined.defects,
        "drift": drift,
    }


class LineWriter:
    """Writes one line per part, on its way before the next part is judged.

    >>> import io
    >>> stream = io.StringIO()
    >>> LineWriter(stream).write({"verdict": "good"})
    >>> stream.getvalue()
    '{"verdict": "good"}\\n'
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; raises OSError as the stream does."""
        self.stream.write(json.dumps(line, allow_nan=False) + "\n")
        self.stream.flush()
