"""`model=auto`: the set-up of a positional memory that tells drawn defects best and keeps to a time for each part."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict

from anomalib_lite.building import make_data, plain_value
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.images import read_image
from anomalib_lite.fitting import fit
from anomalib_lite.inspector import examine, load_inspector
from anomalib_lite.metrics import image_metrics
from anomalib_lite.scoring.embedding import Weights
from anomalib_lite.stages import StageStore
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

TIMED = 12  # photographs, after as many that warm up


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One set-up and what is known of it without a test picture.

    Args:
        size: long side that the backbone sees, pixels.
        windows: of the memory.
        auroc: of validation normals against themselves with drawn defects, 0 to 1.
        milliseconds: from a photograph's file to verdict and map, median.
    """

    size: int
    windows: tuple[int, ...]
    auroc: float
    milliseconds: float

    def __str__(self) -> str:
        windows = " and ".join(str(window) for window in self.windows)
        return (
            f"{self.size} pixels, window {windows}: validation AUROC {100 * self.auroc:.2f} %, "
            f"{self.milliseconds:.0f} ms a part"
        )


def choose_setup(
    cfg: DictConfig, weights: Weights | None, *, store: StageStore, folder: Path, threads: int
) -> tuple[DictConfig, str]:
    """Try the sizes from the smallest on, and the windows at each; stop at a size that takes too long.

    Registration is what `data.registration` says or, where that is auto, finds by itself. Everything tried is a stage,
    so that the run which follows finds its scores, and a repeated one nothing to do.

    Args:
        cfg: of a training run with `model=auto`.
        weights: of the backbone.
        store: keeps every stage.
        folder: the run's.
        threads: that judge.

    Returns:
        The config of the best within `model.choice.budget_ms`, of equals the fastest, and the reason in words.

    Raises:
        InputError: for a choice out of range, without validation normals, and where nothing is fast enough.
    """
    budget, sizes, windows = _checked(plain_value(cfg, "model")["choice"])
    tried: list[Candidate] = []
    decision, photographed = "", sizes[0]
    for size in sizes:
        if size > photographed:
            log.info("the photographs have %d pixels: nothing larger is tried", photographed)
            break
        at_size: list[Candidate] = []
        data = make_data(_with(cfg, size, windows[0]), store)
        data.setup()
        decision, photographed = data.preparation.registration.decision_, max(data.preparation.crop_[2:])
        for chosen in windows:
            one = _with(cfg, size, chosen)
            fitted = fit(
                one, data, weights, store=store, folder=folder, loggers=[], threads=threads, seconds={}
            )
            assert fitted is not None  # this process leads
            # what a run calls validation_AUROC
            auroc = image_metrics(fitted.scores.drawn_labels, fitted.scores.drawn, None)["image_AUROC"]
            if auroc is None:
                raise InputError(
                    "model=auto chooses by validation normals, found none: give it 15 good parts or more"
                )
            milliseconds = _remembered_time(fitted.chain, data, store, threads)
            at_size.append(Candidate(size=size, windows=chosen, auroc=auroc, milliseconds=milliseconds))
            print(f"tried:  {at_size[-1]}", flush=True)
        tried += at_size
        if min(candidate.milliseconds for candidate in at_size) > budget:
            break
    within = [candidate for candidate in tried if candidate.milliseconds <= budget]
    if not within:
        fastest = min(tried, key=lambda candidate: candidate.milliseconds)
        raise InputError(
            f"model.choice.budget_ms={budget:g}: nothing tried keeps to it; the fastest was {fastest}"
        )
    best = max(within, key=lambda candidate: (candidate.auroc, -candidate.milliseconds))
    others = [candidate for candidate in tried if candidate is not best]
    reason = f"{best}; registration: {decision}; best of {len(within)} within {budget:g} ms"
    if others:
        reason += f" (others: {'; '.join(str(candidate) for candidate in others)})"
    print(f"chosen: {best}")
    return _with(cfg, best.size, best.windows), reason


def _checked(choice: dict[str, Any]) -> tuple[float, list[int], list[tuple[int, ...]]]:
    budget, sizes, windows = choice["budget_ms"], choice["sizes"], choice["windows"]
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < math.inf:
        raise InputError(f"model.choice.budget_ms must be a number of milliseconds above 0, got {budget}")
    for name, values in (("sizes", sizes), ("windows", windows)):
        if not isinstance(values, list) or not values:
            raise InputError(f"model.choice.{name} must be a list with something in it, got {values}")
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise InputError(f"model.choice.sizes must be whole numbers of pixels above 0, got {sizes}")
    if not all(isinstance(window, list) for window in windows):
        raise InputError(f"model.choice.windows must be a list of lists such as [[3], [3, 5]], got {windows}")
    return float(budget), sorted(set(sizes)), [tuple(window) for window in windows]


def _with(cfg: DictConfig, size: int, windows: tuple[int, ...]) -> DictConfig:
    """The config of one set-up, without the choice: what `model=positional_memory` would run with these settings."""
    one: DictConfig = cfg.copy()
    with open_dict(one.model):
        del one.model.choice
    one.model.name = "positional_memory"
    OmegaConf.update(one, "data.size", size)
    OmegaConf.update(one, "model.baseline.windows", list(windows))
    return one


def _remembered_time(chain: Path, data: InspectionData, store: StageStore, threads: int) -> float:
    """Measured once: the same command should choose the same again."""

    def make(folder: Path) -> None:
        (folder / "latency.json").write_text(json.dumps({"milliseconds": _time(chain, data, threads)}))

    folder = store.get("latency", {"chain": chain.parent.name, "threads": threads}, make)
    return float(json.loads((folder / "latency.json").read_text())["milliseconds"])


def _time(chain: Path, data: InspectionData, threads: int) -> float:
    inspector = load_inspector(chain, threads=threads)
    inspector.on_not_aligned = "score"
    paths = [sample.path for sample in data.of_role("validation").of_rows()[0]]
    seconds = []
    for number in range(2 * TIMED):
        path = paths[number % len(paths)]
        start = time.perf_counter()
        examine(inspector, read_image(path), path)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[TIMED:]))
