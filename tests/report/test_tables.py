"""metrics.json, scores.csv and the table of the terminal."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.report.figures import READINGS, interval_of, number
from anomalib_lite.report.tables import SCORE_COLUMNS, metrics_table, write_metrics, write_scores


def test_metrics_json_is_strict_json_with_null_for_what_is_no_number(tmp_path: Path) -> None:
    metrics = {
        "image": {"image_AUROC": np.float32(0.5), "image_AP": float("nan"), "x": float("inf")},
        "intervals": {"image_AUROC": (np.float64(0.25), 0.75)},
        "threshold": {"oracle": np.bool_(True), "cut": None},
        "counts": {"train": np.int64(42)},
        "cuts": np.array([1.0, np.nan]),
    }

    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    path = write_metrics(metrics, tmp_path)
    assert path == tmp_path / "metrics.json"
    assert json.loads(path.read_text(), parse_constant=no_constants) == {
        "image": {"image_AUROC": 0.5, "image_AP": None, "x": None},
        "intervals": {"image_AUROC": [0.25, 0.75]},
        "threshold": {"oracle": True, "cut": None},
        "counts": {"train": 42},
        "cuts": [1.0, None],
    }


def test_scores_csv_round_trip(tmp_path: Path) -> None:
    rows = [
        {
            "path": 'a,"b"\n.png',
            "label": 1,
            "raw_score": 0.1 + 0.2,
            "pred_score": float("nan"),
            "rejected": "",
        },
        {"path": Path("é.png"), "label": 0, "raw_score": None, "rejected": "not aligned"},
    ]
    with write_scores(rows, tmp_path).open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == SCORE_COLUMNS
    assert first["path"] == 'a,"b"\n.png'
    assert float(first["raw_score"]) == 0.1 + 0.2
    assert first["pred_score"] == ""
    assert (second["path"], second["raw_score"], second["rejected"]) == ("é.png", "", "not aligned")


def test_scores_csv_keeps_the_bytes_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = write_scores([{"path": os.fsdecode(b"caf\xe9.png")}], tmp_path)
    assert b"caf\xe9.png," in path.read_bytes()


def test_scores_csv_refuses_a_column_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scroe"):
        write_scores([{"path": "a.png", "scroe": 1.0}], tmp_path)


def test_table_shows_percent_interval_and_chance() -> None:
    table = metrics_table(
        {
            "image": {
                "image_AP": 0.9901,
                "image_AUROC": 0.97119,
                "image_F1Score": None,
                "chance_AP": 0.72905,
            },
            "pixel": {"pixel_AUPRO_0.05": 1.0},
            "intervals": {"image_AUROC": [0.9481, 0.9889]},
            "validation_AUROC": 0.5,
        }
    )
    assert table.splitlines() == [
        "metric                     %   95 % interval   chance",
        "image_AUROC            97.12    94.8 to 98.9    50.00",
        "image_AP               99.01                    72.91",
        "image_F1Score              -",
        "",
        "pixel_AUPRO_0.05      100.00",
        "",
        "validation_AUROC       50.00                    50.00",
    ]


def test_table_of_no_metrics() -> None:
    assert metrics_table({}) == "no metrics: nothing was tested"


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from(list(READINGS)) | st.text(), st.none() | st.floats(0, 1)),
    st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_table_fits_the_terminal(
    values: dict[str, float | None], interval: tuple[float, float] | None
) -> None:
    metrics = {"image": values, "intervals": dict.fromkeys(values, interval)}
    assert max(len(line) for line in metrics_table(metrics).split("\n")) < 80


@pytest.mark.parametrize("interval", [None, [], [0.5], [0.5, None], [float("nan"), 0.5], [0.1, 0.2, 0.3]])
def test_an_interval_that_is_none(interval: object) -> None:
    assert interval_of({"intervals": {"image_AP": interval}}, "image_AP") is None


def test_number_takes_numpy_scalars() -> None:
    assert number(np.float32(0.25)) == 0.25
    assert number(np.float64("inf")) is None
