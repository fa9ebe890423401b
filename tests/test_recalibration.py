"""Recalibration: the cut is the rule's on the new parts, the old bundle stays, and what cannot be is refused."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.bundle import MANIFEST, derive_bundle, read_bundle
from anomalib_lite.data.images import list_images, read_image, write_png
from anomalib_lite.detector import Detector
from anomalib_lite.drift import DriftMonitor
from anomalib_lite.inspector import not_aligned
from anomalib_lite.recalibration import recalibrate, recalibrate_command
from anomalib_lite.report.verdict import proportion_interval
from anomalib_lite.scoring.threshold import (
    F1Threshold,
    FixedThreshold,
    NoThreshold,
    QuantileThreshold,
    Threshold,
)
from anomalib_lite.stages import file_digest
from anomalib_lite.types import Alignment, InputError


@pytest.fixture(scope="session")
def new_parts(draw_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 21 good parts as the finished run has never seen them."""
    return draw_set(tmp_path_factory.mktemp("new"), train=21, seed=7) / "train" / "good"


@pytest.fixture
def bundle(finished: Any, untouched: Callable[[Path], None]) -> Path:
    """The finished run's bundle, which must be the same in the end."""
    untouched(finished.folder / "bundle")
    return finished.folder / "bundle"


@pytest.fixture
def with_rule(finished: Any, tmp_path: Path) -> Callable[[Threshold], Path]:
    """The finished run's bundle with another rule."""

    def make(rule: Threshold) -> Path:
        derive_bundle(finished.folder / "bundle", tmp_path / rule.rule, {"threshold": rule.state()})
        return tmp_path / rule.rule

    return make


def scores_of(bundle: Path, folder: Path) -> np.ndarray:
    detector = Detector.load(bundle)
    return np.array([detector.predict(read_image(path), path).raw_score for path in list_images(folder)])


