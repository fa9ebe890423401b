"""The study of the encoding's size: error near anomalies and over the picture against it, and which size to take.

Made at the end of every job of a sweep: nothing that is slow to import, such as matplotlib, belongs here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalib_lite.report.figures import number

CURVES = ("total", "vicinity", "ratio")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of one size."""

    mean: float
    error: float | None  # standard error; None where one picture or none says how far it may be off


@dataclass(frozen=True, slots=True)
class EncodingPoint:
    """What was found for one size of the encoding; see `anomalib_lite.encoding.ReconstructionError`."""

    elements: int  # in the encoding of one patch
    jobs: int  # that have it
    settings: tuple[str, ...]  # the overrides that all of them share, and not all jobs of other sizes too
    total: Estimate
    vicinity: Estimate
    ratio: Estimate
    test: Mapping[str, Estimate | None] | None  # the same names, from masks of test pictures: for show alone


@dataclass(frozen=True, slots=True)
class EncodingStudy:
    """At least two sizes, the smallest first, and the one to take."""

    points: tuple[EncodingPoint, ...]
    recommended: int  # elements, where the ratio is highest
    recommended_small: int  # elements, the smallest size with a ratio within one standard error of it
    reason: str  # one sentence, with the numbers

    def point(self, elements: int) -> EncodingPoint:
        """What was found for a size."""
        return next(point for point in self.points if point.elements == elements)


def encoding_study(jobs: Iterable[Mapping[str, Any]]) -> EncodingStudy | None:
    """What jobs, each a dict with "overrides" and "metrics" (of metrics.json, or None), say of the encoding's size.

    Jobs of one size are averaged; jobs with the very same figures, as those that differ in a threshold alone, are one
    measurement. Several measurements share their pictures, so that the pictures' standard error stays what it is on
    average, and the scatter between the measurements comes on top. None with fewer than two sizes.

    >>> def job(size, ratio):
    ...     figures = {"total": 0.01, "vicinity": ratio / 100, "ratio": ratio, "ratio_se": 0.3, "count": 48}
    ...     metrics = {"encoding_elements": size, "reconstruction": {"validation": figures, "test": None}}
    ...     return {"overrides": [f"model.latent_dim={size}"], "metrics": metrics}
    >>> study = encoding_study([job(64, 4.0), job(32, 3.8), job(16, 2.0)])
    >>> study.recommended, study.recommended_small
    (64, 32)
    """
    sizes: dict[int, list[Mapping[str, Any]]] = {}
    for job in jobs:
        elements = (job.get("metrics") or {}).get("encoding_elements")
        figures = _figures(job, "validation")
        if isinstance(elements, int) and all(number(figures.get(name)) is not None for name in CURVES):
            sizes.setdefault(elements, []).append(job)
    if len(sizes) < 2:
        return None
    everywhere = _shared([job for members in sizes.values() for job in members])
    points = tuple(_point(elements, sizes[elements], everywhere) for elements in sorted(sizes))
    best = max(points, key=lambda point: (point.ratio.mean, -point.elements))
    least = best.ratio.mean - (best.ratio.error or 0)
    small = next(point for point in points if point.ratio.mean >= least)
    reason = _reason(points, best, small)
    return EncodingStudy(points, best.elements, small.elements, reason)


def _figures(job: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    return ((job.get("metrics") or {}).get("reconstruction") or {}).get(source) or {}


def _shared(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The overrides that all of some jobs have, in the first one's order."""
    first, *others = (job.get("overrides") or () for job in jobs)
    common = set(first).intersection(*others)
    return [text for text in first if text in common]


def _point(elements: int, jobs: Sequence[Mapping[str, Any]], everywhere: Sequence[str]) -> EncodingPoint:
    validation = _estimates(_figures(job, "validation") for job in jobs)
    test = _estimates(_figures(job, "test") for job in jobs)
    own = tuple(text for text in _shared(jobs) if text not in everywhere)
    total, near, ratio = (validation[name] for name in CURVES)
    assert total is not None  # jobs without a figure were left out
    assert near is not None
    assert ratio is not None
    return EncodingPoint(elements, len(jobs), own, total, near, ratio, test if any(test.values()) else None)


def _estimates(jobs: Iterable[Mapping[str, Any]]) -> dict[str, Estimate | None]:
    # a set: equal figures were measured once
    measured = {
        tuple(number(job.get(f"{name}{end}")) for name in CURVES for end in ("", "_se")) for job in jobs
    }
    found: dict[str, Estimate | None] = {}
    for place, name in enumerate(CURVES):
        pairs = [row[2 * place : 2 * place + 2] for row in measured if row[2 * place] is not None]
        found[name] = _average(pairs) if pairs else None
    return found


def _average(measured: Sequence[Sequence[Any]]) -> Estimate:
    """The mean of figures (mean, standard error or None) of one size."""
    means = [mean for mean, _ in measured]
    squares = [error**2 for _, error in measured if error is not None]
    parts = [statistics.fmean(squares)] if squares else []
    if len(means) > 1:
        # statistics.variance computes with fractions, a hundred times slower
        middle = statistics.fmean(means)
        parts.append(math.fsum((mean - middle) ** 2 for mean in means) / (len(means) - 1) / len(means))
    return Estimate(statistics.fmean(means), math.sqrt(sum(parts)) if parts else None)


def _reason(points: Sequence[EncodingPoint], best: EncodingPoint, small: EncodingPoint) -> str:
    lowest = min(points, key=lambda point: point.total.mean)
    sizes = f"{len(points)} sizes from {points[0].elements} to {points[-1].elements}"
    text = (
        f"{_named(best)}: on validation pictures with drawn defects the error near a defect is "
        f"{_plus_minus(best.ratio)} times that of the whole picture, the highest ratio of {sizes}"
    )
    if best.ratio.error is None:
        text += "; its standard error is not known"
    elif small is best:
        text += "; no smaller one comes within one standard error of it"
    else:
        text += (
            f"; the smallest within one standard error of it is {_named(small)} with {small.ratio.mean:.3g}"
        )
    if lowest is not best:
        text += f" (the lowest total error does not decide: at {lowest.elements}, the ratio is {lowest.ratio.mean:.3g})"
    if best is points[-1]:
        text += "; it is the largest size tried, so larger ones may be better still"
    elif best is points[0]:
        text += "; it is the smallest size tried, so smaller ones may be better still"
    return text + "."


def _named(point: EncodingPoint) -> str:
    settings = f" ({', '.join(point.settings)})" if point.settings else ""
    return f"{point.elements} elements{settings}"


def _plus_minus(estimate: Estimate) -> str:
    return f"{estimate.mean:.3g}" + ("" if estimate.error is None else f" ± {estimate.error:.2g}")
