"""Spans of a drift monitor: merging keeps the figures of all parts, and the newest stays alone."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.drift_spans import SPANS_KEPT, Span, thinned


def test_merged_spans_are_those_of_all_their_parts() -> None:
    rng = np.random.default_rng(7)
    samples = [rng.normal(i, 1 + i, 10 * (i + 1)) for i in range(3)]
    spans = [
        Span(first=i, last=i, count=len(s), means={"a": s.mean()}, deviations={"a": s.std()}, alarms={"a": i},
             p_value=0.5 / (i + 1))
        for i, s in enumerate(samples)
    ]  # fmt: skip
    merged = spans[0].merged(spans[1]).merged(spans[2])
    together = np.concatenate(samples)
    assert merged.means["a"] == pytest.approx(together.mean())
    assert merged.deviations["a"] == pytest.approx(together.std())
    assert (merged.first, merged.last, merged.count, merged.alarms) == (0, 2, 60, {"a": 3})
    assert merged.p_value == 0.5 / 3
    assert thinned(spans) == spans
    for count in (SPANS_KEPT + 1, SPANS_KEPT + 2):
        fewer = thinned([spans[1]] * count)
        assert sum(span.count for span in fewer) == 20 * count
        assert fewer[-1] == spans[1]
        assert len(fewer) <= count // 2 + 2
