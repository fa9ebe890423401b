"""What a job is given, and what is refused before anything is submitted; nothing here needs Slurm."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from anomalib_lite.cluster.settings import SlurmSettings
from anomalib_lite.console import config_folder
from anomalib_lite.run import train_command
from anomalib_lite.types import InputError

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")


@pytest.fixture
def multirun(part: Path, small: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a multirun on a cluster."""
    return lambda *more: ["-m", *small(part, tmp_path), "hydra/launcher=slurm", *more]


def settings(**other: Any) -> SlurmSettings:
    """As in the file, but for `other`."""
    values = OmegaConf.to_container(OmegaConf.load(config_folder() / "hydra" / "launcher" / "slurm.yaml"))
    del values["_target_"]
    return SlurmSettings(**values | other)


def script(**other: Any) -> list[str]:
    executor = settings(dry_run=True, **other).make_executor()
    return executor._make_submission_file_text("python -m job", "").splitlines()


def test_the_file_has_every_setting_and_no_other() -> None:
    file = OmegaConf.load(config_folder() / "hydra" / "launcher" / "slurm.yaml")
    assert {str(key) for key in file} - {"_target_"} == {field.name for field in fields(SlurmSettings)}


def test_the_script_says_what_a_job_is_given(tmp_path: Path) -> None:
    lines = script(
        folder=str(tmp_path),
        partition="gpu",
        account="vision",
        gpus_per_node=2,
        tasks_per_node=2,
        mem_gb=12.5,
        timeout_min=90,
        signal_delay_s=60,
        setup_commands=["module load cuda"],
        additional_parameters={"reservation": "night"},
    )
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --account=vision",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --mem=12800M",
        "#SBATCH --time=90",
        "#SBATCH --signal=USR2@60",
        "#SBATCH --reservation=night",
        "#SBATCH --requeue",
        "module load cuda",
        "export OMP_NUM_THREADS=4",
    ):
        assert line in lines
    assert any(line.startswith("srun ") and "--kill-on-bad-exit=1" in line for line in lines)


def test_a_container_runs_in_place_of_python(tmp_path: Path) -> None:
    executor = settings(
        dry_run=True, folder=str(tmp_path), python="apptainer exec image.sif python"
    ).make_executor()
    assert executor._submitit_command_str.startswith("apptainer exec image.sif python ")


def test_a_signal_that_would_come_at_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"signal_delay_s must be below timeout_min = 60 s, got 60"):
        settings(folder=str(tmp_path), timeout_min=1, signal_delay_s=60)


def test_a_dry_run_prints_the_script_and_submits_nothing(
    multirun: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train_command(multirun("hydra.launcher.dry_run=true", "model.latent_dim=2,4,8"))
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("#!/bin/bash")
    assert "#SBATCH --array=0-2%3" in out
    assert not list(tmp_path.rglob("*.sh"))
    assert not list(tmp_path.rglob("status.json"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            ["hydra.launcher.tasks_per_node=2"],
            "tasks_per_node must be 1, one a device (trainer.devices=1, job 0)",
        ),
        (["trainer.devices=1,2"], "tasks_per_node must be 2, one a device (trainer.devices=2, job 1), got 1"),
        (["trainer=ddp"], "tasks_per_node must be 2, one a device (trainer.devices=2, job 0), got 1"),
        (["hydra.launcher.nodes=2"], "hydra.launcher.nodes must be trainer.num_nodes = 1, got 2"),
    ],
)
def test_processes_that_do_not_fit_the_devices_are_refused(
    given: list[str],
    expected: str,
    multirun: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_command(multirun("hydra.launcher.dry_run=true", "model.latent_dim=2", *given)) == 2
    assert expected in capsys.readouterr().err


def test_without_slurm_on_the_machine_one_line_says_so(
    multirun: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert train_command(multirun("model.latent_dim=2,4")) == 2
    assert "expected sbatch on PATH, found none" in capsys.readouterr().err
