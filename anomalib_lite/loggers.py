"""What a finished run tells its loggers beside the curves that Lightning logs: settings, figures and pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from torchvision.io import ImageReadMode, read_image

from anomalib_lite.types import InputError


@contextmanager
def open_loggers(nodes: Mapping[str, Any]) -> Iterator[list[Logger]]:
    """The loggers of the config group `logger`, closed however the run ends: the next one must not go on in them."""
    loggers = make_loggers(nodes)
    try:
        yield loggers
    except BaseException:
        _close(loggers, failed=True)
        raise
    _close(loggers, failed=False)


def _close(loggers: Sequence[Logger], *, failed: bool) -> None:
    for logger in loggers:
        logger.finalize("failed" if failed else "success")
        if (
            isinstance(logger, WandbLogger) and logger._experiment is not None
        ):  # asking for it would start one
            logger._experiment.finish(exit_code=int(failed))


def make_loggers(nodes: Mapping[str, Any]) -> list[Logger]:
    """The loggers of the config group `logger`, by name.

    Raises:
        InputError: for one whose package is not installed.
    """
    # MLflow would rather have a database, and refuses a folder unless told; a folder needs no further packages
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    loggers = []
    for name, node in nodes.items():
        try:
            loggers.append(instantiate(node))
        except InstantiationException as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            raise InputError(
                f"logger={name} needs a package that is not installed: pip install 'anomalib-lite[{name}]'"
            ) from None
    return loggers


def log_settings(loggers: Sequence[Logger], settings: DictConfig) -> None:
    """The run's whole configuration, plain values; beside a CSV log lies .hydra/config.yaml, which says the same."""
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            logger.log_hyperparams(plain)


def log_results(loggers: Sequence[Logger], figures: Mapping[str, float], pictures: Sequence[Path]) -> None:
    """The final figures by name and PNG pictures, where a logger takes pictures."""
    for logger in loggers:
        logger.log_metrics(dict(figures))
        if isinstance(logger, TensorBoardLogger):
            for path in pictures:
                logger.experiment.add_image(path.stem, read_image(str(path), ImageReadMode.RGB))
        elif isinstance(logger, WandbLogger):
            for path in pictures:
                logger.log_image(path.stem, [str(path)])
        elif isinstance(logger, MLFlowLogger):
            for path in pictures:
                logger.experiment.log_artifact(logger.run_id, str(path), "plots")


def flat_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of metrics.json that are a metric each.

    >>> flat_figures({"image": {"image_AUROC": 0.9, "image_AP": None}, "pixel": {}, "validation_AUROC": 0.8})
    {'image_AUROC': 0.9, 'validation_AUROC': 0.8}
    """
    groups = (metrics["image"], metrics["pixel"], {"validation_AUROC": metrics["validation_AUROC"]})
    return {name: value for group in groups for name, value in group.items() if value is not None}
