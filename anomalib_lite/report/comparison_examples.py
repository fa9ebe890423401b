"""The same few test pictures from every run, so that methods can be shown below each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_lite.report.files import replace_file
from anomalib_lite.report.gallery import common_scale, jpeg, panels
from anomalib_lite.types import GOOD, Example

FOLDER = "examples"
INDEX = "index.json"
INPUT, RECONSTRUCTION, MAP, TRUTH = "Input", "Reconstruction", "Anomaly map", "Ground truth"
SHOWN = (INPUT, RECONSTRUCTION, MAP, TRUTH)  # titles of the panels


@dataclass(frozen=True, slots=True)
class SharedExample:
    """One test picture as one run sees it."""

    name: str
    defect: str
    raw_score: float
    pred_label: int | None
    pictures: Mapping[str, bytes]  # title -> JPEG; without those that the method has not

    @property
    def outcome(self) -> str:
        """What the run decided, in a word; empty without a threshold."""
        if self.pred_label is None:
            return ""
        words = ("accepted", "rejected") if self.defect == GOOD else ("missed", "found")
        return words[self.pred_label]


def choose_shared(rows: Sequence[Mapping[str, Any]], limit: int = 5) -> list[int]:
    """Rows of scores.csv that every method shows, whatever its scores: the middle one of each type, good ones last.

    With more types than places, types are left out evenly; with fewer, the frequent types get more.

    >>> rows = [{"path": f"{number}.png", "defect": defect} for number, defect in enumerate(["hole"] * 3 + ["good"])]
    >>> choose_shared(rows, limit=2)
    [1, 3]
    """
    types: dict[str, list[int]] = {}
    for row in sorted(range(len(rows)), key=lambda row: str(rows[row]["path"])):
        types.setdefault(str(rows[row]["defect"]), []).append(row)
    good = types.pop(GOOD, [])
    places = limit - bool(good)
    names = sorted(types)
    if len(names) > places:
        names = [names[number * len(names) // places] for number in range(places)]
    shares = dict.fromkeys(names, 1)
    while sum(shares.values()) < places:
        free = [name for name in names if len(types[name]) > shares[name]]
        if not free:
            break
        shares[max(free, key=lambda name: len(types[name]) / shares[name])] += 1
    chosen = [row for name in names for row in _spread(types[name], shares[name])]
    return chosen + _spread(good, 1)


def _spread(rows: list[int], count: int) -> list[int]:
    """The middles of `count` equal parts of the rows."""
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(min(count, len(rows)))]


def write_examples(examples: Sequence[Example], folder: Path, *, cut: float | None) -> None:
    """Write the shared examples of a run into `folder/examples`; `cut` is the pixel cut that the colours show."""
    scale = common_scale(examples, cut)
    index = []
    for number, example in enumerate(examples):
        files = {}
        for panel in panels(example, scale):
            if panel.title in SHOWN and panel.picture is not None:
                files[panel.title] = f"{number}-{panel.title.lower().replace(' ', '-')}.jpg"
                replace_file(folder / FOLDER / files[panel.title], jpeg(panel.picture))
        index.append(
            {
                "name": example.name,
                "defect": example.defect,
                "raw_score": float(example.raw_score),
                "pred_label": None if example.pred_label is None else int(example.pred_label),
                "pictures": files,
            }
        )
    text = json.dumps(index, indent=1) + "\n"
    replace_file(folder / FOLDER / INDEX, text.encode())


def read_examples(folder: Path) -> list[SharedExample]:
    """The shared examples of a run; none where it has not written any.

    >>> read_examples(Path("no run here"))
    []
    """
    place = folder / FOLDER
    if not (place / INDEX).is_file():
        return []
    return [
        SharedExample(
            name=entry["name"],
            defect=entry["defect"],
            raw_score=entry["raw_score"],
            pred_label=entry["pred_label"],
            pictures={title: (place / file).read_bytes() for title, file in entry["pictures"].items()},
        )
        for entry in json.loads((place / INDEX).read_text())
    ]
