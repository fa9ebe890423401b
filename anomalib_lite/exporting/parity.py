"""Whether an export answers as the bundle does that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.data.images import read_image
from anomalib_lite.data.resize_array import resize_array
from anomalib_lite.inspector import Inspector
from anomalib_lite.types import InputError, Prediction

SCALES = (1.0, 0.5, 0.75, 1.5)  # of the photographs' own size
SCORES, MAPS = 1e-3, 1e-2  # largest differences: of the score itself, of the map's largest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The largest differences at one size of the photographs."""

    scale: float  # of their own size
    photographs: int
    not_aligned: int  # by both alike
    score: float  # relative
    map: float | None  # of its largest value; None where there are no maps


def check_parity(reference: Inspector, exported: Inspector, paths: Sequence[Path]) -> list[Parity]:
    """Compare the answers to photographs at their own size and at three others.

    Raises:
        InputError: naming the first photograph of which a score, a label, a map or an alignment differs by more than
            `SCORES` and `MAPS`; and if none of them could be aligned at its own size.
    """
    parities = [_at_scale(reference, exported, paths, scale) for scale in SCALES]
    if parities[0].not_aligned == len(paths):
        raise InputError(
            f"none of the {len(paths)} photographs (first: {paths[0]}) could be aligned, so that no score could be "
            f"compared; give images=<folder of photographs>"
        )
    return parities


def _at_scale(reference: Inspector, exported: Inspector, paths: Sequence[Path], scale: float) -> Parity:
    scores, maps, unaligned, spread = [0.0], [], 0, _spread(reference)
    for path in paths:
        photograph = read_image(path)
        height, width = (max(1, round(side * scale)) for side in photograph.shape[:2])
        photograph = np.ascontiguousarray(resize_array(photograph, (height, width)).clip(0, 1))
        place = f"{path} at {height} x {width}"
        ours, theirs = reference.predict(photograph, path), exported.predict(photograph, path)
        if bool(ours.rejected) != bool(theirs.rejected):
            raise _differs(place, "alignment", ours.rejected or "aligned", theirs.rejected or "aligned")
        if ours.rejected:
            unaligned += 1
            continue
        score = abs(ours.raw_score - theirs.raw_score) / max(abs(ours.raw_score), spread, 1e-12)
        if not score <= SCORES:
            raise _differs(place, "raw score", ours.raw_score, theirs.raw_score)
        if ours.pred_label != theirs.pred_label:
            raise _differs(
                place,
                f"label (the cut is {reference.threshold.raw_cut})",
                f"{ours.pred_label} of the score {ours.raw_score!r}",
                f"{theirs.pred_label} of {theirs.raw_score!r}",
            )
        scores.append(score)
        maps += _of_maps(place, ours, theirs)
    return Parity(
        scale=scale,
        photographs=len(paths),
        not_aligned=unaligned,
        score=max(scores),
        map=max(maps, default=None),
    )


def _spread(reference: Inspector) -> float:
    """What a difference is compared with where scores lie around 0, as a one-class SVM's; 0 where they are positive."""
    scores = [] if reference.calibration is None else reference.calibration.scores
    return max(scores) - min(scores) if scores and min(scores) < 0 else 0.0


def _of_maps(place: str, ours: Prediction, theirs: Prediction) -> list[float]:
    if ours.anomaly_map is None or theirs.anomaly_map is None:
        if ours.anomaly_map is not theirs.anomaly_map:
            raise _differs(place, "map", ours.anomaly_map is not None, theirs.anomaly_map is not None)
        return []
    largest = max(float(np.abs(ours.anomaly_map).max()), 1e-12)
    difference = float(np.abs(ours.anomaly_map - theirs.anomaly_map).max()) / largest
    if not difference <= MAPS:
        raise _differs(place, "map", f"at most {largest:g}", f"{difference:.2%} of that away")
    return [difference]


def _differs(place: str, what: str, ours: Any, theirs: Any) -> InputError:
    return InputError(f"{place}: {what}: expected {ours}, as the bundle says, the export found {theirs}")


def as_json(parities: Sequence[Parity]) -> dict[str, Any]:
    """For parity.json."""
    return {
        "largest differences allowed": {"score": SCORES, "map": MAPS, "label": 0},
        "sizes": [asdict(parity) for parity in parities],
    }


def as_table(parities: Sequence[Parity]) -> str:
    """For the console.

    >>> print(as_table([Parity(scale=0.5, photographs=24, not_aligned=1, score=2e-6, map=None)]))
    size    photographs  not aligned  score       map
    x 0.5            24            1  2.0e-06        -
    """
    rows = ["size    photographs  not aligned  score       map"]
    for parity in parities:
        of_map = "-" if parity.map is None else f"{parity.map:.1e}"
        rows.append(
            f"x {parity.scale:<5g} {parity.photographs:>11}  {parity.not_aligned:>11}  {parity.score:.1e}  {of_map:>7}"
        )
    return "\n".join(rows)
