"""What a Slurm job is given, and the script for sbatch that says so."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomalib_lite.types import InputError

if TYPE_CHECKING:  # submitit is an extra
    from submitit.slurm.slurm import SlurmExecutor


@dataclass(kw_only=True, eq=False)
class SlurmSettings:
    """The keys of `configs/hydra/launcher/slurm.yaml`, where each has its value and its meaning."""

    dry_run: bool
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    name: str
    nodes: int
    tasks_per_node: int
    cpus_per_task: int | None
    gpus_per_node: int | None
    gres: str | None
    mem_gb: float | None
    setup_commands: list[str]
    python: str | None
    srun_args: list[str]
    additional_parameters: dict[str, Any]
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int
    folder: str
    poll_s: float

    def __post_init__(self) -> None:
        if self.signal_delay_s >= self.timeout_min * 60:
            raise InputError(
                f"hydra.launcher.signal_delay_s must be below timeout_min = {self.timeout_min * 60} s, "
                f"got {self.signal_delay_s}: a job would be queued again as soon as it starts"
            )

    def make_executor(self) -> SlurmExecutor:
        """Submitit's, with these settings.

        Raises:
            InputError: where submitit, or Slurm, is not there.
        """
        try:
            from submitit.slurm.slurm import SlurmExecutor
        except ImportError:
            raise InputError(
                "hydra/launcher=slurm: expected submitit, found none; pip install 'anomalib-lite[slurm]'"
            ) from None
        if not self.dry_run and shutil.which("sbatch") is None:
            raise InputError(
                "hydra/launcher=slurm: expected sbatch on PATH, found none: is this a login node of the cluster? "
                "hydra.launcher.dry_run=true shows the script anywhere"
            )

        class Executor(SlurmExecutor):
            @classmethod
            def affinity(cls) -> int:
                return 2  # a dry run needs no Slurm

        executor = Executor(folder=self.folder, max_num_timeout=self.max_num_timeout, python=self.python)
        setup = list(self.setup_commands)
        if self.cpus_per_task is not None:
            # since 22.05 srun does not take it from sbatch; threads must not outnumber processors
            setup += [
                f"export SRUN_CPUS_PER_TASK={self.cpus_per_task}",
                f"export OMP_NUM_THREADS={self.cpus_per_task}",
            ]
        parameters = {
            "job_name": self.name,
            "time": self.timeout_min,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "setup": setup or None,
            # one process that dies must not leave the others waiting for it
            "srun_args": ["--kill-on-bad-exit=1", *map(str, self.srun_args)],
            # a preempted job is to come back whatever the cluster's default
            "additional_parameters": {"requeue": True, **self.additional_parameters},
        }
        for key in (
            "partition", "account", "qos", "constraint", "exclude", "gres", "cpus_per_task", "gpus_per_node",
            "signal_delay_s", "array_parallelism",
        ):  # fmt: skip
            parameters[key] = getattr(self, key)
        executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
        return executor
