"""report.html: one page that needs nothing else, made from a RunRecord with the template beside this file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from anomalib_lite import __version__
from anomalib_lite.report.environment import inline, page_environment
from anomalib_lite.report.figures import (
    READINGS,
    KeyFigure,
    image_figures,
    number,
    percent,
    percent_range,
    pixel_figures,
    validation_figures,
)
from anomalib_lite.report.files import replace_file
from anomalib_lite.report.gallery import Scale, arrange, common_scale, jpeg, montage, panels, png
from anomalib_lite.report.plots import draw_histogram, draw_losses, draw_precision_recall, draw_roc
from anomalib_lite.report.tsne import draw_tsne
from anomalib_lite.report.verdict import guarantee, is_scored, rate_intervals, tally, verdict
from anomalib_lite.types import GOOD, Example, RunRecord

MOST_ROWS = 2000  # of the table of all scores; the rest is in scores.csv
DEFECT_COLUMNS = ("image_AUROC", "image_AP", "image_Recall", "image_F1Score", "pixel_AUROC", "pixel_AUPRO")


def write_report(record: RunRecord, folder: Path) -> Path:
    """Write `report.html` and `plots/*.png` into a run's folder and return the page's path.

    Every part of the record may be missing: the page then leaves out what it can't show. Raises ValueError if
    `embeddings` or `latents` have neither a row for each score row nor one for each scored part.
    """
    plots = _plots(record)
    scale = common_scale(record.examples, _pixel_cut(record.metrics))
    gallery = _gallery(record, scale)
    for name, content in plots.items():
        replace_file(folder / "plots" / f"{name}.png", content)
    if record.contact_sheet is not None:
        replace_file(folder / "plots" / "contact_sheet.png", png(record.contact_sheet))
    if gallery:
        rows = [
            (f"{row['outcome']}: {row['caption']}", row["panels"])
            for group in gallery
            for row in group["rows"]
        ]
        replace_file(folder / "plots" / "gallery.png", montage(rows))
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            version=__version__,
            tally=tally(record.scores),
            verdict=verdict(record),
            guarantee=guarantee(record.metrics),
            figures=_key_figures(record),
            plots=plots,
            gallery=gallery,
            scale=_scale_legend(scale),
            outlined=any(example.pred_mask is not None for example in record.examples),
            defects=_defect_table(record),
            scores=_score_table(record),
            left_out=_left_out(record),
            about=_about(record),
        )
    )
    # backslashreplace: a file name that is not UTF-8 must not cost the report
    return replace_file(folder / "report.html", page.encode("utf-8", errors="backslashreplace"))


def _environment() -> Environment:
    environment = page_environment()
    environment.filters["percent_range"] = percent_range
    environment.filters["jpeg"] = lambda picture: inline(jpeg(picture), "jpeg")
    return environment


def _plots(record: RunRecord) -> dict[str, bytes]:
    """The plots that this record has data for, by file name."""
    scored = [row for row in record.scores if is_scored(row)]
    labels = np.array([int(row["label"]) for row in scored])
    scores = np.array([float(row["raw_score"]) for row in scored])
    defects = [str(row["defect"]) for row in scored]
    decided = bool(scored) and all(number(row.get("pred_label")) is not None for row in scored)
    decisions = np.array([int(row["pred_label"]) for row in scored]) if decided else None
    plots: dict[str, bytes] = {}
    if len(set(labels.tolist())) == 2:
        plots["roc"] = draw_roc(labels, scores, decisions)
        plots["pr"] = draw_precision_recall(labels, scores, decisions)
    if scored:
        normals = {
            "validation (good)": record.validation_scores[np.isfinite(record.validation_scores)],
            "calibration (good)": record.calibration_scores[np.isfinite(record.calibration_scores)],
        }
        plots["score_histogram"] = draw_histogram(defects, scores, normals, number(record.cut))
    tsne = draw_tsne(_spaces(record), defects)
    if tsne is not None:
        plots["tsne"] = tsne
    if record.losses:
        plots["losses"] = draw_losses(record.losses)
    return plots


def _spaces(record: RunRecord) -> dict[str, np.ndarray]:
    """The vectors of the scored parts by the space they lie in."""
    scored = np.array([is_scored(row) for row in record.scores], dtype=bool)
    spaces = {}
    for title, name in (
        ("Embeddings of the anomaly maps", "embeddings"),
        ("Latent vectors of the autoencoder", "latents"),
    ):
        vectors = getattr(record, name)
        if vectors is None:
            continue
        if len(vectors) not in (scored.size, scored.sum()):
            raise ValueError(f"{name}: expected {scored.size} rows, one for each score, found {len(vectors)}")
        spaces[title] = vectors[scored] if len(vectors) == scored.size else vectors
    return spaces


def _key_figures(record: RunRecord) -> list[tuple[str, list[KeyFigure]]]:
    """The figures in titled groups, with the same intervals of the rates as in the verdict."""
    exact = rate_intervals(tally(record.scores))
    image = [
        replace(figure, interval=exact.get(figure.name, figure.interval))
        for figure in image_figures(record.metrics)
    ]
    groups = [
        ("Whole parts", image),
        ("Where the defects are", pixel_figures(record.metrics)),
        ("Known before the test", validation_figures(record.metrics)),
    ]
    known = [(title, [figure for figure in group if figure.value is not None]) for title, group in groups]
    return [(title, group) for title, group in known if group]


def _pixel_cut(metrics: Mapping[str, Any]) -> float | None:
    return number((metrics.get("threshold") or {}).get("tau"))


def _score_text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _digits(values: Sequence[float]) -> int:
    """Decimals that show five figures of the largest value, so that a column of scores lines up."""
    largest = max((abs(value) for value in values), default=1.0)
    return int(np.clip(4 - np.floor(np.log10(largest)), 0, 6)) if largest > 0 else 1


def _outcome(label: int, decision: float | None) -> str:
    if decision is None:
        return "defective" if label else "good"
    return {(1, 1): "found", (1, 0): "missed", (0, 0): "accepted", (0, 1): "false reject"}[
        label, int(decision)
    ]


def _gallery(record: RunRecord, scale: Scale) -> list[dict[str, Any]]:
    """The groups of examples with their rows: what to write above a row, and its pictures."""
    cut = number(record.cut)
    digits = _digits([example.raw_score for example in record.examples] + ([] if cut is None else [cut]))
    threshold = "" if cut is None else f", threshold {cut:.{digits}f}"
    pictures = {id(example): panels(example, scale) for example in record.examples}
    # a column that this method never fills is left out
    shown = {panel.title for row in pictures.values() for panel in row if panel.picture is not None}

    def row(example: Example) -> dict[str, Any]:
        name = example.name if example.defect in example.name else f"{example.defect} · {example.name}"
        return {
            "outcome": _outcome(int(example.defect != GOOD), example.pred_label),
            "caption": f"{name} · score {example.raw_score:.{digits}f}{threshold}",
            "name": name,
            "panels": [panel for panel in pictures[id(example)] if panel.title in shown],
        }

    return [
        {"title": group.title, "rows": [row(example) for example in group.examples]}
        for group in arrange(record.examples)
    ]


def _scale_legend(scale: Scale) -> dict[str, Any]:
    places = (*range(0, 121, 12), 127, 128, *range(135, 256, 12))  # 127 | 128: the step at the cut
    stops = ", ".join(f"#{bytes(scale.colours[place]).hex()} {place / 2.55:.1f}%" for place in places)
    return {"stops": stops, "top": f"{scale.top:.3g}", "cut": "" if scale.cut is None else f"{scale.cut:.3g}"}


def _defect_table(record: RunRecord) -> dict[str, Any]:
    """A row for each defect type: its count, how many were found, and the metrics that any of them has."""
    values = record.metrics.get("per_defect") or {}
    columns = [
        name for name in DEFECT_COLUMNS if any(number(row.get(name)) is not None for row in values.values())
    ]
    rows = []
    for defect, row in values.items():
        counts = tally(score for score in record.scores if score.get("defect") == defect)
        rows.append(
            {
                "defect": defect,
                "count": counts.defective or row.get("count", ""),
                "found": f"{counts.found}" if counts.decided else "",
                "values": [percent(number(row.get(name))) for name in columns],
            }
        )
    titles = [(name, READINGS[name][0]) for name in columns]
    return {"columns": titles, "rows": rows, "decided": any(row["found"] for row in rows)}


def _score_table(record: RunRecord) -> dict[str, Any]:
    """All test parts from the highest score down, as text, with paths relative to the folder they share."""
    rows = sorted((row for row in record.scores if is_scored(row)), key=lambda row: -row["raw_score"])
    folder = _shared_folder([str(row["path"]) for row in rows])
    digits = _digits([row["raw_score"] for row in rows])
    qualities = [number(row.get("registration_quality")) for row in rows]
    return {
        "folder": folder,
        "total": len(rows),
        "has_quality": any(quality is not None for quality in qualities),
        "has_pred_score": any(number(row.get("pred_score")) is not None for row in rows),
        "rows": [
            {
                "path": os.path.relpath(str(row["path"]), folder) if folder else str(row["path"]),
                "defect": row["defect"],
                "outcome": _outcome(int(row["label"]), number(row.get("pred_label"))),
                "raw_score": _score_text(row["raw_score"], digits),
                "pred_score": _score_text(number(row.get("pred_score")), 3),
                "quality": _score_text(quality, 3),
            }
            for row, quality in zip(rows[:MOST_ROWS], qualities, strict=False)
        ],
    }


def _shared_folder(paths: Sequence[str]) -> str:
    """The folder that all of several absolute paths share, or nothing."""
    if len(paths) < 2 or not all(os.path.isabs(path) for path in paths):
        return ""
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def _left_out(record: RunRecord) -> list[tuple[str, str]]:
    """Files without a score and why: what the run excluded, and test parts that could not be aligned."""
    listed = {str(path) for path, _ in record.excluded}
    unscored = [
        (str(row["path"]), str(row.get("rejected") or "no score"))
        for row in record.scores
        if not is_scored(row) and str(row["path"]) not in listed
    ]
    return [(str(path), reason) for path, reason in record.excluded] + unscored


def _about(record: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """The facts of the run in titled lists of name and value."""
    threshold = record.metrics.get("threshold") or {}
    rule = [
        ("rule", str(threshold.get("rule") or "none") + (" (an oracle)" if threshold.get("oracle") else "")),
        ("raw score at the cut", "" if number(record.cut) is None else f"{record.cut:.6g}"),
        ("good parts that set it", str(threshold.get("calibration_count") or "")),
        ("pixel cut", "" if _pixel_cut(record.metrics) is None else f"{_pixel_cut(record.metrics):g}"),
    ]
    counts = [(_words(name), str(count)) for name, count in (record.metrics.get("counts") or {}).items()]
    seconds = {name: number(value) for name, value in (record.metrics.get("seconds") or {}).items()}
    times = [(_words(name), f"{value:.1f} s") for name, value in seconds.items() if value is not None]
    each = number(record.metrics.get("ms_per_image"))
    if each is not None:
        times.append(("each picture", f"{each:.1f} ms"))
    facts = [(name, str(value)) for name, value in record.facts.items() if name != "calibration"]
    lists = [
        ("Run", facts),
        ("Calibration card", _card(record.facts.get("calibration") or {})),
        ("Threshold", rule),
        ("Pictures", counts),
        ("Time", times),
    ]
    return [(title, shown) for title, rows in lists if (shown := [row for row in rows if row[1]])]


def _card(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the cut promises, as `calibration.calibration_card` states it."""
    normals = ", ".join(f"{count} {role}" for role, count in card.get("normals", {}).items())
    alpha = number(card.get("alpha"))
    return [
        ("good parts used", normals),
        ("alpha", "" if alpha is None else f"{alpha:g}"),
        ("guaranteed false rejects", str(card.get("guarantee") or "")),
        ("observed false rejects", str(card.get("observed false rejects") or "")),
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")
