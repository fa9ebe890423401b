"""Frame-level recall and precision, by hand and against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from anomalib_lite.data.rendered.belt_video import FrameTruth, Passing
from anomalib_lite.frame_metrics import frame_metrics, read_verdicts
from anomalib_lite.types import InputError


def truth_of(*shown: tuple[int, ...]) -> list[FrameTruth]:
    """One frame per argument: the numbers of the anomalies that it shows."""
    return [
        FrameTruth(frame, int(bool(numbers)), tuple(Passing(n, "ring", (0, 0, 3, 3), 0.5) for n in numbers))
        for frame, numbers in enumerate(shown)
    ]


def test_counts_by_hand() -> None:
    truth = truth_of((), (0,), (0,), (), (1,), (), (2,), (1, 2))
    verdicts = {
        0: "good",
        1: "defective",
        2: "good",
        3: "defective",
        4: "rejected",  # not judged
        5: "unjudged",
        6: "good",
    }  # 7 was dropped
    assert frame_metrics(truth, verdicts) == {
        "frame_recall": 1 / 5,
        "frame_precision": 1 / 2,
        "frame_F1Score": 2 / 7,
        "frame_false_alarm_rate": 1 / 2,
        "passing_recall": 1 / 3,
        "frames": 8,
        "frames_anomalous": 5,
        "frames_true_positive": 1,
        "frames_false_positive": 1,
        "frames_false_negative": 2,
        "frames_true_negative": 1,
        "frames_not_judged_good": 1,
        "frames_not_judged_anomalous": 2,
        "passings": 3,
        "passings_found": 1,
    }


def test_agrees_with_scikit_learn_where_all_is_judged() -> None:
    rng = np.random.default_rng(0)
    labels, findings = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    truth = truth_of(*((0,) if label else () for label in labels))
    metrics = frame_metrics(
        truth, {frame: ("good", "defective")[each] for frame, each in enumerate(findings)}
    )
    assert metrics["frame_recall"] == pytest.approx(recall_score(labels, findings))
    assert metrics["frame_precision"] == pytest.approx(precision_score(labels, findings))
    assert metrics["frame_F1Score"] == pytest.approx(f1_score(labels, findings))


def test_one_found_frame_finds_the_anomaly() -> None:
    verdicts = {0: "good", 1: "defective", 2: "good"}
    assert frame_metrics(truth_of((0,), (0, 1), (1,)), verdicts)["passing_recall"] == 1.0


def test_nothing_to_divide_by_is_none() -> None:
    metrics = frame_metrics(truth_of((), ()), {0: "good", 1: "good"})
    assert [
        metrics[name] for name in ("frame_recall", "frame_precision", "frame_F1Score", "passing_recall")
    ] == [None] * 4
    assert metrics["frame_false_alarm_rate"] == 0.0


def test_verdicts_of_a_file_and_of_a_run_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    path.write_text(
        '{"frame": 3, "verdict": "good", "defects": []}\n{"verdict": "defective", "frame": 5}\n{"frame": 6, '
    )
    assert read_verdicts(path) == {3: "good", 5: "defective"}


@pytest.mark.parametrize(
    "line", ["half", "[1]", '{"frame": 1}', '{"verdict": "good", "frame": true}', '{"frame": "1"}']
)
def test_other_files_hold_no_verdicts(tmp_path: Path, line: str) -> None:
    path = tmp_path / "parts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(
        InputError, match=r"parts\.jsonl: expected a JSON object with a (frame|verdict) in line 1"
    ):
        read_verdicts(path)
    with pytest.raises(InputError, match="expected a JSON line per frame, cannot read it"):
        read_verdicts(tmp_path / "no.jsonl")
