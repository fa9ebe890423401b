"""Which size of the encoding is recommended and why, and the picture of it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from anomalib_lite.report import encoding_plot
from anomalib_lite.report.encoding import Estimate, encoding_study
from anomalib_lite.report.encoding_plot import draw_study


def figures(ratio: float | None, error: float | None = 0.25, *, total: float = 0.01) -> dict[str, Any]:
    """What metrics.json says of one source."""
    vicinity = None if ratio is None else ratio * total
    return {
        **{"total": total, "total_se": 0.001, "vicinity": vicinity, "vicinity_se": 0.002},
        **{"ratio": ratio, "ratio_se": error, "count": 48, "from": "drawn defects"},
    }


def job(
    elements: int, validation: dict[str, Any] | None, *overrides: str, test: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A finished job."""
    metrics = {
        "encoding_elements": elements,
        "reconstruction": {"validation": validation, "test": test},
    }
    return {"overrides": [f"model.latent_dim={elements}", "data=zipper", *overrides], "metrics": metrics}


def test_the_highest_ratio_wins_not_the_lowest_error() -> None:
    study = encoding_study(
        [
            job(64, figures(3.0, total=0.001)),
            job(8, figures(3.5, total=0.02)),
            job(32, figures(5.0, total=0.005)),
            job(16, figures(4.8, total=0.01)),
        ]
    )
    assert study is not None
    assert [point.elements for point in study.points] == [8, 16, 32, 64]
    assert (study.recommended, study.recommended_small) == (32, 16)
    assert study.point(32).vicinity == Estimate(0.025, 0.002)
    assert study.reason == (
        "32 elements (model.latent_dim=32): on validation pictures with drawn defects the error near a defect is "
        "5 ± 0.25 times that of the whole picture, the highest ratio of 4 sizes from 8 to 64; the smallest within one "
        "standard error of it is 16 elements (model.latent_dim=16) with 4.8 "
        "(the lowest total error does not decide: at 64, the ratio is 3)."
    )


def test_one_standard_error_is_that_of_the_highest_and_includes_its_end() -> None:
    sizes = [job(4, figures(4.74, 9.0)), job(8, figures(4.75, 0.01)), job(16, figures(5.0, 0.25))]
    study = encoding_study(sizes)
    assert study is not None
    assert (study.recommended, study.recommended_small) == (16, 8)
    # not only the neighbours of the highest count: the smallest may lie beyond a worse one
    study = encoding_study([job(2, figures(4.9)), job(4, figures(1.0)), *sizes])
    assert study is not None
    assert study.recommended_small == 2


def test_of_equal_ratios_the_smaller_size_is_taken() -> None:
    study = encoding_study([job(32, figures(4.0)), job(16, figures(4.0)), job(8, figures(1.0))])
    assert study is not None
    assert (study.recommended, study.recommended_small) == (16, 16)
    assert "no smaller one comes within one standard error" in study.reason


@pytest.mark.parametrize(("best", "which"), [(8, "smallest"), (32, "largest")])
def test_the_reason_warns_at_the_ends(best: int, which: str) -> None:
    study = encoding_study([job(size, figures(9.0 if size == best else 2.0)) for size in (8, 16, 32)])
    assert study is not None
    assert f"it is the {which} size tried" in study.reason


def test_without_a_standard_error_only_the_highest_is_recommended() -> None:
    study = encoding_study([job(8, figures(3.99, None)), job(16, figures(4.0, None))])
    assert study is not None
    assert (study.recommended, study.recommended_small) == (16, 16)
    assert "its standard error is not known" in study.reason
    assert "±" not in study.reason


def test_seeds_of_one_size_are_averaged() -> None:
    study = encoding_study(
        [
            job(8, figures(3.0, 0.3), "seed=0"),
            job(8, figures(5.0, 0.4), "seed=1"),
            job(16, figures(3.0, 0.1), "seed=0"),
        ]
    )
    assert study is not None
    point = study.point(8)
    assert (point.jobs, point.settings) == (2, ("model.latent_dim=8",))
    # pictures: (0.09 + 0.16) / 2; between the seeds: variance 2 of two, so 1 of their mean
    assert point.ratio == Estimate(4.0, pytest.approx((0.125 + 1.0) ** 0.5))
    assert study.point(16).ratio == Estimate(3.0, 0.1)


