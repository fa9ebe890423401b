"""benchmark.html: one page that needs nothing else, with every method of a comparison beside the papers' figures."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from anomalib_lite import __version__
from anomalib_lite.benchmark.grid import DataSet, Method
from anomalib_lite.published import GROUPS, PUBLISHED, REFERENCES, misprinted_means
from anomalib_lite.report.comparison_plots import (
    Curve,
    PixelCurve,
    Position,
    Scores,
    draw_against_paper,
    draw_latent_sizes,
    draw_pixel_curves,
    draw_roc_overlay,
    draw_scores,
)
from anomalib_lite.report.comparison_results import Comparison, Outcome, Summary, mean_roc
from anomalib_lite.report.comparison_rows import (
    defect_table,
    gallery_rows,
    main_table,
    means_table,
    offers,
    pixel_table,
)
from anomalib_lite.report.comparison_tables import chance_level
from anomalib_lite.report.comparison_text import lead, notes
from anomalib_lite.report.environment import inline, page_environment
from anomalib_lite.report.figures import number
from anomalib_lite.report.files import replace_file

PIXEL_FIGURES = ("F1", "precision", "recall")
LATENT_TITLES = {"image_AUROC": "image AUROC", "pixel_F1Score": "pixel F1", "pixel_AUPRO": "AUPRO"}
PAGE = "benchmark.html"


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of one data set."""

    part: DataSet
    chance: float | None  # average precision of guessing
    counts: str
    table: dict[str, Any]
    plots: dict[str, bytes]
    defects: dict[str, Any] | None
    gallery: dict[str, Any] | None
    pixels: list[dict[str, Any]]
    tsne: list[tuple[str, bytes, int]]  # method, PNG, its width on the page in pixels


class ComparisonPage:
    """Writes the page as often as wanted; only data sets with new results are drawn again."""

    def __init__(self) -> None:
        self._drawn: dict[str, tuple[tuple[Path, ...], Section]] = {}

    def write(self, comparison: Comparison, folder: Path) -> Path:
        """Write benchmark.html into a comparison's folder and return its path."""
        page = (
            _environment()
            .get_template("comparison.html.j2")
            .render(
                comparison=comparison,
                version=__version__,
                lead=lead(comparison),
                notes=notes(comparison),
                offers=offers(comparison),
                means=means_table(comparison),
                sections=[
                    section for part in comparison.data if (section := self._section(comparison, part))
                ],
                latent=_latent_sizes(comparison),
                failed=comparison.of_state("failed"),
                sources=_sources(comparison),
                misprints=_misprints(comparison),
                references=_references(comparison),
                facts=_facts(comparison),
            )
        )
        # backslashreplace: a label that is not UTF-8 must not cost the page
        return replace_file(folder / PAGE, page.encode("utf-8", errors="backslashreplace"))

    def _section(self, comparison: Comparison, part: DataSet) -> Section | None:
        rows = comparison.methods_on(part.label)
        if not rows:
            return None
        state = tuple(run.folder for _, runs in rows for run in runs)
        known = self._drawn.get(part.label)
        if known is None or known[0] != state:
            known = self._drawn[part.label] = state, make_section(comparison, part)
        return known[1]


def make_section(comparison: Comparison, part: DataSet) -> Section:
    """Everything about one data set that has finished runs."""
    rows = comparison.methods_on(part.label)
    return Section(
        part=part,
        chance=chance_level(comparison, part.label),
        counts=_counts(rows[0][1][0]),
        table=main_table(comparison, part),
        plots=_plots(comparison, part),
        defects=defect_table(comparison, part),
        gallery=gallery_rows(comparison, part),
        pixels=pixel_table(comparison, part),
        tsne=[
            (method.label, path.read_bytes(), _page_width(path))
            for method, runs in rows
            if (path := runs[0].folder / "plots" / "tsne.png").is_file()
        ],
    )


def _page_width(plot: Path) -> int:
    """So that one space has the same size beside another as alone."""
    with Image.open(plot) as picture:
        return round(0.42 * picture.width)


def _environment() -> Environment:
    environment = page_environment()
    environment.filters["jpeg"] = lambda content: inline(content, "jpeg")
    return environment


def _plots(comparison: Comparison, part: DataSet) -> dict[str, bytes]:
    rows = comparison.methods_on(part.label)
    plots = {}
    if positions := _positions(comparison, part, rows):
        plots["paper"] = draw_against_paper(positions, chance=0.5)
    if curves := _curves(comparison, rows):
        plots["roc"] = draw_roc_overlay(curves)
    scores = [
        Scores(m.label, runs[0].labels, runs[0].scores, runs[0].cut)
        for m, runs in rows
        if runs[0].scores.size
    ]
    if scores:
        plots["scores"] = draw_scores(scores)
    pixels = [curve for method, runs in rows if (curve := pixel_curve(method.label, runs[0]))]
    if pixels:
        plots["pixels"] = draw_pixel_curves(pixels)
    return plots


