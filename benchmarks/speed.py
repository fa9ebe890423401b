"""How fast this framework is beside bare PyTorch and bare timm, and how its memory grows; all in one run.

What is compared is timed in turns (A B A B ...), and a ratio is the median over the turns, so that a machine that
slows down slows both sides. The photographs are rendered here.

    python benchmarks/speed.py --out speed.json    # half an hour on two cores; memory needs Linux
    python benchmarks/speed.py --quick             # does it run? its figures mean nothing
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bare
import numpy as np
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from measuring import (
    Figure,
    draw,
    link,
    parser_of,
    peak_private_mb,
    timed_in_turns,
    watched,
    write_figures,
)
from omegaconf import DictConfig
from torch import Tensor

from anomalib_lite import building, inspection, run
from anomalib_lite.callbacks import fit_and_calibrate
from anomalib_lite.console import config_folder
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.images import list_images, read_image
from anomalib_lite.data.registration import Registration
from anomalib_lite.data.rendered.zipper import MINIMUM_SIZE
from anomalib_lite.detector import Detector
from anomalib_lite.models.reconstruction import NETWORKS, PatchAutoencoder, Reconstruction
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.embedding import XCEPTION, Embedder, Weights, find_weights
from anomalib_lite.stages import StageStore
from anomalib_lite.training import train_autoencoder

ROOT = Path(__file__).resolve().parent.parent
TRAIN_PICTURES = 60  # as in the paper's first set
NEIGHBOURS = 1000  # good parts that k-NN searches: more than any of the published sets has
BATCH = 8  # of timm, for comparison: we embed one picture at a time


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How large and how long everything is."""

    photograph: tuple[int, int] = (1600, 1200)  # width, height
    long_sides: tuple[int, ...] = (512, 900)  # pixels of the registered picture
    epochs: int = 11  # the first of them is not timed
    steps: int = 100  # training batches of an epoch
    rounds: int = 9
    predictions: int = 24
    images: tuple[int, int] = (500, 10_000)  # of the folders whose memory is compared


QUICK = Effort(
    photograph=(320, 240), long_sides=(128,), epochs=3, steps=4, rounds=2, predictions=4, images=(30, 60)
)


