"""The study of cuts on paper: every number in the CSV, what the page says, the picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from anomalib_lite.cuts import CutStudy, Labelled, study_cuts
from anomalib_lite.report import cuts
from anomalib_lite.report.cuts import draw_cuts, options, write_cuts
from anomalib_lite.scoring.threshold import ConformalThreshold, F1Threshold, NoThreshold, Threshold

KNOWN = Labelled(np.array([0.0, 1.0, 9.5, 11.0, 9.6, 14.0]), np.array([0, 0, 0, 0, 1, 1]))
TEST = Labelled(np.array([0.0, 2.0, 12.0, 13.0]), np.array([0, 0, 1, 1]))
PIXELS = [
    {"tau": tau, "precision": precision, "recall": recall, "F1": f1}
    for tau, precision, recall, f1 in ((0.01, 0.1, 1.0, 0.2), (0.2, 0.6, 0.8, 0.7), (0.4, 0.9, 0.2, 0.3))
]


def conformal(*, value: float | None = None) -> ConformalThreshold:
    """Its cut is 10."""
    return ConformalThreshold(alpha=0.1, value=value).fit(np.arange(2.0, 11.0), np.arange(5.0))


def study(threshold: Threshold | None = None, **more: Any) -> CutStudy:
    settings: dict[str, Any] = {
        "known": KNOWN,
        "test": TEST,
        "threshold": threshold or conformal(),
        "tau": 0.3,
        "known_pixels": PIXELS,
        "test_pixels": PIXELS[:2],
    }
    return study_cuts(**(settings | more))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn."""
    kept: list[Figure] = []
    original = cuts.png

    def keep(figure: Figure) -> bytes:
        kept.append(figure)
        return original(figure)

    monkeypatch.setattr(cuts, "png", keep)
    return kept


def test_the_table_holds_every_cut(tmp_path: Path) -> None:
    found = study()
    write_cuts(found, tmp_path, title="cpcae on part")
    rows = list(csv.DictReader((tmp_path / "cuts.csv").open()))
    assert len(rows) == 2 * len(found.image) + 3 + 2
    (fitted,) = [row for row in rows if row["threshold_value"] == "0.5" and row["pictures"] == "test"]
    assert fitted == {
        **{"level": "image", "pictures": "test", "threshold_value": "0.5", "raw_cut": "10.0", "tau": ""},
        **{"F1": "1.0", "precision": "1.0", "recall": "1.0", "false_reject_rate": "0.0"},
    }
    (known,) = [row for row in rows if row["threshold_value"] == "0.5" and row["pictures"] == "validation"]
    # of 4 good ones 1 above 10, of 2 defective ones 1; a good one weighs a half
    assert [float(known[name]) for name in ("precision", "recall", "false_reject_rate")] == pytest.approx(
        [1 / 1.5, 0.5, 0.25]
    )
    pixels = [row for row in rows if row["level"] == "pixel" and row["pictures"] == "validation"]
    assert [(float(row["tau"]), float(row["F1"])) for row in pixels] == [(0.01, 0.2), (0.2, 0.7), (0.4, 0.3)]
    assert pixels[0]["threshold_value"] == pixels[0]["false_reject_rate"] == ""


def test_the_page_recommends_what_can_be_typed(tmp_path: Path) -> None:
    found = study()
    # above 9.5 and below 9.6 both defective ones are found, and one of four good ones is rejected
    assert found.recommended_value is not None
    assert 9.5 <= found.at(found.recommended_value).raw_cut < 9.6
    assert options(found) == f"threshold.value={found.recommended_value:g} postprocess.tau=0.2"
    page = write_cuts(found, tmp_path, title="cpcae on <b>part</b>").read_text()
    assert f"<pre>{options(found)}</pre>" in page
    assert "cpcae on &lt;b&gt;part&lt;/b&gt;" in page
    assert "at most 10 % of good parts are rejected" in page
    assert "The recommended cut lies below the fitted one: it has no guarantee." in page
    assert page.count("test: not used to choose") == 3
    assert "oracle: best F1 score on test" in page
    assert "4 good parts, and 2 pictures with defects drawn on them" in page
    # (1 - 0.527) ** 4 = 0.05: of 4 good parts none is rejected in 1 of 20 tests at a rate of 53 %
    assert "none of the 4 is rejected, a rate of up to 53\N{NO-BREAK SPACE}% is still possible" in page
    assert "fitted by the rule (conformal)" in page
    assert "Please note" not in page
    # tau 0.3 is half-way between two points of the one curve and beyond the other
    (row,) = [line for line in page.splitlines() if line.startswith('<tr><th scope="row">in use')]
    assert "0.3" in row
    assert [share in page for share in ("75.0", "50.0")] == [True, True]
    assert "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "plots" / "cuts.png").read_bytes().startswith(b"\x89PNG")


