"""Inside a Slurm job: which signals to heed, and whether Slurm started as many processes as the Trainer wants."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from anomalib_lite.types import InputError

INTERACTIVE = ("bash", "interactive")  # the names of a shell on a node, whose user presses Ctrl-C
TERMINATED = b"SIGTERM noted: Slurm ends this job itself, and starts it again if it was preempted\n"


def in_slurm_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Slurm started this process as a task of a job, other than a person's shell.

    >>> in_slurm_job({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"})
    True
    >>> in_slurm_job({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"})
    False
    """
    return "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in INTERACTIVE


def is_other_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Slurm started this process to help the first one of its job in training, and for nothing else.

    >>> is_other_process({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
    True
    """
    return int(environment.get("SLURM_NTASKS", 1)) > 1 and environment.get("SLURM_PROCID", "0") != "0"


def heed_signals() -> bool:
    """In a Slurm job, take note of SIGTERM and go on; says whether it was set up.

    A cluster that preempts sends SIGTERM, waits for the grace time, kills what still runs and queues it again. Whoever
    ends within the grace time counts as finished and does not come back; Lightning would end with exit code 0. To be
    called again after Lightning has put its own handler in place (see `LeaveToSlurm`).
    """
    if not in_slurm_job() or threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _note)
    return True


def _note(number: int, frame: FrameType | None) -> None:
    os.write(2, TERMINATED)  # not by way of a buffer that the signal may have interrupted


def tasks_wanted(devices: Any, *, accelerator: str = "auto", gpus_per_node: int | None = None) -> int:
    """How many processes a node must run for `trainer.devices`: Lightning on Slurm starts none itself.

    Args:
        devices: as in `trainer.devices`: a number, a list of device numbers, or "auto".
        accelerator: as in `trainer.accelerator`.
        gpus_per_node: what the job was given, which "auto" stands for.

    >>> tasks_wanted(2), tasks_wanted([0, 3]), tasks_wanted("auto", gpus_per_node=4), tasks_wanted("auto")
    (2, 2, 4, 1)
    """
    if str(devices) in ("auto", "-1"):
        return gpus_per_node if gpus_per_node and accelerator != "cpu" else 1
    if isinstance(devices, int) or str(devices).isdecimal():
        return int(devices)
    listed = devices.split(",") if isinstance(devices, str) else list(devices)
    return len([device for device in listed if str(device).strip()])


def check_tasks(
    devices: Any,
    *,
    accelerator: str = "auto",
    num_nodes: int = 1,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Refuse a job whose number of processes does not fit the Trainer; does nothing outside Slurm.

    Two processes for one device would both train, into one folder; one process for two devices would wait for ever.

    Raises:
        InputError: where `trainer.devices` x `trainer.num_nodes` is not the number of tasks.

    >>> check_tasks(1, environment={"SLURM_PROCID": "0", "SLURM_NTASKS": "2"})
    Traceback (most recent call last):
    anomalib_lite.types.InputError: trainer.devices=1: expected 1 process from Slurm, found 2; a task a device
    """
    if not in_slurm_job(environment) or "SLURM_NTASKS" not in environment:
        return
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    wanted = num_nodes * tasks_wanted(
        devices, accelerator=accelerator, gpus_per_node=int(gpus) if gpus.isdecimal() else None
    )
    found = int(environment["SLURM_NTASKS"])
    if found != wanted:
        raise InputError(
            f"trainer.devices={devices}: expected {wanted} process{'es' * (wanted != 1)} from Slurm, found {found}; "
            "a task a device"
        )
