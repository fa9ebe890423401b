"""What the stages of a training run are made from: all that determines them and nothing that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.building import fitting_augmentation, plain_value, value_object
from anomalib_lite.cluster.job import tasks_wanted
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.scoring.embedding import Weights, resolve_precision
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.stages import code_digest, digest, file_digest, versions
from anomalib_lite.training import network_made_from

# all that computes a score; what only shows or configures is not in it
SCORING_CODE = (
    "data", "models", "scoring", "baselines.py", "building.py", "calibration.py", "callbacks.py", "detector.py",
    "encoding.py", "evaluation.py", "fitting.py", "keys.py", "metrics.py", "scores.py", "training.py",
)  # fmt: skip
SCORING_GROUPS = ("scoring", "scaler", "classifier", "similarity")


def network_key(cfg: DictConfig, data: InspectionData) -> dict[str, Any]:
    """What the weights of a config's network are made from."""
    # a model's name and its score do not change what is trained: ae_l2 shares the CPCAE's weights
    settings: dict[str, Any] = {"model": {k: v for k, v in plain_value(cfg, "model").items() if k != "name"}}
    settings |= {group: plain_value(cfg, group) for group in ("grid", "seed")}
    # how many devices, not which: the jobs of one sweep may each have another
    trainer = plain_value(cfg, "trainer")
    settings |= {"trainer": trainer | {"devices": tasks_wanted(trainer["devices"])}}
    settings |= {"downsize": list(data.downsize)}  # as it came out, whatever the pictures' shape
    return network_made_from(
        data,
        network_file=cfg.model.network._target_.rpartition(".")[0].partition(".")[2].replace(".", "/")
        + ".py",
        corruption=value_object(cfg.corruption),
        augmentation=fitting_augmentation(cfg, data),
        settings=settings,
    )


def scores_key(
    cfg: DictConfig, data: InspectionData, weights: Weights | None, network: dict[str, Any] | None
) -> dict[str, Any]:
    """What the raw scores of a config's pictures are made from; `network` is its `network_key`."""
    embedding: dict[str, Any] | None = None
    if weights is not None:
        precision = resolve_precision(cfg.embedding.precision)
        embedding = {"backbone": weights.backbone, "sha256": weights.sha256, "precision": precision}
    truth = [
        [sample.defect, None if sample.mask_path is None else file_digest(sample.mask_path)]
        for sample in data.samples
        if sample.split == "test"
    ]
    return {
        "data": data.made_from,
        "rows": data.rows,
        "truth": truth,
        "downsize": list(data.downsize),
        "network": digest(network) if network is not None else plain_value(cfg, "model"),
        "settings": {group: plain_value(cfg, group) for group in SCORING_GROUPS},
        "postprocess": vars(without_cut(value_object(cfg.postprocess))),
        "embedding": embedding,
        "seed": cfg.seed,
        "device": device_of(cfg).type,
        "code": code_digest(*SCORING_CODE),
        "versions": versions(),
    }


def without_cut(postprocess: PostProcess) -> PostProcess:
    """A cut on the map can be moved afterwards; what the mask's rule takes out can't be told without the maps."""
    return replace(postprocess, tau=None) if postprocess.mask_rule.cut_alone else postprocess


def device_of(cfg: DictConfig) -> torch.device:
    """Where the chain computes."""
    on_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    listed = OmegaConf.is_list(cfg.trainer.devices)
    return torch.device(f"cuda:{cfg.trainer.devices[0] if listed else 0}" if on_gpu else "cpu")
