"""The comparison's figures, tables, plots and page, from made-up runs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomalib_lite.benchmark.grid import Cell, DataSet, Method, make_cells
from anomalib_lite.report import comparison as page_module
from anomalib_lite.report.comparison import ComparisonPage, pixel_curve
from anomalib_lite.report.comparison_examples import choose_shared, read_examples, write_examples
from anomalib_lite.report.comparison_plots import Curve, PixelCurve, _first_shown, draw_roc_overlay, style
from anomalib_lite.report.comparison_results import Comparison, Outcome, mean_roc, read_outcome, summarise
from anomalib_lite.report.comparison_rows import (
    defect_table,
    gallery_rows,
    main_table,
    means_table,
    pixel_table,
)
from anomalib_lite.report.comparison_tables import as_csv, as_markdown, write_tables
from anomalib_lite.report.tables import write_scores
from anomalib_lite.types import GOOD, Example

AUROC = {("cpcae", 0): 0.9, ("cpcae", 1): 0.8, ("variation", 0): 0.75, ("variation", 1): 0.5}


def score_rows(seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    defects = [GOOD] * 12 + ["hole"] * 9 + ["crack"] * 4
    return [
        {
            "path": f"/parts/{defect}/{number:03}.png",
            "defect": defect,
            "label": int(defect != GOOD),
            "raw_score": None if number == 3 else float(rng.gamma(2.0) * (1 + (defect != GOOD))),
            "pred_label": 0,
        }
        for number, defect in enumerate(defects)
    ]


def make_metrics(auroc: float, **more: Any) -> dict[str, Any]:
    return {
        "image": {"image_AUROC": auroc, "image_AP": auroc + 0.05, "chance_AP": 0.52, "image_Recall": 0.5},
        "intervals": {"image_AUROC": [auroc - 0.2, 1.0]},
        "pixel": {"pixel_F1Score": 0.25, "pixel_AUPRO": None},
        "per_defect": {"hole": {"count": 9, "image_AUROC": auroc}, "crack": {"count": 4, "image_AUROC": 0.5}},
        "threshold": {"rule": "conformal", "cut": 3.0, "tau": 0.3, "oracle": False},
        "counts": {"train": 45, "test_good": 12, "test_defective": 13},
        "seconds": {"training": 60.0},
    } | more


def write_run(folder: Path, metrics: dict[str, Any], seed: int) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "cell.json").write_text(json.dumps({"seconds": 90.0}))
    write_scores(score_rows(seed), folder)
    return read_outcome(folder)


Make = Callable[..., Comparison]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A comparison of two methods with two seeds each on bottle, the last run of which is `last`."""

    def make(
        *,
        data: tuple[str, ...] = ("bottle",),
        last: Outcome | None = None,
        methods: list[Method] | None = None,
        more: dict[str, Any] | None = None,
    ) -> Comparison:
        methods = methods or [
            Method("cpcae", ("model=cpcae",), "cpcae", "cpcae", "good pictures", 32),
            Method("variation", ("model=variation",), "variation", "variation", "good pictures, untrained"),
        ]
        sets = [DataSet(name, ("data=mvtec",), name, False) for name in data]
        outcomes: dict[Cell, Outcome] = {}
        for cell in make_cells(methods, sets, [0, 1], []):
            auroc = AUROC.get((cell.method, cell.seed), 0.6)
            metrics = make_metrics(auroc, **(more or {}))
            outcomes[cell] = write_run(tmp_path / "runs" / cell.place, metrics, cell.seed)
        if last is not None:
            outcomes[list(outcomes)[-1]] = last
        return Comparison("test", "anomalib-lite-benchmark ...", methods, sets, [0, 1], 1, 2, outcomes)

    return make


