"""What a node of the cluster runs: one job of the sweep, in as many processes as it has tasks."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from anomalib_lite.cluster.job import is_other_process

if TYPE_CHECKING:  # submitit is an extra
    from submitit.core.utils import DelayedSubmission

GRACE_S = 60


@dataclass(frozen=True)
class ClusterJob:
    """What a node unpickles and calls: composes one job's config there and runs the task."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    def __call__(self, overrides: list[str], number: int, singletons: dict[type, Any]) -> JobReturn:
        """Run the job of these overrides; an exception comes back inside the result."""
        Singleton.set_state(singletons)
        setup_globals()
        config = self.compose(overrides, number)
        helps = is_other_process()
        if helps:
            config.hydra.output_subdir = None  # which the first process writes
            threading.Thread(target=_end_with_first, daemon=True).start()
        result = run_job(
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self.context,
        )
        if helps and result.status == JobStatus.FAILED:
            time.sleep(GRACE_S)  # the first process may fail of the same, and is the one to say so
            sys.exit(f"a process that helps has failed: {result._return_value}")
        return result

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """The job's own config."""
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config.hydra.job):
            config.hydra.job.id = os.environ.get("SLURM_JOB_ID", f"job_id_for_{number}")
            config.hydra.job.num = number
        return config

    def folder(self, overrides: Sequence[str], number: int) -> Path:
        """Where the job writes."""
        hydra = self.compose(overrides, number).hydra
        return Path(str(hydra.sweep.dir)) / str(hydra.sweep.subdir)

    def checkpoint(self, *arguments: Any) -> DelayedSubmission:
        """What submitit queues again after a time limit or a preemption: the same job, which finds its checkpoint."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def _end_with_first() -> None:
    """End this process, which helps the first one of its job, once that one has its result."""
    from submitit import JobEnvironment
    from submitit.core.utils import JobPaths

    folder = os.environ["SUBMITIT_FOLDER"]
    result = JobPaths(folder, job_id=JobEnvironment().job_id, task_id=0).result_pickle
    while not result.exists():
        time.sleep(1)
        look_again(result.parent)
    os._exit(0)  # whatever the main thread waits for does not come any more


def look_again(folder: Path) -> None:
    """Make a network file system look again."""
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)
