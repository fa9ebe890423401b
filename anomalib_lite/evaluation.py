"""Collects what the detector says of the test pictures, and of validation normals with drawn defects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.images import image_size, read_mask
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.data.pictures import Pictures
from anomalib_lite.data.resize import resize
from anomalib_lite.data.synthetic import add_defect, estimate_foreground
from anomalib_lite.detector import Detector, Drawn, Scored
from anomalib_lite.encoding import ReconstructionError
from anomalib_lite.inspector import judge, not_aligned
from anomalib_lite.metrics import PixelMetrics, bootstrap, image_metrics, per_defect
from anomalib_lite.models.reconstruction import PatchAutoencoder
from anomalib_lite.report.contact_sheet import contact_sheet
from anomalib_lite.report.gallery import choose_examples
from anomalib_lite.scoring.pixel_mask import MaskRule
from anomalib_lite.scoring.threshold import F1Threshold, Threshold
from anomalib_lite.types import Alignment, Batch, Example, Prediction, Sample

DRAWN_DEFECTS = 48  # at least: with few validation normals, each gets more of them
CURVE_POINTS = 60
EXAMPLES = 6  # rows of the contact sheet


class DrawnScores(NamedTuple):
    """Validation normals as they are and with drawn defects: what is known before the test."""

    raw: np.ndarray  # (D,) raw scores
    labels: np.ndarray  # (D,) 1 with a defect
    pixels: PixelMetrics | None  # on the registered picture; None where the chain does not localise
    errors: dict[str, Any] | None = None  # of the reconstruction; None for a model that does not reconstruct


def score_drawn(detector: Detector, validation_normals: Pictures, *, seed: int) -> DrawnScores:
    """Score validation normals without and with drawn defects."""
    labels, raw = [], []
    pixels = PixelMetrics() if detector.localises else None
    errors = ReconstructionError("drawn defects")
    usual: Tensor | None = None
    for image, mask, original in drawn_defects(validation_normals, seed=seed):
        if image is original:  # comes before its copies
            usual = detector.usual_for_others(original)
        labels.append(int(mask.any()))
        scored = detector.score(image, usual=usual)
        raw.append(scored.raw_score)
        errors.add(scored.mapped, mask)
        if pixels is not None:
            assert scored.anomaly_map is not None
            pixels.update(scored.anomaly_map, mask)
    return DrawnScores(np.array(raw), np.array(labels), pixels, errors.figures())


def validation_metrics(drawn: DrawnScores, threshold: Threshold) -> dict[str, float]:
    """Validation normals against themselves with drawn defects.

    `validation_AUROC` is what a sweep optimises; `validation_Recall`, where there is a cut, says how many of the drawn
    defects it finds: near 0, it lies too high to be of use.
    """
    found = image_metrics(drawn.labels, drawn.raw, threshold.label(drawn.raw))
    auroc, recall = found["image_AUROC"], found["image_Recall"]
    known = {"validation_AUROC": float("nan") if auroc is None else auroc}
    return known if recall is None else known | {"validation_Recall": recall}


def drawn_defects(normals: Pictures, *, seed: int) -> Iterator[Drawn]:
    """Every picture as it is, `image` and `original` in one, then with defects drawn onto it."""
    copies = -(-DRAWN_DEFECTS // max(1, len(normals)))
    for number, image in enumerate(normals.images()):
        yield Drawn(image, np.zeros(image.shape[-2:], bool), image)
        photograph = image[0].permute(1, 2, 0).numpy()  # (H, W, 3)
        foreground = estimate_foreground(photograph)
        for copy in range(copies):
            rng = np.random.default_rng([seed, number, copy])
            defective, mask = add_defect(photograph, rng, foreground=foreground)
            drawn = torch.from_numpy(np.ascontiguousarray(defective.transpose(2, 0, 1)))[None]
            yield Drawn(drawn, mask, image)


class Evaluation:
    """Takes the test pictures one by one and holds no map longer than needed; knows of no image cut.

    Args:
        detector: fitted and calibrated.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.raw: list[float] = []  # NaN for a part that could not be aligned
        self.embeddings: list[np.ndarray] = []
        self.latents: list[np.ndarray] = []
        self.errors = ReconstructionError("masks")
        self.pixels: PixelMetrics | None = None  # at original resolution; None without masks
        self.seconds: list[float] = []  # of pictures that were not remembered from an earlier run
        self._pixels, self._remembered = PixelMetrics(), detector.remembered

    def add(self, batch: Batch, scored: Scored, *, seconds: float) -> None:
        """One test picture, what the chain computed for it, and how long that took."""
        if self._remembered == self.detector.remembered:
            self.seconds.append(seconds)
        self._remembered = self.detector.remembered
        sample, alignment = batch.sample[0], batch.alignment[0]
        if not alignment.accepted and self.detector.on_not_aligned == "reject":
            self.raw.append(float("nan"))
            return
        self.raw.append(scored.raw_score)
        if scored.embedding is not None:
            self.embeddings.append(scored.embedding)
        if scored.mapped.latent is not None:
            self.latents.append(scored.mapped.latent[0].cpu().numpy())
        if sample.label == 0 or sample.mask_path is not None:
            self._compare(sample, alignment, scored)

    def _compare(self, sample: Sample, alignment: Alignment, scored: Scored) -> None:
        """With the mask of the true defect."""
        size = image_size(sample.path)
        mask = np.zeros(size, bool)
        if sample.mask_path is not None:
            mask = read_mask(sample.mask_path, size=size)
            registered = self.detector.preparation.mask_to_registered(mask, alignment)
            self.errors.add(scored.mapped, registered)
        if scored.anomaly_map is None:
            return
        if sample.mask_path is not None:
            self.pixels = self._pixels
        carried, flagged = self.detector.carry(scored.anomaly_map, alignment, size)
        # a cut on the map can be moved afterwards; what the mask's rule took out can't
        cut_alone = self.detector.postprocess.mask_rule.cut_alone
        self._pixels.update(carried, mask, flagged=None if cut_alone else flagged)


