"""What a finished run says of itself: for metrics.json, for the bundle's card and for the report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import torch

from anomalib_lite import __version__
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.detector import Detector
from anomalib_lite.evaluation import cleaned_examples, gallery
from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import PatchAutoencoder
from anomalib_lite.scores import Scores
from anomalib_lite.scoring.threshold import Threshold
from anomalib_lite.stages import digest
from anomalib_lite.types import Prediction, RunRecord

RENDERED = "These pictures are rendered, not photographed: figures on them say nothing about real parts."


def about(
    data: InspectionData, predictions: Sequence[Prediction], threshold: Threshold, tau: float | None
) -> dict[str, Any]:
    """The parts of metrics.json that are not metrics of the test pictures."""
    test, _ = data.of_role("test").of_rows()
    return {
        "threshold": {
            "rule": threshold.rule,
            "cut": threshold.raw_cut,
            "value": threshold.value,
            "oracle": threshold.oracle,
            "guarantee": threshold.guarantee_,
            "calibration_count": len(data.rows["calibration"]),
            "tau": tau,
        },
        "counts": {
            **{role: len(data.rows[role]) for role in ("train", "validation", "calibration")},
            "test_good": sum(sample.label == 0 for sample in test),
            "test_defective": sum(sample.label == 1 for sample in test),
            "excluded": len(data.excluded),
            "not_aligned": sum(bool(prediction.rejected) for prediction in predictions),
        },
    }


def gather_facts(
    data: InspectionData, detector: Detector, *, name: str, seed: int, threads: int
) -> dict[str, Any]:
    """What a reader needs to repeat the run, and to know what the bundle is."""
    facts: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "anomalib-lite": __version__,
        "torch": torch.__version__,
        "seed": seed,
        "data": name,
        "data hash": digest(data.made_from["files"]),
        "registration": data.preparation.registration.decision_,
        "registered picture": " x ".join(map(str, data.pictures.shape[-2:])) + " pixels (height x width)",
        "network's picture": " x ".join(map(str, data.downsize)) + " pixels (height x width)",
        "device": torch.cuda.get_device_name() if detector.device.type == "cuda" else "processor",
        "machine": f"{platform.machine()}, {threads} threads, {platform.platform()}",
    }
    if isinstance(detector.model, PatchAutoencoder):
        patches = data.grid.count(data.downsize)
        facts["patches"] = f"{patches} of {data.grid.size} pixels, stride {data.grid.stride}"
    backbone = detector.model.features if isinstance(detector.model, PositionalMemory) else detector.embedder
    if backbone is not None:
        weights = backbone.weights
        facts["embedding"] = f"{weights.backbone}, {backbone.precision}"
        facts["weights"] = f"{weights.source}, SHA-256 {weights.sha256}"
    return facts


def gather_record(
    *,
    title: str,
    command: str,
    rendered: bool,
    data: InspectionData,
    detector: Detector,
    scores: Scores,
    metrics: dict[str, Any],
    rows: list[dict[str, Any]],
    facts: dict[str, Any],
    corruption: Corruption,
    seed: int,
) -> RunRecord:
    """All that the report is made from."""
    notes = [RENDERED] if rendered else []
    if detector.threshold.oracle:
        notes.append("The threshold is an oracle: it was chosen with the labels of the test pictures.")
    return RunRecord(
        title=title,
        command=command,
        facts=facts,
        notes=notes,
        excluded=data.excluded,
        metrics=metrics,
        scores=rows,
        calibration_scores=scores.calibration,
        validation_scores=scores.validation,
        cut=detector.threshold.raw_cut,
        losses=scores.losses,
        embeddings=scores.embeddings,
        latents=scores.latents,
        examples=gallery(detector, data, rows),
        contact_sheet=(
            cleaned_examples(detector.model, data.of_role("validation"), corruption, seed=seed)
            if isinstance(detector.model, PatchAutoencoder)
            else None
        ),
    )
