"""A study of Optuna that goes on after a kill; see `configs/sweep/tpe.yaml`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.stages import digest
from anomalib_lite.sweeping.job import SweepStopped, write_page
from anomalib_lite.sweeping.key import job_key
from anomalib_lite.sweeping.sweepers import page_of
from anomalib_lite.types import InputError

if TYPE_CHECKING:  # optuna is an extra
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

log = logging.getLogger(__name__)


def go_on(sweeper: OptunaSweeper, overrides: list[Override], *, config: DictConfig) -> Any:
    """Run the trials that are missing of `n_trials`; those that were cut short are tried again first.

    Values of other data, settings or code can't be compared with new ones: they belong to another study, whose name
    holds the digest of all that.

    Raises:
        InputError: where there is nothing to choose, and where no trial has ended well.
    """
    inner = sweeper.sweeper
    space: dict[str, Any] = {str(key): str(value) for key, value in (inner.params or {}).items()}
    space |= {
        override.get_key_element(): override.input_line
        for override in overrides
        if override.is_sweep_override()
    }
    if not space:
        raise InputError(
            "hydra/sweeper=study: expected settings to choose from, for instance model.latent_dim=choice(16,32,64), "
            "found none"
        )
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    what = {"key": job_key(config), "space": space}
    inner.study_name = f"{inner.study_name or 'study'}-{digest(what)[:8]}"
    ended, begun = _trials(inner)
    if begun:  # the same seed would propose the same settings again
        sampler: Any = OmegaConf.to_container(config.hydra.sweeper.sampler, resolve=True)
        if sampler.get("seed") is not None:
            inner.sampler = instantiate(sampler | {"seed": sampler["seed"] + begun})
    if ended:
        log.info("%d of %d trials are done already", ended, inner.n_trials)
    inner.n_trials = max(0, inner.n_trials - ended)
    try:
        sweeper.sweep([str(override.input_line) for override in overrides])
    except SweepStopped as stop:
        raise InputError(f"the sweep has stopped, the same command goes on: {stop}") from None
    except ValueError as error:
        if "No trials are completed yet" not in str(error):
            raise
        raise InputError(f"no trial has ended well; all of them are in {page_of(config)}") from None
    finally:
        write_page(folder, curves=True)
    log.info("sweep: %s", page_of(config))


def _trials(inner: Any) -> tuple[int, int]:
    """How many trials have ended well and how many were begun; those that never ended are put in line again."""
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=inner.study_name,
        storage=inner.storage,
        directions=inner._get_directions(),
        load_if_exists=True,
    )
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.enqueue_trial(trial.params)
    ended = sum(trial.state == TrialState.COMPLETE for trial in trials)
    return ended, len(trials)
