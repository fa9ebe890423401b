"""A comparison for other programs and for papers: table.csv, table.md and benchmark.json."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomalib_lite import __version__
from anomalib_lite.published import PUBLISHED
from anomalib_lite.report.comparison_results import Comparison, Summary, summarise
from anomalib_lite.report.files import replace_file


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of the tables."""

    name: str  # in metrics.json
    title: str
    ranked: bool = False  # the highest is the best; rates at a threshold are only read in pairs


COLUMNS = (
    Column("image_AUROC", "image AUROC", ranked=True),
    Column("image_AP", "image AP", ranked=True),
    Column("image_Accuracy", "accuracy"),
    Column("image_Recall", "defects found"),
    Column("false_reject_rate", "false rejects"),
    Column("pixel_AUROC", "pixel AUROC", ranked=True),
    Column("pixel_AUPRO", "AUPRO", ranked=True),
    Column("pixel_Precision", "pixel precision"),
    Column("pixel_Recall", "pixel recall"),
    Column("pixel_F1Score", "pixel F1", ranked=True),
    Column("pixel_F1Score_oracle", "pixel F1, oracle"),
    Column("validation_AUROC", "validation AUROC"),
)


def write_tables(comparison: Comparison, folder: Path) -> None:
    """Write benchmark.json, table.csv and table.md, each at once."""
    content = json.dumps(as_json(comparison, folder), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for name, text in (
        ("benchmark.json", content),
        ("table.csv", as_csv(comparison)),
        ("table.md", as_markdown(comparison)),
    ):
        replace_file(folder / name, text.encode("utf-8", errors="backslashreplace"))


def as_json(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Every raw figure; folders are relative to the comparison's."""
    return {
        "name": comparison.name,
        "command": comparison.command,
        "anomalib-lite": __version__,
        "seeds": comparison.seeds,
        "jobs": comparison.jobs,
        "threads": comparison.threads,
        "methods": [asdict(method) for method in comparison.methods],
        "data": [asdict(part) for part in comparison.data],
        "runs": [
            {
                "method": cell.method,
                "data": cell.data,
                "seed": cell.seed,
                "state": outcome.state,
                "arguments": list(cell.arguments),
                "folder": str(outcome.folder.relative_to(folder)),
                "seconds": outcome.seconds,
                "error": outcome.error,
                "metrics": dict(outcome.metrics),
            }
            for cell, outcome in comparison.outcomes.items()
        ],
        "published": {
            part.label: {
                key: {name: [figure.low, figure.high] for name, figure in method.figures[part.name].items()}
                for key, method in PUBLISHED.items()
                if part.name in method.figures
            }
            for part in comparison.data
        },
    }


def as_csv(comparison: Comparison) -> str:
    """A row for each method on each data set: mean, lowest and highest as shares of 1, and the paper's in percent."""
    names = [column.name for column in shown_columns(comparison)]
    header = ["data", "method", "seeds", "chance_AP", "paper_image_AUROC", "paper_image_AP"]
    header += [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    header += ["training_seconds", "ms_per_image"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for part in comparison.data:
        for method, runs in comparison.methods_on(part.label):
            row: list[Any] = [part.label, method.label, len(runs)]
            chance = comparison.summary(method.label, part.label, "chance_AP")
            row.append("" if chance is None else chance.mean)
            row += [published(method.paper, part.name, name) or "" for name in ("image_AUROC", "image_AP")]
            for name in names:
                found = comparison.summary(method.label, part.label, name)
                row += ["", "", ""] if found is None else [found.mean, found.low, found.high]
            trained = summarise([run.training_seconds for run in runs])
            speed = comparison.summary(method.label, part.label, "ms_per_image")
            row += ["" if found is None else round(found.mean, 2) for found in (trained, speed)]
            writer.writerow(row)
    return text.getvalue()


def as_markdown(comparison: Comparison) -> str:
    """A table for each data set in percent, with the paper's AUROC / AP beside ours."""
    blocks = []
    for part in comparison.data:
        rows = comparison.methods_on(part.label)
        columns = shown_columns(comparison, part.label)
        seeds = ", ".join(map(str, comparison.seeds))
        title = f"### {part.label}{' (rendered, not photographed)' if part.rendered else ''}"
        reading = f"Mean of seeds {seeds} in %, lowest to highest in brackets."
        reading = reading if len(comparison.seeds) > 1 else f"Seed {seeds}, in %."
        blocks.append(f"{title}\n\n{reading}{_chance(comparison, part.label)}")
        lines = [
            f"| method | paper AUROC / AP | {' | '.join(column.title for column in columns)} |",
            "|---" * (len(columns) + 2) + "|",
        ]
        for method, _ in rows:
            paper = [published(method.paper, part.name, name) for name in ("image_AUROC", "image_AP")]
            cells = [comparison.summary(method.label, part.label, column.name) for column in columns]
            texts = [_escape(method.label), " / ".join(text for text in paper if text), *map(_text, cells)]
            lines.append("| " + " | ".join(texts) + " |")
        blocks.append("\n".join(lines) if rows else "No run is finished yet.")
    failed = [f"- {_escape(str(cell))}: {outcome.error}" for cell, outcome in comparison.of_state("failed")]
    if failed:
        blocks.append("### Failed\n\n" + "\n".join(failed))
    return "\n\n".join(blocks) + "\n"


def published(key: str | None, data: str, name: str) -> str:
    """A printed figure as text, empty where nothing is printed."""
    figure = None if key is None else PUBLISHED[key].figure(data, name)
    return "" if figure is None else str(figure)


def shown_columns(comparison: Comparison, data: str | None = None) -> list[Column]:
    """The columns that any finished run, of a data set or of all, has a figure for."""
    runs = [
        outcome
        for cell, outcome in comparison.outcomes.items()
        if outcome.state == "done" and data in (None, cell.data)
    ]
    return [column for column in COLUMNS if any(run.figure(column.name) is not None for run in runs)]


def chance_level(comparison: Comparison, data: str) -> float | None:
    """The average precision that guessing reaches on a data set."""
    found = [run.figure("chance_AP") for _, runs in comparison.methods_on(data) for run in runs]
    summary = summarise(found)
    return None if summary is None else summary.mean


def _chance(comparison: Comparison, data: str) -> str:
    chance = chance_level(comparison, data)
    return "" if chance is None else f" Guessing reaches {100 * chance:.1f} of AP."


def _text(summary: Summary | None) -> str:
    return "" if summary is None else summary.text()


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
