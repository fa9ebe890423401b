"""In every `make test`: a sweep on a real Slurm."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any


def test_a_sweep_runs_on_slurm_as_many_jobs_at_once_as_allowed(app: Path, drive: Callable[..., Any]) -> None:
    driver = drive(app, "x=1,2,3", "steps=5", "hydra.launcher.array_parallelism=1")
    code, out = driver.end()
    assert code == 0, out
    assert "[3/3]" in out
    folders = [driver.outputs / f"x={x}" for x in (1, 2, 3)]
    spans = sorted(
        (float((folder / "starts").read_text().split()[0]), float((folder / "ends").read_text()))
        for folder in folders
    )
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans
    assert len(list((driver.outputs / ".slurm").glob("*_submission.sh"))) == 1  # one array
