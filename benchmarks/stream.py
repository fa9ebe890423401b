"""How many frames a second are inspected, end to end: decoded, judged, written as lines and as an annotated video.

For each model and size, where the time goes; beside it the same stream judged by the model's exports, and what the page
adds to a bare prediction. The frames are rendered here; networks are not trained, which takes as long.

    python benchmarks/stream.py --out stream.json    # a quarter of an hour on two cores
    python benchmarks/stream.py --quick              # does it run? its figures mean nothing
"""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from measuring import DRAWN, Figure, draw, link, parser_of, watched, write_figures
from speed import xception

from anomalib_lite import building, inspector, run, streaming
from anomalib_lite.callbacks import fit_and_calibrate
from anomalib_lite.console import config_folder
from anomalib_lite.data.images import list_images, read_image, write_png
from anomalib_lite.data.rendered.zipper import render_picture
from anomalib_lite.data.video import FrameReader, VideoFile
from anomalib_lite.detector import Detector
from anomalib_lite.exporting.export import export
from anomalib_lite.inspector import Inspector, load_inspector
from anomalib_lite.models.reconstruction import PatchAutoencoder
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.embedding import Embedder, Weights
from anomalib_lite.serving.local import answer_times
from anomalib_lite.stages import StageStore

PICTURES = 24  # photographs that a detector is fitted on
MODELS = {  # name -> options of train.py
    "CAE": ("model=cae", "scoring=map_maximum"),
    "CPCAE": ("model=cpcae", "scoring=map_maximum"),
    "CPCAE and deep stage": ("model=cpcae",),
}
DEEP = "CPCAE and deep stage"
MOST_PAGE = 1.2  # times the bare prediction


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How large and how long everything is."""

    long_sides: tuple[int, ...] = (256, 512, 1024)  # pixels, of a frame and of the registered picture
    frames: int = 40
    answers: int = 8


QUICK = Effort(long_sides=(256,), frames=4, answers=2)


def stream(work: Path, effort: Effort, weights: Weights, long_side: int, threads: int) -> list[Figure]:
    """Frames a second of every model, by its detector and, with the deep stage, by its exports."""
    size = (long_side, long_side * 3 // 4)  # width, height
    folder = work / str(long_side)
    folder.mkdir()
    drawn = draw(folder / "drawn", size)
    link(drawn, folder / "parts" / "train" / "good", PICTURES)
    others = folder / "others"  # no calibration picture: its score may lie on the cut itself
    others.mkdir()
    for index in range(DRAWN):
        write_png(others / f"{index}.png", render_picture(set_number=1, size=size, index=DRAWN + index)[0])
    film = write_film(folder / "belt.avi", [read_image(path) for path in drawn], effort.frames)
    figures = []
    for model, options in MODELS.items():
        detector = fitted(folder, options, long_side, weights)
        about = f"{model}, {long_side} px"
        figures += measured(detector, film, folder / "out", about=about, parts=parts_of(detector))
        if model != DEEP:
            continue
        detector.save(folder / "bundle", card={})
        for name in ("onnx", "openvino"):
            export(folder / "bundle", folder / name, format=name, images=others, threads=threads)
            exported = load_inspector(folder / name, threads=threads)
            figures += measured(exported, film, folder / "out", about=f"{about}, {name}", parts={})
        run.set_threads(threads)
        figures += page(detector, folder, effort, about)
    return figures


def measured(
    judge: Inspector, film: Path, output: Path, *, about: str, parts: Mapping[str, tuple[Any, str]]
) -> list[Figure]:
    """Frames a second, and the share of the time that each part takes."""
    seconds, count = 0.0, 0

    def inspect() -> None:
        nonlocal seconds, count
        start = time.perf_counter()
        summary = streaming.inspect_stream(
            judge,
            FrameReader(VideoFile(film)),
            output,
            source=str(film),
            lines="file",
            append=False,
            video=True,
            frames_per_second=None,
            monitor=None,
            progress=io.StringIO(),
        )
        seconds, count = time.perf_counter() - start, summary.read

    inspect()  # warms up
    spent = watched(inspect, parts)
    figures = [Figure(name=f"{about}: inspected", value=count / seconds, unit="frames/s")]
    shares = {name: 100 * float(times.sum()) / seconds for name, times in spent.items()}
    if shares:
        shares["rest (decoding and writing among it)"] = 100 - sum(shares.values())
    return [
        *figures,
        *(Figure(name=f"{about}: {name}", value=share, unit="% of time") for name, share in shares.items()),
    ]


def parts_of(detector: Detector) -> dict[str, tuple[Any, str]]:
    """What takes time, by what it is looked up in, and under which name; none holds another."""
    assert isinstance(detector.model, PatchAutoencoder)
    parts: dict[str, tuple[Any, str]] = {
        "register, crop, resize": (detector, "preparation"),
        "autoencoder": (detector.model.network, "forward"),
        "defects": (inspector, "find_defects"),
        "overlay": (streaming, "annotate"),
    }
    if detector.embedder is not None and detector.scoring.method == "embedding":
        parts["deep stage"] = (detector.embedder.trunk, "forward_features")
        parts["classifier"] = (detector.classifier, "score")
    return parts


def page(detector: Detector, folder: Path, effort: Effort, about: str) -> list[Figure]:
    """What an answer of the page takes beside a bare prediction."""
    pictures = list_images(folder / "drawn")
    times = answer_times(detector, pictures, folder / "reviews", rounds=effort.answers)
    return [
        Figure(name=f"{about}: bare prediction", value=1000 * float(np.median(times.bare)), unit="ms"),
        Figure(name=f"{about}: answer of the page", value=1000 * float(np.median(times.page)), unit="ms"),
        Figure(name=f"{about}: page / bare", value=times.ratio, most=MOST_PAGE),
    ]


def fitted(folder: Path, options: tuple[str, ...], long_side: int, weights: Weights) -> Detector:
    """A detector of `train.py` with these options, its network untrained."""
    overrides = [f"data.root={folder / 'parts'}", "data.registration=none", "data.crop=null"]
    overrides += [f"data.size={long_side}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [*options, "data=mvtec", *overrides])
    data = building.make_data(cfg, StageStore(root=folder / "stages"))
    data.setup()
    embeds = building.value_object(cfg.scoring).method == "embedding"
    embedder = Embedder(weights=weights, pooling="cascade", precision="auto") if embeds else None
    detector = building.make_detector(cfg, data, embedder)
    if isinstance(detector.model, PatchAutoencoder):
        detector.model.eval()
    fit_and_calibrate(detector, data)
    return detector


def write_film(path: Path, pictures: list[np.ndarray], count: int) -> Path:
    """A video without loss of so many frames."""
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (width, height))
    for number in range(count):
        picture = np.rint(pictures[number % len(pictures)] * 255).astype(np.uint8)
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def main() -> None:
    """Measure, print and write."""
    arguments = parser_of(__doc__).parse_args()
    effort = QUICK if arguments.quick else Effort()
    register_schemas()
    run.set_threads(arguments.threads)
    run.quieten()
    weights = xception()
    print(f"{weights.backbone}: {weights.source}; {arguments.threads} threads; {platform.platform()}")
    figures: list[Figure] = []
    with TemporaryDirectory() as folder:
        for long_side in effort.long_sides:
            section = stream(Path(folder), effort, weights, long_side, arguments.threads)
            print(*section, sep="\n", flush=True)
            figures += section
    settings = {"threads": arguments.threads, "weights": weights.source, "platform": platform.platform()}
    write_figures(arguments.out, settings | {"torch": torch.__version__} | asdict(effort), figures)


if __name__ == "__main__":
    main()
