"""What travels through the chain: dataclasses that state their shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:  # an export runs without torch, and its predictions are the same ones
    import torch
    from torch import Tensor

GOOD = "good"


class Terminated(KeyboardInterrupt):
    """SIGTERM has come; the message says what is kept."""


class InputError(ValueError):
    """Something the user gave is wrong; the message names the place, what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph on disk and what is known about it."""

    path: Path
    split: Literal["train", "test"]
    defect: str = GOOD  # the defect's type, or "good"
    mask_path: Path | None = None  # ground truth of a defective test picture, if there is one

    @property
    def label(self) -> int:
        """1 for a defective part, 0 for a good one.

        >>> Sample(Path("a.png"), "test", "scratch").label
        1
        """
        return int(self.defect != GOOD)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where a part lies in its photograph, and how sure registration is of it."""

    matrix: np.ndarray  # (2, 3) float64: reference pixel (x, y, 1) -> photograph pixel (x, y)
    quality: float = 1.0  # correlation with the reference after alignment, at most 1
    accepted: bool = True
    reason: str = ""  # why it was not accepted


@dataclass(slots=True)
class Batch:
    """Registered, cropped pictures at full size."""

    image: Tensor  # (B, 3, H, W) float32 in [0, 1]
    sample: list[Sample]
    alignment: list[Alignment]

    def to(self, device: torch.device) -> Batch:
        """The same batch with its pictures on a device."""
        return Batch(self.image.to(device), self.sample, self.alignment)


@dataclass(slots=True)
class Prediction:
    """What the detector says of one photograph; higher is more anomalous everywhere."""

    path: Path
    raw_score: float  # unbounded
    pred_score: float | None  # 0..1, the cut that the rule fitted lies at 0.5; None without a threshold
    pred_label: int | None  # 1 defective, 0 good; None without a threshold
    anomaly_map: np.ndarray | None  # (H, W) float32 on the registered picture
    pred_mask: np.ndarray | None  # (H, W) bool, anomaly_map > tau, less regions below the minimum area
    alignment: Alignment
    rejected: str = ""  # why no score could be given: "not aligned: ..."
    error: float | None = None  # mean error at the model's own resolution; None where nothing is compared


@dataclass(slots=True)
class Example:
    """One row of the gallery, all pictures of one size (H, W), on the registered part."""

    name: str
    defect: str
    raw_score: float
    pred_score: float | None
    pred_label: int | None
    image: np.ndarray  # (H, W, 3) uint8
    reconstruction: np.ndarray | None  # (H, W, 3) uint8
    anomaly_map: np.ndarray | None  # (H, W) float32
    pred_mask: np.ndarray | None  # (H, W) bool
    true_mask: np.ndarray | None  # (H, W) bool


@dataclass(slots=True)
class RunRecord:
    """All that one finished run knows about itself: the report is made from this and nothing else."""

    title: str  # "cpcae on zipper (set 1)"
    command: str  # what was typed
    facts: dict[
        str, Any
    ]  # name -> value as text: date, version, seed, embedding, weights, machine, durations ...
    notes: list[str]  # must be read: "these pictures are rendered", "threshold f1 is an oracle", deviations
    excluded: list[tuple[str, str]]  # (path, reason): files skipped in training, parts that did not align
    metrics: dict[str, Any]  # the content of metrics.json
    scores: list[dict[str, Any]]  # the rows of scores.csv
    calibration_scores: np.ndarray  # (C,) raw scores of the normals that set the cut
    validation_scores: np.ndarray  # (V,) raw scores of validation normals
    cut: float | None  # the raw score at which a part is rejected
    losses: list[dict[str, float]]  # one per epoch: epoch, train_loss, val_loss; empty without training
    embeddings: np.ndarray | None  # (n, D) map embeddings of the test pictures, in the order of `scores`
    latents: np.ndarray | None  # (n, L) the autoencoder's latent vectors of the same pictures
    examples: list[Example] = field(default_factory=list)
    contact_sheet: np.ndarray | None = None  # (H, W, 3) uint8: original / synthesised / cleaned / error
