"""Made-up runs to report on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anomalib_lite.types import GOOD, Example, RunRecord

CUT = 2.0


def row(defect: str, number: int, score: float | None, cut: float | None) -> dict[str, Any]:
    """A row of scores.csv."""
    judged = score is not None and cut is not None
    return {
        "path": f"/parts/test/{defect}/{number:03d}.png",
        "split": "test",
        "defect": defect,
        "label": int(defect != GOOD),
        "raw_score": score,
        "pred_score": 1 / (1 + np.exp(cut - score)) if judged else None,
        "pred_label": int(score > cut) if judged else None,
        "registration_quality": 0.98,
        "rejected": "" if score is not None else "not aligned: correlation 0.31, at least 0.60 expected",
    }


def example(row: dict[str, Any], *, masks: bool, reconstruction: bool) -> Example:
    """A gallery row of a grey part (24, 40) with a spot that stands out by its score."""
    image = np.full((24, 40, 3), 120, np.uint8)
    spot = np.zeros((24, 40), bool)
    spot[8:14, 10:18] = True
    anomaly_map = np.where(spot, 0.1 * row["raw_score"], 0.02).astype(np.float32)
    return Example(
        name=row["path"].rsplit("/", 1)[-1],
        defect=row["defect"],
        raw_score=row["raw_score"],
        pred_score=row["pred_score"],
        pred_label=row["pred_label"],
        image=image,
        reconstruction=image // 2 if reconstruction else None,
        anomaly_map=anomaly_map,
        pred_mask=anomaly_map > 0.2 if masks else None,
        true_mask=spot if masks and row["label"] else None,
    )


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    """A factory of records: 3 of 4 defective parts found, 1 of 5 good ones rejected, 1 part not aligned."""

    def make(
        *,
        good: bool = True,
        defective: bool = True,
        cut: float | None = CUT,
        masks: bool = True,
        trained: bool = True,
    ) -> RunRecord:
        rng = np.random.default_rng(0)
        scores: list[dict[str, Any]] = []
        if good:
            scores += [row(GOOD, i, score, cut) for i, score in enumerate([0.5, 0.7, 0.9, 1.1, 2.5])]
        if defective:
            scores += [row("hole", 0, 1.5, cut), row("hole", 1, 3.5, cut), row("crack", 0, 2.75, cut)]
            scores += [row("crack", 1, 6.125, cut), row("crack", 2, None, cut)]
        image = {"image_AUROC": 0.9512, "image_AP": 0.9634, "image_Recall": 0.75, "false_reject_rate": 0.2}
        threshold = {"rule": "conformal", "cut": cut, "value": None, "oracle": False, "calibration_count": 19}
        return RunRecord(
            title="cpcae on parts",
            command="python train.py model=cpcae data.root=/parts",
            facts={"seed": 0, "machine": "2 cores"},
            notes=["These pictures are rendered, not photographed."],
            excluded=[("/parts/train/broken.png", "expected a picture, found 0 bytes")],
            metrics={
                "image": image | {"chance_AP": 0.4444} if good and defective else {},
                "intervals": {"image_AUROC": [0.8123, 0.9912], "image_AP": [0.83, 0.997]},
                "pixel": {"pixel_AUROC": 0.9777, "pixel_AUPRO": None} if masks else {},
                "per_defect": {
                    "hole": {"count": 2, "image_AUROC": 0.9},
                    "crack": {"count": 2, "image_AUROC": 1.0},
                }
                if defective
                else {},
                "validation_AUROC": 0.8765,
                "threshold": threshold | {"tau": 0.2, "guarantee": "at most 5 % of good parts are rejected."}
                if cut is not None
                else None,
                "counts": {"train": 40, "test_good": 5},
                "seconds": {"training": 61.25, "fitting": None},
                "ms_per_image": 12.5,
            },
            scores=scores,
            calibration_scores=rng.uniform(0.3, 1.9, 19),
            validation_scores=rng.uniform(0.3, 1.9, 6),
            cut=cut,
            losses=[{"epoch": i, "train_loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1)} for i in range(4)]
            if trained
            else [],
            embeddings=rng.normal(size=(len(scores), 12)),
            latents=rng.normal(size=(len(scores), 3)) if trained else None,
            examples=[
                example(score, masks=masks, reconstruction=trained)
                for score in scores
                if score["raw_score"] is not None
            ],
        )

    return make
