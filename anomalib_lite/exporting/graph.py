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
from anomalib_lite.models.losses import ssim_map
from anomalib_lite.models.reconstruction import Mapped
from anomalib_lite.scoring.anomaly_map import mean_square
from anomalib_lite.scoring.embedding import Embedder
from anomalib_lite.types import InputError

OPSET = 20
MOST_BATCH = 64
PICTURE = "picture"  # the graph's input
# those of `scoring.similarity` that are arithmetic, a number a picture; hashes are not
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda picture, reconstruction: (picture - reconstruction).abs().mean((1, 2, 3)),
    "l2": lambda picture, reconstruction: (picture - reconstruction).square().mean((1, 2, 3)),
    "ssim": lambda picture, reconstruction: ssim_map(picture, reconstruction).mean((1, 2, 3)),
    "ssim_lowest": lambda picture, reconstruction: ssim_map(picture, reconstruction).mean(1).amax((1, 2)),
}


def check_exportable(detector: Detector) -> None:
    """Raises InputError for a detector of which some part has no graph."""
    if isinstance(detector.model, NearestNeighbour):
        raise InputError("model=nearest_neighbour can't be exported: it compares with every training picture")
    name = detector.similarity.name
    if detector.scoring.method == "similarity" and name not in SIMILARITIES:
        raise InputError(f"similarity={name} can't be exported; {', '.join(SIMILARITIES)} can")


def in_float32(detector: Detector) -> Detector:
    """The same detector with an embedding in float32, in place: what an export computes in, and is compared with."""
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
        # so that their weights become the graph's
        self.model: Any = detector.model if isinstance(detector.model, nn.Module) else None
        self.trunk: Any = None if detector.embedder is None else detector.embedder.trunk
        embeds = detector.scoring.method == "embedding"
        self.outputs = [*(["anomaly_map", "error"] if detector.localises else [])]
        self.outputs += ["embedding" if embeds else "raw_score"]

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """As the class says."""
        detector = self.detector
        mapped = detector.model.map(picture)
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
    try:
        import onnx
        import onnxscript  # noqa: F401  # the exporter's own
    except ImportError as error:
        raise InputError(f"{error.name} is missing: pip install 'anomalib-lite[export]'") from None
    graph = Graph(detector).eval()
    picture = torch.rand((2, 3, *detector.preparation.size_), generator=torch.Generator().manual_seed(0))
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what the exporter does inside
        program = torch.onnx.export(
            graph,
            (picture,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[PICTURE],
            output_names=graph.outputs,
            dynamic_shapes={PICTURE: {0: torch.export.Dim("batch", min=1, max=MOST_BATCH)}},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(), graph.outputs  # all in one: nothing beside it that could be missed


def _forget_origin(model: Any) -> None:
    """Remove what tells, of every operation, from which line of whose file it came: nobody else's business."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del holder.metadata_props[:]


def to_openvino(model: bytes) -> dict[str, bytes]:
    """An ONNX model as OpenVINO's two files, in float32.

    Raises InputError where the package is missing.
    """
    try:
        import openvino
    except ImportError:
        raise InputError("openvino is missing: pip install 'anomalib-lite[export]'") from None
    read = openvino.Core().read_model(model=model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(read, str(path), compress_to_fp16=False)
        return {"model.xml": path.read_bytes(), "model.bin": path.with_suffix(".bin").read_bytes()}
