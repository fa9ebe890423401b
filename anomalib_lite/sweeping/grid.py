"""A grid of jobs: composed and checked before the first one starts, launched, and summed up."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.building import check_settings, make_data, value_object
from anomalib_lite.console import explain, is_users
from anomalib_lite.stages import StageStore, digest
from anomalib_lite.sweeping.folders import swept_overrides
from anomalib_lite.sweeping.job import (
    SweepStopped,
    forget_other,
    in_this_process,
    is_done,
    note_failure,
    read_status,
    write_page,
)
from anomalib_lite.sweeping.key import job_key, job_settings
from anomalib_lite.sweeping.sweepers import page_of
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

CUTS = (("threshold", "value"), ("postprocess", "tau"))  # settings that shape nothing but the last step


@dataclass(frozen=True)
class Planned:
    """A job before it runs."""

    overrides: list[str]
    cfg: DictConfig  # composed
    folder: Path


class Composed:
    """Gives the basic launcher the configs composed for the check: composing is most of a small job's time."""

    def __init__(self, loader: ConfigLoader, jobs: Sequence[Planned]) -> None:
        self.loader = loader
        self.jobs = {tuple(job.overrides): job.cfg for job in jobs}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """As Hydra's loader does."""
        return self.jobs.pop(tuple(sweep_overrides), None) or self.loader.load_sweep_config(
            master_config, sweep_overrides
        )


class Grid:
    """The jobs of a sweep.

    Args:
        config: of the sweep, as Hydra composes it.
        context: Hydra's, with what composes a job's config.
        launcher: runs the jobs.
    """

    def __init__(self, config: DictConfig, context: HydraContext, launcher: Launcher) -> None:
        self.config, self.context, self.launcher = config, context, launcher
        self.folder = Path(str(config.hydra.sweep.dir))

    def run(self, jobs: Sequence[Sequence[str]], *, at_once: int | None = None) -> list[Sequence[JobReturn]]:
        """Check all jobs, then run those that are not done; at most `at_once` are given to the launcher together.

        Raises:
            InputError: before anything runs, for a job that can't work; after all, where jobs have failed.
        """
        plan = self.plan(jobs)
        missing = [job for job in plan if not self._is_done(job)]
        if done := len(plan) - len(missing):
            log.info("%d of %d jobs are done already", done, len(plan))
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        for job in missing:
            forget_other(job.folder, job.cfg)
        returned: list[Sequence[JobReturn]] = []
        size = at_once or len(missing)
        try:
            for first in range(0, len(missing), size or 1):
                returned.append(self._launch(missing[first : first + size], first))
        except SweepStopped as stop:
            raise InputError(f"the sweep has stopped, the same command goes on: {stop}") from None
        except BrokenExecutor as error:
            raise InputError(
                f"a process of the sweep has died, the same command goes on: {str(error).splitlines()[0]}"
            ) from None
        write_page(self.folder, curves=True)
        self._sum_up(missing, [result for batch in returned for result in batch])
        return returned

    def plan(self, jobs: Sequence[Sequence[str]]) -> list[Planned]:
        """Every job with its config, checked, and each only once.

        Raises:
            InputError: for the first job that can't work, with its number, from 0 as Hydra counts, and its overrides.
        """
        plan: dict[str, Planned] = {}
        checked: set[str] = set()
        for number, overrides in enumerate(jobs):
            try:
                job = self._compose(overrides, number)
                settings = job_settings(job.cfg)
                self._check(job.cfg, settings, checked)
            except Exception as error:
                if not is_users(error):
                    raise
                given = " ".join(self._swept(overrides))
                reason = explain(error, "train", overrides)
                raise InputError(f"job {number} of {len(jobs)} ({given}): {reason}") from None
            plan.setdefault(digest(settings), job)
        if twice := len(jobs) - len(plan):
            log.info("%d of %d jobs are the same as another one and run once", twice, len(jobs))
        return list(plan.values())

    def _compose(self, overrides: Sequence[str], number: int) -> Planned:
        cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        cfg.hydra.job.num = number
        return Planned(list(overrides), cfg, self.folder / str(cfg.hydra.sweep.subdir))

    def _check(self, cfg: DictConfig, settings: dict[str, Any], checked: set[str]) -> None:
        """The cuts' own checks always, all others once for jobs that differ in their cuts alone."""
        value_object(cfg.threshold)
        value_object(cfg.postprocess)
        rest = copy.copy(settings)
        for group, key in CUTS:
            rest[group] = {name: value for name, value in settings[group].items() if name != key}
        kind = digest(rest)
        if kind not in checked:
            check_settings(cfg, make_data(cfg, StageStore(root=Path(cfg.outputs) / ".stages")))
            checked.add(kind)

    def _is_done(self, job: Planned) -> bool:
        status = read_status(job.folder)
        # no file is read for a job that has not run
        return status.get("state") == "done" and is_done(status, job_key(job.cfg))

    def _launch(self, jobs: list[Planned], first: int) -> Sequence[JobReturn]:
        if in_this_process(self.config.hydra):  # the other launchers compose elsewhere
            loader: Any = Composed(self.context.config_loader, jobs)
            self.launcher.hydra_context = HydraContext(loader, self.context.callbacks)  # type: ignore[attr-defined]
        results = self.launcher.launch([job.overrides for job in jobs], initial_job_idx=first)
        for job, result in zip(jobs, results, strict=True):
            if result.status == JobStatus.FAILED:
                note_failure(job.folder, self._swept(job.overrides), result._return_value)
        return results

    def _sum_up(self, jobs: list[Planned], results: list[JobReturn]) -> None:
        page = page_of(self.config)
        failed = [
            (job, result._return_value)
            for job, result in zip(jobs, results, strict=True)
            if result.status == JobStatus.FAILED
        ]
        if not failed:
            log.info("sweep: %s", page)
            return
        job, error = failed[0]
        raise InputError(
            f"{len(failed)} of {len(jobs)} jobs have failed, first {' '.join(self._swept(job.overrides))}: {error}; "
            f"all of them are in {page}"
        )

    def _swept(self, overrides: Sequence[str]) -> list[str]:
        fixed = self.config.hydra.job.config.override_dirname.exclude_keys
        return swept_overrides(filter_overrides(overrides), fixed)
