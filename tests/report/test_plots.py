"""The curves: what is drawn, that names are only text, and that equal input gives equal bytes."""

from __future__ import annotations

import io
import threading
import zlib

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from anomalib_lite.report import plots
from anomalib_lite.report.plots import (
    draw_histogram,
    draw_losses,
    draw_precision_recall,
    draw_roc,
    own_styles,
)

LABELS = np.array([0, 0, 0, 1, 1, 1])
SCORES = np.array([1.0, 2.0, 3.0, 2.5, 4.0, 5.0])
DECISIONS = np.array([0, 0, 1, 0, 1, 1])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, to look at what they hold."""
    figures: list[Figure] = []
    original = plots.png

    def keep(figure: Figure) -> bytes:
        figures.append(figure)
        return original(figure)

    monkeypatch.setattr(plots, "png", keep)
    return figures


def test_roc_passes_through_the_threshold(drawn: list[Figure]) -> None:
    draw_roc(LABELS, SCORES, DECISIONS)
    chance, curve, mark = drawn[0].axes[0].get_lines()
    assert list(zip(*chance.get_data(), strict=True)) == [(0, 0), (1, 1)]
    # by hand: 5 and 4 are defective, 3 is good, 2.5 is defective, 2 and 1 are good
    points = [(0, 0), (0, 1 / 3), (0, 2 / 3), (1 / 3, 2 / 3), (1 / 3, 1), (2 / 3, 1), (1, 1)]
    assert np.column_stack(curve.get_data()) == pytest.approx(np.array(points))
    assert np.ravel(mark.get_data()) == pytest.approx([1 / 3, 2 / 3])


def test_precision_recall_shows_prevalence_and_the_threshold(drawn: list[Figure]) -> None:
    draw_precision_recall(LABELS[1:], SCORES[1:], DECISIONS[1:])
    chance, curve, mark = drawn[0].axes[0].get_lines()
    assert list(chance.get_ydata()) == [0.6, 0.6]
    assert max(curve.get_ydata()) == 1
    assert np.ravel(mark.get_data()) == pytest.approx([2 / 3, 2 / 3])


def test_no_mark_without_decisions(drawn: list[Figure]) -> None:
    draw_roc(LABELS, SCORES, None)
    draw_precision_recall(LABELS, SCORES, np.zeros(6, int))  # nothing rejected: no precision
    assert [len(figure.axes[0].get_lines()) for figure in drawn] == [2, 2]


def test_histogram_counts_every_part_and_shows_the_cut(drawn: list[Figure]) -> None:
    normals = {"calibration": np.array([1.0, 1.5]), "validation": np.zeros(0)}
    draw_histogram(["good"] * 3 + ["hole", "hole", "crack"], SCORES, normals, 2.75)
    above, below = drawn[0].axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == [
        "good (3)",
        "defective (3)",
        "threshold: rejected to its right",
    ]
    assert set(above.get_lines()[0].get_xdata()) == {2.75}
    assert [label.get_text() for label in below.get_yticklabels()] == [
        "calibration",
        "test: good",
        "test: hole",
        "test: crack",
    ]
    assert list(below.get_lines()[2].get_xdata()) == [2.5, 4.0]


def test_histogram_axis_is_logarithmic_for_long_tails_only(drawn: list[Figure]) -> None:
    draw_histogram(["good", "hole"], np.array([1.0, 40.0]), {}, None)
    draw_histogram(["good", "hole"], np.array([1.0, 60.0]), {}, None)
    draw_histogram(["good", "hole"], np.array([-1.0, 60.0]), {}, None)
    assert [figure.axes[0].get_xscale() for figure in drawn] == ["linear", "log", "linear"]


@pytest.mark.parametrize("scores", [[1.0, 1.0], [0.0, 0.0], [-3.0, -3.0]])
def test_histogram_of_equal_scores(scores: list[float]) -> None:
    assert draw_histogram(["good", "hole"], np.array(scores), {}, scores[0]).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["$x$", r"$\frac{", "_hidden", "a\nb\0", "\udcff", "x" * 300, ""])
def test_any_folder_name_is_only_text(name: str, drawn: list[Figure]) -> None:
    draw_histogram(["good", name], np.array([1.0, 2.0]), {}, None)
    shown = drawn[0].axes[1].get_yticklabels()[1].get_text()
    assert shown == plots.printable(f"test: {name}")
    assert len(shown) <= 40


def test_losses_skip_what_was_not_measured(drawn: list[Figure]) -> None:
    draw_losses([{"epoch": 0, "train_loss": 2.0}, {"epoch": 1, "train_loss": 1.0, "val_loss": float("nan")}])
    (line,) = drawn[0].axes[0].get_lines()
    assert np.column_stack(line.get_data()).tolist() == [[0, 2.0], [1, 1.0]]
    assert drawn[0].axes[0].get_yscale() == "linear"


def test_losses_without_any_number() -> None:
    assert draw_losses([{"epoch": 0, "train_loss": float("nan")}]).startswith(b"\x89PNG")


def test_rare_types_share_a_style() -> None:
    names, styles = own_styles([f"d{i}" for i in range(12)] * 2 + ["good"])
    assert len(styles) == 9
    assert len(set(styles.values())) == 9
    assert names.count("other defects") == 10


def test_png_is_deterministic_and_carries_no_date() -> None:
    first, second = (draw_roc(LABELS, SCORES, DECISIONS) for _ in range(2))
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert set(picture.info) <= {"dpi"}


def test_threads_do_not_disturb_each_other() -> None:
    expected = zlib.crc32(draw_roc(LABELS, SCORES, DECISIONS))
    found: list[int] = []

    def draw() -> None:
        found.append(zlib.crc32(draw_roc(LABELS, SCORES, DECISIONS)))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
