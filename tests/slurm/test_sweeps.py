"""What happens to the jobs of a sweep on a cluster: killed, preempted, cancelled, left alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm
Drive = Callable[..., Any]
Until = Callable[..., None]
JobIds = Callable[[Any], dict[str, str]]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def job_ids(until: Callable[..., None]) -> Callable[[Any], dict[str, str]]:
    """The Slurm job of every x of a driver, once they are submitted."""

    def read(driver: Any) -> dict[str, str]:
        submitted = driver.outputs / ".slurm" / "submitted.json"
        until(submitted.exists, "the jobs to be submitted")
        given = json.loads(submitted.read_text())
        return {
            next(one for one in overrides if one.startswith("x=")): job for job, overrides in given.items()
        }

    return read


def assert_resumed(folder: Path, steps: int, starts: int = 2) -> None:
    """It ended, was started so many times, and no step that was noted was done again."""
    assert len(lines(folder / "starts")) == starts
    assert lines(folder / "steps") == [str(step) for step in range(steps)]
    assert len(lines(folder / "ends")) == 1


def test_at_its_time_limit_a_job_is_queued_again_and_goes_on(app: Path, drive: Drive) -> None:
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20", "steps=60", "seconds=1"]
    driver = drive(app, "x=1", *limit)
    code, out = driver.end(400)
    assert code == 0, out
    starts = len(lines(driver.outputs / "x=1" / "starts"))
    assert starts > 1
    assert_resumed(driver.outputs / "x=1", 60, starts=starts)


def test_a_job_that_reaches_its_limit_too_often_fails(
    app: Path, drive: Drive, cluster: Any, job_ids: JobIds, until: Until
) -> None:
    limit = [
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=1",
        "hydra.launcher.max_num_timeout=0",
    ]
    driver = drive(app, "x=1", "steps=1000", *limit)
    job = job_ids(driver)["x=1"]
    until((driver.outputs / "x=1" / "steps").exists, "the job to count")
    cluster.ask(f"scancel --signal=USR2 {job}")  # what Slurm sends before the limit
    code, out = driver.end()
    assert code == 2, out
    assert "timed-out too many times" in out


@pytest.mark.parametrize("user_signal", [False, True])
def test_a_preempted_job_comes_back_and_goes_on(
    user_signal: bool, app: Path, drive: Drive, cluster: Any, job_ids: JobIds, until: Until
) -> None:
    cluster.configure(user_signal=user_signal)
    driver = drive(app, "x=1", "steps=300", "hydra.launcher.partition=low")
    job_ids(driver)
    until(lambda: len(lines(driver.outputs / "x=1" / "steps")) > 10, "the job to count")
    cluster.ask("sbatch -p high --exclusive -o /dev/null --wrap true", check=True)
    code, out = driver.end()
    assert code == 0, out
    assert_resumed(driver.outputs / "x=1", 300)
    log = "".join(path.read_text() for path in (driver.outputs / ".slurm").glob("*_log.err"))
    assert ("this job is" in log) == user_signal
    assert (
        "SIGTERM noted" in log or user_signal
    )  # a job that queues itself again may be gone before SIGTERM comes


def test_cancelled_jobs_are_failed_ones_and_nobody_waits_for_them(
    app: Path, drive: Drive, cluster: Any, job_ids: JobIds, until: Until
) -> None:
    driver = drive(app, "x=1,2,3", "steps=120", "hydra.launcher.array_parallelism=2")
    jobs = job_ids(driver)
    until((driver.outputs / "x=1" / "steps").exists, "the first job to count")
    cluster.ask(f"scancel {jobs['x=1']} {jobs['x=3']}")  # one that runs, one that waits
    code, out = driver.end(60)
    assert code == 2, out
    assert len(lines(driver.outputs / "x=2" / "ends")) == 1, out
    for x in (1, 3):
        status = json.loads((driver.outputs / f"x={x}" / "status.json").read_text())
        assert status["state"] == "failed"
        assert f"Slurm job {jobs[f'x={x}']} is over without a result: CANCELLED" in status["error"]
        assert status["error"] in out


def test_a_job_that_fails_does_not_stop_the_others(app: Path, drive: Drive) -> None:
    driver = drive(app, "x=1,2", "fails=true,false", "hydra.sweep.subdir=${x}-${fails}")
    code, out = driver.end()
    assert code == 2, out
    assert "failed: x=1 was asked to fail" in out
    assert all((driver.outputs / f"{x}-False" / "ends").exists() for x in (1, 2))


TWO_TASKS = ("trainer.devices=2", "hydra.launcher.tasks_per_node=2")


@pytest.mark.parametrize(
    ("fails", "code", "said"), [("false", 0, "done"), ("true", 2, "x=1 was asked to fail")]
)
def test_a_process_that_helps_ends_with_the_first_one(
    fails: str, code: int, said: str, app: Path, drive: Drive
) -> None:
    driver = drive(app, "x=1", "steps=3", f"fails={fails}", *TWO_TASKS)
    found, out = driver.end(60)
    assert found == code, out
    assert said in out
    assert len(lines(driver.outputs / "x=1" / "starts")) == 1


def test_a_process_that_helps_and_fails_takes_the_first_one_with_it(app: Path, drive: Drive) -> None:
    driver = drive(app, "x=1", "steps=10000", "helper=fails", *TWO_TASKS)
    code, out = driver.end(60)
    assert code == 2
    assert "is over without a result: FAILED" in out


def test_after_kill_9_the_same_command_waits_for_the_jobs_that_are_left(
    app: Path, drive: Drive, job_ids: JobIds, until: Until
) -> None:
    arguments = ["x=1,2,3", "steps=60", "hydra.launcher.array_parallelism=2"]
    driver = drive(app, *arguments)
    jobs = job_ids(driver)
    until((driver.outputs / "x=1" / "steps").exists, "the first job to count")
    driver.process.send_signal(signal.SIGKILL)
    driver.end()
    again = drive(app, *arguments)
    code, out = again.end()
    assert code == 0, out
    assert "3 of 3 jobs are on the cluster already" in out
    for x in (1, 2, 3):
        assert_resumed(driver.outputs / f"x={x}", 60, starts=1)
    assert job_ids(again) == jobs


def test_ctrl_c_leaves_the_jobs_on_the_cluster_and_says_so(
    app: Path, drive: Drive, cluster: Any, job_ids: JobIds, until: Until
) -> None:
    driver = drive(app, "x=1", "steps=600")
    job = job_ids(driver)["x=1"]
    until((driver.outputs / "x=1" / "steps").exists, "the job to count")
    driver.process.send_signal(signal.SIGINT)
    code, out = driver.end()
    assert code == 130
    assert f"scancel {job} ends them" in out
    assert cluster.states()[job] == "RUNNING"
    other = drive(app, "x=1", "steps=601")  # which would write into the same folder
    code, out = other.end()
    assert code == 2, out
    assert f"Slurm job {job} with other settings still writes there" in out


def test_what_sbatch_refuses_is_one_line(app: Path, drive: Drive) -> None:
    code, out = drive(app, "x=1", "hydra.launcher.partition=nowhere").end()
    assert code == 2, out
    last = out.splitlines()[-1]
    assert last.startswith("error: hydra/launcher=slurm: sbatch refused: ")
    assert "partition" in last
