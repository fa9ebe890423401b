"""From a config to what the fitted chain says of every picture, through the stages that earlier runs have left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from anomalib_lite.building import fitting_augmentation, make_detector, make_embedder, value_object
from anomalib_lite.callbacks import FeatureEmbedding, fit_and_calibrate
from anomalib_lite.cluster.callback import LeaveToSlurm
from anomalib_lite.cluster.job import in_slurm_job, is_other_process, tasks_wanted
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.detector import Detector
from anomalib_lite.encoding import encoding_elements
from anomalib_lite.evaluation import DrawnScores, Evaluation
from anomalib_lite.keys import device_of, network_key, scores_key, without_cut
from anomalib_lite.models.reconstruction import PatchAutoencoder, Reconstruction, Testing
from anomalib_lite.record import gather_facts
from anomalib_lite.scores import Scores
from anomalib_lite.scoring.embedding import Weights
from anomalib_lite.scoring.threshold import NoThreshold
from anomalib_lite.stages import StageStore
from anomalib_lite.training import Trained, train_autoencoder

CHAIN = "chain"  # the fitted detector in a stage of scores: a bundle without a cut
SCORED_HERE = ".scored-here"  # in the folder of the run that made the stage, which owes it a page
TIMED_PICTURES = 3  # where all scores were remembered, so many are computed again to be timed


class Fitted(NamedTuple):
    """The chain without a cut, and what it says."""

    scores: Scores
    chain: Path  # its bundle
    detector: Detector | None  # where this run has fitted it


def fit(
    cfg: DictConfig,
    data: InspectionData,
    weights: Weights | None,
    *,
    store: StageStore,
    folder: Path,
    loggers: list[Logger],
    threads: int,
    seconds: dict[str, float],
) -> Fitted | None:
    """Learn and score, or take over what an earlier run with the same settings has left.

    Args:
        cfg: of a training run.
        data: set up.
        weights: of the embedding's backbone; None where scoring does without.
        store: keeps every stage.
        folder: the run's; checkpoints go there.
        loggers: of the training.
        threads: for the record.
        seconds: gets how long each part has taken.

    Returns:
        None in a process that Slurm started to help with the training.

    Raises:
        InputError: for settings that do not fit, and where nothing can be written.
    """
    network = network_key(cfg, data) if cfg.model.trains else None
    if is_other_process():
        if network is not None:
            _train_network(cfg, _chain(cfg, data, None), data, store, network, folder, [])
        return None
    detector: Detector | None = None

    def make(stage: Path) -> None:
        nonlocal detector
        detector = _chain(cfg, data, weights)
        trained = Trained([], None)
        if network is not None:
            with timed(seconds, "training"):
                trained = _train_network(cfg, detector, data, store, network, folder, loggers)
        with timed(seconds, "fitting and testing"):
            scores = _score(cfg, detector, data, trained, store.root if cfg.cache else None, folder)
        facts = gather_facts(data, detector, name=cfg.data.name, seed=cfg.seed, threads=threads)
        replace(scores, facts=facts).save(stage)
        (folder / SCORED_HERE).touch()
        detector.save(stage / CHAIN, card=facts)

    stage = store.get("scores", scores_key(cfg, data, weights, network), make)
    return Fitted(Scores.load(stage), stage / CHAIN, detector)


def _chain(cfg: DictConfig, data: InspectionData, weights: Weights | None) -> Detector:
    embedder = None
    if weights is not None and value_object(cfg.scoring).method == "embedding":
        embedder = make_embedder(cfg, weights)
    detector = make_detector(cfg, data, embedder)
    detector.threshold, detector.postprocess = NoThreshold(), without_cut(detector.postprocess)
    return detector.check(data.downsize)


def _train_network(
    cfg: DictConfig,
    detector: Detector,
    data: InspectionData,
    store: StageStore,
    made_from: dict[str, Any],
    folder: Path,
    loggers: list[Logger],
) -> Trained:
    assert isinstance(detector.model, PatchAutoencoder)
    module = Reconstruction(
        autoencoder=detector.model,
        optimizer=instantiate(cfg.model.optimizer),
        learning_rate=cfg.model.learning_rate,
        corruption=value_object(cfg.corruption),
        augmentation=fitting_augmentation(cfg, data),
        seed=cfg.seed,
    )
    return train_autoencoder(
        detector.model,
        module=module,
        make_trainer=partial(_trainer, cfg, folder, logger=loggers),
        data=data,
        store=store,
        made_from=made_from,
        folder=folder,
        patience=cfg.model.patience,
        # a sweep's job that was killed goes on by itself when the same command is given again
        resume=True if cfg.resume is not None else None if in_multirun() else False,
    )


def _trainer(
    cfg: DictConfig, folder: Path, *, callbacks: list[Callback], logger: Any, **settings: Any
) -> Trainer:
    if _processes(cfg) > 1:
        # Lightning's ddp starts the command once more in every process, and with it a whole multirun; and our sampler
        # gives each process its share itself
        several = {"strategy": "ddp" if in_slurm_job() else "ddp_spawn", "use_distributed_sampler": False}
        settings = several | settings
    return instantiate(
        cfg.trainer,
        **settings,
        callbacks=[LeaveToSlurm(), *callbacks],
        logger=logger,
        default_root_dir=str(folder),
        enable_progress_bar=sys.stderr.isatty(),  # a log file is no place for a bar
    )


def _processes(cfg: DictConfig) -> int:
    """How many processes train."""
    devices, accelerator = cfg.trainer.devices, cfg.trainer.accelerator
    gpus = None if accelerator == "cpu" else torch.cuda.device_count() or None
    nodes: int = cfg.trainer.get("num_nodes", 1)
    return nodes * tasks_wanted(devices, accelerator=accelerator, gpus_per_node=gpus)


def _score(
    cfg: DictConfig,
    detector: Detector,
    data: InspectionData,
    trained: Trained,
    memory: Path | None,
    folder: Path,
) -> Scores:
    """Fit what follows the network, calibrate, and score the test pictures."""
    if isinstance(detector.model, PatchAutoencoder):
        embedding = FeatureEmbedding(detector=detector, data=data, memory=memory)
        # in one process, also where several have trained: every test picture counts once
        alone = {
            "devices": list(cfg.trainer.devices)[:1] if OmegaConf.is_list(cfg.trainer.devices) else 1,
            "num_nodes": 1,
            "strategy": "auto",
            "plugins": LightningEnvironment(),
            "precision": "32-true",  # as calibration and prediction compute, which know no Trainer
        }
        trainer = _trainer(cfg, folder, callbacks=[embedding], logger=False, **alone)
        trainer.test(Testing(detector.model, detector.map), datamodule=data, verbose=False)
        detector.to(detector.device)  # Lightning has left the network in plain memory
        evaluation, drawn = embedding.evaluation, embedding.drawn
    else:
        detector.to(device_of(cfg)).remember(memory)
        drawn = fit_and_calibrate(detector, data)
        evaluation = Evaluation(detector)
        for batch in tqdm(data.test_dataloader(), desc="testing", unit="picture", disable=None):
            start = time.perf_counter()
            scored = detector.score(batch.image)
            evaluation.add(batch, scored, seconds=time.perf_counter() - start)
    return _scores(detector, data, drawn, evaluation, trained)


def _scores(
    detector: Detector, data: InspectionData, drawn: DrawnScores, evaluation: Evaluation, trained: Trained
) -> Scores:
    assert detector.calibration is not None  # it has just been calibrated
    errors = {"validation": drawn.errors, "test": evaluation.errors.figures()}
    extra: dict[str, Any] = {"reconstruction": errors} if any(errors.values()) else {}
    if isinstance(detector.model, PatchAutoencoder):
        extra |= {"encoding_elements": encoding_elements(detector.model)}
    return Scores(
        validation=np.array(detector.calibration.validation_scores),
        calibration=np.array(detector.calibration.scores),
        drawn=drawn.raw,
        drawn_labels=drawn.labels,
        test=np.array(evaluation.raw),
        tau=detector.tau_,
        pixels=evaluation.pixels,
        drawn_pixels=drawn.pixels,
        embeddings=np.stack(evaluation.embeddings) if evaluation.embeddings else None,
        latents=np.stack(evaluation.latents) if evaluation.latents else None,
        ms_per_image=1000 * float(np.median(evaluation.seconds or _time(detector, data))),
        losses=trained.losses,
        training_seconds=trained.seconds,
        extra=extra,
    )


def _time(detector: Detector, data: InspectionData) -> list[float]:
    """Seconds of a few test pictures, nothing remembered."""
    detector.remember(None)
    seconds = []
    for number in range(min(TIMED_PICTURES, len(data.rows["test"]))):
        image = data.of_role("test")[number].image
        start = time.perf_counter()
        detector.score(image)
        seconds.append(time.perf_counter() - start)
    return seconds or [float("nan")]


def in_multirun() -> bool:
    """Whether this run is a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block has taken."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
