"""From a config to the objects that do the work: reads the config, knows Hydra, runs nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.data.augmentation import Augmentation
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.detector import Detector
from anomalib_lite.models.model import Model
from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import PatchAutoencoder
from anomalib_lite.scoring.embedding import Embedder, Weights, find_weights
from anomalib_lite.scoring.threshold import NoThreshold, Threshold
from anomalib_lite.stages import StageStore
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)


def value_object(node: DictConfig) -> Any:
    """The dataclass whose schema a config node has; its own checks run here."""
    return OmegaConf.to_object(node)


def plain_value(cfg: DictConfig, key: str) -> Any:
    """A key of a config, resolved, in types that JSON knows."""
    node = cfg[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def make_data(cfg: DictConfig, store: StageStore) -> InspectionData:
    """The datamodule of a config, not yet set up."""
    data = cfg.data
    registration = Registration(
        method=data.registration,
        motion=data.motion,
        reference=None if data.reference is None else Path(data.reference),
    )
    threshold: Threshold = value_object(cfg.threshold)
    crop: Any = OmegaConf.to_container(data.crop) if OmegaConf.is_list(data.crop) else data.crop
    return InspectionData(
        source=instantiate(data.source),
        preparation=Preparation(registration=registration, crop=crop, size=data.size),
        roles=value_object(cfg.roles),
        calibration_minimum=threshold.minimum_calibration(),
        scores_only=isinstance(threshold, NoThreshold) and _looks_through_backbone(cfg),
        grid=value_object(cfg.grid),
        downsize=network_size(data.downsize),
        batch_size=cfg.model.batch_size,
        steps_per_epoch=cfg.model.steps_per_epoch,
        seed=cfg.seed,
        store=store,
        on_bad_image=data.on_bad_image,
        on_not_aligned=data.on_not_aligned,
        num_workers=data.num_workers,
    )


def check_settings(cfg: DictConfig, data: InspectionData) -> None:
    """Try a chain on black patches and drop it: what the settings alone can tell is known before a photograph is read.

    `data` is not set up. Raises InputError for settings out of range or that do not fit together.
    """
    for group in (cfg.corruption, cfg.augmentation):
        value_object(group)
    if cfg.model.trains and data.largest is not None and data.grid.size > min(data.largest):
        raise InputError(
            f"grid.size must be at most {min(data.largest)}, the side of the picture that the network sees "
            f"(data.downsize, data.size), got {data.grid.size}"
        )
    detector = make_detector(cfg, data, None)
    if isinstance(detector.model, PatchAutoencoder):
        for key in ("model.patience", "trainer.max_epochs"):
            epochs = OmegaConf.select(cfg, key)
            if not isinstance(epochs, int) or epochs < 1:
                raise InputError(f"{key} must be a whole number, 1 or more, got {epochs}")
        try:
            instantiate(cfg.model.optimizer)(detector.model.parameters(), lr=cfg.model.learning_rate)
        except (ValueError, TypeError) as error:
            raise InputError(f"model.optimizer, model.learning_rate: {error}") from None
        patches = torch.zeros((min(data.batch_size, 2), 3, data.grid.size, data.grid.size))
        index = torch.zeros(len(patches), dtype=torch.int64)
        detector.model.network.loss(patches, index, patches, progress=0.0)
    if data.largest is not None:
        detector.check(data.largest)


def network_size(downsize: Any) -> int | tuple[int, int] | None:
    """`data.downsize` as a long side or as (height, width).

    Raises:
        InputError: for anything but null, a whole number or two of them, above 0.
    """
    sides = list(downsize) if OmegaConf.is_list(downsize) else [downsize]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if downsize is None or (whole and len(sides) == 1):
        return downsize
    if not (whole and len(sides) == 2):
        raise InputError(f"data.downsize: expected a long side or [height, width] in pixels, got {downsize}")
    return sides[0], sides[1]


def backbone_weights(cfg: DictConfig) -> Weights | None:
    """The weights of a config's backbone; None where model and scoring do without."""
    if value_object(cfg.scoring).method != "embedding" and not _looks_through_backbone(cfg):
        return None
    return find_weights(cfg.embedding.backbone)


def _looks_through_backbone(cfg: DictConfig) -> bool:
    """Whether the model itself has a backbone, that of the embedding."""
    return not cfg.model.trains and get_object(cfg.model.baseline._target_) is PositionalMemory


def make_embedder(cfg: DictConfig, weights: Weights) -> Embedder:
    """The backbone of a config."""
    pooling = value_object(cfg.scoring).pooling
    embedder = Embedder(weights=weights, pooling=pooling, precision=cfg.embedding.precision)
    log.info("embedding: %s from %s, %s", weights.backbone, weights.source, embedder.precision)
    return embedder


def make_detector(cfg: DictConfig, data: InspectionData, embedder: Embedder | None) -> Detector:
    """The chain of a config, unfitted; an autoencoder has its first random weights."""
    return Detector(
        preparation=data.preparation,
        model=make_model(cfg, data),
        scoring=value_object(cfg.scoring),
        embedder=embedder,
        scaler=value_object(cfg.scaler),
        classifier=value_object(cfg.classifier),
        similarity=value_object(cfg.similarity),
        postprocess=value_object(cfg.postprocess),
        threshold=value_object(cfg.threshold),
    )


def make_model(cfg: DictConfig, data: InspectionData) -> Model:
    """The model of a config: what gives error maps."""
    if not cfg.model.trains:
        baseline = instantiate(cfg.model.baseline)
        if _looks_through_backbone(cfg):
            return baseline(weights=find_weights(cfg.embedding.backbone))
        return baseline(downsize=data.downsize) if callable(baseline) else baseline
    seed_everything(cfg.seed, workers=True, verbose=False)
    network = instantiate(cfg.model.network)(positions=data.grid.count(data.downsize))
    return PatchAutoencoder(network=network, grid=data.grid, downsize=data.downsize)


def fitting_augmentation(cfg: DictConfig, data: InspectionData) -> Augmentation:
    """Without rotation and flips where parts are registered: the network would learn poses that it never meets."""
    augmentation: Augmentation = value_object(cfg.augmentation)
    method = data.preparation.registration.method_
    if method == "none" or not (augmentation.rotation or augmentation.flips):
        return augmentation
    log.warning("augmentation: parts are registered (%s), so neither rotated nor flipped", method)
    return replace(augmentation, rotation=0.0, flips=False)