class Page(HTMLParser):
    """The text of a page, its pictures, and whatever it would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.pictures, self.fetched = "", 0, list[str]()
        self.feed(path.read_text())

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value:
                self.pictures += value.startswith("data:image/")
                if not value.startswith(("data:", "#")):
                    self.fetched.append(value)


# figures


def test_a_summary_leaves_out_what_is_missing():
    assert summarise([None, None]) is None
    found = summarise([0.2, None, 0.6])
    assert found is not None
    assert (found.mean, found.low, found.high, found.count) == (pytest.approx(0.4), 0.2, 0.6, 2)
    assert found.text() == "40.00 (20.0–60.0)"


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=20).filter(
            lambda run: len({label for label, _ in run}) == 2
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_area_under_the_mean_curve_is_the_mean_area(runs):
    arrays = [(np.array([int(a) for a, _ in run]), np.array([float(b) for _, b in run])) for run in runs]
    x, y = mean_roc(arrays)
    assert np.trapezoid(y, x) == pytest.approx(np.mean([roc_auc_score(*run) for run in arrays]))
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= -1e-12).all()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_an_outcome_holds_the_scored_pictures_alone(tmp_path):
    outcome = write_run(tmp_path, make_metrics(0.9, ms_per_image=12.5), 0)
    assert (outcome.scores.size, outcome.labels.sum()) == (24, 13)  # one of 25 was not aligned
    assert outcome.figure("image_AUROC") == 0.9
    assert outcome.figure("pixel_AUPRO") is None
    assert outcome.figure("ms_per_image") == 12.5
    assert (outcome.cut, outcome.localises, outcome.seconds) == (3.0, True, 90.0)


def test_training_time_counts_only_as_measured_when_the_network_was_trained(tmp_path):
    assert write_run(tmp_path, make_metrics(0.9), 0).training_seconds is None  # may be the time of a look-up
    assert write_run(tmp_path, make_metrics(0.9, training={"seconds": 61.5}), 0).training_seconds == 61.5


# tables


def test_the_csv_has_every_figure_and_the_papers(make):
    rows = list(csv.DictReader(io.StringIO(as_csv(make()))))
    assert [(row["data"], row["method"], row["seeds"]) for row in rows] == [
        ("bottle", "cpcae", "2"),
        ("bottle", "variation", "2"),
    ]
    first = rows[0]
    assert float(first["image_AUROC"]) == pytest.approx(0.85)
    assert (float(first["image_AUROC_low"]), float(first["image_AUROC_high"])) == (0.8, 0.9)
    assert (first["paper_image_AUROC"], first["paper_image_AP"], first["chance_AP"]) == (
        "99.71",
        "99.90",
        "0.52",
    )
    assert "pixel_AUPRO" not in first


def test_the_markdown_stands_beside_the_paper(make):
    text = as_markdown(make(last=Outcome("failed", Path("x"), error="training diverged")))
    assert "| method | paper AUROC / AP | image AUROC | image AP | defects found | pixel F1 |" in text
    assert "| cpcae | 99.71 / 99.90 | 85.00 (80.0–90.0) | 90.00 (85.0–95.0) | 50.00 (50.0–50.0) |" in text
    assert "| variation | 79.25 / 93.12 | 75.00 | 80.00 |" in text  # the seed that is there
    assert "Guessing reaches 52.0 of AP." in text
    assert "Mean of seeds 0, 1 in %, lowest to highest in brackets." in text
    assert text.endswith("- variation on bottle, seed 1: training diverged\n")


def test_the_json_holds_what_the_runs_wrote(make, tmp_path):
    comparison = make()
    write_tables(comparison, tmp_path)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    for run, outcome in zip(written["runs"], comparison.outcomes.values(), strict=True):
        assert json.loads((tmp_path / run["folder"] / "metrics.json").read_text()) == run["metrics"]
        assert run["state"] == outcome.state == "done"
    assert written["published"]["bottle"]["vae"] == {"image_AUROC": [89.7, 89.7]}


def test_the_main_table_marks_the_best_and_lists_what_is_only_published(make):
    comparison = make()
    table = main_table(comparison, comparison.data[0])
    assert [head["title"] for head in table["heads"]] == [
        "image AUROC", "published", "image AP", "published", "defects found", "pixel F1",
    ]  # fmt: skip
    cells = [[one["cell"] for one in row["cells"]] for row in table["rows"]]
    assert [cell.text for cell in cells[0]] == ["85.00", "99.71", "90.00", "99.90", "50.00", "25.00"]
    assert [cell.best for cell in cells[0]] == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]  # a tie counts for both
    assert [cell.best for cell in cells[1]] == [False, False, False, False, False, True]
    others = {row["label"]: row["cells"][1]["cell"].text for row in table["published"]}
    assert others["GANomaly"] == "89.20"
    assert "variation" not in others


def test_means_stand_beside_the_recomputed_ones(make):
    comparison = make(data=("bottle", "pill"))
    table = means_table(comparison)
    assert table is not None
    first = table["rows"][0]
    assert (first["label"], first["ours"], first["wins"]) == ("cpcae", ["85.00", "90.00"], 2)
    assert first["columns"] == ["93.22", "98.56"]  # (99.71 + 86.74) / 2 and (99.90 + 97.23) / 2
    assert first["printed"] == ["", ""]  # of the eight categories, which these are not
    assert means_table(make()) is None


def test_a_mean_over_all_eight_categories_shows_the_printed_one(make):
    comparison = make(
        data=("bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "toothbrush", "transistor")
    )
    table = means_table(comparison)
    assert table is not None
    assert table["rows"][1]["columns"] == ["63.50", "82.66"]
    assert table["rows"][1]["printed"] == ["58.07", "81.96"]


def test_a_mean_needs_every_data_set(make):
    comparison = make(data=("bottle", "pill"))
    for cell, outcome in list(comparison.outcomes.items()):
        if (cell.method, cell.data) == ("variation", "pill"):
            comparison.outcomes[cell] = Outcome("waiting", outcome.folder)
    assert comparison.mean_over_data("variation", "image_AUROC") is None
    assert comparison.wins() == {"cpcae": 2, "variation": 0}


def test_defects_are_rows(make):
    comparison = make()
    table = defect_table(comparison, comparison.data[0])
    assert table is not None
    assert table["heads"] == ["cpcae", "variation"]
    hole = table["rows"][0]
    assert (hole["defect"], hole["count"]) == ("hole", 9)
    assert [cell.text for cell in hole["cells"]] == ["85.0", "62.5"]


def test_printed_pixel_figures_stand_below_ours_with_what_follows_from_them(make):
    pixel = {
        "pixel_Recall": 0.5,
        "pixel_Precision": 0.25,
        "pixel_F1Score": 1 / 3,
        "pixel_F1Score_oracle": 0.4,
    }
    defects = {"cut": {"count": 3, "pixel_Recall": 0.125, "pixel_F1Score": 0.2}}
    comparison = make(data=("hazelnut",), more={"pixel": pixel, "per_defect": defects})
    rows = pixel_table(comparison, comparison.data[0])
    ours = [(row["label"], row["scope"], [cell.text for cell in row["cells"]]) for row in rows[:2]]
    assert ours == [
        ("cpcae", "all", ["50.0", "25.0", "33.3", "40.0"]),
        ("cpcae", "cut", ["12.5", "", "20.0", ""]),
    ]
    printed = {(row["label"], row["scope"]): row["cells"][2] for row in rows if row["published"]}
    cut = printed["deep encoder-decoder", "cut"]
    assert (cut.text, cut.spread) == ("57", "74 follows")
    assert printed["AE-L2", "all"].spread == ""


# pictures


def example(name: str, defect: str, *, reconstruction: bool = True, score: float = 1.0) -> Example:
    spot = np.zeros((24, 40), bool)
    spot[8:14, 10:18] = True
    return Example(
        name=name,
        defect=defect,
        raw_score=score,
        pred_score=0.5,
        pred_label=int(score > 0.5),
        image=np.full((24, 40, 3), 120, np.uint8),
        reconstruction=np.full((24, 40, 3), 60, np.uint8) if reconstruction else None,
        anomaly_map=spot.astype(np.float32),
        pred_mask=spot,
        true_mask=spot if defect != GOOD else None,
    )


def test_shared_examples_come_back(tmp_path):
    write_examples(
        [example("hole/1", "hole"), example("good/2", GOOD, reconstruction=False)], tmp_path, cut=0.5
    )
    hole, good = read_examples(tmp_path)
    assert (hole.name, hole.defect, hole.raw_score, hole.outcome) == ("hole/1", "hole", 1.0, "found")
    assert good.outcome == "rejected"
    assert set(hole.pictures) == {"Input", "Reconstruction", "Anomaly map", "Ground truth"}
    assert set(good.pictures) == {"Input", "Anomaly map"}
    picture = np.array(Image.open(io.BytesIO(hole.pictures["Reconstruction"])))
    assert picture.shape == (24, 40, 3)
    assert abs(picture.astype(int) - 60).max() <= 2


def test_the_choice_does_not_depend_on_scores_or_order():
    rows = score_rows(0)
    chosen = [rows[row]["path"] for row in choose_shared(rows)]
    assert [path.split("/")[2] for path in chosen] == ["crack", "hole", "hole", "hole", "good"]
    shuffled = [row | {"raw_score": 0.0} for row in reversed(rows)]
    assert [shuffled[row]["path"] for row in choose_shared(shuffled)] == chosen


@settings(deadline=None)
@given(
    defects=st.lists(st.sampled_from(["good", "a", "b", "c", "d", "e", "f"]), max_size=40),
    limit=st.integers(2, 8),
)
def test_the_choice_is_never_too_long_nor_twice(defects, limit):
    rows = [{"path": f"{number:03}", "defect": defect} for number, defect in enumerate(defects)]
    chosen = choose_shared(rows, limit)
    assert len(chosen) == len(set(chosen)) <= limit
    assert len(chosen) == min(limit, len(rows) - max(0, defects.count("good") - 1))
    assert ("good" in defects) == ("good" in [defects[row] for row in chosen])


def test_methods_show_the_same_pictures_below_each_other(make):
    comparison = make()
    first, second = (comparison.done(name, "bottle")[0].folder for name in ("cpcae", "variation"))
    write_examples([example("hole/1", "hole"), example("good/2", GOOD, score=0.25)], first, cut=None)
    write_examples([example("good/2", GOOD, reconstruction=False)], second, cut=None)
    gallery = gallery_rows(comparison, comparison.data[0])
    assert gallery is not None
    assert gallery["names"] == ["hole/1", "good/2"]
    assert [(row["method"], row["title"]) for row in gallery["rows"]] == [
        ("", "Input"), ("", "Ground truth"), ("cpcae", "Reconstruction"), ("", "Anomaly map"),
        ("variation", "Anomaly map"),
    ]  # fmt: skip
    assert gallery["rows"][3]["captions"] == ["1 found", "0.25 accepted"]
    assert [picture is None for picture in gallery["rows"][4]["pictures"]] == [True, False]


# plots


def test_no_two_of_32_methods_look_alike():
    assert len({style(number) for number in range(32)}) == 32


def test_a_plot_is_the_same_every_time_and_shows_names_as_they_are():
    curve = Curve(0, "$\\alpha$ _x", np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), 1.0)
    first = draw_roc_overlay([curve])
    assert first == draw_roc_overlay([curve])
    assert Image.open(io.BytesIO(first)).size == (1380, 660)


def test_a_pixel_curve_is_read_as_recorded():
    points = [
        {"tau": 0.1, "precision": 0.2, "recall": 1.0, "F1": 1 / 3},
        {"tau": 0.2, "precision": None, "recall": 0.5, "F1": 0.4},
    ]
    outcome = Outcome("done", Path("x"), metrics={"pixel_curve": points, "threshold": {"tau": 0.15}})
    curve = pixel_curve("m", outcome)
    assert curve is not None
    assert curve.tau.tolist() == [0.1, 0.2]
    assert curve.values["F1"].tolist() == [1 / 3, 0.4]
    assert np.isnan(curve.values["precision"][1])
    assert curve.cut == 0.15
    assert pixel_curve("m", Outcome("done", Path("x"), metrics={"pixel_curve": points[:1]})) is None


def test_a_pixel_curve_is_shown_from_where_something_happens():
    recall = np.array([1.0, 1.0, 1.0, 0.5, 0.0])
    tau = np.array([0.001, 0.01, 0.1, 0.5, 0.9])
    assert _first_shown(PixelCurve("m", tau, {"recall": recall}, None)) == 2
    assert _first_shown(PixelCurve("m", tau, {"recall": recall}, 0.05)) == 1  # the cut in use is shown too
    assert _first_shown(PixelCurve("m", tau, {"recall": np.ones(5)}, None)) == 0


# the page


def test_the_page_needs_nothing_else_and_says_the_result(make, tmp_path):
    page = Page(ComparisonPage().write(make(), tmp_path))
    assert page.fetched == []
    assert page.pictures == 3  # beside the paper, ROC, scores
    assert (
        "On bottle, cpcae separates good and defective parts best of 2 methods: image AUROC 85.0\xa0% "
        "(mean of 2 seeds, 80.0\xa0% to 90.0\xa0%)." in page.text
    )
    for text in (
        "Published, without a run here",
        "GeoTrans",
        "99.71",
        "AUROC 58.07 printed, 63.50 from its columns",
    ):
        assert text in page.text, text
    assert "rendered" not in page.text
    assert "Failed runs" not in page.text


def test_more_that_was_recorded_is_more_that_is_shown(make, tmp_path):
    curve = [{"tau": tau, "precision": tau, "recall": 1 - tau, "F1": 0.2} for tau in (0.1, 0.9)]
    methods = [
        Method(
            f"cpcae {size}", ("model=cpcae", f"model.latent_dim={size}"), None, "cpcae", "good pictures", size
        )
        for size in (8, 32)
    ]
    comparison = make(methods=methods, more={"pixel_curve": curve})
    folder = comparison.done("cpcae 8", "bottle")[0].folder
    (folder / "plots").mkdir()
    (folder / "plots" / "tsne.png").write_bytes(draw_roc_overlay([]))
    write_examples([example("hole/1", "hole")], folder, cut=0.5)
    page = Page(ComparisonPage().write(comparison, tmp_path))
    assert "Size of the encoding" in page.text
    assert "How parts resemble each other" in page.text
    assert page.pictures == 3 + 1 + 1 + 1 + 4  # pixel curves, sizes, t-SNE, and four of the example


def test_what_differs_in_more_than_the_size_of_its_encoding_is_another_line(make, tmp_path):
    methods = [
        Method("a", ("model=cpcae",), None, "cpcae", "", 32),
        Method("b", ("model=cpcae", "model.latent_dim=8", "model.condition=none"), None, "cpcae", "", 8),
    ]
    page = Page(ComparisonPage().write(make(methods=methods), tmp_path))
    assert "Size of the encoding" not in page.text


def test_labels_and_errors_are_text(make, tmp_path):
    methods = [Method("<b>bold</b> & $x$", ("model=cpcae",), None, "cpcae", "", None)]
    last = Outcome("failed", tmp_path / "x", error="expected <i>, found & nothing")
    path = ComparisonPage().write(make(methods=methods, last=last), tmp_path)
    assert "<b>bold" not in path.read_text()
    page = Page(path)
    assert "<b>bold</b> & $x$" in page.text
    assert "expected <i>, found & nothing" in page.text
    assert "1 of 2 runs failed; they are listed below." in page.text


def test_a_comparison_without_results_is_a_page_too(make, tmp_path):
    comparison = make()
    for cell in comparison.outcomes:
        comparison.outcomes[cell] = Outcome("waiting", tmp_path)
    write_tables(comparison, tmp_path)
    page = Page(ComparisonPage().write(comparison, tmp_path))
    assert "No run is finished yet." in page.text
    assert "Not finished: 0 of 4 runs are done, 0 failed." in page.text
    assert (tmp_path / "table.csv").read_text().count("\n") == 1


def test_a_test_with_one_sort_of_parts_has_no_curve(make, tmp_path):
    comparison = make()
    for cell, outcome in comparison.outcomes.items():
        comparison.outcomes[cell] = Outcome(
            "done", outcome.folder, make_metrics(0.9, image={}), np.zeros(3, int), np.ones(3)
        )
    page = Page(ComparisonPage().write(comparison, tmp_path))
    assert page.pictures == 1  # the scores


def test_only_new_results_are_drawn_again(make, tmp_path, monkeypatch):
    comparison, drawn = make(data=("bottle", "pill")), list[str]()
    whole = page_module.make_section
    monkeypatch.setattr(
        page_module, "make_section", lambda results, part: drawn.append(part.label) or whole(results, part)
    )
    page = ComparisonPage()
    last = list(comparison.outcomes)[-1]
    outcome = comparison.outcomes[last]
    comparison.outcomes[last] = Outcome("waiting", outcome.folder)
    page.write(comparison, tmp_path)
    comparison.outcomes[last] = outcome
    page.write(comparison, tmp_path)
    assert drawn == ["bottle", "pill", "pill"]


def test_rendered_pictures_are_named(make, tmp_path):
    comparison = make()
    comparison.data[0] = DataSet("bottle", (), "bottle", True)
    text = Page(ComparisonPage().write(comparison, tmp_path)).text
    assert re.search(r"bottle: rendered pictures, not photographs\.", text)
