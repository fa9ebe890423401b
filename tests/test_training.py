"""Training resumes to the same bits after any interruption, keeps the best weights, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from anomalib_lite.detector import Detector
from anomalib_lite.models.reconstruction import PatchAutoencoder, Reconstruction

Run = Callable[..., Any]
EPOCHS = ("model.steps_per_epoch=5", "trainer.max_epochs=3")


def network_stage(outputs: Path) -> Path:
    """The one trained network below these outputs."""
    (weights,) = outputs.glob(".stages/network/*/weights.safetensors")
    return weights.parent


def trained(outputs: Path) -> tuple[bytes, bytes]:
    stage = network_stage(outputs)
    return (stage / "weights.safetensors").read_bytes(), (stage / "losses.json").read_bytes()


def run_folder(outputs: Path) -> Path:
    (folder,) = outputs.glob("cpcae/part/*")
    return folder


def weights_of(checkpoint: Path) -> dict[str, Tensor]:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name.removeprefix("autoencoder.network."): tensor for name, tensor in state.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Ctrl-C in the middle of this epoch (from 0)."""
    step = Reconstruction.training_step

    def interrupted(self: Reconstruction, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        if self.current_epoch == epoch and batch_index == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_index)

    monkeypatch.setattr(Reconstruction, "training_step", interrupted)


