"""Jobs that count steps, note each in a file, and go on from the last one that was noted: a training without torch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from anomalib_lite.cluster import node
from anomalib_lite.cluster.job import check_tasks, heed_signals, is_other_process
from anomalib_lite.cluster.launcher import register_launcher
from anomalib_lite.types import InputError

HERE = Path(__file__).parent


def count(cfg: DictConfig) -> float:
    check_tasks(cfg.trainer.devices)
    heed_signals()
    if is_other_process():
        help_out(cfg.helper)
    folder = Path(HydraConfig.get().runtime.output_dir)
    note(folder / "starts", f"{time.time()} {os.environ.get('SLURM_JOB_ID')}")
    if cfg.fails:
        raise InputError(f"x={cfg.x} was asked to fail")
    steps = folder / "steps"
    done = len(steps.read_text().splitlines()) if steps.exists() else 0
    for step in range(done, cfg.steps):
        time.sleep(cfg.seconds)
        note(steps, str(step))
    note(folder / "ends", str(time.time()))
    return 2.0 * cfg.x


def help_out(how: str) -> None:
    node.GRACE_S = 1
    if how == "fails":
        raise InputError("the helper was asked to fail")
    time.sleep(1000)  # for what the first process does not send


def note(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    os.environ["ANOMALIB_LITE_CONFIGS"] = str(HERE.parents[1] / "configs")
    register_launcher()
    try:
        hydra.main(version_base="1.3", config_path=str(HERE), config_name="counting")(count)()
    except KeyboardInterrupt as interrupt:
        print(interrupt)
        sys.exit(130)
    except Exception as error:
        print(f"error: {error.__cause__ or error}")
        sys.exit(2)
