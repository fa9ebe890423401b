"""`hydra/launcher=slurm`: the jobs of a multirun as one Slurm job array, by submitit."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from anomalib_lite.cluster.job import tasks_wanted
from anomalib_lite.cluster.node import ClusterJob, look_again
from anomalib_lite.cluster.queue import ENDED, Watch, job_states
from anomalib_lite.cluster.settings import SlurmSettings
from anomalib_lite.report.files import replace_file
from anomalib_lite.sweeping.folders import swept_overrides
from anomalib_lite.types import InputError

if TYPE_CHECKING:  # submitit is an extra
    from submitit.core.utils import JobPaths
    from submitit.slurm.slurm import SlurmExecutor

log = logging.getLogger(__name__)

SUBMITTED = "submitted.json"  # which Slurm job was given which overrides
# Hydra instantiates launchers of this namespace only
TARGET = "hydra_plugins.anomalib_lite.SlurmLauncher"


def register_launcher() -> None:
    """Make `hydra/launcher=slurm` known to Hydra; twice does no harm."""
    Plugins.instance().class_name_to_class[TARGET] = SlurmLauncher


class SlurmLauncher(SlurmSettings, Launcher):
    """Submits, waits, and gives every job's result or what became of it."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's."""
        self.job = ClusterJob(hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job on the cluster and wait; a job that is over without a result comes back as failed.

        Raises:
            InputError: for settings that can't work, and where Slurm refuses the jobs.
            KeyboardInterrupt: after Ctrl-C; its text says that the jobs stay on the cluster.
            SystemExit: after a dry run.
        """
        numbered = {initial_job_idx + index: list(given) for index, given in enumerate(job_overrides)}
        self._check(numbered)
        executor = self.make_executor()
        if self.dry_run:
            self._show(executor, len(numbered))
        running = self._still_running(numbered)
        fresh = [number for number in numbered if number not in running]
        if fresh:
            running |= dict(
                zip(fresh, self._submit(executor, [numbered[n] for n in fresh], fresh), strict=True)
            )
        self._record({job_id: numbered[number] for number, job_id in running.items()})
        try:
            returned = self._wait(numbered, running)
        except KeyboardInterrupt:
            arrays = " ".join(sorted({job_id.partition("_")[0] for job_id in running.values()}))
            raise KeyboardInterrupt(
                f"the jobs stay on the cluster: the same command waits for them again, scancel {arrays} ends them"
            ) from None
        return [returned[number] for number in numbered]

    def _show(self, executor: SlurmExecutor, jobs: int) -> NoReturn:
        if jobs > 1:
            executor.parameters["map_count"] = jobs
        print(executor._make_submission_file_text(executor._submitit_command_str, ""))
        log.info("dry run: %d jobs, none was submitted", jobs)
        raise SystemExit(0)  # past the sweeper, which has no results to expect

    def _check(self, numbered: dict[int, list[str]]) -> None:
        checked: set[tuple[str, ...]] = set()
        for number, overrides in numbered.items():
            # choices between groups, and what concerns the trainer; others can't change its devices
            relevant = tuple(
                given for given in overrides if re.match(r"[+~]*(trainer|experiment|sweep)\b", given)
            )
            if relevant not in checked:
                checked.add(relevant)
                self._check_tasks(self.job.compose(overrides, number), number)

    def _check_tasks(self, config: DictConfig, number: int) -> None:
        trainer = config.get("trainer")
        if trainer is None:
            return
        wanted = tasks_wanted(
            trainer.devices, accelerator=trainer.get("accelerator", "auto"), gpus_per_node=self.gpus_per_node
        )
        if self.tasks_per_node != wanted:
            raise InputError(
                f"hydra.launcher.tasks_per_node must be {wanted}, one a device (trainer.devices={trainer.devices}, "
                f"job {number}), got {self.tasks_per_node}"
            )
        if self.nodes != (nodes := trainer.get("num_nodes", 1)):
            raise InputError(f"hydra.launcher.nodes must be trainer.num_nodes = {nodes}, got {self.nodes}")

    def _submit(self, executor: SlurmExecutor, jobs: list[list[str]], numbers: list[int]) -> list[str]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            submitted = executor.map_array(self.job, jobs, numbers, [Singleton.get_state()] * len(jobs))
        except (FailedJobError, FailedSubmissionError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = [line for line in lines if "error" in line.lower()] or lines
            raise InputError(f"hydra/launcher=slurm: sbatch refused: {said[0]}") from None
        ids = [job.job_id for job in submitted]
        log.info(
            "%d jobs submitted to Slurm as %s; logs in %s", len(ids), ids[0].partition("_")[0], self.folder
        )
        return ids

    def _record(self, jobs: dict[str, list[str]]) -> None:
        known = self._recorded() | jobs
        replace_file(Path(self.folder) / SUBMITTED, json.dumps(known, indent=1).encode())

    def _recorded(self) -> dict[str, list[str]]:
        try:
            return json.loads((Path(self.folder) / SUBMITTED).read_text())
        except FileNotFoundError:
            return {}

    def _still_running(self, numbered: dict[int, list[str]]) -> dict[int, str]:
        """Jobs that an earlier driver submitted and that have not ended, by number: they are waited for."""
        recorded = self._recorded()
        states = job_states(recorded)
        if states is None:
            raise InputError("hydra/launcher=slurm: expected an answer from squeue, got none")
        alive = {
            job_id: given
            for job_id, given in recorded.items()
            if states.get(job_id, ("COMPLETED", ""))[0] not in ENDED
        }
        found = {}
        for number, overrides in numbered.items():
            for job_id in [job_id for job_id, given in alive.items() if given == overrides]:
                found[number] = job_id
                del alive[job_id]
        if found:
            log.info("%d of %d jobs are on the cluster already: waiting for them", len(found), len(numbered))
        if alive:
            taken = {self.job.folder(given, 0): job_id for job_id, given in alive.items()}
            for number, overrides in numbered.items():
                if number not in found and (folder := self.job.folder(overrides, number)) in taken:
                    raise InputError(
                        f"{folder}: Slurm job {taken[folder]} with other settings still writes there; wait for it, "
                        f"or scancel {taken[folder]}"
                    )
        return found

    def _wait(self, numbered: dict[int, list[str]], running: dict[int, str]) -> dict[int, JobReturn]:
        from submitit.core.utils import JobPaths

        paths = {number: JobPaths(self.folder, job_id=job_id) for number, job_id in running.items()}
        watch = Watch(settle_s=3 * self.poll_s)
        returned: dict[int, JobReturn] = {}
        while waiting := [number for number in running if number not in returned]:
            over = watch.over(running[number] for number in waiting)
            for number in waiting:
                job_id = running[number]
                if job_id in over:
                    look_again(paths[number].folder)  # a shared file system may be late
                if paths[number].result_pickle.exists():
                    returned[number] = _result(numbered[number], paths[number])
                elif job_id in over:
                    returned[number] = self._lost(
                        numbered[number], number, job_id, over[job_id], paths[number]
                    )
                else:
                    continue
                result = returned[number]
                said = "done" if result.status == JobStatus.COMPLETED else f"failed: {result._return_value}"
                given = " ".join(filter_overrides(numbered[number]))
                log.info("[%d/%d] #%d %s: %s", len(returned), len(running), number, given, said)
            if len(returned) < len(running):
                time.sleep(self.poll_s)
        return returned

    def _lost(self, overrides: list[str], number: int, job_id: str, end: str, paths: JobPaths) -> JobReturn:
        """A job that is over without a result: cancelled, killed, or its node died."""
        from anomalib_lite.sweeping.job import note_failure, read_status  # which imports torch

        folder = self.job.folder(overrides, number)
        status = read_status(folder)
        if status.get("state") == "done":  # killed after its last line
            return _returned(overrides, status["value"])
        error = InputError(f"Slurm job {job_id} is over without a result: {end}; see {paths.stderr}")
        fixed = self.job.config.hydra.job.config.override_dirname.exclude_keys
        note_failure(folder, swept_overrides(filter_overrides(overrides), fixed), error)
        return _returned(overrides, error)


def _returned(overrides: list[str], value: Any) -> JobReturn:
    failed = isinstance(value, Exception)
    result = JobReturn(overrides=overrides, status=JobStatus.FAILED if failed else JobStatus.COMPLETED)
    result.return_value = value
    return result


def _result(overrides: list[str], paths: JobPaths) -> JobReturn:
    from submitit.core.utils import pickle_load

    outcome, result = pickle_load(paths.result_pickle)
    if outcome == "success":
        return result
    last = [line for line in str(result).splitlines() if line.strip()][-1]
    return _returned(overrides, InputError(f"{last}; see {paths.stderr}"))
