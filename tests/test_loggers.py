"""Loggers get settings, curves, figures and pictures; several at once; none needs an account or a server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomalib_lite.loggers import make_loggers
from anomalib_lite.types import InputError

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def logged(part: Path, train: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with a report and every logger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        ended = train(
            part,
            tmp_path_factory.mktemp("logged"),
            "logger=[csv,tensorboard,wandb,mlflow]",
            "report=true",
            "model.steps_per_epoch=5",
        )
    assert ended.code == 0, ended.err
    return ended


def test_csv_has_the_curve_and_the_figures(logged: Any) -> None:
    text = (logged.folder / "logs" / "metrics.csv").read_text()
    assert {"train_loss", "val_loss", "image_AUROC", "validation_AUROC"} <= set(
        text.splitlines()[0].split(",")
    )


def test_tensorboard_has_curve_figures_and_pictures(logged: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(logged.folder / "logs" / "tensorboard")).Reload()
    assert len(events.Scalars("val_loss")) == 2  # epochs
    assert 0 <= events.Scalars("image_AUROC")[0].value <= 1
    assert {"roc", "score_histogram", "gallery", "contact_sheet"} <= set(events.Tags()["images"])


def test_wandb_wrote_a_run_without_an_account(logged: Any) -> None:
    pytest.importorskip("wandb")
    (run,) = (logged.folder / "logs" / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb"))
    pictures = {path.name.split("_")[0] for path in (run / "files" / "media" / "images").iterdir()}
    assert {"roc", "gallery"} <= pictures


def test_mlflow_has_settings_figures_and_pictures(logged: Any) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    client = tracking.MlflowClient(tracking_uri=f"file:{logged.outputs}/mlruns")
    (experiment,) = (found for found in client.search_experiments() if found.name == "cpcae-part")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["model/latent_dim"] == "4"
    assert 0 <= run.data.metrics["image_AUROC"] <= 1
    names = {Path(artifact.path).stem for artifact in client.list_artifacts(run.info.run_id, "plots")}
    assert {"roc", "gallery"} <= names


def test_a_logger_without_its_package_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {
        "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
        "save_dir": str(tmp_path),
        "name": "",
        "version": "x",
    }
    for name in [name for name in sys.modules if name.split(".")[0] in ("tensorboard", "tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("lightning.pytorch.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(
        InputError, match=r"logger=tensorboard needs a package .*anomalib-lite\[tensorboard\]"
    ):
        make_loggers({"tensorboard": node})


def test_no_logger_at_all(part: Path, train: Run, tmp_path: Path) -> None:
    ended = train(part, tmp_path, "~logger", "model.steps_per_epoch=2")
    assert ended.code == 0, ended.err
