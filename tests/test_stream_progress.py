"""Latency, pace and the line that shows them."""

from __future__ import annotations

import re
import time
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalib_lite import stream_progress
from anomalib_lite.stream_progress import Latencies, Progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Closed(StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def progress(stream: StringIO | None = None, **counts: int) -> tuple[Progress, list[float]]:
    now = [100.0]
    reader: Any = SimpleNamespace(**{"dropped": 0, "reconnects": 0, **counts})
    return Progress(stream or StringIO(), reader, clock=lambda: now[0]), now


@given(
    seconds=st.lists(st.floats(1e-5, 900), min_size=1, max_size=200),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0]),
)
def test_quantiles_are_right_to_one_per_cent(seconds: list[float], share: float) -> None:
    latencies = Latencies()
    for each in seconds:
        latencies.add(each)
    exact = np.quantile(seconds, share, method="inverted_cdf")
    assert latencies.quantile(share) == pytest.approx(exact, rel=0.011)
    assert latencies.largest == max(seconds)


def test_what_lies_outside_of_the_bins_is_counted() -> None:
    latencies = Latencies()
    assert latencies.quantile(0.5) is None
    for seconds in (0.0, 1e-9, 5e4):
        latencies.add(seconds)
    assert latencies.quantile(0.5) == pytest.approx(1e-5, rel=0.02)
    assert latencies.quantile(1.0) == pytest.approx(1e3, rel=0.05)
    assert latencies.largest == 5e4


def test_the_pace_is_that_of_the_last_seconds() -> None:
    shown, now = progress()
    assert shown.frames_per_second == 0
    for _ in range(4):
        now[0] += 0.5
        shown.judged("good", 0.01)
    assert shown.frames_per_second == 2.0  # 4 frames in 2 s
    now[0] += 60
    assert shown.frames_per_second == 0.0
    for _ in range(5000):  # more than are kept
        now[0] += 0.001
        shown.judged("good", 0.01)
    assert shown.frames_per_second == pytest.approx(1000)


def test_the_line_says_what_there_is_to_say() -> None:
    shown, now = progress(dropped=2, reconnects=1)
    for number in range(100):
        now[0] += 0.04
        shown.judged("defective" if number % 50 == 0 else "good", (number + 1) / 1000)
    shown.judged("rejected", 0.001)
    assert shown.text() == (
        "101 frames, 25.2/s, latency 50 ms (p99 99 ms), 2 defective, 1 rejected, 2 dropped, 1 reconnected"
    )
    now[0] += 20  # nothing has come: no latency to show
    assert shown.text() == "101 frames, 0.0/s, 2 defective, 1 rejected, 2 dropped, 1 reconnected"


def test_on_a_terminal_it_is_always_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_progress, "REFRESH", 0.01)
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    shown, now = progress(stream)
    with shown:
        now[0] += 1
        shown.judged("good", 0.5)
        time.sleep(0.2)
        now[0] += 60
        time.sleep(0.2)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    parts = text.rstrip("\n").split("\r")
    assert parts[0] == ""
    assert len(parts) > 5
    assert max(len(part) for part in parts) <= 29  # it would wrap
    assert "1 frames, 1.0/s, latency 500 " in parts
    assert "1 frames, 0.0/s" + 14 * " " in parts  # what was longer is painted over


def test_in_a_log_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_progress, "LOGGED", 0.05)
    stream = StringIO()
    with progress(stream)[0] as shown:
        shown.judged("good", 0.5)
        time.sleep(0.3)
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 8
    assert all(re.fullmatch(r"[01] frames, .*/s.*", line) for line in lines)


def test_nobody_looks() -> None:
    with progress(Closed())[0] as shown:
        shown.judged("good", 0.5)
    assert shown.verdicts == {"good": 1}
