"""What the fuzzer feeds: each target makes an input from a generator, has it read, and says `read` or `refused`.

A target is made once a process with a folder of its own; InputError is the only exception that it takes for a refusal.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import mutating
import numpy as np
import safetensors.numpy
import torch
import yaml

from anomalib_lite.console import resumed
from anomalib_lite.data.images import image_size, read_image, read_mask, write_png
from anomalib_lite.detector import Detector
from anomalib_lite.inspector import Inspector, examine
from anomalib_lite.runtime.exported import Exported
from anomalib_lite.scores import Scores
from anomalib_lite.scoring.embedding import WEIGHTS_DIR, Embedder, find_weights
from anomalib_lite.scoring.rows import embedding_rows
from anomalib_lite.stages import DONE, StageStore, digest
from anomalib_lite.stream_files import judged_paths, saved_drift
from anomalib_lite.training import _read_checkpoint
from anomalib_lite.types import InputError

Attempt = Callable[[Random], str]


def refusing(attempt: Callable[[Random], object]) -> Attempt:
    """`refused` where an attempt raises InputError, of one line; else `read`."""

    @functools.wraps(attempt)
    def tried(rng: Random) -> str:
        try:
            attempt(rng)
        except InputError as error:
            refusal = str(error)
        else:
            return "read"
        assert "\n" not in refusal, f"a refusal of several lines: {refusal}"
        return "refused"

    return tried


def check_answers(inspector: Inspector, photograph: np.ndarray) -> None:
    """What is loaded rejects a photograph or gives finite numbers; raises AssertionError for anything else."""
    prediction = examine(inspector, photograph, Path("part.png")).prediction
    if prediction.rejected:
        return
    assert np.isfinite(prediction.raw_score), f"raw score {prediction.raw_score}"
    assert prediction.pred_score is None or 0 <= prediction.pred_score <= 1, f"score {prediction.pred_score}"
    assert prediction.anomaly_map is None or np.isfinite(prediction.anomaly_map).all(), (
        "a map that is not finite"
    )


def bundles(folder: Path) -> Attempt:
    """Detectors in every kind of bundle."""
    seeds = folder / "seeds"
    for name in mutating.SEEDS:
        mutating.seed_bundle(name, seeds / name)
    (photograph,) = mutating.photographs(1, seed=5)

    @refusing
    def attempt(rng: Random) -> None:
        damaged = folder / "bundle"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(seeds / rng.choice(list(mutating.SEEDS)), damaged)
        mutating.mutate_bundle(damaged, rng)
        check_answers(Detector.load(damaged), photograph)

    return attempt


def pictures(folder: Path) -> Attempt:
    """Photographs of every format."""
    seeds = mutating.seed_pictures()

    @refusing
    def attempt(rng: Random) -> None:
        path = folder / "picture"
        path.write_bytes(mutating.mutated_picture(seeds[rng.choice(sorted(seeds))], rng))
        size = image_size(path)
        picture = read_image(path)
        assert picture.shape == (*size, 3), f"{picture.shape} of {size}"
        assert picture.dtype == np.float32
        assert 0 <= picture.min() <= picture.max() <= 1

    return attempt


def masks(folder: Path) -> Attempt:
    """Ground truth of every format."""
    seeds = mutating.seed_pictures()

    @refusing
    def attempt(rng: Random) -> None:
        path = folder / "mask"
        path.write_bytes(mutating.mutated_picture(seeds[rng.choice(sorted(seeds))], rng))
        mask = read_mask(path, (12, 17))
        assert mask.shape == (12, 17)
        assert mask.dtype == np.bool_

    return attempt


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch code-ran",)


def checkpoints(folder: Path) -> Attempt:
    """Checkpoints that a run goes on from, and pickles with a payload in their place."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    state = {"state_dict": network.state_dict(), "epoch": 3, "optimizer_states": [optimizer.state_dict()]}
    seeds = []
    for content in (state, state | {"callbacks": Payload()}, Payload()):
        torch.save(content, folder / "seed.ckpt")
        seeds.append((folder / "seed.ckpt").read_bytes())
    plain = pickle.dumps(Payload())

    @refusing
    def attempt(rng: Random) -> None:
        path = folder / "last.ckpt"
        match rng.randint(0, 5):
            case 0:
                path.write_bytes(mutating.mutated_bytes(plain, rng))
            case 1:
                path.write_bytes(mutating.mutated_bytes(rng.choice(seeds), rng))
            case _:
                path.write_bytes(mutating.mutated_archive(rng.choice(seeds), rng))
        _read_checkpoint(path)

    return attempt


def weights(folder: Path) -> Attempt:
    """A backbone's weights in the folder that the user names."""
    state = mutating.drawn_weights().state
    good = safetensors.numpy.save({name: tensor.numpy() for name, tensor in state.items()})
    payload = pickle.dumps(Payload())
    os.environ[WEIGHTS_DIR] = str(folder)

    @refusing
    def attempt(rng: Random) -> None:
        path = folder / f"{mutating.BACKBONE}.safetensors"
        match rng.randint(0, 4):
            case 0:
                data = mutating.mutated_bytes(good, rng)
            case 1 | 2:
                data = mutating.mutated_safetensors(good, rng)
            case 3:
                arrays = mutating.mutated_arrays(safetensors.numpy.load(good), rng)
                data = safetensors.numpy.save({n: np.ascontiguousarray(array) for n, array in arrays.items()})
            case _:
                data = mutating.mutated_bytes(payload, rng)
        path.write_bytes(data)
        found = find_weights(mutating.BACKBONE)
        embedding = Embedder(weights=found, pooling="cascade")(torch.full((1, 3, 48, 48), 0.5))
        embedding_rows(embedding.numpy())  # as every classifier does

    return attempt


