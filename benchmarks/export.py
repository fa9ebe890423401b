"""How fast an export runs beside PyTorch: the deep stage (the embedding alone) and the whole chain, in batches.

Backbone, network and pictures are those of `train.py data=zipper` at each picture size, rendered here; the network is
not trained, which takes as long. All are timed in turns (A B C A B C ...) on the same pictures and give the same
answers, or the benchmark ends with what differs.

    python benchmarks/export.py --out export.json    # twenty minutes on two cores
    python benchmarks/export.py --quick              # does it run? its figures mean nothing
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measuring import Figure, draw, link, parser_of, timed_in_turns, write_figures
from speed import QUICK as QUICK_PREPARATION
from speed import Effort as Preparation
from speed import prepared, xception
from torch import Tensor, nn

from anomalib_lite import building, run
from anomalib_lite.callbacks import fit_and_calibrate
from anomalib_lite.exporting.graph import Graph, as_onnx, to_openvino
from anomalib_lite.runtime.engines import ENGINES
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.embedding import Embedder, Weights

PICTURES = 20  # photographs that the detector is fitted on
LEAST_GAIN = 1.5  # of the better export over PyTorch on the deep stage
PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "openvino")
Forward = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How large and how long everything is."""

    long_sides: tuple[int, ...] = (256, 512)  # pixels of the registered picture
    batches: tuple[int, ...] = (1, 16)
    rounds: int = 7


QUICK = Effort(long_sides=(128,), batches=(1, 2), rounds=2)


class DeepStage(nn.Module):
    """The embedding of pictures (B, 3, H, W) as a module, whose weights become the graph's."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.trunk, self.embedder = embedder.trunk, embedder

    def forward(self, picture: Tensor) -> tuple[Tensor]:
        """One output: the embedding."""
        return (self.embedder(picture),)


def deep_stage(weights: Weights, effort: Effort, long_side: int, threads: int) -> list[Figure]:
    """The embedding of pictures with long sides of so many pixels."""
    module = DeepStage(Embedder(weights=weights, pooling="cascade", precision="float32"))
    auto = Embedder(weights=weights, pooling="cascade", precision="auto")
    others = {} if auto.precision == "float32" else {f"PyTorch, {auto.precision}": DeepStage(auto)}
    size = (long_side * 3 // 4, long_side)
    about = f"deep stage at {long_side} px"
    return compared(
        module, others, size=size, outputs=["embedding"], about=about, effort=effort, threads=threads
    )


def whole_chain(work: Path, weights: Weights, effort: Effort, long_side: int, threads: int) -> list[Figure]:
    """Downsizing, patches, network, blending, error map, embedding: what an export has in its graph."""
    cfg, data = prepared(work, QUICK_PREPARATION, long_side)
    embedder = Embedder(weights=weights, pooling="cascade", precision="float32")
    detector = building.make_detector(cfg, data, embedder)
    fit_and_calibrate(detector, data)
    graph = Graph(detector)
    size, about = detector.preparation.size_, f"whole chain at {long_side} px"
    return compared(graph, {}, size=size, outputs=graph.outputs, about=about, effort=effort, threads=threads)


def compared(
    module: nn.Module,
    others: dict[str, DeepStage],
    *,
    size: tuple[int, int],
    outputs: list[str],
    about: str,
    effort: Effort,
    threads: int,
) -> list[Figure]:
    """Milliseconds a picture of PyTorch, ONNX Runtime and OpenVINO, and how many times faster than PyTorch they are."""
    model = as_onnx(module, size=size, outputs=outputs)
    files = {"onnx": {"model.onnx": model}, "openvino": to_openvino(model)}
    engines = {name: ENGINES[name](files[name], outputs, threads=threads) for name in files}
    figures = []
    for batch in effort.batches:
        pictures = np.random.default_rng(0).random((batch, 3, *size), np.float32)
        tensor = torch.from_numpy(pictures)
        jobs: dict[str, Forward] = {"PyTorch, float32": partial(forward, module, tensor)}
        jobs |= {name: partial(forward, other, tensor) for name, other in others.items()}
        jobs |= {name: partial(engine, pictures) for name, engine in engines.items()}
        check(jobs, list(engines), outputs)
        seconds = timed_in_turns(list(jobs.values()), effort.rounds)
        described = f"{about}, batch {batch}"
        figures += [
            Figure(
                name=f"{described}, {name}", value=float(1000 * np.median(column) / batch), unit="ms/picture"
            )
            for name, column in zip(jobs, seconds.T, strict=True)
        ]
        gains = {
            name: float(np.median(seconds[:, 0] / seconds[:, list(jobs).index(name)])) for name in engines
        }
        figures += [
            Figure(name=f"{described}, {name} is so many times faster", value=gain)
            for name, gain in gains.items()
        ]
        if outputs == ["embedding"]:
            least = LEAST_GAIN
            figures.append(
                Figure(name=f"{described}, the better one", value=max(gains.values()), least=least)
            )
    return figures


@torch.inference_mode()
def forward(module: nn.Module, pictures: Tensor) -> tuple[Tensor, ...]:
    """Of PyTorch, as it comes."""
    found: tuple[Tensor, ...] = module(pictures)
    return found


def check(jobs: dict[str, Forward], engines: Sequence[str], outputs: Sequence[str]) -> None:
    """What is compared does the same work; raises AssertionError otherwise."""
    expected = jobs["PyTorch, float32"]()
    for name in engines:
        found = jobs[name]()
        for output, tensor in zip(outputs, expected, strict=True):
            largest = float(tensor.abs().max())
            np.testing.assert_allclose(found[output], tensor.numpy(), atol=1e-3 * largest, err_msg=name)


def measured(effort: Effort, threads: int, weights: Weights) -> list[Figure]:
    """Every section, printed as soon as it is finished."""
    figures: list[Figure] = []

    def add(section: list[Figure]) -> None:
        print(*section, sep="\n", flush=True)
        figures.extend(section)

    with TemporaryDirectory() as folder:
        work = Path(folder)
        drawn = draw(work / "drawn", Preparation().photograph)
        link(drawn, work / "parts" / "train" / "good", PICTURES)
        for long_side in effort.long_sides:
            add(deep_stage(weights, effort, long_side, threads))
            add(whole_chain(work, weights, effort, long_side, threads))
    return figures


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    effort = QUICK if arguments.quick else Effort()
    register_schemas()
    run.set_threads(arguments.threads)
    run.quieten()
    weights = xception()
    print(f"{weights.backbone}: {weights.source}; {arguments.threads} threads; {platform.platform()}")
    figures = measured(effort, arguments.threads, weights)
    settings: dict[str, Any] = {"threads": arguments.threads, "weights": weights.source}
    settings |= {"platform": platform.platform()} | {name: version(name) for name in PACKAGES}
    write_figures(arguments.out, settings | asdict(effort), figures)


if __name__ == "__main__":
    main()
