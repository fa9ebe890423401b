"""The two commands end to end, on drawn parts: files, figures, reuse, repeatability, and sweeps."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.detector import Detector

Run = Callable[..., Any]
FILES = [
    "metrics.json",
    "scores.csv",
    "report.html",
    ".hydra/overrides.yaml",
    "console.log",
    "bundle/manifest.json",
    "bundle/detector.json",
    "bundle/detector.safetensors",
]
IMAGE_METRICS = [
    "image_AUROC",
    "image_AP",
    "image_AUPR",
    "image_F1Score",
    "image_Precision",
    "image_Recall",
    "image_Accuracy",
    "false_reject_rate",
]
PIXEL_METRICS = ["pixel_AUROC", "pixel_AUPR", "pixel_F1Score", "pixel_AUPRO", "pixel_AUPRO_0.05"]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def scores(folder: Path) -> dict[str, float]:
    """Raw score by picture, as written: every digit."""
    rows = csv.DictReader((folder / "scores.csv").open())
    return {row["path"]: float(row["raw_score"]) for row in rows}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that runs reuse each other's stages."""
    return tmp_path_factory.mktemp("outputs")


def test_the_main_job_leaves_everything(finished: Any, part: Path) -> None:
    folder = finished.folder
    assert [name for name in FILES if not (folder / name).is_file()] == []
    assert folder.parent == finished.outputs / "cpcae" / "part"
    plots = {path.stem for path in (folder / "plots").iterdir()}
    assert {"roc", "pr", "score_histogram", "tsne", "losses", "gallery"} <= plots
    assert {path.suffix for path in (folder / "plots").iterdir()} == {".png"}
    assert f"report: {folder / 'report.html'}" in finished.out
    assert "image_AUROC" in finished.out
    assert finished.err == ""


def test_figures_of_a_plain_defect(finished: Any) -> None:
    found = metrics(finished.folder)
    assert [name for name in IMAGE_METRICS if not 0 <= found["image"][name] <= 1] == []
    assert [name for name in PIXEL_METRICS if not 0 <= found["pixel"][name] <= 1] == []
    assert found["image"]["image_AUROC"] == 1.0
    assert found["pixel"]["pixel_AUROC"] > 0.9
    assert found["per_defect"]["hole"]["count"] == 4
    low, high = found["intervals"]["image_AUROC"]
    assert low <= found["image"]["image_AUROC"] <= high
    counts = {"train": 9, "validation": 2, "calibration": 9, "test_good": 4, "test_defective": 4}
    assert found["counts"] == counts | {"excluded": 0, "not_aligned": 0}
    assert found["threshold"]["rule"] == "conformal"
    assert found["threshold"]["calibration_count"] == 9
    assert 0 <= found["validation_AUROC"] <= 1


def test_a_row_for_each_test_picture(finished: Any, part: Path) -> None:
    rows = list(csv.DictReader((finished.folder / "scores.csv").open()))
    assert sorted(row["path"] for row in rows) == sorted(str(path) for path in (part / "test").rglob("*.png"))
    cut = metrics(finished.folder)["threshold"]["cut"]
    for row in rows:
        assert row["label"] == str(int("hole" in row["path"]))
        assert row["pred_label"] == str(int(float(row["raw_score"]) > cut))
        assert (float(row["pred_score"]) > 0.5) == (row["pred_label"] == "1")


def test_the_report_is_one_page_that_needs_nothing_else(finished: Any) -> None:
    page = (finished.folder / "report.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert not [
        outside for outside in ('src="http', 'href="http', "<script src", "@import") if outside in page
    ]
    assert "cpcae on part" in page


