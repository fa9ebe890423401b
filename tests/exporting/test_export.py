"""Exports answer as the bundle does, or are not finished."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.detector import Detector
from anomalib_lite.exporting import export as exporting
from anomalib_lite.exporting.command import export_command
from anomalib_lite.exporting.export import compared_images, export
from anomalib_lite.inspector import load_inspector
from anomalib_lite.runtime.engines import OnnxEngine
from anomalib_lite.runtime.exported import Exported
from anomalib_lite.types import InputError

pytest.importorskip("onnxscript", reason="needs anomalib-lite[export]")
FREE_OF = ("torch", "torchvision", "timm", "lightning", "hydra", "omegaconf", "sklearn", "onnx")


@pytest.fixture(scope="module")
def exported(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the finished CPCAE run with its deep features, as ONNX."""
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    export(finished.folder / "bundle", folder, format="onnx", images=None, threads=1)
    return folder


def test_it_gives_the_bundles_answers(exported: Path, finished: Any, part: Path) -> None:
    bundle, ours = Detector.load(finished.folder / "bundle"), load_inspector(exported, threads=1)
    assert isinstance(ours, Exported)
    for path in sorted(part.glob("test/*/*.png")):
        photograph = read_image(path)
        expected, found = bundle.predict(photograph, path), ours.predict(photograph, path)
        assert found.raw_score == pytest.approx(expected.raw_score, rel=1e-4)
        assert found.pred_label == expected.pred_label
        assert found.error == pytest.approx(expected.error, rel=1e-4)
        assert expected.anomaly_map is not None
        assert found.anomaly_map is not None
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-4)
        size = (photograph.shape[0], photograph.shape[1])
        (carried, mask), (carried_too, mask_too) = (
            inspector.carry(prediction.anomaly_map, prediction.alignment, size)
            for inspector, prediction in ((bundle, expected), (ours, found))
            if prediction.anomaly_map is not None
        )
        np.testing.assert_allclose(carried_too, carried, atol=1e-4)
        assert mask is not None
        assert mask_too is not None
        assert (mask != mask_too).mean() < 0.01
    assert (ours.tau_, ours.raw_cut, ours.calibration) == (bundle.tau_, bundle.raw_cut, bundle.calibration)
    assert ours.card["calibration"] == bundle.card["calibration"]
    assert ours.card["exported as"].startswith("onnx, float32")


def test_the_graph_names_no_files_of_ours(exported: Path) -> None:
    assert b"/anomalib_lite/" not in (exported / "model.onnx").read_bytes()


def test_parity_is_kept_and_small(exported: Path) -> None:
    sizes = json.loads((exported / "parity.json").read_text())["sizes"]
    assert [size["scale"] for size in sizes] == [1.0, 0.5, 0.75, 1.5]
    assert all(size["photographs"] == 8 and size["score"] < 1e-3 and size["map"] < 1e-2 for size in sizes)


def test_it_runs_without_torch(exported: Path, part: Path) -> None:
    blocked = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in FREE_OF)
    code = f"{blocked}from anomalib_lite.runtime.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    arguments = [str(exported), str(part / "test" / "hole"), "--threads", "1"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1, ended.stderr  # the parts have a hole
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["verdict"] for line in lines] == ["defective"] * 4
    assert all(line["defects"] for line in lines)


