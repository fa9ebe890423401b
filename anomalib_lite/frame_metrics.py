"""How well a video was judged, frame by frame, against its ground truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib_lite.data.rendered.belt_video import FrameTruth
from anomalib_lite.types import InputError

JUDGED = {"good": False, "defective": True}  # verdict -> is it a finding


def frame_metrics(truth: Sequence[FrameTruth], verdicts: Mapping[int, str]) -> dict[str, float | int | None]:
    """Recall, precision and counts over all frames of `truth`; `verdicts` by frame number, as in the lines written.

    A frame that was dropped, rejected or judged without a threshold is not judged: it finds nothing, so an
    anomalous one lowers recall. `passing_recall` is the share of anomalies found in at least one of their frames,
    which is what sorts a part out. Ratios with nothing to divide by are None.

    >>> from anomalib_lite.data.rendered.belt_video import Passing
    >>> ring = Passing(0, "ring", (0, 0, 5, 5), 0.5)
    >>> truth = [FrameTruth(0, 0, ()), FrameTruth(1, 1, (ring,)), FrameTruth(2, 1, (ring,))]
    >>> metrics = frame_metrics(truth, {0: "defective", 1: "defective", 2: "good"})
    >>> [metrics[name] for name in ("frame_recall", "frame_precision", "passing_recall")]
    [0.5, 0.5, 1.0]
    """
    counts = dict.fromkeys(("true_positive", "false_positive", "false_negative", "true_negative"), 0)
    not_judged = {0: 0, 1: 0}
    passed: set[int] = set()
    found: set[int] = set()
    for frame in truth:
        numbers = {passing.number for passing in frame.passings}
        passed |= numbers
        finding = JUDGED.get(verdicts.get(frame.frame, ""))
        if finding is None:
            not_judged[frame.label] += 1
        elif finding:
            counts["true_positive" if frame.label else "false_positive"] += 1
            found |= numbers
        else:
            counts["false_negative" if frame.label else "true_negative"] += 1
    anomalous = counts["true_positive"] + counts["false_negative"] + not_judged[1]
    recall = _ratio(counts["true_positive"], anomalous)
    precision = _ratio(counts["true_positive"], counts["true_positive"] + counts["false_positive"])
    twice = 2 * counts["true_positive"]
    return {
        "frame_recall": recall,
        "frame_precision": precision,
        "frame_F1Score": _ratio(twice, counts["true_positive"] + counts["false_positive"] + anomalous),
        "frame_false_alarm_rate": _ratio(
            counts["false_positive"], counts["false_positive"] + counts["true_negative"]
        ),
        "passing_recall": _ratio(len(found), len(passed)),
        "frames": len(truth),
        "frames_anomalous": anomalous,
        **{f"frames_{name}": count for name, count in counts.items()},
        "frames_not_judged_good": not_judged[0],
        "frames_not_judged_anomalous": not_judged[1],
        "passings": len(passed),
        "passings_found": len(found),
    }


def read_verdicts(path: Path) -> dict[int, str]:
    """Frame number -> verdict, of a file with a JSON line per frame; raises InputError for another file.

    A last line that is cut short, as a killed run leaves it, is passed over.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON line per frame, cannot read it ({error})") from None
    verdicts: dict[int, str] = {}
    lines = text.split("\n")
    for number, line in enumerate(
        lines[:-1], start=1
    ):  # behind the last line's end there is nothing, or half a line
        verdicts[_field(path, number, line, "frame", int)] = _field(path, number, line, "verdict", str)
    return verdicts


def _field(path: Path, number: int, line: str, name: str, kind: type) -> Any:
    try:
        value = json.loads(line)[name]
    except (ValueError, TypeError, KeyError, RecursionError):
        value = None
    if type(value) is not kind:
        raise InputError(f"{path}: expected a JSON object with a {name} in line {number}")
    return value


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
