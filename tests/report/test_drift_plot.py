"""The drift plot: what is drawn of a summary, and that equal input gives equal bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.drift import DriftMonitor
from anomalib_lite.report import drift_plot
from anomalib_lite.report.drift_plot import draw_drift, write_drift


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, to look at what they hold."""
    figures: list[Figure] = []
    original = drift_plot.png

    def keep(figure: Figure) -> bytes:
        figures.append(figure)
        return original(figure)

    monkeypatch.setattr(drift_plot, "png", keep)
    return figures


def watched(parts: int, *, drift_from: int | None = None, errors: bool = True, seed: int = 0) -> DriftMonitor:
    rng = np.random.default_rng(seed)
    record = CalibrationRecord(
        scores=rng.normal(5, 1, 60).tolist(),
        errors=rng.normal(0.03, 0.004, 60).tolist() if errors else None,
        qualities=(1 - rng.exponential(0.01, 60)).tolist(),
        validation_scores=[1.0],
    )
    monitor = DriftMonitor(record, None, window=50, false_alarms=1e-5)
    for part in range(parts):
        shift = 0.0 if drift_from is None or part < drift_from else 0.008
        monitor.update(
            raw_score=rng.normal(5, 1),
            error=rng.normal(0.03 + shift, 0.004) if errors else None,
            quality=1 - rng.exponential(0.01),
        )
    return monitor


def test_shows_every_window_and_marks_the_alarms(drawn: list[Figure]) -> None:
    monitor = watched(1000, drift_from=500)
    summary = json.loads(json.dumps(monitor.summary()))  # as it comes from stream.json
    draw_drift(summary)
    panels = drawn[0].axes
    assert [axes.get_ylabel() for axes in panels] == [
        "raw\nscore",
        "reconstruction\nerror",
        "registration\nquality",
    ]
    middle, curve, alarm = panels[1].get_lines()
    assert set(middle.get_ydata()) == {summary["reference"]["error"]["mean"]}
    assert list(curve.get_xdata()) == [50 * window + 25.5 for window in range(20)]
    assert curve.get_ydata()[-1] == summary["spans"][-1]["means"]["error"]
    assert list(alarm.get_xdata()) == [50 * window + 25.5 for window in range(10, 20)]
    assert len(panels[0].get_lines()[2].get_xdata()) == len(panels[2].get_lines()[2].get_xdata()) == 0
    assert len(drawn[0].legends[0].get_texts()) == 5


def test_two_panels_without_errors(drawn: list[Figure]) -> None:
    draw_drift(watched(200, errors=False).summary())
    assert len(drawn[0].axes) == 2


@pytest.mark.parametrize("parts", [0, 49])
def test_says_that_there_is_nothing_yet(drawn: list[Figure], parts: int) -> None:
    draw_drift(watched(parts).summary())
    assert drawn[0].texts[0].get_text() == f"{parts} accepted parts: no full window of 50 yet"


def test_says_that_it_cannot_tell(drawn: list[Figure]) -> None:
    record = CalibrationRecord(scores=[1.0], errors=None, qualities=[1.0], validation_scores=[1.0])
    monitor = DriftMonitor(record, 1.0, window=50, false_alarms=1e-5)
    draw_drift(monitor.summary())
    assert drawn[0].texts[0].get_text() == monitor.obstacle != ""


def test_writes_the_same_png_again(tmp_path: Path) -> None:
    summary = watched(300).summary()
    first, second = (
        write_drift(summary, tmp_path / "a" / "drift.png"),
        write_drift(summary, tmp_path / "b.png"),
    )
    assert first.read_bytes() == second.read_bytes()
    with Image.open(io.BytesIO(first.read_bytes())) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1380, 937)