def test_an_export_that_answers_otherwise_is_not_finished(
    exported: Path, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (exported / "model.onnx").read_bytes()
    outputs = json.loads((exported / "detector.json").read_text())["outputs"]
    real = Exported._score

    def other(self: Exported, picture: np.ndarray) -> Any:
        raw_score, anomaly_map, error = real(self, picture)
        return raw_score * 1.002, anomaly_map, error

    monkeypatch.setattr(exporting, "to_onnx", lambda detector: (model, outputs))
    monkeypatch.setattr(Exported, "_score", other)
    folder = tmp_path / "onnx"
    with pytest.raises(
        InputError, match=r"\.png at 48 x 64: raw score: expected .* as the bundle says, the export"
    ):
        export(finished.folder / "bundle", folder, format="onnx", images=None, threads=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["model.onnx", "detector.json", "parity.json"])
def test_a_damaged_export_is_one_line(damage: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    data = bytearray((folder / damage).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / damage).write_bytes(data)
    with pytest.raises(InputError, match=rf"{damage}: damaged bundle: its SHA-256"):
        Exported.load(folder, threads=1)


def test_what_is_no_export(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an export"):
        Exported.load(finished.folder / "bundle", threads=1)
    with pytest.raises(InputError, match="not a bundle"):
        load_inspector(tmp_path, threads=1)


def test_a_model_that_would_read_another_file_is_refused(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "model.onnx")
    initializer = model.graph.initializer[0]
    initializer.ClearField("raw_data")
    initializer.data_location = onnx.TensorProto.EXTERNAL
    entry = initializer.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    with pytest.raises(InputError, match="expected its weights inside, found the name of a file"):
        OnnxEngine({"model.onnx": model.SerializeToString()}, ["raw_score"], threads=1)
    with pytest.raises(InputError, match="expected an ONNX model, found"):
        OnnxEngine({"model.onnx": b"\x80\x04cos\nsystem\n"}, ["raw_score"], threads=1)


def test_photographs_to_compare(finished: Any, tmp_path: Path) -> None:
    assert len(compared_images(finished.folder / "bundle", None)) == 8
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    with pytest.raises(InputError, match="give images="):
        compared_images(tmp_path / "run" / "bundle", None)
    (tmp_path / "run" / "scores.csv").write_text("path,raw_score\ngone.png,1\n")
    with pytest.raises(InputError, match="none of its 1 pictures is there any more; give images="):
        compared_images(tmp_path / "run" / "bundle", None)
    for number in range(30):
        write_png(tmp_path / f"{number:02}.png", np.zeros((4, 4, 3), np.uint8))
    assert len(compared_images(tmp_path, tmp_path)) == 24


@pytest.mark.slow
def test_deep_features(part: Path, train: Callable[..., Any], tmp_path: Path) -> None:
    run = train(part, tmp_path / "outputs", model="deep_feature")
    assert run.code == 0, run.err
    export(run.folder / "bundle", tmp_path / "onnx", format="onnx", images=None, threads=1)
    assert json.loads((tmp_path / "onnx" / "detector.json").read_text())["outputs"] == ["embedding"]
    sizes = json.loads((tmp_path / "onnx" / "parity.json").read_text())["sizes"]
    assert [size["map"] for size in sizes] == [None] * 4


def test_the_command(
    exported: Path,
    finished: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino")
    outputs = json.loads((exported / "detector.json").read_text())["outputs"]
    model = (exported / "model.onnx").read_bytes()
    monkeypatch.setattr(exporting, "to_onnx", lambda detector: (model, outputs))  # made once is enough
    bundle = finished.folder / "bundle"
    output = tmp_path / "open,vino"
    assert export_command([f"bundle={bundle}", "format=openvino", f"output={output}", "threads=1"]) == 0
    said = capsys.readouterr().out
    assert "x 0.75            8            0" in said
    assert said.endswith(f"export: {output}\n")
    for bad, text in (
        (["format=tflite"], "format must be one of onnx, openvino, got tflite"),
        (["format=onnx", f"output={bundle}"], "is the bundle itself"),
        (["format=onnx", f"images={tmp_path}"], "no images in"),
    ):
        assert export_command([f"bundle={bundle}", "threads=1", *bad]) == 2
        assert text in capsys.readouterr().err


def test_predict_takes_an_export(
    exported: Path, part: Path, tmp_path: Path, predict: Callable[..., Any]
) -> None:
    ended = predict(exported, part / "test" / "hole", tmp_path / "out")
    assert ended.code == 1, ended.err
    assert "4 defective" in ended.out
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 4
