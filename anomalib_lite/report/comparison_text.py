"""The sentences at the top of benchmark.html."""

from __future__ import annotations

from anomalib_lite.report.comparison_results import Comparison
from anomalib_lite.report.figures import percent


def lead(comparison: Comparison) -> list[str]:
    """What a reader who reads nothing else should know."""
    sentences = []
    for part in comparison.data[:4]:
        ranked = comparison.ranked(part.label)
        if not ranked:
            continue
        method, best = ranked[0]
        others = len(ranked) > 1
        start = f"{method.label} separates good and defective parts best of {len(ranked)} methods"
        start = start if others else f"only {method.label} is finished"
        low, high = (percent(end, 1) for end in (best.low, best.high))
        spread = f" (mean of {best.count} seeds, {low} to {high})" if best.count > 1 else ""
        sentences.append(f"On {part.label}, {start}: image AUROC {percent(best.mean, 1)}{spread}.")
    if len(comparison.data) > 4:
        means = [
            (comparison.mean_over_data(method.label, "image_AUROC"), method) for method in comparison.methods
        ]
        known = sorted(((mean, method.label) for mean, method in means if mean is not None), reverse=True)
        if known:
            mean, label = known[0]
            sentences = [
                f"Over the {len(comparison.data)} data sets, {label} has the highest mean image AUROC, "
                f"{percent(mean, 1)}; it is the best on {comparison.wins()[label]} of them."
            ]
    return sentences


def notes(comparison: Comparison) -> list[str]:
    """What has to be known before any figure is read."""
    found = []
    states = {state: len(comparison.of_state(state)) for state in ("done", "failed", "waiting")}
    if states["waiting"]:
        found.append(
            f"Not finished: {states['done']} of {len(comparison.outcomes)} runs are done, {states['failed']} failed."
        )
    elif states["failed"]:
        found.append(f"{states['failed']} of {len(comparison.outcomes)} runs failed; they are listed below.")
    if rendered := [part.label for part in comparison.data if part.rendered]:
        found.append(
            f"{', '.join(rendered)}: rendered pictures, not photographs. They stand in for sets that are private: "
            "published figures beside them are of other pictures, and figures on them say nothing about real parts."
        )
    oracles = {
        cell.method
        for cell, outcome in comparison.outcomes.items()
        if (outcome.metrics.get("threshold") or {}).get("oracle")
    }
    if oracles:
        found.append(
            f"{', '.join(sorted(oracles))}: the threshold is an oracle, chosen with the labels of the test pictures."
        )
    return found