def test_a_guarantee_that_stays_is_not_taken_back(tmp_path: Path) -> None:
    # the best cut lies above the fitted one
    found = study(known=Labelled(np.array([0.0, 10.5, 14.0]), np.array([0, 0, 1])))
    assert found.recommended_value is not None
    assert found.recommended_value > 0.5
    assert "has no guarantee" not in write_cuts(found, tmp_path, title="x").read_text()


def test_warnings(tmp_path: Path) -> None:
    oracle = F1Threshold().fit(np.array([]), np.arange(5.0)).fit_oracle(TEST.raw_scores, TEST.labels)
    page = write_cuts(study(oracle), tmp_path, title="x").read_text()
    assert "The fitted cut is an oracle" in page
    far = Labelled(np.array([0.0, 1e6, 2e6]), np.array([0, 0, 1]))
    page = write_cuts(study(known=far), tmp_path, title="x").read_text()
    assert "at the end of what threshold.value was tried at" not in page  # 0.5 is as good as the end
    far = Labelled(np.array([*np.linspace(0, 30, 40), 29.0]), np.array([0] * 40 + [1]))
    page = write_cuts(study(known=far), tmp_path, title="x").read_text()
    assert "at the end of what threshold.value was tried at" in page


def test_pages_with_less(tmp_path: Path) -> None:
    no_cut = NoThreshold().fit(np.array([]), np.arange(3.0))
    page = write_cuts(study(no_cut), tmp_path, title="x").read_text()
    assert "Image cut" not in page
    assert "<pre>postprocess.tau=0.2</pre>" in page
    page = write_cuts(study(known_pixels=[], test_pixels=[], tau=None), tmp_path, title="x").read_text()
    assert "Pixel cut" not in page
    (tmp_path / "plots" / "cuts.png").unlink()
    bare = study(no_cut, known_pixels=[], test_pixels=[], tau=None)
    assert draw_cuts(bare) is None
    page = write_cuts(bare, tmp_path, title="x").read_text()
    assert "No cut can be recommended: this run has none." in page
    assert "<img" not in page
    hopeless = Labelled(np.array([0.0, -1e9]), np.array([0, 1]))
    page = write_cuts(study(known=hopeless, known_pixels=[]), tmp_path, title="x").read_text()
    assert "no cut finds any drawn defect" in page
    empty = Labelled(np.array([]), np.array([]))
    page = write_cuts(study(known=empty, test=empty), tmp_path, title="x").read_text()
    assert "–" in page


def test_the_picture(drawn: list[Figure]) -> None:
    found = study(conformal(value=0.4))
    first, second = draw_cuts(found), draw_cuts(found)
    assert first == second
    image, pixels = drawn[0].axes
    curves = {tuple(line.get_ydata()) for line in image.get_lines()}
    assert tuple(cut.validation.recall for cut in found.image) in curves
    assert tuple(cut.test.f1 for cut in found.image) in curves
    marks = [line.get_xdata()[0] for line in image.get_lines() if len(line.get_xdata()) == 2]
    assert marks == [found.recommended_value, 0.4, found.oracle_value, 0.5]
    assert image.get_xscale() == "logit"
    marks = [line.get_xdata()[0] for line in pixels.get_lines()[-3:]]
    assert marks == [0.2, 0.3, 0.2]
    assert pixels.get_xlim() == (0.01, 0.4)
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert "the same on test pictures, not used" in texts


def test_a_run_writes_the_study_when_asked(part: Path, train: Callable[..., Any], tmp_path: Path) -> None:
    ended = train(part, tmp_path, "scoring=map", "cuts=true", "threshold.value=0.3", model="variation")
    assert ended.code == 0, ended.err
    metrics = json.loads((ended.folder / "metrics.json").read_text())
    rows = list(csv.DictReader((ended.folder / "cuts.csv").open()))
    (used,) = [row for row in rows if row["threshold_value"] == "0.3" and row["pictures"] == "test"]
    for column, name in (("F1", "F1Score"), ("precision", "Precision"), ("recall", "Recall")):
        assert float(used[column]) == metrics["image"][f"image_{name}"]
    assert {row["pictures"] for row in rows if row["level"] == "pixel"} == {"validation", "test"}
    assert "Study of cuts" in (ended.folder / "cuts.html").read_text()