def _positions(
    comparison: Comparison, part: DataSet, rows: list[tuple[Method, list[Outcome]]]
) -> list[Position]:
    found = []
    for method, _ in rows:
        ours = comparison.summary(method.label, part.label, "image_AUROC")
        paper = None if method.paper is None else PUBLISHED[method.paper].figure(part.name, "image_AUROC")
        if ours is not None:
            printed = None if paper is None else (paper.low / 100, paper.high / 100)
            found.append(Position(method.label, ours, printed))
    return found


def _curves(comparison: Comparison, rows: list[tuple[Method, list[Outcome]]]) -> list[Curve]:
    curves = []
    for method, runs in rows:
        both = [(run.labels, run.scores) for run in runs if len(set(run.labels.tolist())) == 2]
        if both:
            x, y = mean_roc(both)
            number_ = comparison.methods.index(method)
            curves.append(Curve(number_, method.label, x, y, float(np.trapezoid(y, x))))
    return curves


def pixel_curve(label: str, run: Outcome) -> PixelCurve | None:
    """The curve that a run has recorded as `pixel_curve` in metrics.json; None where it has none.

    Its entries are {"tau": ..., "precision": ..., "recall": ..., "F1": ...}, by rising tau.
    """
    points = run.metrics.get("pixel_curve") or []
    if len(points) < 2:
        return None
    values = {
        name: np.array([np.nan if (value := number(point.get(name))) is None else value for point in points])
        for name in PIXEL_FIGURES
    }
    tau = np.array([float(point["tau"]) for point in points])
    return PixelCurve(label, tau, values, number((run.metrics.get("threshold") or {}).get("tau")))


def _latent_sizes(comparison: Comparison) -> list[tuple[str, bytes]]:
    """A plot for each data set on which a model ran with several sizes of its encoding."""
    plots = []
    for part in comparison.data:
        panels: dict[str, Mapping[str, list[tuple[int, Summary]]]] = {}
        for name, title in LATENT_TITLES.items():
            lines: dict[str, list[tuple[int, Summary]]] = {}
            for method in comparison.methods:
                found = comparison.summary(method.label, part.label, name)
                if found is not None and method.latent_dim is not None:
                    lines.setdefault(_family(method), []).append((method.latent_dim, found))
            several = {
                model: sorted(points, key=lambda point: point[0])
                for model, points in lines.items()
                if len({size for size, _ in points}) > 1
            }
            if several:
                panels[title] = several
        if panels:
            plots.append((part.label, draw_latent_sizes(panels)))
    return plots


def _family(method: Method) -> str:
    """What methods that differ in nothing but the size of the encoding have in common."""
    others = [option for option in method.options if not option.startswith(("model.latent_dim=", "model="))]
    return " ".join([method.model, *others])


def _counts(run: Outcome) -> str:
    counts = run.metrics.get("counts") or {}
    words = {"train": "to train", "validation": "to validate", "calibration": "to set the threshold"}
    words |= {"test_good": "good test parts", "test_defective": "defective test parts"}
    return ", ".join(f"{counts[name]} {word}" for name, word in words.items() if name in counts)


def _sources(comparison: Comparison) -> list[str]:
    names = {part.name for part in comparison.data}
    return list(dict.fromkeys(m.source for m in PUBLISHED.values() if names & m.figures.keys()))


def _misprints(comparison: Comparison) -> list[str]:
    """The printed means that don't follow from their columns, for groups of which a data set is compared."""
    names = {part.name for part in comparison.data}
    lines: dict[tuple[str, str], list[str]] = {}
    for title, group, metric, printed, actual in misprinted_means():
        if names & set(GROUPS[group]):
            short = metric.removeprefix("image_")
            lines.setdefault((title, group), []).append(
                f"{short} {printed:.2f} printed, {actual:.2f} from its columns"
            )
    return [f"{title}, {group}: {'; '.join(texts)}" for (title, group), texts in lines.items()]


def _references(comparison: Comparison) -> str:
    """Today's references, where all their categories are compared."""
    if not set(GROUPS["MVTec AD, 8 categories"]) <= {part.name for part in comparison.data}:
        return ""
    return ", ".join(f"{name} {value:.1f}" for name, value in REFERENCES.items())


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    return [
        ("written", datetime.now().astimezone().isoformat(timespec="seconds")),
        ("anomalib-lite", __version__),
        ("seeds", ", ".join(map(str, comparison.seeds))),
        ("runs at once", f"{comparison.jobs}, with {comparison.threads} threads each"),
        ("machine", f"{platform.machine()}, {platform.platform()}"),
    ]
