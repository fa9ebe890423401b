"""Trains an autoencoder with Lightning once, keeps its weights as a stage, and resumes an interrupted run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import load_file, save_file

from anomalib_lite.callbacks import LossHistory
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.models.reconstruction import PatchAutoencoder, Reconstruction
from anomalib_lite.stages import StageStore, code_digest
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

TRAINING_CODE = (
    "models/blocks.py",
    "models/cpcae.py",
    "models/losses.py",
    "models/reconstruction.py",
    "data/datamodule.py",
    "data/patches.py",
)


def train_autoencoder(
    autoencoder: PatchAutoencoder,
    *,
    module: Reconstruction,
    make_trainer: Callable[..., Trainer],
    data: InspectionData,
    store: StageStore,
    settings: dict[str, Any],
    folder: Path,
    patience: int,
    resume: bool,
) -> list[dict[str, float]]:
    """Give `autoencoder` the best weights of a training run, or of an earlier run with the same settings.

    Args:
        autoencoder: with its first, seeded weights.
        module: trains it.
        make_trainer: builds the Trainer from `callbacks`.
        settings: what else determines the weights: part of the stage's key.
        folder: the run's; checkpoints go to `folder/checkpoints`.
        patience: epochs without improvement before training stops.
        resume: go on from `folder/checkpoints/last.ckpt`.

    Returns:
        The losses of every epoch.

    Raises:
        InputError: for a checkpoint that is missing or broken.
        KeyboardInterrupt: after Ctrl-C; what is finished stays in `folder/checkpoints`.
    """
    made_from = {
        "data": data.made_from,
        "rows": data.rows["train"] + data.rows["validation"],
        "settings": settings,
        "code": code_digest(TRAINING_CODE),
        "torch": torch.__version__,
    }

    def make(stage: Path) -> None:
        losses = _fit(module, make_trainer, data, folder, patience, resume)
        best = torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)[
            "state_dict"
        ]
        save_file(
            {name.removeprefix("autoencoder."): tensor for name, tensor in best.items()},
            stage / "weights.safetensors",
        )
        (stage / "losses.json").write_text(json.dumps(losses))

    stage = store.get("network", made_from, make)
    autoencoder.load_state_dict(load_file(stage / "weights.safetensors"))
    return json.loads((stage / "losses.json").read_text())


def _fit(
    module: Reconstruction,
    make_trainer: Callable[..., Trainer],
    data: InspectionData,
    folder: Path,
    patience: int,
    resume: bool,
) -> list[dict[str, float]]:
    history = LossHistory()
    checkpoints = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor="val_loss",
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer = make_trainer(
        callbacks=[history, EarlyStopping(monitor="val_loss", patience=patience), checkpoints]
    )
    last = folder / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise InputError(
            f"resume: no checkpoint in {last.parent} (looked for last.ckpt): no epoch was finished there"
        )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    except SystemExit:  # Lightning's way of passing on Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if resume and trainer.global_step == 0:
            raise InputError(
                f"{last}: expected a whole checkpoint of this network, found: {_first_line(error)}"
            ) from None
        raise
    return history.losses


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