def test_jobs_with_the_same_figures_are_one_measurement() -> None:
    cuts = [job(8, figures(3.0, 0.3), f"threshold.value={value}") for value in (0.4, 0.5, 0.6)]
    study = encoding_study([*cuts, job(16, figures(4.0))])
    assert study is not None
    assert study.point(8).jobs == 3
    assert study.point(8).ratio == Estimate(3.0, 0.3)  # not a third of its variance
    # and one odd seed weighs as much as all three of them
    study = encoding_study([*cuts, job(8, figures(5.0, 0.3)), job(16, figures(4.0))])
    assert study is not None
    assert study.point(8).ratio.mean == 4.0


def test_test_masks_are_shown_and_never_decide() -> None:
    study = encoding_study(
        [
            job(8, figures(3.0), test=figures(90.0)),
            job(16, figures(4.0), test=figures(2.0)),
            job(32, figures(1.0)),
        ]
    )
    assert study is not None
    assert study.recommended == 16
    shown = study.point(8).test
    assert shown is not None
    assert shown["ratio"] == Estimate(90.0, 0.25)
    assert study.point(32).test is None


def test_jobs_without_the_figures_are_left_out() -> None:
    useless = [
        {"overrides": ["model.latent_dim=1"], "metrics": None},
        {"metrics": {}},
        {"overrides": [], "metrics": {"encoding_elements": 2}},
        {
            "metrics": {
                "encoding_elements": None,
                "reconstruction": {"validation": figures(9.0), "test": None},
            }
        },
        job(4, None, test=figures(9.0)),
        job(5, figures(None)),
        job(6, figures(float("nan"))),
    ]
    assert encoding_study(useless) is None
    assert encoding_study([*useless, job(8, figures(3.0))]) is None
    study = encoding_study([*useless, job(8, figures(3.0)), job(16, figures(4.0))])
    assert study is not None
    assert [point.elements for point in study.points] == [8, 16]


def test_one_size_is_no_study() -> None:
    assert encoding_study([]) is None
    assert encoding_study([job(8, figures(3.0), "seed=0"), job(8, figures(4.0), "seed=1")]) is None


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn."""
    kept: list[Figure] = []
    original = encoding_plot.png

    def keep(figure: Figure) -> bytes:
        kept.append(figure)
        return original(figure)

    monkeypatch.setattr(encoding_plot, "png", keep)
    return kept


def test_the_picture_holds_three_curves_and_both_sizes(drawn: list[Figure], tmp_path: Path) -> None:
    study = encoding_study(
        [
            job(8, figures(3.0), test=figures(7.0)),
            job(16, figures(4.8), test=figures(6.0)),
            job(32, figures(5.0)),
            job(64, figures(2.0), test=figures(5.0)),
        ]
    )
    assert study is not None
    path = draw_study(study, tmp_path / "plots" / "encoding.png")
    assert Image.open(io.BytesIO(path.read_bytes())).size[0] > 800
    above, below, aside = drawn[0].axes
    assert below.get_xscale() == "log"
    assert [text.get_text() for text in below.get_xticklabels()] == ["8", "16", "32", "64"]
    near, total = (container[0].get_ydata() for container in above.containers)
    assert list(total) == [0.01] * 4
    assert near == pytest.approx(np.array([0.03, 0.048, 0.05, 0.02]))
    ratio = below.containers[0]
    assert list(ratio[0].get_ydata()) == [3.0, 4.8, 5.0, 2.0]
    (bars,) = ratio[2]
    assert bars.get_segments()[0][:, 1].tolist() == [2.75, 3.25]
    lines = [list(line.get_xdata()) for line in below.get_lines()]
    assert [32, 32] in lines
    assert [16, 16] in lines
    (thin,) = (
        aside.get_lines()
    )  # the test masks, where there are some, on a scale that leaves the other as it is
    assert (list(thin.get_xdata()), list(thin.get_ydata())) == ([8, 16, 64], [7.0, 6.0, 5.0])
    assert below.get_ylim()[1] < 6
    (legend,) = drawn[0].legends
    texts = {text.get_text() for text in legend.get_texts()}
    assert "test masks, not used (right)" in texts
    assert any(text.startswith("recommended: 32") for text in texts)


def test_the_picture_does_without_errors_and_masks_and_bears_zeros(
    drawn: list[Figure], tmp_path: Path
) -> None:
    study = encoding_study([job(8, figures(4.0, None, total=0.0)), job(16, figures(1.0, None))])
    assert study is not None
    first, second = (draw_study(study, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert drawn[0].axes[0].get_yscale() == "linear"  # a logarithm knows no 0
    texts = {text.get_text() for text in drawn[0].legends[0].get_texts()}
    assert not any("test" in text or "standard error" in text for text in texts)


def test_the_study_is_cheap_to_import() -> None:
    code = (
        "import sys; import anomalib_lite.report.encoding; "
        "print([name for name in ('matplotlib', 'numpy', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