@pytest.mark.parametrize("model", ["ae_l2", "deep_feature", "nearest_neighbour", "variation"])
def test_the_papers_rivals(model: str, part: Path, outputs: Path, train: Run) -> None:
    ended = train(part, outputs, "report=true", model=model)
    assert ended.code == 0, ended.err
    assert [name for name in FILES if not (ended.folder / name).is_file()] == []
    found = metrics(ended.folder)
    assert found["image"]["image_AUROC"] == 1.0
    if model == "deep_feature":
        assert found["pixel"] == {}
    else:
        assert found["pixel"]["pixel_AUROC"] > 0.9


def test_ae_l2_trains_nothing_once_the_cpcae_is_trained(part: Path, outputs: Path, train: Run) -> None:
    first = train(part, outputs)
    networks = sorted((outputs / ".stages" / "network").iterdir())
    second = train(part, outputs, model="ae_l2")
    assert sorted((outputs / ".stages" / "network").iterdir()) == networks
    assert re.search("reused stage (network|scores)", second.out)  # another test may have scored with it
    assert (first.folder / "bundle").is_dir()
    assert not (second.folder / "checkpoints").exists()


def test_a_network_that_saw_other_pictures_is_not_reused(part: Path, tmp_path: Path, train: Run) -> None:
    short = ["trainer.max_epochs=1", "model.steps_per_epoch=2"]
    codes = [train(part, tmp_path, f"data.downsize={side}", *short).code for side in (24, 28)]
    assert codes == [0, 0]
    assert len(list((tmp_path / ".stages" / "network").iterdir())) == 2 * 2  # the folders and their locks


def test_same_seed_same_scores_with_and_without_the_cache(
    finished: Any, part: Path, tmp_path: Path, train: Run
) -> None:
    expected = scores(finished.folder)
    assert len(set(expected.values())) == 8
    assert scores(train(part, finished.outputs).folder) == expected
    assert scores(train(part, tmp_path, "cache=false").folder) == expected


def test_trained_in_mixed_precision_it_predicts_what_it_scored(
    part: Path, tmp_path: Path, train: Run, predict: Run
) -> None:
    ended = train(part, tmp_path, "trainer.precision=bf16-mixed")
    assert ended.code == 0, ended.err
    assert predict(ended.folder / "bundle", part / "test" / "hole", tmp_path / "new").code in (0, 1)
    predicted = scores(tmp_path / "new")
    assert predicted == {path: scores(ended.folder)[path] for path in predicted}


def test_another_seed_other_scores(finished: Any, part: Path, tmp_path: Path, train: Run) -> None:
    other = scores(train(part, tmp_path, "seed=1").folder)
    expected = scores(finished.folder)
    assert other.keys() == expected.keys()
    assert all(other[path] != score for path, score in expected.items())


def test_jobs_that_differ_in_their_cuts_alone_share_everything_else(
    part: Path, tmp_path: Path, train: Run
) -> None:
    cuts = ("hydra.mode=MULTIRUN", "threshold.value=0.4,0.6", "postprocess.tau=0.5,2.0", "report=null")
    ended = train(part, tmp_path, *cuts, model="ae_l2")
    assert ended.code == 0, ended.err
    sweep = tmp_path / "sweeps" / "ae_l2-part"
    folders = {
        (value, tau): folder
        for value in ("0.4", "0.6")
        for tau in ("0.5", "2.0")
        for folder in sweep.glob(f"*tau={tau}*value={value}*/")
    }
    assert len(folders) == 4
    assert ended.out.count("reused stage scores") == 3
    pages = [folder for folder in folders.values() if (folder / "report.html").is_file()]
    assert len(pages) == 1  # of the job that learned something
    for (value, tau), folder in folders.items():
        alone = train(
            part,
            tmp_path / "alone",
            f"threshold.value={value}",
            f"postprocess.tau={tau}",
            "cache=false",
            model="ae_l2",
        )
        found, expected = metrics(folder), metrics(alone.folder)
        for figures in ("seconds", "training", "ms_per_image"):
            del found[figures], expected[figures]
        assert found == expected
        assert (folder / "scores.csv").read_bytes() == (alone.folder / "scores.csv").read_bytes()
        detector, other = (Detector.load(of / "bundle") for of in (folder, alone.folder))
        assert (detector.threshold, detector.tau_) == (other.threshold, other.tau_)
        assert detector.tau_ == float(tau)


