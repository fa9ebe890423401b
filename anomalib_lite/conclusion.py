"""From raw scores to verdicts, metrics, bundle and report: all that a cut decides."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from anomalib_lite.building import value_object
from anomalib_lite.bundle import derive_bundle
from anomalib_lite.calibration import calibration_card
from anomalib_lite.cuts import Labelled, study_cuts
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.detector import Detector
from anomalib_lite.evaluation import DrawnScores, evaluate, example, judge_all, score_rows, validation_metrics
from anomalib_lite.fitting import Fitted
from anomalib_lite.record import about, gather_record
from anomalib_lite.report.comparison_examples import choose_shared, write_examples
from anomalib_lite.report.page import write_report
from anomalib_lite.report.tables import write_metrics, write_scores
from anomalib_lite.report.verdict import rate_intervals, tally
from anomalib_lite.scores import Scores
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.scoring.threshold import Threshold
from anomalib_lite.types import Sample

log = logging.getLogger(__name__)

CUTS = 200  # points of the pixel cut's curves


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a run says in the end.

    Args:
        threshold: fitted.
        postprocess: with the cut that was asked for.
        metrics: the content of metrics.json.
        rows: of scores.csv.
        facts: of the report and of the bundle's card.
    """

    threshold: Threshold
    postprocess: PostProcess
    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    facts: dict[str, Any]


def conclude(
    cfg: DictConfig,
    data: InspectionData,
    fitted: Fitted,
    folder: Path,
    seconds: dict[str, float],
    to_note: dict[str, str],
) -> Conclusion:
    """Set the cuts, judge the test pictures, and write metrics.json, scores.csv and bundle/.

    `to_note` are further facts of the report and of the bundle's card.

    Raises:
        InputError: where the rule can't set a cut, or nothing can be written.
    """
    scores, postprocess = fitted.scores, value_object(cfg.postprocess)
    threshold: Threshold = value_object(cfg.threshold).fit(scores.calibration, scores.validation)
    tau = scores.tau if postprocess.tau is None else postprocess.tau
    test = data.of_role("test")
    samples, alignments = test.of_rows()
    metrics = evaluate(samples, scores.test, scores.pixels, threshold=threshold, tau=tau, seed=cfg.seed)
    warn_of_equal(scores.test)
    predictions = judge_all(samples, alignments, scores.test, threshold)
    rows = score_rows(samples, predictions)
    counts = tally(rows)
    observed = rate_intervals(counts)  # Wilson's: a rate of 0 has a width too
    metrics["intervals"] |= observed
    drawn = DrawnScores(scores.drawn, scores.drawn_labels, scores.drawn_pixels)
    metrics |= validation_metrics(drawn, threshold)
    metrics |= about(data, predictions, threshold, tau)
    metrics |= {
        "ms_per_image": scores.ms_per_image,
        "seconds": seconds,
        "training": {"seconds": scores.training_seconds},  # of this network, also where it was reused
        **scores.extra,
    }
    facts = scores.facts | {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": cfg.data.name,
        **to_note,
        "calibration": calibration_card(
            normals={role: len(data.rows[role]) for role in ("train", "validation", "calibration")},
            threshold=threshold,
            rejected=counts.false_rejects,
            judged=counts.accepted + counts.false_rejects,
            interval=observed.get("false_reject_rate"),
        ),
    }
    changes = {"threshold": threshold.state(), "postprocess": asdict(postprocess), "card": facts}
    derive_bundle(fitted.chain, folder / "bundle", changes)
    write_metrics(metrics, folder)
    write_scores(rows, folder)
    if cfg.cuts:
        print(f"cuts:   {_write_cuts(cfg, fitted.scores, samples, threshold, tau, folder)}")
    return Conclusion(threshold=threshold, postprocess=postprocess, metrics=metrics, rows=rows, facts=facts)


def warn_of_equal(raw: np.ndarray) -> None:
    """Say so where test pictures have one raw score (n,), whatever they show; NaN does not count."""
    known = raw[~np.isnan(raw)]
    if len(known) > 1 and np.ptp(known) == 0:
        log.warning(
            "all %d test pictures have the raw score %g: it tells nothing apart", len(known), known[0]
        )


def _write_cuts(
    cfg: DictConfig,
    scores: Scores,
    samples: Sequence[Sample],
    threshold: Threshold,
    tau: float | None,
    folder: Path,
) -> Path:
    from anomalib_lite.report.cuts import write_cuts  # draws: not at the start of every job

    aligned = ~np.isnan(scores.test)
    labels = np.array([sample.label for sample in samples])
    study = study_cuts(
        known=Labelled(scores.drawn, scores.drawn_labels),
        test=Labelled(scores.test[aligned], labels[aligned]),
        threshold=threshold,
        tau=tau,
        known_pixels=scores.drawn_pixels.curve(CUTS) if scores.drawn_pixels else [],
        test_pixels=scores.pixels.curve(CUTS) if scores.pixels else [],
    )
    return write_cuts(study, folder, title=f"{cfg.model.name} on {cfg.data.name}")


def write_page(
    cfg: DictConfig, data: InspectionData, fitted: Fitted, conclusion: Conclusion, folder: Path
) -> Path:
    """Write report.html, its plots, and the examples that a comparison shows; returns the page."""
    detector = fitted.detector or Detector.load(fitted.chain)
    detector.threshold, detector.postprocess = conclusion.threshold, conclusion.postprocess
    record = gather_record(
        title=f"{cfg.model.name} on {cfg.data.name}",
        command=" ".join(["anomalib-lite-train", *HydraConfig.get().overrides.task]),
        rendered=cfg.data.rendered and cfg.data.root is None,
        data=data,
        detector=detector,
        scores=fitted.scores,
        metrics=conclusion.metrics,
        rows=conclusion.rows,
        facts=conclusion.facts,
        corruption=value_object(cfg.corruption),
        seed=cfg.seed,
    )
    page = write_report(record, folder)
    pictures = data.of_role("test")
    shown = [example(detector, pictures[row]) for row in choose_shared(conclusion.rows)]
    write_examples(shown, folder, cut=detector.tau_)  # for a comparison: the same ones of every method
    return page
