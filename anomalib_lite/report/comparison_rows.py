"""The tables of benchmark.html, as text that the template only has to place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalib_lite.benchmark.grid import DataSet
from anomalib_lite.published import GROUPS, HAZELNUT_RIVALS, PIXEL_METRICS, PUBLISHED, f1
from anomalib_lite.report.comparison_examples import INPUT, MAP, RECONSTRUCTION, TRUTH, read_examples
from anomalib_lite.report.comparison_results import Comparison, Outcome, Summary, summarise
from anomalib_lite.report.comparison_tables import published, shown_columns
from anomalib_lite.report.figures import interval_of, number

MAIN = (
    "image_AUROC", "image_AP", "image_Accuracy", "image_Recall", "false_reject_rate", "pixel_AUROC", "pixel_AUPRO",
    "pixel_F1Score",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableCell:
    """A figure in percent, its spread over the seeds, and whether it is the best of its column."""

    text: str = ""
    spread: str = ""
    best: bool = False


def table_cell(summary: Summary | None, *, best: bool = False, digits: int = 2) -> TableCell:
    """A summary of shares of 1 as a cell in percent.

    >>> table_cell(Summary(0.9, 0.85, 0.95, 3))
    TableCell(text='90.00', spread='85.0–95.0', best=False)
    """
    if summary is None:
        return TableCell()
    spread = f"{100 * summary.low:.1f}–{100 * summary.high:.1f}" if summary.count > 1 else ""
    return TableCell(f"{100 * summary.mean:.{digits}f}", spread, best)


def offers(comparison: Comparison) -> list[dict[str, str]]:
    """The row of each method by what it gives."""
    rows = []
    for method in comparison.methods:
        per_set = [runs for part in comparison.data if (runs := comparison.done(method.label, part.label))]
        every = [run for runs in per_set for run in runs]
        if not every:
            continue
        trained = summarise([run.training_seconds for run in every])
        speed = summarise([run.figure("ms_per_image") for run in every])
        whole = summarise([run.seconds for run in every])
        rows.append(
            {
                "label": method.label,
                "detects": _detects(per_set),
                "localises": "yes" if any(run.localises for run in every) else "no",
                "trains_on": method.trains_on,
                "training": _seconds(trained),
                "speed": "–" if speed is None else f"{speed.mean:.1f} ms",
                "whole": _seconds(whole),
            }
        )
    return rows


def _detects(per_set: Sequence[Sequence[Outcome]]) -> str:
    """On how many data sets every seed is better than guessing, by its 95 % interval."""
    lows = [[interval_of(run.metrics, "image_AUROC") for run in runs] for runs in per_set]
    better = sum(all(interval is not None and interval[0] > 0.5 for interval in found) for found in lows)
    if better == len(lows):
        return "yes"
    return "no better than guessing" if better == 0 else f"on {better} of {len(lows)} data sets"


def _seconds(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    return f"{summary.mean:.1f} s" if summary.mean < 10 else f"{summary.mean:,.0f} s"


def main_table(comparison: Comparison, part: DataSet) -> dict[str, Any]:
    """Columns, a row for each method that ran, and a row for each that is only published."""
    rows = comparison.methods_on(part.label)
    columns = [column for column in shown_columns(comparison, part.label) if column.name in MAIN]
    printed = {
        column.name for column in columns for key in PUBLISHED if published(key, part.name, column.name)
    }
    ours, best = {}, {}
    for column in columns:
        found = {m.label: comparison.summary(m.label, part.label, column.name) for m, _ in rows}
        means = [summary.mean for summary in found.values() if summary is not None]
        ours[column.name] = found
        best[column.name] = max(means) if column.ranked and len(means) > 1 else None

    def cells(label: str | None, paper: str | None) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        for column in columns:
            summary = None if label is None else ours[column.name][label]
            top = summary is not None and summary.mean == best[column.name]
            listed.append({"paper": False, "cell": table_cell(summary, best=top)})
            if column.name in printed:
                listed.append({"paper": True, "cell": TableCell(published(paper, part.name, column.name))})
        return listed

    taken = {method.paper for method, _ in rows}
    heads = [
        {"title": title, "name": column.name, "paper": paper}
        for column in columns
        for title, paper in ((column.title, False), ("published", True))
        if not paper or column.name in printed
    ]
    return {
        "heads": heads,
        "rows": [
            {"label": m.label, "seeds": len(runs), "cells": cells(m.label, m.paper)} for m, runs in rows
        ],
        "published": [
            {"label": method.title, "cells": cells(None, key)}
            for key, method in PUBLISHED.items()
            if key not in taken and any(published(key, part.name, name) for name in printed)
        ],
    }


def means_table(comparison: Comparison) -> dict[str, Any] | None:
    """Means over the data sets beside the papers'; None for a single data set."""
    if len(comparison.data) < 2:
        return None
    names = [part.name for part in comparison.data]
    group = next((group for group, members in GROUPS.items() if set(members) == set(names)), None)
    won = comparison.wins()
    rows: list[dict[str, Any]] = []
    for method in comparison.methods:
        ours = [comparison.mean_over_data(method.label, name) for name in ("image_AUROC", "image_AP")]
        paper = None if method.paper is None else PUBLISHED[method.paper]
        columns = [None if paper is None else paper.mean(names, name) for name in ("image_AUROC", "image_AP")]
        printed = {} if paper is None or group is None else paper.printed_means.get(group, {})
        rows.append(
            {
                "label": method.label,
                "ours": ["–" if mean is None else f"{100 * mean:.2f}" for mean in ours],
                "columns": ["" if mean is None else f"{mean:.2f}" for mean in columns],
                "printed": [
                    f"{printed[name]:.2f}" if name in printed else "" for name in ("image_AUROC", "image_AP")
                ],
                "wins": won[method.label],
            }
        )
    return {"rows": rows, "group": group, "has_paper": any(any(row["columns"]) for row in rows)}


