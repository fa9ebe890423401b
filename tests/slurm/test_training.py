"""Real trainings on a real Slurm: shared, interrupted, in two processes."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm
SCRIPT = Path(__file__).parents[2] / "train.py"


def statuses(outputs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(outputs.glob("sweeps/*/*/status.json"))]


def losses(outputs: Path) -> list[dict[str, float]]:
    (path,) = outputs.glob(".stages/network/*/losses.json")
    return json.loads(path.read_text())


def logged(outputs: Path) -> str:
    return "".join(path.read_text() for path in outputs.glob("sweeps/*/.slurm/*_log.*"))


@pytest.fixture
def settings(part: Path, small: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a small training; where it writes is not among them."""
    return lambda *more: [
        argument for argument in small(part, tmp_path, *more) if not argument.startswith("outputs=")
    ]


def test_jobs_share_trainings_and_kill_9_of_the_driver_repeats_none(
    drive: Callable[..., Any], settings: Callable[..., list[str]], until: Callable[..., None]
) -> None:
    def done() -> dict[str, dict[str, Any]]:
        return {one["command"]: one for one in statuses(driver.outputs) if one["state"] == "done"}

    parallel = "hydra.launcher.array_parallelism=2"
    arguments = settings("model.latent_dim=2,4", "threshold.value=0.4,0.6", parallel)
    driver = drive(SCRIPT, *arguments)
    until(done, "the first job to be done", seconds=200)
    driver.process.send_signal(signal.SIGKILL)
    driver.end()
    before = done()
    code, out = drive(SCRIPT, *arguments).end(300)
    assert code == 0, out
    count = int(re.search(r"(\d) of 4 jobs are done already", out)[1])
    assert count >= len(before)
    assert count == 4 or f"{4 - count} of {4 - count} jobs are on the cluster already" in out
    assert len(done()) == 4
    assert before.items() <= done().items()
    assert sum("scores" in one["reused"] for one in done().values()) == 2  # two trainings for four jobs
    assert len(list(driver.outputs.glob(".stages/network/*/stage.json"))) == 2
    assert len(list(driver.outputs.glob("sweeps/*/.slurm/*_submission.sh"))) == 1  # none was submitted again


@pytest.mark.parametrize("partition", ["main", "low"])
def test_an_interrupted_training_goes_on_from_its_last_epoch(
    partition: str,
    drive: Callable[..., Any],
    settings: Callable[..., list[str]],
    cluster: Any,
    until: Callable[..., None],
    unbroken: Path,
) -> None:
    driver = drive(SCRIPT, *settings(*LONG, f"hydra.launcher.partition={partition}"))
    until(
        lambda: list(driver.outputs.glob("sweeps/*/*/checkpoints/last.ckpt")), "the first epoch", seconds=120
    )
    if partition == "main":
        cluster.ask("scancel --signal=USR2 --user=root")  # as before a time limit
    else:
        cluster.ask(
            "sbatch -p high --exclusive -o /dev/null --wrap true", check=True
        )  # preempts; sends SIGTERM
    code, out = driver.end(300)
    assert code == 0, out
    log = logged(driver.outputs)
    assert "SIGTERM noted" in log  # not obeyed: Slurm sends it to whatever it queues again
    assert log.count("training goes on from") == 1
    assert losses(driver.outputs) == losses(unbroken)  # to the last bit
    (status,) = statuses(driver.outputs)
    assert status["state"] == "done"


# longer than the grace time of a preemption, also on a fast machine
LONG = ("trainer.max_epochs=30", "model.steps_per_epoch=150", "model.patience=50")


@pytest.fixture(scope="module")
def unbroken(part: Path, train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of the same training, left alone."""
    outputs = tmp_path_factory.mktemp("unbroken")
    ended = train(part, outputs, *LONG)
    assert ended.code == 0, ended.err
    return outputs


def test_two_processes_give_the_figures_of_one(
    drive: Callable[..., Any],
    settings: Callable[..., list[str]],
    cluster: Any,
    part: Path,
    train: Callable[..., Any],
    tmp_path: Path,
) -> None:
    same = "+model.network.normalise=false"  # BatchNorm takes its statistics from each process's own part of a batch
    outputs = [tmp_path / name for name in ("alone", "spawned", "outputs")]
    ended = train(part, outputs[0], same)
    assert ended.code == 0, ended.err
    spawned = subprocess.run(
        [sys.executable, str(SCRIPT), *settings(same, "trainer=ddp"), f"outputs={outputs[1]}"],
        env=cluster.environment,  # srun is on PATH: no reason for Lightning to ask for it
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert spawned.returncode == 0, spawned.stderr
    assert "srun" not in spawned.stderr
    code, out = drive(SCRIPT, *settings(same, "trainer=ddp", "hydra.launcher.tasks_per_node=2")).end(200)
    assert code == 0, out
    one, *others = [Figures.read(folder) for folder in outputs]
    assert len(set(one.pictures)) == len(one.pictures) == 8
    for other in others:
        assert other.pictures == one.pictures  # every one once
        assert other.val_loss == pytest.approx(one.val_loss, rel=1e-3)
        assert other.raw == pytest.approx(one.raw, rel=1e-2)
        assert other.metrics == pytest.approx(one.metrics, abs=1e-3)


@dataclass(frozen=True)
class Figures:
    """What a run says of the test pictures."""

    pictures: list[str]
    raw: list[float]
    val_loss: list[float]
    metrics: dict[str, float]

    @classmethod
    def read(cls, outputs: Path) -> Figures:
        folder = (outputs / "latest").resolve()
        rows = list(csv.DictReader((folder / "scores.csv").open()))
        metrics = json.loads((folder / "metrics.json").read_text())
        return cls(
            pictures=[row["path"] for row in rows],
            raw=[float(row["raw_score"]) for row in rows],
            val_loss=[epoch["val_loss"] for epoch in losses(outputs)],
            metrics={
                "validation_AUROC": metrics["validation_AUROC"],
                "image_AUROC": metrics["image"]["image_AUROC"],
            },
        )
