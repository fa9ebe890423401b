"""An exact test of whether two samples come from one law."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def two_sample_p_value(reference: np.ndarray, window: np.ndarray) -> float:
    """How likely two sorted samples (m,) and (n,) of one law lie at least so far apart: the largest distance of their
    distribution functions, exactly for a law without equal values and at most that for any other.

    >>> round(two_sample_p_value(np.arange(3.0), np.arange(3.0, 6.0)), 3)
    0.1
    """
    m, n = len(reference), len(window)
    values = np.concatenate([reference, window])
    # integers: whether a distance is reached must not hang on rounding
    apart = np.searchsorted(reference, values, "right") * n - np.searchsorted(window, values, "right") * m
    return _chance_of_distance(int(np.abs(apart).max()), m, n)


@lru_cache(maxsize=4096)
def _chance_of_distance(distance: int, m: int, n: int) -> float:
    """The share of orders of m + n values in which |i n - j m| reaches `distance`, i and j being those seen so far.

    An order is a path from (0, 0) to (m, n); what leaves is added up, so that a small chance keeps its digits.
    """
    if distance <= 0:
        return 1.0
    i = np.arange(m + 1)
    inside, left = np.zeros(m + 1), 0.0
    inside[0] = 1.0
    for seen in range(m + n):
        onwards = inside * (m - i) / (m + n - seen)
        inside = inside * np.clip(n - seen + i, 0, None) / (m + n - seen)
        inside[1:] += onwards[:-1]
        far = np.abs(i * n - (seen + 1 - i) * m) >= distance
        left += float(inside[far].sum())
        inside[far] = 0.0
    return min(1.0, left)