def training(work: Path, effort: Effort, model: str) -> list[Figure]:
    """Patches per second of Lightning, InspectionData and Reconstruction against the bare loop over one network.

    What a model pastes or augments happens in ours alone: a bare loop is given the clean patches.
    """
    published = model == "cpcae"
    epochs, steps = effort.epochs, effort.steps
    if not published:
        epochs, steps = max(3, epochs // 2), max(2, steps // 4)
    cfg, data = prepared(work, effort, effort.long_sides[0], model=model, epochs=epochs, steps=steps)
    autoencoder = building.make_model(cfg, data)
    assert isinstance(autoencoder, PatchAutoencoder)
    in_turns = bare.InTurns(bare.Loop(copy.deepcopy(autoencoder.network), data, cfg))
    module = Reconstruction(
        autoencoder=autoencoder,
        optimizer=instantiate(cfg.model.optimizer),
        learning_rate=cfg.model.learning_rate,
        corruption=building.value_object(cfg.corruption),
        augmentation=building.value_object(cfg.augmentation),
        seed=cfg.seed,
    )

    def make_trainer(*, callbacks: list[Callback]) -> Trainer:
        logger = CSVLogger(work / model, name="", version="logs")
        return instantiate(
            cfg.trainer, callbacks=[*callbacks, in_turns], logger=logger, enable_progress_bar=False
        )

    train_autoencoder(
        autoencoder,
        module=module,
        make_trainer=make_trainer,
        data=data,
        store=StageStore(root=work / "stages"),
        made_from={"model": model},
        folder=work / model,
        patience=epochs,
        resume=False,
    )
    torch.use_deterministic_algorithms(False)
    ours, theirs = np.array(in_turns.ours), np.array(in_turns.theirs[: len(in_turns.ours)])
    patches, about = data.batch_size * data.steps_per_epoch, f"training {model}"
    ratio, least = float(np.median(theirs / ours)), 0.95 if published else None
    return [
        Figure(name=f"{about}, ours", value=float(np.median(patches / ours)), unit="patches/s"),
        Figure(name=f"{about}, bare PyTorch", value=float(np.median(patches / theirs)), unit="patches/s"),
        Figure(name=f"{about}, ours / bare PyTorch", value=ratio, least=least),
    ]


def embedding(weights: Weights, effort: Effort, long_side: int) -> list[Figure]:
    """Pictures per second of the Embedder against bare timm, one at a time."""
    picture = torch.rand(1, 3, long_side * 3 // 4, long_side, generator=torch.Generator().manual_seed(0))
    ours = Embedder(weights=weights, pooling="cascade", precision="auto")
    same = bare.embedder(weights, dtype=ours.dtype, memory_format=torch.channels_last)
    plain = bare.embedder(weights, dtype=torch.float32, memory_format=torch.contiguous_format)
    torch.testing.assert_close(ours(picture), same(picture))  # the same work on both sides
    jobs: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "ours": (ours, picture),
        "bare timm": (same, picture),
        "bare timm as it comes (float32, channels first)": (plain, picture),
        f"bare timm in batches of {BATCH}": (same, picture.repeat(BATCH, 1, 1, 1)),
    }
    seconds = timed_in_turns([partial(embed, pictures) for embed, pictures in jobs.values()], effort.rounds)
    seconds /= [len(pictures) for _, pictures in jobs.values()]
    about, speeds = f"embedding at {long_side} px", np.median(1 / seconds, axis=0)
    figures = [
        Figure(name=f"{about}, {name}", value=float(speed), unit="pictures/s")
        for name, speed in zip(jobs, speeds, strict=True)
    ]
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
    return [*figures, Figure(name=f"{about}, ours / bare timm", value=ratio, least=0.95)]


def prediction(work: Path, effort: Effort, weights: Weights, long_side: int) -> list[Figure]:
    """Where the time of `inspect` goes, and what `Detector.predict` adds to the two networks' forwards."""
    cfg, data = prepared(work, effort, long_side)
    embedder = Embedder(weights=weights, pooling="cascade", precision="auto")
    detector = building.make_detector(cfg, data, embedder)
    fit_and_calibrate(detector, data)
    features = detector.scaler.mean_.shape[0]
    detector.classifier.fit(np.random.default_rng(0).random((NEIGHBOURS, features), np.float32))
    folder = link(list_images(work / "drawn"), work / f"new{long_side}", effort.predictions)
    output = work / f"inspected{long_side}"
    inspect = partial(inspection.inspect, detector, output=output, pictures=True, on_bad_image="error")
    inspect(list_images(folder)[0])  # warms up
    start = time.perf_counter()
    seconds = watched(partial(inspect, folder), parts_of(detector))
    whole = time.perf_counter() - start
    decode, predict, register = (seconds[name] for name in ("decode", "predict", "register, crop, resize"))
    forwards = seconds["autoencoder"] + seconds["trunk"]
    rest = predict - register - forwards
    writing = whole / effort.predictions - (decode + predict).mean()
    parts = {**seconds, "everything else in predict": rest, "write": writing}
    about, neighbours = f"predict at {long_side} px", seconds["k-NN"]
    figures = [
        Figure(name=f"{about}, {name}", value=1000 * float(np.median(part)), unit="ms/picture")
        for name, part in parts.items()
    ]
    share, ratio = float(np.median(neighbours / predict)), float(np.median(rest / forwards))
    return [
        *figures,
        Figure(name=f"{about}, everything else / forwards", value=ratio, most=0.2),
        Figure(name=f"{about}, k-NN among {NEIGHBOURS} / predict", value=share, most=0.02),
    ]


def parts_of(detector: Detector) -> dict[str, tuple[Any, str]]:
    """Where the parts of `inspect` that are timed are looked up: by what, and under which name."""
    assert isinstance(detector.model, PatchAutoencoder)
    assert detector.embedder is not None
    return {
        "decode": (inspection, "read_image"),
        "predict": (detector, "predict"),
        "register, crop, resize": (detector, "preparation"),
        "autoencoder": (detector.model.network, "forward"),
        "trunk": (detector.embedder.trunk, "forward_features"),
        "k-NN": (detector.classifier, "score"),
    }


def registration(work: Path, effort: Effort) -> list[Figure]:
    """Milliseconds to align one photograph."""
    photographs = [read_image(path) for path in list_images(work / "drawn")]
    width, height = effort.photograph
    figures = []
    for method in ("phase", "ecc", "features"):
        fitted = Registration(method=method).fit(photographs)
        jobs = [partial(fitted.align, photograph) for photograph in photographs]
        milliseconds = 1000 * float(np.median(timed_in_turns(jobs, effort.rounds)))
        name = f"registration by {method}, {width} x {height}"
        figures.append(Figure(name=name, value=milliseconds, unit="ms/picture"))
    return figures


def memory(work: Path, images: tuple[int, int], threads: int) -> list[Figure]:
    """Peak private memory of the two commands on a small and on a large folder."""
    drawn = draw(work / "small", MINIMUM_SIZE)
    peaks: dict[str, list[float]] = defaultdict(list)
    for count in images:
        folder, outputs = link(drawn, work / f"folder{count}", count), work / f"outputs{count}"
        common = [f"threads={threads}", f"outputs={outputs}"]
        train = [*common, "data=folder", f"data.normal_dir={folder}", f"hydra.run.dir={outputs}/run"]
        train += ["trainer.max_epochs=1", "model.steps_per_epoch=50", "embedding=efficientnet_lite0"]
        train += ["data.registration=none", "data.crop=null", "data.downsize=48", "grid.size=32"]  # for speed
        peaks["train"].append(peak_private_mb([sys.executable, str(ROOT / "train.py"), *train]))
        predict = [*common, f"bundle={outputs}/run/bundle", f"source={folder}", f"output={outputs}/verdicts"]
        predict_command = [sys.executable, str(ROOT / "predict.py"), *predict]
        peaks["predict"].append(peak_private_mb(predict_command, allowed=(0, 1)))  # 1: a part is defective
    figures = []
    for job, (small, large) in peaks.items():
        about = f"peak private memory, {job}"
        figures += [
            Figure(name=f"{about}, {images[0]} images", value=small, unit="MB"),
            Figure(name=f"{about}, {images[1]} images", value=large, unit="MB"),
            Figure(name=f"{about}, ratio", value=large / small, most=1.5),
        ]
    return figures


def prepared(
    work: Path, effort: Effort, long_side: int, *, model: str = "cpcae", epochs: int = 1, steps: int = 1
) -> tuple[DictConfig, InspectionData]:
    """The default config of `train.py model=...` at a picture size, and its data."""
    overrides = [f"data.root={work / 'parts'}", "data.registration=ecc", f"data.size={long_side}"]
    overrides += [f"trainer.max_epochs={epochs}", f"model.steps_per_epoch={steps}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [f"model={model}", "data=mvtec", *overrides])
    data = building.make_data(cfg, StageStore(root=work / "stages"))
    data.setup()
    return cfg, data


def xception() -> Weights:
    """The real weights if they are on this machine, else random ones, which take as long."""
    found = find_weights("auto")
    if found.backbone == XCEPTION:
        return found
    return Weights(XCEPTION, timm.create_model(XCEPTION, pretrained=False).state_dict(), "random", "")


def measured(effort: Effort, threads: int, weights: Weights) -> list[Figure]:
    """Every section, printed as soon as it is finished."""
    figures: list[Figure] = []

    def add(section: list[Figure]) -> None:
        print(*section, sep="\n", flush=True)
        figures.extend(section)

    with TemporaryDirectory() as folder:
        work = Path(folder)
        link(draw(work / "drawn", effort.photograph), work / "parts" / "train" / "good", TRAIN_PICTURES)
        for model in NETWORKS:
            add(training(work, effort, model))
        for long_side in effort.long_sides:
            add(embedding(weights, effort, long_side))
            add(prediction(work, effort, weights, long_side))
        add(registration(work, effort))
        add(memory(work, effort.images, threads))
    return figures


def parsed() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, help="of the large folder whose memory is measured")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    effort = QUICK if arguments.quick else Effort()
    if arguments.images:
        effort = replace(effort, images=(effort.images[0], arguments.images))
    register_schemas()
    run.set_threads(arguments.threads)
    run.quieten()
    weights = xception()
    print(f"{XCEPTION}: {weights.source}; {arguments.threads} threads; {platform.platform()}")
    figures = measured(effort, arguments.threads, weights)
    settings = {"threads": arguments.threads, "weights": weights.source, "platform": platform.platform()}
    settings |= {"torch": torch.__version__, "timm": timm.__version__} | asdict(effort)
    write_figures(arguments.out, settings, figures)


if __name__ == "__main__":
    main()