def test_the_new_cut_is_the_rules_on_the_new_parts(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    done = recalibrate(bundle, new_parts, tmp_path / "new", alpha=None)
    old, new = Detector.load(bundle), Detector.load(tmp_path / "new")
    scores = scores_of(bundle, new_parts)
    rank = math.ceil(22 * 0.9)
    assert new.raw_cut == done.after.raw_cut == np.sort(scores)[rank - 1] != old.raw_cut
    assert new.threshold.spread_ == old.threshold.spread_  # of the validation normals, which are the same
    assert new.threshold.guarantee_.startswith("at most 10 % of good parts are rejected")
    assert "21 calibration pictures" in new.threshold.guarantee_
    assert done.rejected == (scores > old.raw_cut).sum()
    assert (done.parts, done.excluded, done.bundle) == (21, [], tmp_path / "new")

    assert new.calibration is not None
    assert new.calibration.scores == scores.tolist()
    assert new.calibration.validation_scores == old.calibration.validation_scores
    assert len(new.calibration.errors) == len(new.calibration.qualities) == 21
    monitor = DriftMonitor(new.calibration, new.raw_cut, window=20, false_alarms=1e-4)
    path = list_images(new_parts)[0]
    prediction = new.predict(read_image(path), path)
    assert prediction.error == new.calibration.errors[0]
    monitor.update(
        raw_score=prediction.raw_score, error=prediction.error, quality=prediction.alignment.quality
    )

    (arrays, settings), (old_arrays, old_settings) = read_bundle(tmp_path / "new"), read_bundle(bundle)
    assert all(np.array_equal(arrays[name], old_arrays[name]) for name in arrays | old_arrays)
    changed = {name for name in settings if settings[name] != old_settings[name]}
    assert changed == {"threshold", "calibration", "card"}


def test_the_card_says_what_it_was_made_from(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    done = recalibrate(bundle, new_parts, tmp_path / "new", alpha=0.2)
    old, new = Detector.load(bundle).card, Detector.load(tmp_path / "new").card
    assert new["recalibrated"][:4].isdigit()
    assert new["recalibrated_from"] == f"manifest SHA-256 {file_digest(bundle / MANIFEST)}"
    assert (new["old cut"], new["new cut"]) == (done.before.raw_cut, done.after.raw_cut)
    assert len(new["recalibration data hash"]) == 20
    card = new["calibration"]
    assert card["normals"] == old["calibration"]["normals"] | {"calibration": 21}
    assert (card["rule"], card["alpha"], card["judged"]) == ("conformal", 0.2, 0)
    assert card["guarantee"] == done.after.guarantee_
    assert card["observed false rejects"].startswith("not measured")
    assert {name: new[name] for name in old if name != "calibration"} == {
        name: value for name, value in old.items() if name != "calibration"
    }
    again = recalibrate(tmp_path / "new", new_parts, tmp_path / "newer", alpha=None)
    newer = Detector.load(tmp_path / "newer").card
    assert newer["recalibration data hash"] == new["recalibration data hash"]
    assert newer["old cut"] == newer["new cut"] == done.after.raw_cut
    assert again.rejected == 3  # 21 - ceil(22 * 0.8)


def test_alpha_may_be_another(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    done = recalibrate(bundle, new_parts, tmp_path / "new", alpha=0.5)
    assert done.after.raw_cut == np.sort(scores_of(bundle, new_parts))[10]
    assert Detector.load(tmp_path / "new").threshold == done.after
    for alpha, message in (
        (1.5, "threshold.alpha must be between 0 and 1"),
        ("few", "alpha must be a number"),
    ):
        with pytest.raises(InputError, match=message):
            recalibrate(bundle, new_parts, tmp_path / "other", alpha=alpha)  # type: ignore[arg-type]  # from a command


def test_a_moved_cut_stays_moved(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    state = Detector.load(bundle).threshold.state()
    state["settings"]["value"] = 0.4
    derive_bundle(bundle, tmp_path / "moved", {"threshold": state})
    done = recalibrate(tmp_path / "moved", new_parts, tmp_path / "new", alpha=None)
    assert done.after.raw_cut < done.after.cut_ == np.sort(scores_of(bundle, new_parts))[19]


def test_the_quantile_rule(with_rule: Callable[[Threshold], Path], new_parts: Path, tmp_path: Path) -> None:
    source = with_rule(QuantileThreshold(quantile=0.5).fit(np.arange(5.0), np.arange(5.0)))
    done = recalibrate(source, new_parts, tmp_path / "new", alpha=None)
    assert done.after.raw_cut == np.median(scores_of(source, new_parts))
    assert Detector.load(tmp_path / "new").card["calibration"]["alpha"] is None
    with pytest.raises(InputError, match=r"alpha=0.1 is for threshold=conformal, this is quantile"):
        recalibrate(source, new_parts, tmp_path / "other", alpha=0.1)


@pytest.mark.parametrize(
    "rule",
    [
        FixedThreshold(raw_value=1.0).fit(np.array([]), np.arange(3.0)),
        F1Threshold().fit(np.array([]), np.arange(3.0)).fit_oracle(np.arange(4.0), np.array([0, 0, 1, 1])),
        NoThreshold().fit(np.array([]), np.arange(3.0)),
    ],
    ids=lambda rule: rule.rule,
)
def test_a_rule_without_calibration_is_refused(
    rule: Threshold, with_rule: Callable[[Threshold], Path], new_parts: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"threshold={rule.rule} is not set by calibration parts"):
        recalibrate(with_rule(rule), new_parts, tmp_path / "new", alpha=None)
    assert not (tmp_path / "new").exists()


def test_a_bundle_without_calibration_is_refused(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    derive_bundle(bundle, tmp_path / "older", {"calibration": None})
    with pytest.raises(InputError, match="written before bundles kept their calibration"):
        recalibrate(tmp_path / "older", new_parts, tmp_path / "new", alpha=None)


def test_too_few_parts_write_nothing(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in list_images(new_parts)[:8]:
        shutil.copy(path, few)
    with pytest.raises(InputError, match=r"alpha=0.1 needs at least 9 calibration normals, got 8"):
        recalibrate(bundle, few, tmp_path / "new", alpha=None)
    assert [path.name for path in tmp_path.iterdir()] == ["few"]


def test_nothing_is_ever_overwritten(
    finished: Any, bundle: Path, new_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file", bundle):
        with pytest.raises(InputError, match="exists; a bundle is never overwritten"):
            recalibrate(bundle, new_parts, taken, alpha=None)
    with pytest.raises(InputError, match="expected a folder outside of the old bundle"):
        recalibrate(bundle, new_parts, bundle / "new", alpha=None)
    # another one takes the place while the parts are scored
    predict = Detector.predict

    def slow(detector: Detector, photograph: np.ndarray, path: Path) -> Any:
        (tmp_path / "new").mkdir(exist_ok=True)
        return predict(detector, photograph, path)

    monkeypatch.setattr(Detector, "predict", slow)
    with pytest.raises(InputError, match="exists"):
        recalibrate(bundle, new_parts, tmp_path / "new", alpha=None)
    assert list((tmp_path / "new").iterdir()) == []


def test_lies_beside_the_old_one_unless_told_otherwise(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    copy = tmp_path / "run" / "bundle"
    derive_bundle(bundle, copy, {})
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    done = recalibrate(tmp_path / "latest" / "bundle", new_parts, None, alpha=None)
    assert done.bundle == copy.with_name(f"bundle-recalibrated-{date.today()}")
    assert Detector.load(done.bundle).raw_cut == done.after.raw_cut
    with pytest.raises(InputError, match=r"exists; .* take another output="):
        recalibrate(copy, new_parts, None, alpha=None)


def test_reads_the_reviewers_layout(bundle: Path, new_parts: Path, tmp_path: Path) -> None:
    shutil.copytree(new_parts, tmp_path / "reviews" / "good")
    (tmp_path / "reviews" / "defective").mkdir()
    shutil.copy(list_images(new_parts)[0], tmp_path / "reviews" / "defective" / "a.png")
    assert recalibrate(bundle, tmp_path / "reviews", tmp_path / "new", alpha=None).parts == 21
    with pytest.raises(InputError, match="expected a folder of pictures, found nothing there"):
        recalibrate(bundle, tmp_path / "missing", tmp_path / "other", alpha=None)


@pytest.mark.parametrize("on_not_aligned", ["reject", "score"])
def test_what_cannot_be_used_is_left_out_and_named(
    bundle: Path,
    new_parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    on_not_aligned: str,
) -> None:
    source = tmp_path / "parts"
    shutil.copytree(new_parts, source)
    (source / "torn.png").write_bytes((source / "000.png").read_bytes()[:200])
    shutil.copy(source / "001.png", source / "twice.png")
    predict = Detector.predict

    def lost(detector: Detector, photograph: np.ndarray, path: Path) -> Any:
        prediction = predict(detector, photograph, path)
        if path.name in ("003.png", "004.png"):
            alignment = Alignment(np.eye(2, 3), quality=0.1, accepted=False, reason="no part found")
            if on_not_aligned == "reject":
                return not_aligned(path, alignment)
            prediction.alignment = alignment
        return prediction

    monkeypatch.setattr(Detector, "predict", lost)
    with caplog.at_level(logging.WARNING):
        done = recalibrate(bundle, source, tmp_path / "new", alpha=None)
    assert done.parts == 19
    assert [(path.name, reason.split(":")[0]) for path, reason in done.excluded] == [
        ("003.png", "not aligned"),
        ("004.png", "not aligned"),
        ("torn.png", done.excluded[2][1].split(":")[0]),
        ("twice.png", "the same file as 001.png"),
    ]
    assert "no part found" in done.excluded[0][1]
    assert str(source) not in done.excluded[2][1]
    assert [record.getMessage() for record in caplog.records[:4]] == [
        f"excluded: {path}: {reason}" for path, reason in done.excluded
    ]
    for number in range(19):
        (source / f"junk{number}.png").write_bytes(b"junk")
    with pytest.raises(
        InputError, match=r"cannot use 23 of 42, for instance 003.png: not aligned: no part found"
    ):
        recalibrate(bundle, source, tmp_path / "other", alpha=None)
    assert not (tmp_path / "other").exists()


def test_parts_that_have_changed_are_accepted_afterwards(
    bundle: Path, new_parts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "darker"
    source.mkdir()
    for path in list_images(new_parts):
        write_png(source / path.name, np.rint(read_image(path) * 180).astype(np.uint8))
    done = recalibrate(bundle, source, tmp_path / "new", alpha=None)
    assert done.rejected == 21
    assert "the old cut rejects most of these parts" in caplog.text
    new = Detector.load(tmp_path / "new")
    labels = [new.predict(read_image(path), path).pred_label for path in list_images(source)]
    assert sum(labels) == 1  # above the 20th of 21


def test_the_command_says_both_cuts(
    bundle: Path, new_parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"bundle={bundle}", f"source={new_parts}", f"outputs={tmp_path / 'outputs'}", "threads=1"]
    assert recalibrate_command([*arguments, f"output={tmp_path / 'a (new), one'}"]) == 0
    old, new = Detector.load(bundle).threshold, Detector.load(tmp_path / "a (new), one").threshold
    rejected = int((scores_of(bundle, new_parts) > old.raw_cut).sum())
    low, high = (100 * bound for bound in proportion_interval(rejected, 21))
    assert capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ").splitlines() == [
        f"old cut: {old.raw_cut:.6g} ({old.guarantee_})",
        f"new cut: {new.raw_cut:.6g} ({new.guarantee_})",
        f"the old cut rejects {rejected} of these 21 good parts: {100 * rejected / 21:.1f} % "
        f"(95 % interval {low:.1f}–{high:.1f} %)",
        f"bundle: {tmp_path / 'a (new), one'}",
    ]
    assert recalibrate_command([*arguments, f"output={bundle}"]) == 2
    assert capsys.readouterr().err == (
        f"error: {bundle}: exists; a bundle is never overwritten, take another output=\n"
    )
    assert recalibrate_command([*arguments, f"output={tmp_path / 'b'}", "alpha=0.01"]) == 2
    assert "alpha=0.01 needs at least 99 calibration normals, got 21" in capsys.readouterr().err
    assert recalibrate_command(arguments[1:]) == 2
    assert "bundle must be given" in capsys.readouterr().err
    assert json.loads((tmp_path / "a (new), one" / MANIFEST).read_text())["format"] == 2
