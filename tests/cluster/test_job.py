"""Inside a Slurm job: signals, and the number of processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from anomalib_lite.cluster.callback import LeaveToSlurm
from anomalib_lite.cluster.job import check_tasks, heed_signals, in_slurm_job, tasks_wanted
from anomalib_lite.types import InputError


@pytest.fixture
def handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def slurm_job(monkeypatch: pytest.MonkeyPatch, handlers: None) -> None:
    """This process as Slurm would have started it."""
    for name, value in {"JOB_ID": 7, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NTASKS": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURM_JOB_NAME", "anomalib-lite")


class Slope(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def test_step(self, batch: torch.Tensor, number: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Terminated(Callback):
    """Sends SIGTERM in the middle, as a cluster that preempts does."""

    def __init__(self) -> None:
        self.sent = 0

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.sent += 1
        os.kill(os.getpid(), signal.SIGTERM)

    on_test_batch_start = on_train_batch_start


def test_lightning_does_not_end_a_slurm_job_at_sigterm(
    slurm_job: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heed_signals()
    terminated = Terminated()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=[LeaveToSlurm(), terminated],
    )
    module, loader = Slope(), DataLoader(torch.ones(3, 1))
    trainer.fit(module, loader)
    assert (trainer.current_epoch, terminated.sent) == (2, 6)
    trainer.test(module, loader, verbose=False)
    assert terminated.sent == 9
    assert capfd.readouterr().err.count("SIGTERM noted") == 9


class Handlers(Callback):
    """Notes what would happen at SIGTERM in a test."""

    def on_test_batch_start(self, *arguments: Any) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)


def test_outside_slurm_sigterm_ends_a_test_at_once(
    monkeypatch: pytest.MonkeyPatch, handlers: None, tmp_path: Path
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    signal.signal(signal.SIGTERM, before := lambda number, frame: None)
    noted = Handlers()
    settings: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, callbacks=[LeaveToSlurm(), noted], **settings
    )
    trainer.test(Slope(), DataLoader(torch.ones(3, 1)), verbose=False)
    assert noted.handler == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_slurm_signals_are_left_alone(monkeypatch: pytest.MonkeyPatch, handlers: None) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    assert not heed_signals()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_shell_on_a_node_is_no_job() -> None:
    assert not in_slurm_job({"SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"})
    assert not in_slurm_job({})


@pytest.mark.parametrize(
    ("devices", "accelerator", "gpus", "expected"),
    [
        (1, "auto", None, 1),
        ("2", "cpu", None, 2),
        ("0,1,3", "gpu", 4, 3),
        ([2], "gpu", 4, 1),
        ("auto", "gpu", 4, 4),
        (-1, "gpu", 4, 4),
        ("auto", "cpu", 4, 1),
        ("auto", "auto", None, 1),
    ],
)
def test_a_task_for_every_device(devices: Any, accelerator: str, gpus: int | None, expected: int) -> None:
    assert tasks_wanted(devices, accelerator=accelerator, gpus_per_node=gpus) == expected


@pytest.mark.parametrize(
    ("devices", "nodes", "tasks", "fits"),
    [(1, 1, 1, True), (2, 1, 2, True), (2, 2, 4, True), (1, 1, 2, False), (2, 1, 1, False), (2, 2, 2, False)],
)
def test_processes_must_fit_the_devices(devices: int, nodes: int, tasks: int, fits: bool) -> None:
    environment = {"SLURM_PROCID": "0", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": str(tasks)}
    if fits:
        check_tasks(devices, num_nodes=nodes, environment=environment)
        return
    wanted = devices * nodes
    with pytest.raises(
        InputError, match=rf"trainer.devices={devices}: expected {wanted} process(es)? .* found {tasks}"
    ):
        check_tasks(devices, num_nodes=nodes, environment=environment)


def test_tasks_are_not_looked_at_outside_slurm() -> None:
    check_tasks(2, environment={})
    check_tasks(2, environment={"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"})


def test_gpus_of_the_node_stand_for_auto() -> None:
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_GPUS_ON_NODE": "4"}
    check_tasks("auto", accelerator="gpu", environment=environment)
