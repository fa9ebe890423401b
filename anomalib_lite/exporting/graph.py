"""The part of the chain that needs torch, as one graph: registered pictures to maps, errors and embeddings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.baselines import NearestNeighbour
from anomalib_lite.data.resize import resize
from anomalib_lite.detector import Detector
from anomalib_lite.exporting import positional
from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import Mapped
from anomalib_lite.runtime.engines import import_openvino
from anomalib_lite.scoring.anomaly_map import mean_square, top_count
from anomalib_lite.scoring.embedding import Embedder
from anomalib_lite.types import InputError

OPSET = 20
MOST_BATCH = 64
PICTURE = "picture"  # the graph's input
# those of `scoring.similarity` that can be exported: hashes are no arithmetic, torchmetrics' SSIM fixes the batch
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda picture, reconstruction: (picture - reconstruction).abs().mean((1, 2, 3)),
    "l2": lambda picture, reconstruction: (picture - reconstruction).square().mean((1, 2, 3)),
}


def check_exportable(detector: Detector) -> None:
    """Raises InputError for a detector of which some part has no graph."""
    if isinstance(detector.model, NearestNeighbour):
        raise InputError("model=nearest_neighbour can't be exported: it compares with every training picture")
    name = detector.similarity.name
    if detector.scoring.method == "similarity" and name not in SIMILARITIES:
        raise InputError(f"similarity={name} can't be exported; {', '.join(SIMILARITIES)} can")


def in_float32(detector: Detector) -> Detector:
    """The same detector with its backbone in float32, in place: what an export computes in, and is compared with."""
    if isinstance(detector.model, PositionalMemory):
        positional.in_float32(detector.model)
    embedder = detector.embedder
    if embedder is not None and embedder.precision != "float32":
        detector.embedder = Embedder(weights=embedder.weights, pooling=embedder.pooling, precision="float32")
    return detector


class Graph(nn.Module):
    """Registered pictures (B, 3, H, W) in [0, 1] to the tensors that `outputs` names, a row a picture.

    `anomaly_map` (B, H, W) and `error` (B,) of a chain that localises; `embedding` (B, D), not scaled, where the
    classifier scores it, else `raw_score` (B,).
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        check_exportable(detector)
        self.detector = detector
        model = detector.model
        self.model: Any = positional.PositionalGraph(model) if isinstance(model, PositionalMemory) else model
        # so that its weights become the graph's, as those of a model that is a module do
        self.trunk: Any = None if detector.embedder is None else detector.embedder.trunk
        embeds = detector.scoring.method == "embedding"
        self.outputs = [*(["anomaly_map", "error"] if detector.localises else [])]
        self.outputs += ["embedding" if embeds else "raw_score"]

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """As the class says."""
        detector = self.detector
        mapped = self.model.map(picture)
        found = []
        if detector.localises:
            small = detector.postprocess(mapped.low_error, detector.usual_, mapped.predicted_error)
            anomaly_map = resize(small, (picture.shape[-2], picture.shape[-1]))[:, 0]
            found += [anomaly_map, mapped.low_error.mean((1, 2, 3))]
        if detector.scoring.method == "embedding":
            assert detector.embedder is not None
            return (*found, detector.embedder((mapped.error * detector.gain_).clamp(0, 1)))
        if detector.scoring.method == "map" and detector.scoring.reduction == "maximum":
            return (*found, anomaly_map.amax((1, 2)))
        if detector.scoring.method == "map" and detector.scoring.reduction == "top_mean":
            values = anomaly_map.flatten(1)
            count = top_count(values.shape[1], detector.scoring.top_share)
            return (*found, values.topk(count, dim=1).values.mean(dim=1))
        return (*found, self._raw_score(mapped))

    def _raw_score(self, mapped: Mapped) -> Tensor:
        """(B,) of scorings that need neither embedding nor map."""
        if self.detector.scoring.method == "reconstruction_probability":
            return mapped.low_error.mean((1, 2, 3))
        if self.detector.scoring.method == "map":
            return mean_square(mapped.low_error)
        assert mapped.low_image is not None  # Detector refuses such a model
        assert mapped.low_reconstruction is not None
        return SIMILARITIES[self.detector.similarity.name](mapped.low_image, mapped.low_reconstruction)


def to_onnx(detector: Detector) -> tuple[bytes, list[str]]:
    """The detector's graph as an ONNX model for batches of 1 to 64, and the names of its outputs.

    Raises InputError for a part that can't be exported, and where the packages for it are missing.
    """
    graph = Graph(detector)
    return as_onnx(graph, size=detector.preparation.size_, outputs=graph.outputs), graph.outputs


def as_onnx(module: nn.Module, *, size: tuple[int, int], outputs: list[str]) -> bytes:
    """A module that takes pictures (B, 3, *size) and gives a tensor for each of the `outputs`, as an ONNX model.

    Raises InputError for a module that does not take any batch, and where the packages for it are missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # the exporter's own
    except ImportError as error:
        raise InputError(f"{error.name} is missing: pip install 'anomalib-lite[export]'") from None
    picture = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(0))
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what the exporter does inside
        program = torch.onnx.export(
            module.eval(),
            (picture,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[PICTURE],
            output_names=outputs,
            dynamic_shapes={PICTURE: {0: torch.export.Dim("batch", min=1, max=MOST_BATCH)}},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    onnx.checker.check_model(model)
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise InputError("some part of it computes only with one size of batch: it can't be exported")
    return model.SerializeToString()  # all in one: nothing beside it that could be missed


def _forget_origin(model: Any) -> None:
    """Remove what tells, of every operation, from which line of whose file it came: nobody else's business."""
    graph = model.graph
    for holder in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        del holder.metadata_props[:]


def to_openvino(model: bytes) -> dict[str, bytes]:
    """An ONNX model as OpenVINO's two files, in float32.

    Raises InputError where the package is missing.
    """
    openvino = import_openvino()
    read = openvino.Core().read_model(model=model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(read, str(path), compress_to_fp16=False)
        return {"model.xml": path.read_bytes(), "model.bin": path.with_suffix(".bin").read_bytes()}
