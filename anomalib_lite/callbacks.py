"""Lightning callbacks: thin, they call the detector at the right hook."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.detector import Detector
from anomalib_lite.evaluation import DrawnScores, Evaluation, score_drawn
from anomalib_lite.models.reconstruction import Mapped
from anomalib_lite.types import Batch


class FeatureEmbedding(Callback):
    """Fits the embedding stage on the best checkpoint's maps and scores the test pictures with it.

    At `on_test_start`, not at the end of fitting: by then the best weights are loaded and on their device, while
    `on_fit_end` would see the last epoch's.

    Args:
        detector: shares its network with the module under test.
        data: set up.
        memory: where maps and embeddings are kept for later runs; None: nowhere.
    """

    def __init__(self, *, detector: Detector, data: InspectionData, memory: Path | None) -> None:
        self.detector, self.data, self.memory = detector, data, memory

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit on training normals, calibrate on held-out ones."""
        self.detector.to(pl_module.device).remember(self.memory)
        self.drawn = fit_and_calibrate(self.detector, self.data)
        self.evaluation = Evaluation(self.detector)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the time."""
        self.start = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score one test picture from the error that `test_step` computed."""
        assert isinstance(outputs, Mapped)
        scored = self.detector.finish(outputs)
        self.evaluation.add(batch, scored, seconds=time.perf_counter() - self.start)


class LossHistory(Callback):
    """Training and validation loss of every epoch; kept in the checkpoint, so that a resumed run has them all."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the epoch's losses."""
        names = ("train_loss", "val_loss")
        losses = {
            name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics
        }
        self.losses.append({"epoch": float(trainer.current_epoch), **losses})

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps: plain numbers."""
        return {"losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.losses = [
            {str(name): float(value) for name, value in epoch.items()} for epoch in state_dict["losses"]
        ]


class LastingEarlyStopping(EarlyStopping):
    """A run that had stopped before it was killed stays stopped when it is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning forgets that it had stopped, but not for how long nothing had improved."""
        trainer.should_stop = self.wait_count >= self.patience


class BestCheckpoint(ModelCheckpoint):
    """Remembers its best epoch in a run folder that was moved or is reached by another path; Lightning's forgets."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        assert self.dirpath is not None
        best = str(Path(self.dirpath) / "best.ckpt")
        moved = {
            "dirpath": self.dirpath,
            "best_model_path": best,
            "kth_best_model_path": best,
            "best_k_models": {best: state_dict["best_model_score"]},
            "last_model_path": "",
        }
        super().load_state_dict(state_dict | moved)


class LatestCheckpoint(ModelCheckpoint):
    """Keeps the last epoch, whatever a checkpoint says of its place: Lightning would remove what lies there."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing of it: only paths are kept there, and they may lead anywhere."""


class ResumedWhole(Callback):
    """Knows whether a checkpoint has been taken over: what fails before is the checkpoint's fault."""

    done = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All states are restored."""
        self.done = True


class CheckpointOrigin(Callback):
    """Notes in every checkpoint what it was made from, so that it is not resumed as something else.

    Args:
        made_from: digests by part: data, settings, code ...
    """

    def __init__(self, made_from: dict[str, str]) -> None:
        self.made_from = made_from

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Plain text, so that `weights_only=True` loads it."""
        checkpoint["made_from"] = self.made_from


def fit_and_calibrate(detector: Detector, data: InspectionData) -> DrawnScores:
    """The detector's own learning, on the pictures of the roles meant for it."""
    train, validation, calibration = (_Images(data, role) for role in ("train", "validation", "calibration"))
    _, alignments = data.of_role("calibration").of_rows()
    qualities = [alignment.quality for alignment in alignments]
    detector.fit(train).calibrate(calibration=calibration, validation=validation, qualities=qualities)
    drawn = score_drawn(detector, data.of_role("validation"), seed=data.seed)
    postprocess = detector.postprocess
    if postprocess.tau is None and postprocess.tau_from == "drawn_defects" and drawn.pixels is not None:
        detector.learn_tau(drawn.pixels)
    return drawn


class _Images:
    """The pictures of one role, from the start each time they are gone through."""

    def __init__(self, data: InspectionData, role: Any) -> None:
        self.pictures = data.of_role(role)

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Tensor]:
        return self.pictures.images()
