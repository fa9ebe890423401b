"""The two libraries behind one call: the same numbers, and models that are refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from anomalib_lite.runtime.engines import ENGINES, OnnxEngine, OpenVinoEngine
from anomalib_lite.types import InputError

onnx = pytest.importorskip("onnx", reason="needs anomalib-lite[export]")
pytest.importorskip("onnxruntime")
if importlib.util.find_spec("openvino") is None:
    pytest.skip("needs anomalib-lite[export]", allow_module_level=True)


def doubling() -> bytes:
    """A model that doubles pictures, and gives their sums as well."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["picture", "two"], ["doubled"]),
            helper.make_node("ReduceSum", ["picture", "axes"], ["total"], keepdims=0),
        ],
        "doubling",
        [helper.make_tensor_value_info("picture", real, ["batch", 3, 2, 2])],
        [
            helper.make_tensor_value_info("doubled", real, ["batch", 3, 2, 2]),
            helper.make_tensor_value_info("total", real, ["batch"]),
        ],
        [
            onnx.numpy_helper.from_array(np.array(2, np.float32), "two"),
            onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
        ],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def files_of(name: str) -> dict[str, bytes]:
    if name == "onnx":
        return {"model.onnx": doubling()}
    from anomalib_lite.exporting.graph import to_openvino

    return to_openvino(doubling())


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_outputs_by_name_for_any_batch(name: str) -> None:
    engine = ENGINES[name](files_of(name), ["doubled", "total"], threads=1)
    for batch in (1, 3):
        pictures = np.random.default_rng(batch).random((batch, 3, 2, 2), np.float32)
        found = engine(pictures)
        assert list(found) == ["doubled", "total"]
        np.testing.assert_array_equal(found["doubled"], 2 * pictures)
        np.testing.assert_allclose(found["total"], pictures.sum((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_an_answer_is_not_overwritten_by_the_next(name: str) -> None:
    engine = ENGINES[name](files_of(name), ["doubled", "total"], threads=1)
    first = engine(np.ones((1, 3, 2, 2), np.float32))
    engine(np.zeros((1, 3, 2, 2), np.float32))
    assert first["total"].tolist() == [12]


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_other_outputs_than_the_settings_say(name: str) -> None:
    with pytest.raises(
        InputError, match=r"expected the outputs \['embedding'\], found \['doubled', 'total'\]"
    ):
        ENGINES[name](files_of(name), ["embedding"], threads=1)


def test_no_models() -> None:
    with pytest.raises(InputError, match=r"^model\.onnx: expected an ONNX model, found: "):
        OnnxEngine({"model.onnx": b"\x80\x04cos\nsystem\n"}, ["total"], threads=1)
    for xml in (
        b"",
        b"<net",
        b"\x80\x04cos\nsystem\n",
    ):
        with pytest.raises(InputError, match=r"^model\.xml: expected an OpenVINO model, found: "):
            OpenVinoEngine({"model.xml": xml, "model.bin": b""}, ["total"], threads=1)


@pytest.mark.parametrize("tag", [b"\x0a", b"\x8a\x00", b"\x8a\x80\x00"])
@pytest.mark.parametrize("length", [b"\x08", b"\x88\x00", b"\x88\x80\x00"])
def test_weights_elsewhere_however_they_are_written(tag: bytes, length: bytes) -> None:
    with pytest.raises(InputError, match="expected its weights inside, found the name of a file"):
        OnnxEngine({"model.onnx": doubling() + tag + length + b"location"}, ["total"], threads=1)


def test_openvino_tells_nobody_that_it_runs() -> None:
    code = "import sys; from anomalib_lite.runtime.engines import import_openvino as i; i().Core(); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ended.stdout.split()
    assert "openvino" in modules
    assert not [name for name in modules if "telemetry" in name or name.startswith("openvino.tools.ovc")]


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_one_line(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"^{package} is missing: pip install {package}$"):
        ENGINES[name](files, ["doubled", "total"], threads=1)
