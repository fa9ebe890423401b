"""Our Hydra sweepers: a grid that is checked before it starts, and a study that goes on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.types import InputError

NAMESPACE = "hydra_plugins.anomalib_lite"  # Hydra instantiates sweepers of this namespace only


class CheckedSweeper(Sweeper):
    """A grid as Hydra's basic one, but all jobs are checked before the first one starts, and what is done is left out.

    Args:
        params: values by key, as on the command line, which goes before them.
        max_batch_size: jobs that are given to the launcher at once; None: all.
    """

    def __init__(self, *, params: Mapping[str, Any] | None, max_batch_size: int | None) -> None:
        self.params, self.max_batch_size = params or {}, max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's."""
        _check_launcher(config)
        pin(config, hydra_context)
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run every combination of the values of `params` and the command line.

        Raises:
            InputError: before anything runs, for a job that can't work; after all, where jobs have failed.
        """
        from anomalib_lite.sweeping.grid import Grid  # imports torch: not for `--help`

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        given = [f"{key}={value}" for key, value in self.params.items()] + arguments
        grid = Grid(self.config, self.hydra_context, self.launcher)
        return grid.run(combinations(parse(given, self.hydra_context)), at_once=self.max_batch_size)


class StudySweeper(Sweeper):
    """`hydra-optuna-sweeper`, but a study that was cut short goes on, and `n_trials` counts all of its trials.

    Args:
        sampler: config of Optuna's sampler; its seed moves on where a study goes on.
        direction: maximize or minimize.
        storage: address of the study's database.
        study_name: beginning of its name there.
        n_trials: in all, those of earlier commands that have ended well among them.
        n_jobs: trials at once.
        max_failure_rate: share of a batch that may fail.
        custom_search_space: path of a function that adds to the space.
        params: ranges by key, as on the command line, which goes before them.

    Raises:
        InputError: where the plugin is not installed.
    """

    def __init__(
        self,
        *,
        sampler: DictConfig,
        direction: str,
        storage: str,
        study_name: str,
        n_trials: int,
        n_jobs: int,
        max_failure_rate: float,
        custom_search_space: str | None,
        params: DictConfig | None,
    ) -> None:
        try:
            from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

            self.optuna = OptunaSweeper(
                sampler=instantiate(sampler),
                direction=direction,
                storage=storage,
                study_name=study_name,
                n_trials=n_trials,
                n_jobs=n_jobs,
                max_failure_rate=max_failure_rate,
                search_space=None,
                custom_search_space=custom_search_space,
                params=params,
            )
        except ImportError:
            raise _not_installed("hydra/sweeper=study", "optuna") from None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's."""
        _check_launcher(config)
        pin(config, hydra_context)
        self.settings, self.context = config, hydra_context
        self.optuna.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run what is missing of the study.

        Raises:
            InputError: where there is nothing to choose, and where no trial has ended well.
        """
        from anomalib_lite.sweeping.study import go_on

        return go_on(self.optuna, parse(arguments, self.context), config=self.settings)


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """The jobs of a grid, the last key changing fastest; of a key that is given twice the last one counts.

    Raises:
        InputError: for a range without steps, which no grid has.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise InputError(
                f"{override.input_line}: expected single values; a range is for hydra/sweeper=study"
            )
        if override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            values[key] = [key if override.is_delete() else f"{key}={override.get_value_element_as_str()}"]
    return [list(job) for job in itertools.product(*values.values())]


def parse(arguments: Sequence[str], context: HydraContext) -> list[Override]:
    """The overrides of a sweep.

    Raises:
        InputError: for one that has no value.
    """
    overrides = OverridesParser.create(config_loader=context.config_loader).parse_overrides(list(arguments))
    for override in overrides:
        nothing = not override.is_sweep_override() and not override.is_delete() and override.value() == ""
        if nothing or (override.is_discrete_sweep() and next(override.sweep_string_iterator(), None) is None):
            raise InputError(f"{override.input_line}: expected a value, or several to sweep over, found none")
    return overrides


def pin(config: DictConfig, context: HydraContext) -> None:
    """Let all jobs of a sweep write into one folder, also where its name's parts are swept, and know what is swept."""
    parser = OverridesParser.create(config_loader=context.config_loader)
    overrides = parser.parse_overrides([str(argument) for argument in config.hydra.overrides.task])
    swept = {
        override.get_key_element(): override.is_sweep_override() for override in overrides
    }  # the last counts
    fixed = [key for key, several in swept.items() if not several]
    settings = {
        "hydra.sweep.dir": str(config.hydra.sweep.dir),
        "hydra.job.config.override_dirname.exclude_keys": fixed,
    }
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
        texts = [_quoted(text) for text in ([value] if isinstance(value, str) else value)]
        config.hydra.overrides.hydra.append(
            f"{key}={texts[0] if isinstance(value, str) else '[' + ','.join(texts) + ']'}"
        )


def _check_launcher(config: DictConfig) -> None:
    if config.hydra.launcher._target_ not in Plugins.instance().class_name_to_class:
        choice = config.hydra.runtime.choices["hydra/launcher"]
        raise _not_installed(f"hydra/launcher={choice}", choice)


def _not_installed(what: str, extra: str) -> InputError:
    return InputError(f"{what}: expected its plugin, found none; pip install 'anomalib-lite[{extra}]'")


def _quoted(text: str) -> str:
    from anomalib_lite.console import quoted  # which imports this module

    return quoted(text)


def page_of(config: DictConfig) -> Path:
    """Where a sweep's page is."""
    return Path(str(config.hydra.sweep.dir)) / "sweep.html"


def register_sweepers() -> None:
    """Make our sweepers known to Hydra; twice does no harm."""
    known = Plugins.instance().class_name_to_class
    known |= {f"{NAMESPACE}.{sweeper.__name__}": sweeper for sweeper in (CheckedSweeper, StudySweeper)}
    # the plugin's own has the name of our configs/hydra/launcher/joblib.yaml; Hydra would merge both, with a warning
    ConfigStore.instance().repo.get("hydra", {}).get("launcher", {}).pop("joblib.yaml", None)
