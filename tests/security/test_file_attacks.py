"""Hostile checkpoints, weights, stages, settings of a run, and names: refused in one line, and nothing of them runs."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml

from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.models.reconstruction import Reconstruction
from anomalib_lite.scores import Scores
from anomalib_lite.stages import DONE, StageStore, digest
from anomalib_lite.training import _read_checkpoint

Run = Callable[..., Any]
Refused = Callable[[str, Path], str]
Attack = Callable[[Path], object]
CALL = "__import__('os').system('touch {marker}')"


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch code-ran",)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def torch_file(path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": Payload()}, path)


def numpy_file(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)


def old_torch_file(path: Path) -> None:
    torch.save(Payload(), path, _use_new_zipfile_serialization=False)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))


def outside(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside/data.pkl", pickle.dumps({}))


def huge_tensor(path: Path) -> None:
    """A storage of 4 numbers that claims 10^12."""
    torch.save({"state_dict": {"a": torch.zeros(4)}}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    # BININT1 4 (the storage's size and the tensor's) as LONG1 of five bytes
    members[name] = members[name].replace(b"K\x04", b"\x8a\x06" + (10**12).to_bytes(6, "little"))
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def not_a_dictionary(path: Path) -> None:
    torch.save([1, 2], path)


CHECKPOINTS: dict[str, Attack] = {
    "a pickle": pickled,
    "a checkpoint with a payload": torch_file,
    "an old checkpoint with a payload": old_torch_file,
    "numpy's": numpy_file,
    "a zip bomb": zip_bomb,
    "members outside": outside,
    "a tensor of 4 TB": huge_tensor,
    "a list": not_a_dictionary,
    "nothing": Path.touch,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("attack", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_hostile_checkpoints(attack: Attack, place: Path, refused: Refused) -> None:
    attack(place / "last.ckpt")
    assert refused("checkpoint", place / "last.ckpt").startswith(f"{place / 'last.ckpt'}: expected ")
    assert os.listdir(place) == ["last.ckpt"]


def test_the_payloads_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asserted to be absent above would be there."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload()))
    assert (tmp_path / "code-ran").exists()


# --- weights


@pytest.fixture(scope="session")
def backbone(mutating: ModuleType) -> dict[str, np.ndarray]:
    import timm

    network = timm.create_model(mutating.BACKBONE, pretrained=False, num_classes=0)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def test_hostile_weights(
    backbone: dict[str, np.ndarray], place: Path, refused: Refused, hostile: Any, mutating: ModuleType
) -> None:
    path = place / f"{mutating.BACKBONE}.safetensors"
    path.write_bytes(safetensors.numpy.save(backbone))
    assert hostile("weights", place).outcome == "read"
    for attack in (pickled, torch_file, numpy_file, old_torch_file):
        attack(path)
        assert refused("weights", place).startswith(f"{path}: ")
    for content in (b"", (2**63).to_bytes(8, "little"), safetensors.numpy.save(backbone)[:-1]):
        path.write_bytes(content)
        assert refused("weights", place).startswith(f"{path}: ")
    first = next(name for name, array in backbone.items() if array.ndim == 4)
    for changed in (
        {name: array for name, array in backbone.items() if name != first},
        backbone | {first: backbone[first][:1]},
        backbone | {"more": np.zeros(1, np.float32)},
        backbone | {first: np.full_like(backbone[first], np.nan)},
        backbone | {first: np.full_like(backbone[first], 3e38)},
    ):
        path.write_bytes(safetensors.numpy.save(changed))
        refused("weights", place)


# --- stages


@pytest.fixture
def stage(place: Path) -> Path:
    """A whole stage of scores, below `place`."""
    arrays = dict.fromkeys(("validation", "calibration", "drawn", "drawn_labels", "test"), np.arange(3.0))
    none = dict.fromkeys(("tau", "pixels", "drawn_pixels", "embeddings", "latents", "training_seconds"))
    scores = Scores(**arrays, **none, ms_per_image=1.0, losses=[])
    return StageStore(root=place).get("scores", {"seed": 0}, scores.save)


def forged(name: str, content: bytes) -> Callable[[Path, ModuleType], None]:
    def attack(stage: Path, mutating: ModuleType) -> None:
        (stage / name).write_bytes(content)
        if name != DONE:
            mutating.sign_stage(stage)

    return attack


STAGES = {
    "scores are a pickle": forged("scores.safetensors", pickle.dumps(Payload())),
    "scores are nothing": forged("scores.safetensors", b""),
    "header of 2^63 bytes": forged("scores.safetensors", (2**63).to_bytes(8, "little")),
    "facts are a pickle": forged("scores.json", pickle.dumps(Payload())),
    "facts are a list": forged("scores.json", b"[1, 2]"),
    "facts are deep": forged("scores.json", b"[" * 10**5 + b"]" * 10**5),
    "facts have a target": forged("scores.json", b'{"_target_": "os.system", "command": "touch code-ran"}'),
    "its own record is deep": forged(DONE, b"[" * 10**5 + b"]" * 10**5),
    "its own record is a pickle": forged(DONE, pickle.dumps(Payload())),
    "its own record names others": forged(DONE, b'{"files": {"../../../etc/passwd": [1, ""]}}'),
    "its own record is not an object": forged(DONE, b"3"),
}


@pytest.mark.parametrize("attack", STAGES.values(), ids=STAGES)
def test_hostile_stages(
    attack: Callable[[Path, ModuleType], None],
    stage: Path,
    place: Path,
    hostile: Any,
    refused: Refused,
    mutating: ModuleType,
) -> None:
    assert hostile("stage", place).outcome == "read"
    attack(stage, mutating)
    assert refused("stage", place) == "made again" or str(stage) in refused("stage", place)


def test_a_stage_is_found_by_what_it_is_made_from_alone(stage: Path, place: Path) -> None:
    """Not by a name in its files."""
    assert stage == place / "scores" / digest({"seed": 0})
    assert StageStore(root=place).find("scores", {"seed": 1}) is None


def test_hostile_pictures_in_a_stage_of_prepared_ones(
    part: Path, tmp_path: Path, train: Run, mutating: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "outputs"
    assert train(part, outputs, model="variation").code == 0
    (prepared,) = [path for path in outputs.glob(".stages/prepared/*") if path.is_dir()]
    shutil.rmtree(outputs / ".stages" / "scores")
    kept = {name: (prepared / name).read_bytes() for name in ("pictures.npy", "alignments.json")}
    attacks: list[tuple[str, Attack]] = [
        ("pictures.npy", numpy_file),
        ("pictures.npy", pickled),
        ("pictures.npy", lambda path: np.save(path, np.zeros((1, 3, 2, 2), np.uint16))),
        ("pictures.npy", lambda path: path.write_bytes(kept["pictures.npy"][:200])),
        ("alignments.json", lambda path: path.write_text("[]")),
        ("alignments.json", lambda path: path.write_text('[{"_target_": "os.system"}]')),
        ("alignments.json", pickled),
    ]
    for name, attack in attacks:
        for other, content in kept.items():
            (prepared / other).write_bytes(content)
        attack(prepared / name)
        mutating.sign_stage(prepared)
        ended = train(part, outputs, model="variation")
        assert ended.code == 2, (name, ended.err)
        assert ended.err.startswith(f"error: {prepared}: expected a stage as it was written"), ended.err
        assert ended.err.count("\n") == 1
    assert not (tmp_path / "code-ran").exists()


# --- the settings of a run that is resumed

OVERRIDES = {
    "an option": ["--config-dir=/tmp"],
    "another option": ["-cn=train"],
    "a callback of Hydra's": ["+hydra.callbacks.e._target_=numpy.testing.measure"],
    "a log file": ["hydra.job_logging.handlers.file.filename=/tmp/code-ran"],
    "a log handler": ["+hydra.job_logging.handlers.e.class=os.system"],
    "a search path": ["hydra.searchpath=[file:///tmp]"],
    "another sweeper": ["hydra/sweeper=../../../tmp/evil"],
    "a package": ["+model@hydra.callbacks=cpcae"],
    "a choice outside": ["+experiment=../../../../tmp/evil"],
    "choices outside": ["+experiment=[../../../../tmp/evil]"],
    "an object": [{"_target_": "os.system"}],
    "a number": [3],
    "a long name": ["é" * 300 + "=1"],
    "megabytes": ["data.name=" + "a" * 2**20],
}


@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=OVERRIDES)
def test_hostile_settings_of_a_run(overrides: list[Any], place: Path, refused: Refused) -> None:
    saved = place / ".hydra" / "overrides.yaml"
    saved.parent.mkdir()
    saved.write_text(yaml.safe_dump(["model=cpcae", *overrides]))
    assert refused("run", place).startswith(f"{saved}: expected ")


@pytest.mark.parametrize(
    "content",
    [
        b"!!python/object/apply:os.system ['touch code-ran']\n",
        b"- !!python/object/apply:os.system ['touch code-ran']\n",
        b"model: cpcae\n",
        b"\x80\x04K\x01.",
        b"\xff\xfe\x00",
        b"[" * 10**4,
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        b"- &a " + b"x" * 6 * 10**4 + b"\n" + b"- *a\n" * 900,
    ],
)
def test_settings_of_a_run_that_are_something_else(content: bytes, place: Path, refused: Refused) -> None:
    (place / ".hydra").mkdir()
    (place / ".hydra" / "overrides.yaml").write_bytes(content)
    refused("run", place)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.optimizer._target_=numpy.testing.measure", "model.optimizer._partial_=false"],
        ["model.optimizer={{_target_: sympy.sympify, a: \"{call}\", _partial_: false}}"],
        ["+trainer.more={{_target_: torch.load, f: x.pt, weights_only: false}}"],
        ["model.network._target_=torch.hub.load"],
        ["data.source._target_=os.system"],
        ["+logger.csv={{_target_: joblib.load, filename: x.pkl}}"],
    ],
)  # fmt: skip
def test_a_target_in_the_settings_of_a_run_is_never_called(
    overrides: list[str], finished: Any, tmp_path: Path, resume: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(finished.folder, tmp_path / "run")
    saved = run / ".hydra" / "overrides.yaml"
    typed = [text for text in yaml.safe_load(saved.read_text()) if not text.startswith("outputs=")]
    call = CALL.format(marker=tmp_path / "code-ran")
    hostile = [override.format(call=call) for override in overrides]
    saved.write_text(yaml.safe_dump([*typed, f"outputs='{tmp_path}'", *hostile]))
    ended = resume(run, tmp_path)
    assert ended.code == 2, ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "code-ran").exists()
    assert "Traceback" not in ended.err


# --- a checkpoint of the right run, with a state that Lightning would take over


@pytest.fixture(scope="module")
def half_trained(part: Path, tmp_path_factory: pytest.TempPathFactory, train: Run) -> Path:
    """The outputs of a run that was stopped in its second epoch."""
    step = Reconstruction.training_step

    def interrupted(self: Reconstruction, batch: Any, batch_index: int) -> Any:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_index)

    outputs = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconstruction, "training_step", interrupted)
        assert train(part, outputs).code == 130
    return outputs


@pytest.fixture
def checkpoint(half_trained: Path) -> Iterator[Path]:
    """Its last checkpoint; put back after the test."""
    (last,) = half_trained.glob("cpcae/part/*/checkpoints/last.ckpt")
    kept = last.read_bytes()
    yield last
    last.write_bytes(kept)
    for name in ("network", "scores"):
        shutil.rmtree(half_trained / ".stages" / name, ignore_errors=True)


def test_a_checkpoint_removes_nothing_outside_its_run(
    checkpoint: Path, half_trained: Path, resume: Run
) -> None:
    """Lightning removes the checkpoint before the last one, wherever the state says that it lies."""
    victim = half_trained / "victim"
    (victim / "deep").mkdir(parents=True)
    content = _read_checkpoint(checkpoint)
    for state in content["callbacks"].values():
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            if name in state:
                state[name] = f"{checkpoint.parent}/../../../../victim"
        if "best_k_models" in state:
            state["best_k_models"] = {f"{checkpoint.parent}/../../../../victim": torch.tensor(1.0)}
        if "kth_value" in state:
            state["kth_value"] = torch.tensor(1.0)
    torch.save(content, checkpoint)
    ended = resume(checkpoint.parents[1], half_trained)
    assert ended.code == 0, ended.err
    assert (victim / "deep").is_dir()


def without_tensors(content: dict[str, Any]) -> None:
    content["state_dict"] = {}


def other_shapes(content: dict[str, Any]) -> None:
    content["state_dict"] = {name: torch.zeros(1) for name in content["state_dict"]}


def other_loops(content: dict[str, Any]) -> None:
    content["loops"] = {}


def other_optimiser(content: dict[str, Any]) -> None:
    content["optimizer_states"][0]["param_groups"] = []


def other_losses(content: dict[str, Any]) -> None:
    content["callbacks"]["LossHistory"]["losses"] = "losses"


def other_version(content: dict[str, Any]) -> None:
    content["pytorch-lightning_version"] = [1]


@pytest.mark.parametrize(
    "edit", [without_tensors, other_shapes, other_loops, other_optimiser, other_losses, other_version]
)
def test_a_checkpoint_with_another_state_is_one_line(
    edit: Callable[[dict[str, Any]], None], checkpoint: Path, half_trained: Path, resume: Run
) -> None:
    content = _read_checkpoint(checkpoint)
    edit(content)
    torch.save(content, checkpoint)
    ended = resume(checkpoint.parents[1], half_trained)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {checkpoint}: expected ")
    assert ended.err.count("\n") == 1


# --- what an earlier stream has left


@pytest.mark.parametrize(
    ("reads", "name", "content"),
    [
        ("lines", "stream.jsonl", b"[" * 10**5 + b"]" * 10**5 + b"\n"),
        ("lines", "stream.jsonl", b"[]\n"),
        ("lines", "stream.jsonl", b"\xff\xfe\n"),
        ("lines", "stream.jsonl", pickle.dumps(Payload()) + b"\n"),
        ("drift", "stream.json", b"[" * 10**5 + b"]" * 10**5),
        ("drift", "stream.json", b'{"drift_state": 3}'),
        ("drift", "stream.json", pickle.dumps(Payload())),
    ],
)
def test_hostile_remains_of_a_stream(
    reads: str, name: str, content: bytes, place: Path, refused: Refused
) -> None:
    (place / name).write_bytes(content)
    refused(reads, place)


# --- names


NAMES = (
    "=cmd|'calc'!A1.png",
    "<img src=x onerror=alert(1)>.png",
    "'; rm -rf $HOME #.png",
    "$(touch code-ran).png",
    "`touch code-ran`.png",
    "x\\..\\..\\outside.png",
    "a\nb,c.png",
    "%2e%2e%2foutside.png",
    "-rf.png",
    "\u202egnp.exe.png",
    "x" * 200 + ".png",
)


def test_names_of_pictures_are_names(
    finished: Any, accepted: list[Path], tmp_path: Path, predict: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are written into the output folder alone, one a picture, and a table reads back."""
    monkeypatch.chdir(tmp_path)
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    picture = (read_image(accepted[0]) * 255).round().astype(np.uint8)
    for name in NAMES:
        write_png(tmp_path / "picture.png", picture)
        (tmp_path / "picture.png").rename(source / name)
    before = sorted(path for path in tmp_path.rglob("*") if output not in path.parents)
    ended = predict(finished.folder / "bundle", source, output, "lines=file", "overlays=true")
    assert ended.code in (0, 1), ended.err
    after = sorted(path for path in tmp_path.rglob("*") if output not in path.parents and path != output)
    assert after == [path for path in before if path != output]
    with (output / "scores.csv").open(newline="") as file:
        assert sorted(row["path"] for row in csv.DictReader(file)) == sorted(
            str(source / name) for name in NAMES
        )
    lines = (output / "scores.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["path"] for line in lines) == sorted(str(source / name) for name in NAMES)


def test_names_of_pictures_are_text_in_the_report(
    draw_set: Callable[..., Path], tmp_path: Path, train: Run
) -> None:
    root = draw_set(tmp_path / "part")
    name = "<img src=x onerror=alert(1)>"
    for folder, suffix in (("test/hole", ".png"), ("ground_truth/hole", "_mask.png")):
        (root / folder / f"000{suffix}").rename(root / folder / f"{name}{suffix}")
    (root / "test" / "hole").rename(root / "test" / "<script>alert(2)<")
    (root / "ground_truth" / "hole").rename(root / "ground_truth" / "<script>alert(2)<")
    ended = train(root, tmp_path / "outputs", "report=true", "data.name='<b>part'", model="variation")
    assert ended.code == 0, ended.err
    page = (ended.folder / "report.html").read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page or "&lt;script&gt;alert(2)&lt;" in page
    assert "<img src=x" not in page
    assert "<script>alert(2)" not in page
