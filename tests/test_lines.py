"""The lines' schema: real ones are valid, and what contradicts itself is not."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from anomalib_lite.inspector import Examined, unreadable
from anomalib_lite.lines import SCHEMA, VERSION, part_line
from anomalib_lite.types import Alignment, Prediction

CHECKER = jsonschema.Draft202012Validator(
    json.loads((files("anomalib_lite") / "part.schema.json").read_text()),
    format_checker=jsonschema.FormatChecker(),
)
DEFECT = {
    "box": (3, 0, 8, 6),
    "area": 40,
    "area_mm2": 10.0,
    "peak": 0.5,
    "mean": 0.25,
    "location": (7.0, 2.5),
}
STREAM, PICTURE = {"source": "0", "frame": 7, "seconds": 0.28}, {"path": "a.png"}


def prediction(label: int | None, score: float | None, *, error: float | None = 0.1) -> Prediction:
    return Prediction(
        Path("a.png"), 2.0, score, label, None, None, Alignment(np.eye(2, 3), quality=0.9), error=error
    )


PARTS = {
    "good": Examined(prediction(0, 0.25)),
    "good, with a region above the pixel cut": Examined(prediction(0, 0.25), defects=[DEFECT]),
    "defective": Examined(prediction(1, 0.75), defects=[DEFECT, {**DEFECT, "area_mm2": None}]),
    "unjudged": Examined(prediction(None, None)),
    "rejected": unreadable(Path("a.png"), "empty"),
    "without a reconstruction": Examined(prediction(1, 1.0, error=None)),
}


def line(part: Examined, where: dict[str, Any], drift: dict[str, Any] | None = None) -> dict[str, Any]:
    made = part_line(part, time=datetime(2026, 3, 2, 14, tzinfo=UTC), where=where, drift=drift)
    return json.loads(json.dumps(made, allow_nan=False))


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("where", [STREAM, PICTURE, {**STREAM, **PICTURE}])
def test_lines_are_valid(name: str, where: dict[str, Any]) -> None:
    CHECKER.validate(line(PARTS[name], where))
    CHECKER.validate(line(PARTS[name], where, {"drifted": True, "advice": "recalibrate"}))
    CHECKER.validate(line(PARTS[name], where, {"drifted": None}))


def test_the_schema_is_of_this_version() -> None:
    jsonschema.Draft202012Validator.check_schema(CHECKER.schema)
    properties = CHECKER.schema["properties"]
    assert (properties["schema"]["const"], properties["version"]["const"]) == (SCHEMA, VERSION)
    made = set(line(PARTS["good"], {**STREAM, **PICTURE}))
    assert made == set(properties)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("good", {"verdict": "fine"}),
        ("good", {"version": 2}),
        ("good", {"pred_label": 1}),
        ("good", {"pred_score": 1.5}),
        ("good", {"raw_score": None}),
        ("good", {"rejected": "for no reason"}),
        ("good", {"time": 17}),
        ("good", {"frame": -1}),
        ("good", {"surprise": 1}),
        ("good", {"drift": {}}),
        ("defective", {"pred_label": 0}),
        ("defective", {"defects": [{**DEFECT, "box": [0, 0, 0, 1]}]}),
        ("defective", {"defects": [{"box": [0, 0, 1, 1]}]}),
        ("unjudged", {"pred_score": 0.5}),
        ("rejected", {"raw_score": 1.0}),
        ("rejected", {"rejected": ""}),
        ("rejected", {"defects": [{**DEFECT}]}),
    ],
)
def test_what_contradicts_itself_is_not_valid(name: str, change: dict[str, Any]) -> None:
    made = line(PARTS[name], STREAM)
    CHECKER.validate(made)
    changed = json.loads(json.dumps({**copy.deepcopy(made), **change}))
    assert not CHECKER.is_valid(changed)


def test_a_line_says_which_part_it_is_of() -> None:
    made = line(PARTS["good"], STREAM)
    for field in STREAM:
        assert not CHECKER.is_valid({name: value for name, value in made.items() if name != field})


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "results.md").read_text()
    fields = [*CHECKER.schema["properties"], *CHECKER.schema["properties"]["defects"]["items"]["properties"]]
    for field in fields:
        assert f"`{field}`" in text or f"`defects[].{field}`" in text or f"`.{field}`" in text, field
    example = text.split("```json\n")[1].split("```")[0]
    CHECKER.validate(json.loads(example))
