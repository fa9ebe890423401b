"""Every network and every way to score it through `train.py` and `predict.py`, tiny, on drawn parts."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from anomalib_lite.detector import Detector
from anomalib_lite.models.reconstruction import PatchAutoencoder, Reconstruction

Run = Callable[..., Any]
EPOCHS = ["model.steps_per_epoch=3", "trainer.max_epochs=2"]
CONDITIONED = ["model.widths=[4,8]", "model.latent_dim=4"]  # networks of patches that are told their place
WHOLE = ["data.downsize=[32,32]", "grid.size=32", "grid.stride=32", "model.batch_size=4"]  # of whole pictures
LARGE = ["data.downsize=[256,256]", "grid.size=256", "grid.stride=256"]

CASES: dict[str, tuple[str, list[str]]] = {  # the model and its settings
    "vae": ("vae", CONDITIONED),
    "vae, its probability": (
        "vae",
        [*CONDITIONED, "scoring=reconstruction_probability", "scoring.samples=3"],
    ),
    "vae, embedded": ("vae", [*CONDITIONED, "scoring=embedding"]),
    "gan": ("gan", CONDITIONED),
    "cae": ("cae", [*WHOLE, "model.depth=2"]),
    # 1: as good as untrained, the network predicts more than the published mask leaves
    "cae on a conveyor": (
        "cae",
        [*WHOLE, "model.depth=2", "postprocess=conveyor", "postprocess.predicted_error=1"],
    ),
    # it denoises: corruption=mixed is its own choice
    "dilated": ("dilated", [*WHOLE, "model.dilations=[1,2]"]),
    "dilated, hashed": (
        "dilated",
        [*WHOLE, "model.dilations=[1,2]", "similarity=perceptual_hash"],
    ),
    "encoder_decoder": (
        "encoder_decoder",
        [
            *LARGE,
            "model.latent_dim=8",
            "model.batch_size=2",
            "model.steps_per_epoch=2",
            "trainer.max_epochs=1",
        ],
    ),
    "deep_feature, its distance": ("deep_feature", ["classifier=mahalanobis"]),
    "cpcae, augmented": ("cpcae", ["augmentation=rotation_flips_noise", "scoring=map"]),
}
SLOW = ("encoder_decoder",)  # its pictures cannot be small
UNTRAINED = "deep_feature"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that the pictures are prepared once."""
    return tmp_path_factory.mktemp("outputs")


def scores(folder: Path) -> dict[str, float]:
    """Raw score by picture, as written: every digit."""
    rows = csv.DictReader((folder / "scores.csv").open())
    return {row["path"]: float(row["raw_score"]) for row in rows}


def networks(outputs: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in outputs.glob(".stages/network/*/weights.safetensors")}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES]
)
def test_a_run_its_bundle_and_its_repetition(
    case: str, part: Path, outputs: Path, tmp_path: Path, train: Run, predict: Run
) -> None:
    model, settings = CASES[case]
    ended = train(part, outputs, *EPOCHS, *settings, model=model)
    assert ended.code == 0, ended.err
    folder = ended.folder  # of a later run, once there is one
    assert folder.parent == outputs / model / "part"
    bundle = ["bundle/manifest.json", "bundle/detector.json", "bundle/detector.safetensors"]
    files = ["metrics.json", "scores.csv", "logs/metrics.csv", "console.log", *bundle]
    assert [name for name in files if not (folder / name).is_file()] == []

    expected = scores(folder)
    assert sorted(expected) == sorted(str(path) for path in (part / "test").rglob("*.png"))
    assert [path for path, score in expected.items() if not math.isfinite(score)] == []
    if "hash" not in case:  # a hash has 65 values: that two pictures share one is no wonder
        assert len(set(expected.values())) == len(expected)
    found = json.loads((folder / "metrics.json").read_text())
    assert 0 <= found["validation_AUROC"] <= 1
    assert (found["pixel"] == {}) == (model == UNTRAINED)

    inspected = predict(folder / "bundle", part / "test" / "hole", tmp_path, "overlays=false")
    assert inspected.code in (0, 1), inspected.err  # hardly trained: either verdict will do
    predicted = scores(tmp_path)
    assert len(predicted) == 4
    assert predicted == {path: expected[path] for path in predicted}

    before = networks(outputs)
    again = train(part, outputs, *EPOCHS, *settings, model=model)
    assert again.folder != folder
    assert networks(outputs) == before
    assert "reused stage scores" in again.out
    assert scores(again.folder) == expected


def test_other_scores_share_the_network_and_other_corruptions_do_not(
    part: Path, outputs: Path, train: Run
) -> None:
    train(part, outputs, *EPOCHS, *CONDITIONED, model="vae")
    before = networks(outputs)
    assert before
    probability = train(part, outputs, *EPOCHS, *CASES["vae, its probability"][1], model="vae")
    assert re.search("reused stage (network|scores)", probability.out)  # another test may have scored with it
    assert networks(outputs) == before
    denoising = ["corruption=defects", "corruption.count=1"]  # no other test's
    assert train(part, outputs, *EPOCHS, *CONDITIONED, *denoising, model="vae").code == 0
    assert len(networks(outputs)) == len(before) + 1


def test_the_conveyors_map_is_masked_and_its_detector_remembers_how(
    part: Path, outputs: Path, train: Run
) -> None:
    model, settings = CASES["cae on a conveyor"]
    ended = train(part, outputs, *EPOCHS, *settings, "postprocess.predicted_error=0", model=model)
    assert ended.code == 0, ended.err
    detector = Detector.load(ended.folder / "bundle")
    assert (detector.postprocess.median, detector.postprocess.predicted_error) == (7, 0.0)
    assert isinstance(detector.model, PatchAutoencoder)
    assert detector.model.predicts_error()
    # |one filter| is above 0 nearly everywhere, so that nearly everything is removed
    assert detector.tau_ == pytest.approx(1 / 255)


@contextmanager
def interrupted_in_second_epoch() -> Iterator[None]:
    """Ctrl-C in the middle of the second epoch."""
    step = Reconstruction.training_step

    def interrupted(self: Reconstruction, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        if self.current_epoch == 1 and batch_index == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconstruction, "training_step", interrupted)
        yield


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("vae", CONDITIONED),  # draws samples of its encoding
        ("cpcae", ["corruption=mixed", "augmentation=rotation_flips_noise", "scoring=map"]),
    ],
)
def test_resumed_it_is_the_unbroken_run(
    model: str, settings: list[str], part: Path, tmp_path: Path, train: Run, resume: Run
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = train(part, whole, *EPOCHS, *settings, model=model)
    assert unbroken.code == 0, unbroken.err
    with interrupted_in_second_epoch():
        assert train(part, broken, *EPOCHS, *settings, model=model).code == 130
    assert networks(broken) == {}
    (folder,) = broken.glob(f"{model}/part/*")
    ended = resume(folder, broken)
    assert ended.code == 0, ended.err
    assert list(networks(broken).values()) == list(networks(whole).values())
    assert scores(ended.folder) == scores(unbroken.folder)
