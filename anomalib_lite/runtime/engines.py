"""The two libraries that run an exported graph, behind one call."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from anomalib_lite.types import InputError

# the key under which an ONNX model names a file beside it for its weights, however long its tag and length are
# written; ours have them inside
ELSEWHERE = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")


class Engine(Protocol):
    """Runs a graph."""

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, a row a picture, of registered pictures (B, 3, H, W) float32."""


class OnnxEngine:
    """ONNX Runtime on the processor.

    Raises InputError where the package is missing or the model is not one.
    """

    def __init__(self, files: Mapping[str, bytes], outputs: Sequence[str], *, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise InputError("onnxruntime is missing: pip install onnxruntime") from None
        if ELSEWHERE.search(files["model.onnx"]):
            raise InputError("model.onnx: expected its weights inside, found the name of a file for them")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self.session = onnxruntime.InferenceSession(
                files["model.onnx"], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # it has a dozen classes of its own
            raise InputError(f"model.onnx: expected an ONNX model, found: {_first_line(error)}") from None
        self.outputs = list(outputs)
        found = [output.name for output in self.session.get_outputs()]
        if found != self.outputs or len(self.session.get_inputs()) != 1:
            raise InputError(f"model.onnx: expected the outputs {self.outputs}, found {found!s:.200}")
        self.input = self.session.get_inputs()[0].name

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """As `Engine`."""
        return dict(zip(self.outputs, self.session.run(self.outputs, {self.input: pictures}), strict=True))


class OpenVinoEngine:
    """OpenVINO on the processor, in float32.

    Raises InputError where the package is missing or the model is not one.
    """

    def __init__(self, files: Mapping[str, bytes], outputs: Sequence[str], *, threads: int) -> None:
        openvino = import_openvino()
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        settings |= {"PERFORMANCE_HINT": "LATENCY"}
        try:
            core = openvino.Core()
            model = core.read_model(model=files["model.xml"], weights=files["model.bin"])
            self.model = core.compile_model(model, "CPU", settings)
            found = [output.any_name for output in self.model.outputs]
        except Exception as error:  # RuntimeError, and others of its own
            raise InputError(f"model.xml: expected an OpenVINO model, found: {_first_line(error)}") from None
        self.outputs = list(outputs)
        if found != self.outputs or len(self.model.inputs) != 1:
            raise InputError(f"model.xml: expected the outputs {self.outputs}, found {found!s:.200}")

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """As `Engine`."""
        found = self.model(pictures)
        # copies: the next call overwrites what this one gives
        return {name: np.array(found[row]) for row, name in enumerate(self.outputs)}


ENGINES: dict[str, type[OnnxEngine] | type[OpenVinoEngine]] = {"onnx": OnnxEngine, "openvino": OpenVinoEngine}


def import_openvino() -> Any:
    """The package without its conversion tools, the import of which is reported to a server of its makers.

    Raises InputError where it is missing.
    """
    tools = "openvino.tools.ovc"
    kept_out = tools not in sys.modules
    if kept_out:
        sys.modules[tools] = None  # type: ignore[assignment]  # how Python spells that an import shall fail
    try:
        import openvino
    except ImportError:
        raise InputError("openvino is missing: pip install openvino") from None
    finally:
        if kept_out:
            del sys.modules[tools]
    return openvino


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