def defect_table(comparison: Comparison, part: DataSet) -> dict[str, Any] | None:
    """Image AUROC of each type of defect against all good parts: a row a type, a column a method."""
    rows = comparison.methods_on(part.label)
    types: dict[str, int] = {}
    for _, runs in rows:
        for defect, found in (runs[0].metrics.get("per_defect") or {}).items():
            types[defect] = max(types.get(defect, 0), int(found.get("count") or 0))
    if not types:
        return None
    table = []
    for defect, count in types.items():
        found = [summarise([_of_defect(run, defect, "image_AUROC") for run in runs]) for _, runs in rows]
        top = max((summary.mean for summary in found if summary is not None), default=None)
        cells = [
            table_cell(s, best=s is not None and len(rows) > 1 and s.mean == top, digits=1) for s in found
        ]
        table.append({"defect": defect, "count": count, "cells": cells})
    return {"heads": [method.label for method, _ in rows], "rows": table}


def pixel_table(comparison: Comparison, part: DataSet) -> list[dict[str, Any]]:
    """Recall, precision and F1 of pixels at the cut in use, for all defects and each type, and what is printed."""
    table: list[dict[str, Any]] = []
    for method, runs in comparison.methods_on(part.label):
        overall = [summarise([run.figure(name) for run in runs]) for name in PIXEL_METRICS]
        if all(found is None for found in overall):
            continue
        oracle = summarise([run.figure("pixel_F1Score_oracle") for run in runs])
        cells = [table_cell(found, digits=1) for found in overall]
        table.append(_pixel_row(method.label, "all", cells, table_cell(oracle, digits=1)))
        for defect in runs[0].metrics.get("per_defect") or {}:
            found = [summarise([_of_defect(run, defect, name) for run in runs]) for name in PIXEL_METRICS]
            if any(summary is not None for summary in found):
                table.append(
                    _pixel_row(method.label, defect, [table_cell(summary, digits=1) for summary in found])
                )
    if table and part.name == "hazelnut":
        table += _printed_pixels()
    return table


def _printed_pixels() -> list[dict[str, Any]]:
    paper = PUBLISHED["encoder_decoder"]
    printed = paper.figures["hazelnut"]
    defects = dict.fromkeys(name.partition("/")[0] for name in printed)
    figures = [
        (paper.title, defect, tuple(printed[f"{defect}/{name}"].low for name in PIXEL_METRICS))
        for defect in defects
    ]
    figures += [(rival, "all", values) for rival, values in HAZELNUT_RIVALS.items()]
    rows = []
    for label, scope, (recall, precision, harmonic) in figures:
        follows = f1(recall, precision)
        spread = f"{follows:.0f} follows" if abs(follows - harmonic) > 1.5 else ""
        cells = [TableCell(f"{recall:g}"), TableCell(f"{precision:g}"), TableCell(f"{harmonic:g}", spread)]
        rows.append(_pixel_row(label, scope, cells) | {"published": True})
    return rows


def _pixel_row(
    label: str, scope: str, cells: list[TableCell], oracle: TableCell | None = None
) -> dict[str, Any]:
    return {"label": label, "scope": scope, "cells": [*cells, oracle or TableCell()], "published": False}


def gallery_rows(comparison: Comparison, part: DataSet) -> dict[str, Any] | None:
    """The same test pictures for every method: input, truth, then reconstruction and map of each."""
    shown = [(method, read_examples(runs[0].folder)) for method, runs in comparison.methods_on(part.label)]
    shown = [(method, examples) for method, examples in shown if examples]
    if not shown:
        return None
    names = [example.name for example in shown[0][1]]
    rows: list[dict[str, Any]] = []
    for title in (INPUT, TRUTH):
        pictures = [example.pictures.get(title) for example in shown[0][1]]
        if any(pictures):
            rows.append({"method": "", "title": title, "pictures": pictures, "captions": [""] * len(names)})
    for method, examples in shown:
        by_name: Mapping[str, Any] = {example.name: example for example in examples}
        own = [by_name.get(name) for name in names]
        captions = ["" if one is None else f"{one.raw_score:.3g} {one.outcome}".strip() for one in own]
        kinds = [
            (title, [None if one is None else one.pictures.get(title) for one in own])
            for title in (RECONSTRUCTION, MAP)
        ]
        kinds = [(title, pictures) for title, pictures in kinds if any(pictures)]
        if not kinds:  # it detects without localising
            kinds = [("score only", [None] * len(names))]
        for number_, (title, pictures) in enumerate(kinds):
            last = number_ == len(kinds) - 1
            rows.append(
                {
                    "method": method.label if number_ == 0 else "",
                    "title": title,
                    "pictures": pictures,
                    "captions": captions if last else [""] * len(names),
                }
            )
    return {"names": names, "rows": rows}


def _of_defect(run: Outcome, defect: str, name: str) -> float | None:
    return number(((run.metrics.get("per_defect") or {}).get(defect) or {}).get(name))