def stages(folder: Path) -> Attempt:
    """Results that an earlier run has left, or somebody in its place, with digests that fit or don't."""
    made_from = {"seed": 0}
    whole = folder / "whole"
    some = dict.fromkeys(("validation", "calibration", "drawn", "drawn_labels", "test"), np.arange(3.0))
    none = dict.fromkeys(("tau", "pixels", "drawn_pixels", "embeddings", "latents", "training_seconds"))
    key = digest(made_from)
    StageStore(root=whole).get(
        "scores", made_from, lambda made: Scores(**some, **none, ms_per_image=1.0, losses=[]).save(made)
    )

    @refusing
    def attempt(rng: Random) -> None:
        root = folder / "stages"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)
        stage = root / "scores" / key
        name = rng.choice((DONE, "scores.json", "scores.safetensors"))
        data = (stage / name).read_bytes()
        match rng.randint(0, 2):
            case 0:
                data = mutating.mutated_bytes(data, rng)
            case 1 if name.endswith(".json"):
                data = json.dumps(mutating.mutated_json(json.loads(data), rng)).encode()
            case _:
                data = (
                    mutating.mutated_safetensors(data, rng)
                    if name.endswith("ors")
                    else data[: len(data) // 2]
                )
        (stage / name).write_bytes(data)
        if name != DONE and rng.randint(0, 3):
            mutating.sign_stage(stage)
        found = StageStore(root=root).find("scores", made_from)
        if found is None:
            raise InputError("made again")
        Scores.load(found)

    return attempt


def runs(folder: Path) -> Attempt:
    """The settings of a run that is resumed."""
    own = ["data=mvtec", "model=cpcae", "model.widths=[4,8]", "data.root='parts'", "seed=3", "+experiment=x"]
    seed = yaml.safe_dump(own).encode()
    hostile = [
        "--config-dir=/tmp",
        "hydra.callbacks.x._target_=os.system",
        {"_target_": "os.system"},
        None,
        3,
        ["a"],
    ]

    @refusing
    def attempt(rng: Random) -> None:
        path = folder / "run" / ".hydra" / "overrides.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.randint(0, 1):
            path.write_bytes(mutating.mutated_bytes(seed, rng))
        else:
            path.write_text(yaml.safe_dump(mutating.mutated_json([*own, rng.choice(hostile)], rng)))
        resumed([f"resume={folder / 'run'}"])

    return attempt


def streams(folder: Path) -> Attempt:
    """What an earlier stream has left: its lines and its summary."""
    lines = b"".join(json.dumps({"schema": "part", "path": f"{n}.png"}).encode() + b"\n" for n in range(3))
    summary = {"parts": 3, "drift_state": {"scores": [1.0, 2.0]}}

    @refusing
    def attempt(rng: Random) -> None:
        place = folder / "stream"
        place.mkdir(exist_ok=True)
        if rng.randint(0, 1):
            (place / "stream.jsonl").write_bytes(mutating.mutated_bytes(lines, rng))
            judged_paths(place)
        else:
            data = json.dumps(mutating.mutated_json(summary, rng)).encode()
            (place / "stream.json").write_bytes(
                data if rng.randint(0, 1) else mutating.mutated_bytes(data, rng)
            )
            saved_drift(place)

    return attempt


def exports(folder: Path) -> Attempt:
    """Exports of a bundle, in both formats: what reads them is native code."""
    from anomalib_lite.exporting.export import export  # its packages are an extra

    pictures, seeds = folder / "pictures", folder / "seeds"
    pictures.mkdir()
    for number, photograph in enumerate(mutating.photographs(3, seed=5)):
        write_png(pictures / f"{number}.png", (photograph * 255).round().astype(np.uint8))
    for name in ("cpcae", "knn"):
        mutating.seed_bundle(name, seeds / name)
        for wanted in ("onnx", "openvino"):
            export(seeds / name, seeds / f"{name}-{wanted}", format=wanted, images=pictures, threads=1)
    whole = sorted(path for path in seeds.iterdir() if "-" in path.name)
    (photograph,) = mutating.photographs(1, seed=5)

    @refusing
    def attempt(rng: Random) -> None:
        damaged = folder / "export"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(rng.choice(whole), damaged)
        (graph,) = [path for path in damaged.iterdir() if path.name in ("model.onnx", "model.xml")]
        if rng.randint(0, 1):
            mutating.mutate_bundle(damaged, rng)
        else:
            changed = rng.choice([graph, *damaged.glob("model.bin")])
            changed.write_bytes(mutating.mutated_bytes(changed.read_bytes(), rng))
            mutating.sign(damaged)
        check_answers(Exported.load(damaged, threads=1), photograph)

    return attempt


TARGETS: dict[str, Callable[[Path], Attempt]] = {
    "bundles": bundles,
    "pictures": pictures,
    "masks": masks,
    "checkpoints": checkpoints,
    "weights": weights,
    "stages": stages,
    "runs": runs,
    "streams": streams,
    "exports": exports,
}
