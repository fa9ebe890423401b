"""Collects what the detector says of the test pictures, and of validation normals with drawn defects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.images import image_size, read_mask
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.data.pictures import Pictures
from anomalib_lite.data.resize import resize
from anomalib_lite.data.synthetic import add_defect, estimate_foreground
from anomalib_lite.detector import Detector, Drawn, Scored, not_aligned
from anomalib_lite.metrics import PixelMetrics, bootstrap, image_metrics, per_defect
from anomalib_lite.models.reconstruction import PatchAutoencoder
from anomalib_lite.report.contact_sheet import contact_sheet
from anomalib_lite.report.gallery import choose_examples
from anomalib_lite.scoring.threshold import F1Threshold
from anomalib_lite.types import Batch, Example, Prediction, Sample

DRAWN_DEFECTS = 48  # at least: with few validation normals, each gets more of them
CURVE_POINTS = 60
EXAMPLES = 6  # rows of the contact sheet


def validation_metrics(detector: Detector, validation_normals: Pictures, *, seed: int) -> dict[str, float]:
    """Validation normals against themselves with drawn defects: what was known before the test.

    `validation_AUROC` is what a sweep optimises; `validation_Recall`, where there is a cut, says how many of the drawn
    defects it finds: near 0, it lies too high to be of use.
    """
    labels, scores = [], []
    usual: Tensor | None = None
    for image, mask, original in drawn_defects(validation_normals, seed=seed):
        if image is original:  # comes before its copies
            usual = detector.usual_for_others(original)
        labels.append(int(mask.any()))
        scores.append(detector.score(image, usual=usual).raw_score)
    raw = np.array(scores)
    found = image_metrics(np.array(labels), raw, detector.threshold.label(raw))
    auroc, recall = found["image_AUROC"], found["image_Recall"]
    known = {"validation_AUROC": float("nan") if auroc is None else auroc}
    return known if recall is None else known | {"validation_Recall": recall}


def drawn_defects(normals: Pictures, *, seed: int) -> Iterator[Drawn]:
    """Every picture as it is, `image` and `original` in one, then with defects drawn onto it."""
    copies = -(-DRAWN_DEFECTS // len(normals))
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
    """Takes the test pictures one by one and holds no map longer than needed.

    Args:
        detector: fitted and calibrated.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.predictions: list[Prediction] = []
        self.samples: list[Sample] = []
        self.embeddings: list[np.ndarray] = []
        self.latents: list[np.ndarray] = []
        self.pixels = PixelMetrics(tau=detector.tau_)
        self.has_masks = False
        self.seconds: list[float] = []

    def add(self, batch: Batch, scored: Scored, *, seconds: float) -> None:
        """One test picture, what the chain computed for it, and how long that took."""
        self.seconds.append(seconds)
        sample, alignment = batch.sample[0], batch.alignment[0]
        self.samples.append(sample)
        if not alignment.accepted and self.detector.on_not_aligned == "reject":
            self.predictions.append(not_aligned(sample.path, alignment))
            return
        prediction = self.detector.judge(scored, sample.path, alignment)
        if scored.embedding is not None:
            self.embeddings.append(scored.embedding)
        if scored.mapped.latent is not None:
            self.latents.append(scored.mapped.latent[0].cpu().numpy())
        if prediction.anomaly_map is not None and (sample.label == 0 or sample.mask_path is not None):
            size = image_size(sample.path)
            anomaly_map, flagged = self.detector.carry(prediction, size)
            mask = (
                np.zeros(size, bool) if sample.mask_path is None else read_mask(sample.mask_path, size=size)
            )
            self.has_masks |= sample.mask_path is not None
            self.pixels.update(anomaly_map, mask, flagged=flagged)
        # only the gallery needs maps again, and recomputes its few
        prediction.anomaly_map = prediction.pred_mask = None
        self.predictions.append(prediction)

    def finish(self, *, seed: int) -> dict[str, Any]:
        """The metrics of metrics.json; an oracle threshold is fitted here, once labels are known."""
        scored = [(s, p) for s, p in zip(self.samples, self.predictions, strict=True) if not p.rejected]
        labels = np.array([sample.label for sample, _ in scored])
        defects = [sample.defect for sample, _ in scored]
        raw = np.array([prediction.raw_score for _, prediction in scored])
        threshold = self.detector.threshold
        if isinstance(threshold, F1Threshold):
            threshold.fit_oracle(raw, labels)
            for row, (_, prediction) in enumerate(scored):
                score, label = threshold.normalise(raw[[row]]), threshold.label(raw[[row]])
                assert score is not None
                assert label is not None
                prediction.pred_score, prediction.pred_label = float(score[0]), int(label[0])
        predicted = threshold.label(raw)
        return {
            "image": image_metrics(labels, raw, predicted),
            "intervals": bootstrap(labels, raw, predicted, seed=seed),
            "pixel": self.pixels.compute() if self.has_masks else {},
            "ms_per_image": 1000 * float(np.median(self.seconds)),
            "pixel_curve": self.pixels.curve(CURVE_POINTS) if self.has_masks else [],
            "per_defect": {
                defect: {"count": defects.count(defect), **found}
                for defect, found in per_defect(defects, raw, predicted).items()
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """The rows of scores.csv."""
        return [
            score_row(prediction) | {"split": "test", "defect": sample.defect, "label": sample.label}
            for sample, prediction in zip(self.samples, self.predictions, strict=True)
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
