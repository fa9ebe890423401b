"""Trains an autoencoder with Lightning once, keeps its weights as a stage, and resumes an interrupted run."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomalib_lite.callbacks import (
    BestCheckpoint,
    CheckpointOrigin,
    LastingEarlyStopping,
    LatestCheckpoint,
    LossHistory,
    ResumedWhole,
)
from anomalib_lite.cluster.job import is_other_process
from anomalib_lite.data.augmentation import Augmentation
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.models.reconstruction import PatchAutoencoder, Reconstruction
from anomalib_lite.report.files import replace_file
from anomalib_lite.stages import StageStore, call_others, code_digest, digest, taking_over, versions
from anomalib_lite.types import InputError, Terminated

log = logging.getLogger(__name__)

TRAINING_CODE = (  # and the network's own file
    "models/blocks.py",
    "models/condition.py",
    "models/losses.py",
    "models/network.py",
    "models/reconstruction.py",
    "data/datamodule.py",
    "data/patches.py",
    "data/pictures.py",
    "data/resize.py",
    "building.py",
    "callbacks.py",
    "fitting.py",
    "training.py",
)
CORRUPTION_CODE = tuple(
    f"data/{name}.py"
    for name in (
        "augmentation",
        "blending",
        "cutouts",
        "drawing",
        "drawn_defects",
        "drawn_objects",
        "images",
        "pasting",
        "synthetic",
    )
)


class Trained(NamedTuple):
    """What is known of a training."""

    losses: list[dict[str, float]]  # one per epoch
    seconds: float | None  # None: it was resumed, or there was none


def network_made_from(
    data: InspectionData,
    *,
    network_file: str,
    corruption: Corruption,
    augmentation: Augmentation,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """All that determines the weights of an autoencoder: the key of its stage.

    Args:
        data: set up.
        network_file: of the package, such as `models/cpcae.py`.
        settings: of the model, the patches, the optimiser ...
    """
    code = [*TRAINING_CODE, network_file]
    if corruption.active or augmentation.active:
        code += CORRUPTION_CODE
    return {
        "data": data.made_from,
        "rows": data.rows["train"] + data.rows["validation"],
        "settings": settings | {"corruption": corruption.facts(), "augmentation": asdict(augmentation)},
        "code": code_digest(*code),
        "versions": versions(),
    }


def train_autoencoder(
    autoencoder: PatchAutoencoder,
    *,
    module: Reconstruction,
    make_trainer: Callable[..., Trainer],
    data: InspectionData,
    store: StageStore,
    made_from: dict[str, Any],
    folder: Path,
    patience: int,
    resume: bool | None,
) -> Trained:
    """Give `autoencoder` the best weights of a training run, or of an earlier run with the same settings.

    Args:
        autoencoder: with its first, seeded weights.
        module: trains it.
        make_trainer: builds the Trainer from `callbacks`.
        made_from: see `network_made_from`.
        folder: the run's; checkpoints go to `folder/checkpoints`.
        patience: epochs without improvement before training stops.
        resume: go on from `folder/checkpoints/last.ckpt`; None: where one of the same training is there.

    Returns:
        The losses of every epoch and how long the training took.

    Raises:
        InputError: for a checkpoint that is missing, broken or another run's, for a network that diverged, and
            where nothing can be written.
        KeyboardInterrupt: after Ctrl-C; its text says what is kept.
        Terminated: likewise, after SIGTERM.
    """

    origin = {part: digest(content) for part, content in made_from.items()}
    last = folder / "checkpoints" / "last.ckpt"

    def make(stage: Path) -> None:
        start = time.perf_counter()
        goes_on = _goes_on(last, origin, resume)
        call_others(stage)
        _fit(module, make_trainer, data, folder, patience, origin, goes_on)
        # of several processes, what the first one noted has not come back to this one
        losses = _read_checkpoint(last)["callbacks"][LossHistory.__name__]["losses"]
        seconds = None if goes_on else round(time.perf_counter() - start, 2)  # of a part only
        weights = _best_weights(folder / "checkpoints" / "best.ckpt")
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise InputError(
                "training diverged: expected finite weights, found NaN or infinity; "
                f"lower model.learning_rate, which is {module.learning_rate:g}"
            )
        save_file(weights, stage / "weights.safetensors")
        (stage / "losses.json").write_text(json.dumps(losses))
        (stage / "seconds.json").write_text(json.dumps(seconds))

    if is_other_process():
        if store.wait_for_call("network", made_from):
            _fit(module, make_trainer, data, folder, patience, origin, _goes_on(last, origin, resume))
        return Trained([], None)
    stage = store.get("network", made_from, make)
    with taking_over(stage):
        autoencoder.load_state_dict(load_file(stage / "weights.safetensors"))
        return Trained(*(json.loads((stage / f"{name}.json").read_text()) for name in Trained._fields))


def _fit(
    module: Reconstruction,
    make_trainer: Callable[..., Trainer],
    data: InspectionData,
    folder: Path,
    patience: int,
    origin: dict[str, str],
    resume: bool,
) -> None:
    stopping = LastingEarlyStopping(monitor="val_loss", patience=patience)
    checkpoints = folder / "checkpoints"
    best = BestCheckpoint(
        dirpath=checkpoints,
        filename="best",
        monitor="val_loss",
        save_on_train_epoch_end=True,
        save_weights_only=True,  # nothing goes on from the best epoch
        enable_version_counter=False,
    )
    # not `save_last`, which follows the best one; after it, so that it knows the best one of its own epoch
    latest = LatestCheckpoint(
        dirpath=checkpoints, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    restored = ResumedWhole()
    trainer = make_trainer(
        callbacks=[LossHistory(), stopping, CheckpointOrigin(origin), best, latest, restored]
    )
    trainer.strategy.checkpoint_io = WholeCheckpoints()
    last = checkpoints / "last.ckpt"
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    except SIGTERMException:  # a SystemExit without a code: as if all were done
        raise Terminated(_what_is_kept(folder, last)) from None
    except SystemExit:  # Lightning's way of passing on Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt(_what_is_kept(folder, last)) from None
        raise
    except OSError as error:
        raise InputError(f"{folder}: cannot write the checkpoint: {error.strerror or error}") from None
    except Exception as error:
        if not resume or restored.done or isinstance(error, InputError):
            raise
        # Lightning takes a checkpoint over without a look at it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{last}: expected the checkpoint of such a run, found: {reason}") from None


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its final place and renames it.

    Lightning's own writes to the system's temporary folder; where that is another disk, a process killed during
    the move would have lost the last checkpoint and half-written the new one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """As the base class."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_file(Path(path), content.getvalue())


