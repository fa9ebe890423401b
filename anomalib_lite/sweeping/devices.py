"""A GPU of its own for each of the processes that `hydra/launcher=joblib` runs at once."""

from __future__ import annotations

import logging
import multiprocessing
import re

import torch
from omegaconf import DictConfig

log = logging.getLogger(__name__)

WORKER = re.compile(r"LokyProcess-(?:\d+:)*(\d+)")  # joblib's names for its processes, counted from 1


def use_own_device(cfg: DictConfig) -> None:
    """Set `trainer.devices` of a job in one of joblib's processes to a GPU that its neighbours do not use.

    Nothing changes with fewer than two GPUs, on the CPU, and for a job that is to use several.
    """
    worker = WORKER.fullmatch(multiprocessing.current_process().name)
    count = torch.cuda.device_count() if worker else 0
    wants_one = cfg.trainer.devices == 1 and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    if worker is None or count < 2 or not wants_one:
        return
    device = (int(worker[1]) - 1) % count
    cfg.trainer.devices = [device]
    torch.cuda.set_device(device)  # also for what is not the Trainer's
    log.info("device: GPU %d of %d", device, count)