def script_validation_loss(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Epoch e has the validation loss `losses[e]`, whatever the network does."""

    def scripted(self: Reconstruction, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self.log("val_loss", losses[self.current_epoch], batch_size=len(batch[0]))

    monkeypatch.setattr(Reconstruction, "validation_step", scripted)


@pytest.fixture(scope="module")
def unbroken(part: Path, tmp_path_factory: pytest.TempPathFactory, train: Run) -> Path:
    """The outputs of a run that nothing happened to."""
    outputs = tmp_path_factory.mktemp("unbroken")
    assert train(part, outputs, *EPOCHS).code == 0
    return outputs


@pytest.fixture(scope="module")
def stopped_in_second_epoch(
    part: Path, tmp_path_factory: pytest.TempPathFactory, train: Run
) -> tuple[Path, Any]:
    """The outputs of a run after Ctrl-C, and how it ended."""
    outputs = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in_epoch(patch, 1)
        ended = train(part, outputs, *EPOCHS)
    return outputs, ended


@pytest.fixture
def interrupted(stopped_in_second_epoch: tuple[Path, Any]) -> Iterator[Path]:
    """The folder of the interrupted run; its checkpoints are put back after the test."""
    outputs, _ = stopped_in_second_epoch
    checkpoints = run_folder(outputs) / "checkpoints"
    before = {path: path.read_bytes() for path in checkpoints.iterdir()}
    yield run_folder(outputs)
    for path, content in before.items():
        path.write_bytes(content)


def test_ctrl_c_keeps_finished_epochs_and_says_so(stopped_in_second_epoch: tuple[Path, Any]) -> None:
    outputs, ended = stopped_in_second_epoch
    folder = run_folder(outputs)
    assert ended.code == 130
    assert ended.err.strip() == f"interrupted; finished epochs kept: 1; go on with resume={folder}"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert not list(outputs.glob(".stages/network/*/"))
    assert not (outputs / "latest").exists()


def test_ctrl_c_before_the_first_epoch_has_ended(
    part: Path, tmp_path: Path, train: Run, resume: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_in_epoch(monkeypatch, 0)
    ended = train(part, tmp_path, *EPOCHS)
    assert (ended.code, ended.err.strip()) == (130, "interrupted; no epoch was finished")
    again = resume(run_folder(tmp_path), tmp_path)
    assert again.code == 2
    assert "last.ckpt: expected the checkpoint to go on from, found no such file" in again.err


def test_resumed_after_ctrl_c_it_is_the_unbroken_run(
    stopped_in_second_epoch: tuple[Path, Any], unbroken: Path, tmp_path: Path, resume: Run
) -> None:
    outputs = shutil.copytree(stopped_in_second_epoch[0], tmp_path / "outputs", symlinks=True)
    moved = run_folder(outputs)  # by another path than the one it was trained under
    overrides = moved / ".hydra" / "overrides.yaml"
    overrides.write_text(overrides.read_text().replace(str(stopped_in_second_epoch[0]), str(outputs)))
    ended = resume(moved, outputs)
    assert ended.code == 0, ended.err
    assert trained(outputs) == trained(unbroken)
    assert ended.folder == moved
    assert (moved / "scores.csv").read_bytes() == (unbroken / "latest" / "scores.csv").read_bytes()


def test_resumed_after_kill_9_it_is_the_unbroken_run(
    part: Path, tmp_path: Path, small: Callable[..., list[str]], train: Run, resume: Run
) -> None:
    epochs = ("model.steps_per_epoch=200", "trainer.max_epochs=4")
    killed = tmp_path / "killed"
    script = Path(__file__).parents[1] / "train.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, script, *small(part, killed, *epochs)], env=environment)
    try:
        wait_for(lambda: list(killed.glob("cpcae/part/*/checkpoints/last.ckpt")), process)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not list(killed.glob(".stages/network/*/weights.safetensors")), "it was not killed in training"

    ended = resume(run_folder(killed), killed)
    assert ended.code == 0, ended.err
    unbroken = train(part, tmp_path / "unbroken", *epochs)
    assert trained(killed) == trained(tmp_path / "unbroken")
    assert (ended.folder / "scores.csv").read_bytes() == (unbroken.folder / "scores.csv").read_bytes()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "nothing happened in two minutes"
        time.sleep(0.005)


def test_the_best_weights_go_into_the_detector_and_patience_ends_training(
    part: Path, tmp_path: Path, train: Run, resume: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation_loss(monkeypatch, 3.0, 1.0, 2.0, 2.0, 0.5, 0.1)
    ended = train(part, tmp_path, "model.steps_per_epoch=5", "trainer.max_epochs=6", "model.patience=2")
    assert ended.code == 0, ended.err
    checkpoints = ended.folder / "checkpoints"
    losses = json.loads((network_stage(tmp_path) / "losses.json").read_text())
    assert [epoch["val_loss"] for epoch in losses] == [3.0, 1.0, 2.0, 2.0]
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["epoch"] == 1

    model = Detector.load(ended.folder / "bundle").model
    assert isinstance(model, PatchAutoencoder)
    weights = dict(model.network.state_dict())
    assert same(weights, weights_of(checkpoints / "best.ckpt"))
    assert not same(weights, weights_of(checkpoints / "last.ckpt"))

    # killed after training and before its weights were kept: it had stopped, and must not train on
    before = trained(tmp_path)
    shutil.rmtree(network_stage(tmp_path))
    shutil.rmtree(tmp_path / ".stages" / "scores")
    assert resume(ended.folder, tmp_path).code == 0
    assert trained(tmp_path) == before


def test_resumed_it_remembers_the_best_epoch_of_before(
    part: Path, tmp_path: Path, train: Run, resume: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation_loss(monkeypatch, 1.0, 2.0, 3.0)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in_epoch(patch, 2)
        ended = train(part, tmp_path, *EPOCHS)
    assert "finished epochs kept: 2;" in ended.err  # the last one too, though the first was better
    moved = run_folder(tmp_path).rename(tmp_path / "cpcae" / "part" / "moved")
    assert resume(moved, tmp_path).code == 0
    assert torch.load(moved / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 0
    stage = load_file(network_stage(tmp_path) / "weights.safetensors")
    best = weights_of(moved / "checkpoints" / "best.ckpt")
    assert all((stage[f"network.{name}"] == tensor.numpy()).all() for name, tensor in best.items())


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def cut(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])


def empty(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"")


def edit(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)


def text(checkpoint: Path) -> None:
    checkpoint.write_text("no checkpoint")


def remove(checkpoint: Path) -> None:
    checkpoint.unlink()


def infect(checkpoint: Path) -> None:
    torch.save({"state_dict": Payload(checkpoint.with_name("trace"))}, checkpoint)


def another_version(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(
        content | {"made_from": content["made_from"] | {"code": "other", "versions": "1.0"}}, checkpoint
    )


def somebody_elses(checkpoint: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 0}, checkpoint)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove, "expected the checkpoint to go on from, found no such file"),
        (cut, "expected a whole checkpoint, found: "),
        (empty, "expected a whole checkpoint, found: "),
        (edit, "expected a whole checkpoint, found "),
        (text, "expected a whole checkpoint, found: File is not a zip file"),
        (infect, "expected a whole checkpoint, found: Weights only load failed"),
        (another_version, "settings and version, found another code and versions; start a new run"),
        (somebody_elses, "expected a checkpoint written by this version of anomalib-lite"),
    ],
)
def test_a_bad_checkpoint_is_one_line(
    damage: Callable[[Path], None], expected: str, interrupted: Path, resume: Run
) -> None:
    last = interrupted / "checkpoints" / "last.ckpt"
    damage(last)
    ended = resume(interrupted, interrupted.parents[2])
    assert ended.code == 2
    assert ended.err.startswith(f"error: {last}: ")
    assert ended.err.count("\n") == 1
    assert expected in ended.err
    assert not last.with_name("trace").exists()


def test_resume_of_what_is_no_run(part: Path, tmp_path: Path, resume: Run) -> None:
    for folder in (tmp_path / "nothing", part):
        ended = resume(folder, tmp_path)
        assert ended.code == 2
        assert ended.err.startswith(f"error: resume={folder}: expected a run's folder")
        assert ended.err.count("\n") == 1


def test_a_network_that_diverges_is_said_and_not_kept(part: Path, tmp_path: Path, train: Run) -> None:
    ended = train(part, tmp_path, *EPOCHS, "model.learning_rate=1e20")
    assert ended.code == 2
    assert ended.err == (
        "error: training diverged: expected finite weights, found NaN or infinity; "
        "lower model.learning_rate, which is 1e+20\n"
    )
    assert not list(tmp_path.glob(".stages/network/*/"))
