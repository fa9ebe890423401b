"""Accuracy floors on real photographs: a change that costs accuracy has to say so."""

import json

import pytest

from anomalib_lite.run import train_command

pytestmark = [pytest.mark.real, pytest.mark.slow]


def measure(assets, folder, *options: str) -> dict:
    root = assets / "data" / "mvtec"
    run = [f"outputs={folder}", f"hydra.run.dir={folder / 'run'}", "report=false"]
    assert train_command(["data=mvtec", f"data.root={root}", "data.category=bottle", *options, *run]) == 0
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    return metrics["image"] | metrics["pixel"]


def test_cpcae_on_bottle_with_the_packaged_backbone(assets, tmp_path):
    metrics = measure(assets, tmp_path, "model=cpcae", "embedding=efficientnet_lite0")
    assert metrics["image_AUROC"] >= 0.95
    assert metrics["pixel_AUROC"] >= 0.88


def test_deep_features_of_xception_on_bottle(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALIB_LITE_WEIGHTS_DIR", str(assets / "weights"))
    metrics = measure(assets, tmp_path, "model=deep_feature", "embedding=xception")
    assert metrics["image_AUROC"] >= 0.96
    assert metrics["image_AP"] >= 0.98


def test_variation_on_bottle(assets, tmp_path):
    assert measure(assets, tmp_path, "model=variation")["image_AUROC"] >= 0.90