def judge_all(
    samples: Sequence[Sample], alignments: Sequence[Alignment], raw: np.ndarray, threshold: Threshold
) -> list[Prediction]:
    """The verdicts on pictures with raw scores (n,), NaN where a part could not be aligned."""
    predictions = []
    for sample, alignment, score in zip(samples, alignments, raw, strict=True):
        if np.isnan(score):
            predictions.append(not_aligned(sample.path, alignment))
            continue
        predictions.append(
            judge(
                path=sample.path,
                alignment=alignment,
                raw_score=float(score),
                anomaly_map=None,
                error=None,
                threshold=threshold,
                tau=None,
                rule=MaskRule(),
            )
        )
    return predictions


def evaluate(
    samples: Sequence[Sample],
    raw: np.ndarray,
    pixels: PixelMetrics | None,
    *,
    threshold: Threshold,
    tau: float | None,
    seed: int,
) -> dict[str, Any]:
    """The metrics of test pictures with raw scores (n,); an oracle threshold is fitted here, once labels are known."""
    aligned = ~np.isnan(raw)
    labels = np.array([sample.label for sample in samples])[aligned]
    defects = [sample.defect for sample, there in zip(samples, aligned, strict=True) if there]
    raw = raw[aligned]
    if isinstance(threshold, F1Threshold):
        threshold.fit_oracle(raw, labels)
    predicted = threshold.label(raw)
    return {
        "image": image_metrics(labels, raw, predicted),
        "intervals": bootstrap(labels, raw, predicted, seed=seed),
        "pixel": pixels.compute(tau=tau) if pixels else {},
        "pixel_curve": pixels.curve(CURVE_POINTS) if pixels else [],
        "per_defect": {
            defect: {"count": defects.count(defect), **found}
            for defect, found in per_defect(defects, raw, predicted).items()
        },
    }


def score_rows(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The rows of scores.csv."""
    return [
        score_row(prediction) | {"split": "test", "defect": sample.defect, "label": sample.label}
        for sample, prediction in zip(samples, predictions, strict=True)
    ]


def score_row(prediction: Prediction) -> dict[str, Any]:
    """What a row of scores.csv says of one photograph."""
    return {
        "path": str(prediction.path),
        "raw_score": None if prediction.rejected else prediction.raw_score,
        "pred_score": prediction.pred_score,
        "pred_label": prediction.pred_label,
        "registration_quality": prediction.alignment.quality,
        "rejected": prediction.rejected,
    }


def gallery(detector: Detector, data: InspectionData, rows: list[dict[str, Any]]) -> list[Example]:
    """The test pictures worth a look, scored again: keeping every map of the test would fill the memory."""
    pictures = data.of_role("test")
    return [example(detector, pictures[row]) for row in choose_examples(rows)]


def cleaned_examples(
    autoencoder: PatchAutoencoder, normals: Pictures, corruption: Corruption, *, seed: int
) -> np.ndarray:
    """Validation normals, the same with something pasted on, what the network makes of it, and the error.

    As the network sees them, in rows: uint8 (H, W, 3). A network that is trained without pasting is shown both
    families all the same: what it lets pass, it would not find.
    """
    corruption = corruption if corruption.active else Corruption(family="mixed")
    device = next(autoencoder.parameters()).device
    columns: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for number, image in enumerate(islice(normals.images(), EXAMPLES)):
        original = resize(image, autoencoder.downsize)[0].permute(1, 2, 0).numpy()
        corrupted = corruption(original, np.random.default_rng([seed, number])).image
        picture = torch.from_numpy(np.ascontiguousarray(corrupted.transpose(2, 0, 1)))[None].to(device)
        cleaned = autoencoder.map(picture).low_reconstruction
        assert cleaned is not None
        error = (picture - cleaned).abs().mean(dim=1)[0].cpu().numpy()
        cleaned_picture = cleaned[0].permute(1, 2, 0).cpu().numpy()
        for column, panel in zip(columns, (original, corrupted, cleaned_picture, error), strict=True):
            column.append(panel)
    return contact_sheet(*columns)


def example(detector: Detector, batch: Batch) -> Example:
    """All pictures of one test part, scored again."""
    sample, alignment = batch.sample[0], batch.alignment[0]
    scored = detector.score(batch.image)
    prediction = detector.judge(scored, sample.path, alignment)
    reconstruction = scored.mapped.reconstruction
    truth = None
    if sample.mask_path is not None:
        mask = read_mask(sample.mask_path, size=image_size(sample.path))
        truth = detector.preparation.mask_to_registered(mask, alignment)
    return Example(
        name=f"{sample.defect}/{sample.path.name}",
        defect=sample.defect,
        raw_score=prediction.raw_score,
        pred_score=prediction.pred_score,
        pred_label=prediction.pred_label,
        image=as_bytes(batch.image),
        reconstruction=None if reconstruction is None else as_bytes(reconstruction),
        anomaly_map=prediction.anomaly_map,
        pred_mask=prediction.pred_mask,
        true_mask=truth,
    )


def as_bytes(image: Tensor) -> np.ndarray:
    """A picture (1, 3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return (image[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
