"""Which jobs are over for good, from what squeue says."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from anomalib_lite.cluster.queue import FORGOTTEN, Watch, job_states

States = dict[str, tuple[str, str]]


class Clock:
    """Seconds that pass when the test says so, and what squeue says meanwhile."""

    def __init__(self) -> None:
        self.now = 0.0
        self.states: States | None = {}
        self.watch = Watch(settle_s=10, look=self.look, clock=lambda: self.now)

    def look(self, job_ids: Iterable[str]) -> States | None:
        return self.states

    def after(self, seconds: float, states: States | None) -> dict[str, str]:
        self.now += seconds
        self.states = states
        return self.watch.over(["7_0"])


def test_an_end_counts_once_it_has_lasted() -> None:
    clock = Clock()
    assert clock.after(0, {"7_0": ("RUNNING", "None")}) == {}
    assert clock.after(5, {"7_0": ("TIMEOUT", "TimeLimit")}) == {}
    assert clock.after(9, {"7_0": ("TIMEOUT", "TimeLimit")}) == {}
    assert clock.after(2, {"7_0": ("TIMEOUT", "TimeLimit")}) == {"7_0": "TIMEOUT"}


def test_a_job_that_is_queued_again_is_not_over() -> None:
    clock = Clock()
    clock.after(0, {"7_0": ("PREEMPTED", "None")})
    assert clock.after(9, {"7_0": ("PENDING", "BeginTime")}) == {}
    assert clock.after(5, {"7_0": ("CANCELLED", "None")}) == {}  # the first end is forgotten


def test_a_job_that_slurm_has_forgotten_is_over_with_its_last_word() -> None:
    clock = Clock()
    clock.after(0, {"7_0": ("NODE_FAIL", "None")})
    assert clock.after(11, {}) == {"7_0": "NODE_FAIL"}
    clock = Clock()
    clock.after(0, {})
    assert clock.after(11, {}) == {"7_0": FORGOTTEN}


def test_a_controller_that_does_not_answer_ends_nothing() -> None:
    clock = Clock()
    clock.after(0, {"7_0": ("FAILED", "None")})
    assert clock.after(20, None) == {}
    assert clock.after(1, {"7_0": ("FAILED", "None")}) == {}
    assert clock.after(11, {"7_0": ("FAILED", "None")}) == {"7_0": "FAILED"}


def test_a_job_that_may_wait_for_ever_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.WARNING):
        for reason in ("Priority", "PartitionTimeLimit", "PartitionTimeLimit"):
            clock.after(1, {"7_0": ("PENDING", reason)})
    assert [record.message for record in caplog.records] == [
        "Slurm job 7_0 may wait for ever: PartitionTimeLimit"
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo '12_0|RUNNING|None'", {"12_0": ("RUNNING", "None")}),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", {}),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", None),
    ],
)
def test_what_squeue_answers(
    script: str, expected: States | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\n{script}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert job_states(["12_0", "12_1"]) == expected


def test_without_slurm_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_states(["12_0"]) is None
    assert job_states([]) == {}
