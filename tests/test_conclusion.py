"""What a run says in the end, of scores that are given."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from anomalib_lite.conclusion import warn_of_equal


def test_scores_that_tell_nothing_apart_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_equal(np.array([0.25, np.nan, 0.25]))
    assert caplog.messages == ["all 2 test pictures have the raw score 0.25: it tells nothing apart"]


@pytest.mark.parametrize("raw", [[0.25, 0.5], [0.25], [np.nan, 0.25], []])
def test_others_are_not(raw: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_equal(np.array(raw))
    assert caplog.messages == []