def _goes_on(last: Path, origin: dict[str, str], resume: bool | None) -> bool:
    if resume:
        _check_resumable(last, origin)
        return True
    return resume is None and last.is_file() and _is_resumable(last, origin)


def _is_resumable(last: Path, origin: dict[str, str]) -> bool:
    try:
        _check_resumable(last, origin)
    except InputError as error:
        log.info("training starts anew: %s", error)
        return False
    log.info("training goes on from %s", last)
    return True


def _check_resumable(last: Path, origin: dict[str, str]) -> None:
    if not last.is_file():
        raise InputError(
            f"{last}: expected the checkpoint to go on from, found no such file; no epoch was finished there"
        )
    found = _read_checkpoint(last).get("made_from")
    if not isinstance(found, dict):
        raise InputError(f"{last}: expected a checkpoint written by this version of anomalib-lite")
    if changed := [part for part, made_from in origin.items() if found.get(part) != made_from]:
        raise InputError(
            f"{last}: expected a checkpoint of the same data, settings and version, found another "
            f"{' and '.join(changed)}; start a new run"
        )


def _best_weights(best: Path) -> dict[str, Tensor]:
    weights = _read_checkpoint(best)["state_dict"]
    return {name.removeprefix("autoencoder."): tensor for name, tensor in weights.items()}


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums
        if damaged is not None:
            raise InputError(f"{path}: expected a whole checkpoint, found {damaged} damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__} instead of a dictionary")
        return content
    except InputError:
        raise
    except Exception as error:  # the unpickler of torch lets through whatever a damaged stream trips over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: expected a whole checkpoint, found: {reason}") from None


def _what_is_kept(folder: Path, last: Path) -> str:
    if not last.is_file():
        return "no epoch was finished"
    return f"finished epochs kept: {_read_checkpoint(last)['epoch'] + 1}; go on with resume={folder}"
