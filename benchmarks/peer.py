"""`model=positional_memory` beside anomalib's PatchCore and PaDiM: same photographs, weights, size, threads, one run.

    python benchmarks/peer.py --root .../mvtec --categories bottle pill --out peer.json

Makes an environment of anomalib's own (`--environment`; minutes and 6 GB the first time). Each category is learned from
its train/good alone; anomalib's methods learn from all of it, ours holds a quarter back for its threshold. Test
photographs are judged by all of them in turn, file to verdict and map, and one implementation of the metrics judges
their raw scores and maps, at the photographs' own size. PatchCore keeps 1 % of its features; `--ten-percent` adds the
published 10 %, which takes more than an hour to fit.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from hydra import compose, initialize_config_dir
from measuring import Figure, parser_of, write_figures

from anomalib_lite import building, run
from anomalib_lite.callbacks import fit_and_calibrate
from anomalib_lite.console import config_folder
from anomalib_lite.data.images import image_size, list_images, read_image, read_mask
from anomalib_lite.exporting.export import export
from anomalib_lite.inspector import Inspector, examine, load_inspector
from anomalib_lite.metrics import PixelMetrics, image_metrics
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.embedding import find_weights
from anomalib_lite.stages import StageStore
from anomalib_lite.types import Sample

WORKER = Path(__file__).with_name("peer_worker.py")
BACKBONE = "tf_efficientnet_lite0"
PEERS = {"PatchCore 1 %": ("patchcore", 0.01), "PaDiM": ("padim", 0.0)}
TEN_PERCENT = {"PatchCore 10 %": ("patchcore", 0.1)}
OURS = "positional_memory"
REST = 0.05  # seconds between two judgements: threads of the last one may still wait in a loop
WARM_UP = 3  # judgements that no time is taken of


@dataclass
class Row:
    """What one method gives on one category."""

    judge: Callable[[Path], tuple[float, np.ndarray, float]]  # photograph -> raw score, map, seconds
    fitted: dict[str, float]
    raw: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    pixels: PixelMetrics = field(default_factory=PixelMetrics)


class Peer:
    """A peer's method in a process of its own environment."""

    def __init__(self, python: Path, settings: dict[str, Any]) -> None:
        command = [str(python), str(WORKER), json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def ask(self, do: str, **asked: Any) -> dict[str, Any]:
        """What the process answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **asked}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{WORKER.name}: ended with exit code {self.process.wait()}, see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let the process go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def environment(folder: Path, wanted: str) -> Path:
    """The interpreter of an environment with anomalib and this Torch; made where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing {wanted} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        torch_of_here = torch.__version__.partition("+")[0]
        installs = [sys.executable, "-m", "uv", "pip", "install", "--python", str(python)]
        subprocess.run([*installs, wanted, f"torch=={torch_of_here}"], check=True)
        (folder / "installed").touch()
    return python


def compared(
    work: Path, python: Path, category: str, seed: int, arguments: argparse.Namespace, weights: Path
) -> list[Figure]:
    """Every method on one category."""
    options = [
        f"model={OURS}", "data=mvtec", f"data.root={arguments.root}", f"data.category={category}", f"seed={seed}",
        "embedding=efficientnet_lite0", f"data.size={arguments.size}", f"outputs={work}", *arguments.set,
    ]  # fmt: skip
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", options)
    rows, samples = ours(work, cfg, arguments.threads)
    train = [str(path) for path in list_images(arguments.root / category / "train" / "good")]
    asked = PEERS | (TEN_PERCENT if arguments.ten_percent else {})
    same = {"size": arguments.size, "seed": seed, "threads": arguments.threads, "weights": str(weights)}
    same |= {"backbone": BACKBONE, **normalisation()}
    peers = []
    for name, (method, share) in asked.items():
        peer = Peer(python, same | {"method": method, "share": share})
        version = peer.about["anomalib"]
        print(f"{category}, seed {seed}: fitting {name} of anomalib {version}", file=sys.stderr)
        fitted = peer.ask("fit", images=train)
        rows[name] = Row(judge=judge_of(peer, work / "map.npy"), fitted=fitted)
        peers.append(peer)
    for _ in range(WARM_UP):
        for row in rows.values():
            row.judge(samples[0].path)
    for sample in samples:
        mask = mask_of(sample)
        for row in rows.values():
            score, anomaly_map, seconds = row.judge(sample.path)
            time.sleep(REST)
            row.raw.append(score)
            row.seconds.append(seconds)
            row.pixels.update(np.maximum(anomaly_map, 0), mask)
    for peer in peers:
        peer.end()
    return figures_of(rows, samples, f"{category}, seed {seed}")


def normalisation() -> dict[str, list[float]]:
    """What the backbone's pictures are normalised by."""
    known = timm.get_pretrained_cfg(BACKBONE)
    return {"mean": list(known.mean), "deviation": list(known.std)}


def ours(work: Path, cfg: Any, threads: int) -> tuple[dict[str, Row], list[Sample]]:
    """Our method fitted, as it is and as an ONNX graph, and the test's samples."""
    start, processor = time.perf_counter(), time.process_time()
    data = building.make_data(cfg, StageStore(root=work / ".stages"))
    data.setup()
    prepared = {
        "preparing_seconds": time.perf_counter() - start,
        "preparing_processor_seconds": time.process_time() - processor,
    }
    start, processor = time.perf_counter(), time.process_time()
    detector = building.make_detector(cfg, data, None)
    fit_and_calibrate(detector, data)
    fitted = {
        "fitting_seconds": time.perf_counter() - start,
        "fitting_processor_seconds": time.process_time() - processor,
    }
    bundle, graph = work / "bundle", work / "onnx"
    detector.save(bundle, card={})
    samples = data.of_role("test").of_rows()[0]
    images = work / "compared"
    images.mkdir(exist_ok=True)
    for sample in samples[:3]:
        (images / f"{sample.defect}-{sample.path.name}").symlink_to(sample.path.resolve())
    export(bundle, graph, format="onnx", images=images, threads=threads)
    run.set_threads(threads)
    size = {"model_mb": sum(path.stat().st_size for path in bundle.iterdir()) / 1e6}
    rows = {
        OURS: Row(judge=judged_by(load_inspector(bundle, threads=threads)), fitted=fitted | prepared | size)
    }
    onnx = {"model_mb": sum(path.stat().st_size for path in graph.iterdir()) / 1e6}
    rows[f"{OURS}, ONNX"] = Row(judge=judged_by(load_inspector(graph, threads=threads)), fitted=onnx)
    return rows, samples


def judged_by(inspector: Inspector) -> Callable[[Path], tuple[float, np.ndarray, float]]:
    """Judges a photograph as `predict.py` does, without writing; a part that can't be aligned counts as defective."""
    inspector.on_not_aligned = "score"

    def judge(path: Path) -> tuple[float, np.ndarray, float]:
        start = time.perf_counter()
        examined = examine(inspector, read_image(path), path)
        seconds = time.perf_counter() - start
        assert examined.localised is not None
        return examined.prediction.raw_score, examined.localised.anomaly_map, seconds

    return judge


def judge_of(peer: Peer, folder: Path) -> Callable[[Path], tuple[float, np.ndarray, float]]:
    """Judges a photograph in the peer's process."""

    def judge(path: Path) -> tuple[float, np.ndarray, float]:
        found = peer.ask("judge", image=str(path), map_file=str(folder))
        return found["score"], np.load(folder), found["seconds"]

    return judge


def mask_of(sample: Sample) -> np.ndarray:
    """(H, W) bool in the photograph's pixels; nothing for a good part."""
    size = image_size(sample.path)
    return np.zeros(size, bool) if sample.mask_path is None else read_mask(sample.mask_path, size)


def figures_of(rows: dict[str, Row], samples: list[Sample], about: str) -> list[Figure]:
    """A line for everything measured, with what was meant for ours."""
    labels = np.array([sample.label for sample in samples])
    reference = rows["PatchCore 1 %"]
    figures = []
    for name, row in rows.items():
        raw = np.array(row.raw)
        image = image_metrics(labels, raw, None)
        pixel = row.pixels.compute(tau=None)
        shown = {
            "image AUROC": image["image_AUROC"], "image AP": image["image_AP"],
            "pixel AUROC": pixel["pixel_AUROC"], "AUPRO": pixel["pixel_AUPRO"],
        }  # fmt: skip
        lines = [
            Figure(name=f"{about}: {name}: {key}", value=100 * value, unit="%")
            for key, value in shown.items()
            if value is not None
        ]
        lines += [
            Figure(name=f"{about}: {name}: {key.replace('_', ' ')}", value=value)
            for key, value in row.fitted.items()
        ]
        milliseconds = 1000 * float(np.median(row.seconds))
        lines.append(Figure(name=f"{about}: {name}: file to map", value=milliseconds, unit="ms"))
        figures += lines
    mine = rows[OURS]
    ratios = {
        "processor time to fit / PatchCore 1 %": (
            mine.fitted["fitting_processor_seconds"] / reference.fitted["fitting_processor_seconds"], 1 / 20,
        ),
        "file to map / PatchCore 1 %": (np.median(mine.seconds) / np.median(reference.seconds), 0.6),
        "ONNX, file to map / PatchCore 1 %": (
            np.median(rows[f"{OURS}, ONNX"].seconds) / np.median(reference.seconds), 1 / 3,
        ),
        "model on disk / PaDiM": (mine.fitted["model_mb"] / rows["PaDiM"].fitted["model_mb"], 0.5),
    }  # fmt: skip
    return figures + [
        Figure(name=f"{about}: {name}", value=float(value), most=most)
        for name, (value, most) in ratios.items()
    ]


def main() -> None:
    parser = parser_of(__doc__, quick=False)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the categories")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--size", type=int, default=320, help="pixels of the side that the backbone sees")
    parser.add_argument("--ten-percent", action="store_true", help="PatchCore with 10 % too: hours")
    parser.add_argument("--anomalib", default="anomalib", help="what to install, such as anomalib==2.7.0")
    parser.add_argument("--environment", type=Path, default=Path("outputs/peer-environment"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further options of ours")
    arguments = parser.parse_args()
    register_schemas()
    run.set_threads(arguments.threads)
    run.quieten()
    python = environment(arguments.environment.absolute(), arguments.anomalib)
    about = f"{platform.platform()}; {arguments.threads} threads; {arguments.size} pixels"
    print(about, file=sys.stderr)
    figures = []
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(find_weights(BACKBONE).state, weights)
        for category in arguments.categories:
            for seed in arguments.seeds:
                work = Path(folder) / f"{category}-{seed}"
                work.mkdir()
                found = compared(work, python, category, seed, arguments, weights)
                print(*found, sep="\n", flush=True)
                figures += found
    write_figures(arguments.out, {"about": about, "set": arguments.set}, figures)


if __name__ == "__main__":
    main()