def test_the_pixel_cut_of_a_job_does_not_become_the_next_ones(part: Path, tmp_path: Path, train: Run) -> None:
    train(part, tmp_path, "postprocess.tau=7.5", model="variation")
    learned = train(part, tmp_path, model="variation")
    assert "reused stage scores" in learned.out
    expected = train(part, tmp_path / "alone", model="variation")
    assert metrics(learned.folder)["threshold"]["tau"] == metrics(expected.folder)["threshold"]["tau"] != 7.5


def test_a_minimum_area_makes_the_pixel_cut_part_of_what_is_scored(
    part: Path, tmp_path: Path, train: Run
) -> None:
    area = "postprocess.minimum_area=4"
    for tau in (0.5, 2.0):
        ended = train(part, tmp_path, area, f"postprocess.tau={tau}", model="variation")
        assert "reused stage scores" not in ended.out
        alone = train(part, tmp_path / "alone", area, f"postprocess.tau={tau}", model="variation")
        assert metrics(ended.folder)["pixel"] == metrics(alone.folder)["pixel"]


@pytest.fixture(scope="module")
def compared(part: Path, train: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run is to which others are compared."""
    outputs = tmp_path_factory.mktemp("compared")
    assert train(part, outputs).code == 0
    return outputs


@pytest.mark.parametrize(
    ("change", "reused"),
    [
        ("threads=1", True),
        ("logger=tensorboard", True),
        ("threshold.value=0.7", True),
        ("seed=1", False),
        ("postprocess.gaussian=2", False),
        ("data.size=40", False),
    ],
)
def test_what_changes_a_score_is_in_the_key_and_nothing_else(
    change: str, reused: bool, part: Path, compared: Path, train: Run
) -> None:
    assert ("reused stage scores" in train(part, compared, change).out) == reused


def test_a_changed_picture_or_mask_is_noticed(part: Path, tmp_path: Path, train: Run) -> None:
    root = tmp_path / "part"
    shutil.copytree(part, root)
    train(root, tmp_path, model="variation")
    assert "reused stage scores" in train(root, tmp_path, model="variation").out
    for path in (root / "train" / "good" / "000.png", root / "ground_truth" / "hole" / "000_mask.png"):
        upside_down = read_image(path)[::-1, :, 0]
        write_png(path, np.ascontiguousarray((upside_down * 255).round().astype(np.uint8)))
        assert "reused stage scores" not in train(root, tmp_path, model="variation").out


def test_a_failing_job_fails_the_sweep_and_spares_the_others(part: Path, tmp_path: Path, train: Run) -> None:
    ended = train(part, tmp_path, "hydra.mode=MULTIRUN", "threshold.alpha=0.2,0.001,0.3", model="variation")
    assert ended.code == 2
    assert "1 of 3 jobs have failed, first threshold.alpha=0.001" in ended.err.splitlines()[-1]
    folders = sorted((tmp_path / "sweeps" / "variation-part").glob("*/"))
    states = {json.loads((folder / "status.json").read_text())["state"] for folder in folders}
    assert states == {"done", "failed"}
    assert sum((folder / "metrics.json").is_file() for folder in folders) == 2


def test_what_can_be_known_is_said_before_the_first_job_starts(
    part: Path, tmp_path: Path, train: Run
) -> None:
    ended = train(part, tmp_path, "hydra.mode=MULTIRUN", "data.size=64,0,48", model="variation")
    assert ended.code == 2
    assert "job 1 of 3 (data.size=0): data.size: expected at least 1 pixel" in ended.err
    assert not list(tmp_path.rglob("metrics.json"))


def test_a_folder_of_good_parts_alone(part: Path, tmp_path: Path, train: Run) -> None:
    folder = ["data=folder", f"data.normal_dir={part / 'train' / 'good'}"]
    ended = train(None, tmp_path, *folder, "report=true", model="variation")
    assert ended.code == 0, ended.err
    found = metrics(ended.folder)
    assert found["image"]["image_AUROC"] is None
    assert (found["counts"]["test_good"], found["counts"]["test_defective"]) == (4, 0)
    assert (ended.folder / "report.html").is_file()


@pytest.fixture
def new_parts(part: Path, accepted: list[Path], tmp_path: Path) -> Path:
    """A folder of new photographs: two good ones and a defective one of another size."""
    folder = tmp_path / "new parts"
    folder.mkdir()
    for number in range(2):
        shutil.copy(accepted[number], folder / f"good, {number}.png")
    hole = cv2.imread(str(part / "test" / "hole" / "000.png"))
    cv2.imwrite(str(folder / "hole(1).png"), cv2.resize(hole, (128, 96), interpolation=cv2.INTER_CUBIC))
    return folder


def test_predict_on_a_folder(
    finished: Any, accepted: list[Path], new_parts: Path, tmp_path: Path, predict: Run
) -> None:
    ended = predict(finished.folder / "bundle", new_parts, tmp_path / "out")
    assert ended.code == 1  # one part is not good
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["good, 0.png", "good, 1.png", "hole(1).png"]
    assert [line["pred_label"] for line in lines] == [0, 0, 1]
    assert [row["pred_label"] for row in rows] == ["0", "0", "1"]
    trained = scores(finished.folder)
    for line, row, path in zip(lines[:2], rows, accepted, strict=False):
        assert line["raw_score"] == float(row["raw_score"]) == trained[str(path)]
    assert "2 good, 1 defective" in ended.out
    for kind in ("overlays", "masks"):
        pictures = sorted((tmp_path / "out" / kind).iterdir())
        sizes = [cv2.imread(str(path)).shape for path in pictures]
        assert sizes == [(48, 64, 3), (48, 64, 3), (96, 128, 3)]
    mask = cv2.imread(str(pictures[2]), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {0, 255}
    assert mask[40:52, 56:72].mean() > mask.mean()  # the hole at twice the size


def test_predict_on_good_parts_and_on_one_picture(
    finished: Any, part: Path, new_parts: Path, tmp_path: Path, predict: Run
) -> None:
    bundle = finished.folder / "bundle"
    (new_parts / "hole(1).png").unlink()
    good = predict(bundle, new_parts, tmp_path / "good", "overlays=false")
    assert good.code == 0, good.out
    assert sorted(path.name for path in (tmp_path / "good").glob("scores.*")) == [
        "scores.csv",
        "scores.jsonl",
    ]
    assert not (tmp_path / "good" / "overlays").exists()
    assert predict(bundle, part / "test" / "hole" / "001.png", tmp_path / "hole").code == 1


def test_an_unreadable_part_is_rejected_with_the_reason(
    finished: Any, new_parts: Path, tmp_path: Path, predict: Run
) -> None:
    (new_parts / "cut.png").write_bytes((new_parts / "hole(1).png").read_bytes()[:300])
    ended = predict(finished.folder / "bundle", new_parts, tmp_path / "out")
    assert ended.code == 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [bool(row["rejected"]) for row in rows] == [True, False, False, False]
    assert rows[0]["raw_score"] is None
    assert "cut.png: expected a whole picture" in rows[0]["rejected"]
    assert "1 rejected" in ended.out

    stopped = predict(finished.folder / "bundle", new_parts, tmp_path / "strict", "on_bad_image=error")
    assert stopped.code == 2
    assert "cut.png: expected a whole picture" in stopped.err


def test_no_number_that_json_lacks(finished: Any) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = (finished.folder / "metrics.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert not math.isnan(found["validation_AUROC"])
