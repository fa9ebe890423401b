"""What a drift monitor remembers of the windows it has compared: a bounded number of spans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

SPANS_KEPT = 200


@dataclass(frozen=True, kw_only=True)
class Span:
    """One window, or several in a row merged into one, for the plot.

    Args:
        first, last: of the accepted parts, counted from 1.
        count: parts that were compared.
        means, deviations: of each statistic, over these parts.
        alarms: windows in which a statistic alarmed, by its name.
        p_value: the smallest of any window, corrected for the number of statistics.
    """

    first: int
    last: int
    count: int
    means: dict[str, float]
    deviations: dict[str, float]
    alarms: dict[str, int]
    p_value: float

    def merged(self, other: Span) -> Span:
        """Both as one; mean and standard deviation are those of all their parts."""
        count = self.count + other.count
        means, deviations = {}, {}
        for name, mean in self.means.items():
            share = other.count / count
            apart = other.means[name] - mean
            means[name] = mean + share * apart
            variance = (1 - share) * self.deviations[name] ** 2 + share * other.deviations[name] ** 2
            deviations[name] = math.sqrt(variance + share * (1 - share) * apart**2)
        return Span(
            first=self.first,
            last=other.last,
            count=count,
            means=means,
            deviations=deviations,
            alarms={name: self.alarms[name] + other.alarms[name] for name in self.alarms},
            p_value=min(self.p_value, other.p_value),
        )

    @classmethod
    def list_from_state(cls, states: Any, names: Sequence[str]) -> list[Self]:
        """Spans of these statistics from their fields; raises ValueError or TypeError for anything else."""
        if not isinstance(states, list):
            raise ValueError(f"expected a list of spans, found {states!r:.40}")
        spans = [cls(**fields) for fields in states]
        for span in spans:
            for by_name in (span.means, span.deviations, span.alarms):
                if not isinstance(by_name, dict) or list(by_name) != list(names):
                    raise ValueError(f"expected {' '.join(names)}, found {by_name!r:.80}")
                check_numbers(list(by_name.values()), len(names))
            check_numbers([span.p_value], 1)
            for count in (span.first, span.last, span.count, *span.alarms.values()):
                check_whole(count)
            if span.count == 0:
                raise ValueError("a span of no parts")
        return spans


def thinned(spans: list[Span]) -> list[Span]:
    """The same spans while they are few; else neighbours merged, the newest left alone."""
    if len(spans) <= SPANS_KEPT:
        return spans
    pairs = zip(spans[:-1:2], spans[1:-1:2], strict=False)
    alone = [spans[-2]] if len(spans) % 2 == 0 else []
    return [*(earlier.merged(later) for earlier, later in pairs), *alone, spans[-1]]


def check_whole(value: Any) -> int:
    """The value, if it is a count; else ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a count, found {value!r:.40}")
    return value


def check_numbers(values: Sequence[Any], count: int) -> list[float]:
    """A list of so many finite numbers as floats; raises ValueError for anything else."""
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"expected {count} numbers, found {values!r:.80}")
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"expected a finite number, found {value!r:.40}")
    return [float(value) for value in values]
