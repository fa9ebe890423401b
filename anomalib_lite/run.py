"""The jobs behind the commands: build, run, return one float."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import faiss
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from anomalib_lite.auto_setup import choose_setup
from anomalib_lite.building import backbone_weights, check_settings, make_data, value_object
from anomalib_lite.cluster.job import check_tasks, heed_signals, is_other_process
from anomalib_lite.conclusion import conclude, write_page
from anomalib_lite.console import ExitCode, check_targets, main
from anomalib_lite.data.images import list_images
from anomalib_lite.fitting import SCORED_HERE, fit, in_multirun, timed
from anomalib_lite.inspector import load_inspector
from anomalib_lite.loggers import flat_figures, log_results, log_settings, open_loggers
from anomalib_lite.prediction import inspect_source
from anomalib_lite.report.tables import metrics_table
from anomalib_lite.schema import register_schemas
from anomalib_lite.stages import StageStore
from anomalib_lite.sweeping.job import run_job
from anomalib_lite.synthesis import synthesise
from anomalib_lite.types import InputError


def train_command(arguments: Sequence[str] | None = None) -> int:
    """`anomalib-lite-train`, with the command line's arguments unless others are given; returns the exit code."""
    register_schemas()
    return main("train", train, arguments)


def predict_command(arguments: Sequence[str] | None = None) -> int:
    """`anomalib-lite-predict`: returns the exit code, 0 if every part is good, 1 if one is rejected."""
    return main("predict", predict, arguments)


def synthesise_command(arguments: Sequence[str] | None = None) -> int:
    """`anomalib-lite-synthesise`: returns the exit code."""
    register_schemas()
    return main("synthesise", synthesise_pictures, arguments)


def train(cfg: DictConfig) -> float:
    """Learn, calibrate, test and report; returns validation_AUROC, so that a sweeper never optimises on test.

    Raises:
        InputError: whatever is wrong with the user's files or settings.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    own = folder / "stages"
    store = StageStore(root=Path(cfg.outputs) / ".stages", spare=own) if cfg.cache else StageStore(root=own)

    def job(cfg: DictConfig) -> float:
        _check_writable(folder)
        wanted = {} if is_other_process() else cfg.logger or {}
        with open_loggers(wanted) as loggers:
            return _train(cfg, folder, store, loggers)

    if cfg.resume is not None:
        check_targets(cfg)
    quieten()
    heed_signals()
    check_tasks(
        cfg.trainer.devices,
        accelerator=cfg.trainer.accelerator,
        num_nodes=cfg.trainer.get("num_nodes", 1),
    )
    if in_multirun() and not is_other_process():
        return run_job(cfg, job, reused=store.reused)
    return job(cfg)


def _train(cfg: DictConfig, folder: Path, store: StageStore, loggers: list[Logger]) -> float:
    started = time.perf_counter()
    threads = set_threads(cfg.threads)
    seconds: dict[str, float] = {}
    data = make_data(cfg, store)
    if not (in_multirun() and "CheckedSweeper" in HydraConfig.get().sweeper._target_):  # which has done it
        check_settings(cfg, data)
    weights = backbone_weights(cfg)  # weights that can't be had are no news for after the preparation
    to_note: dict[str, str] = {}
    if cfg.model.get("choice") is not None and not is_other_process():
        with timed(seconds, "choosing"):
            cfg, to_note["set-up"] = choose_setup(cfg, weights, store=store, folder=folder, threads=threads)
        data = make_data(cfg, store)
    with timed(seconds, "preparation"):
        data.setup()
    fitted = fit(
        cfg, data, weights, store=store, folder=folder, loggers=loggers, threads=threads, seconds=seconds
    )
    if fitted is None:
        return math.nan
    result = conclude(cfg, data, fitted, folder, seconds, to_note)
    print(metrics_table(result.metrics))
    if _wants_page(cfg, store, folder):
        print(f"\nreport: {write_page(cfg, data, fitted, result, folder)}")
    log_settings(loggers, cfg)
    log_results(loggers, flat_figures(result.metrics), sorted((folder / "plots").glob("*.png")))
    _point_latest(Path(cfg.outputs), folder)
    print(f"bundle: {folder / 'bundle'}\ntook:   {time.perf_counter() - started:.0f} s")
    return float(result.metrics["validation_AUROC"])


def predict(cfg: DictConfig) -> ExitCode:
    """Judge new photographs or a stream of them; see `anomalib_lite.prediction`."""
    threads = set_threads(cfg.threads)
    output = Path(cfg.output) if cfg.output is not None else Path(HydraConfig.get().runtime.output_dir)
    _check_writable(output)
    if cfg.on_not_aligned not in ("reject", "score"):
        raise InputError(f"on_not_aligned must be reject or score, got {cfg.on_not_aligned}")
    inspector = load_inspector(Path(str(cfg.bundle)), threads=threads)
    inspector.on_not_aligned = cfg.on_not_aligned
    counts = inspect_source(inspector, cfg, output)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no parts"
    # of lines on stdout, nothing else may be between
    print(f"{said}\nresults: {output}", file=sys.stderr if cfg.lines == "stdout" else sys.stdout)
    return ExitCode(1 if counts["defective"] or counts["rejected"] else 0)


def synthesise_pictures(cfg: DictConfig) -> None:
    """Paste synthetic defects onto pictures of good parts; see `anomalib_lite.synthesis.synthesise`."""
    set_threads(cfg.threads)
    output = Path(HydraConfig.get().runtime.output_dir) if cfg.output is None else Path(str(cfg.output))
    source = Path(str(cfg.source))
    made = synthesise(
        [source] if source.is_file() else list_images(source),
        value_object(cfg.corruption),
        output,
        seed=cfg.seed,
        copies=cfg.copies,
        format=cfg.format,
    )
    print(f"{made} pictures: {output}")


def set_threads(threads: int | None) -> int:
    """One setting for torch, FAISS and OpenCV, which share the processors; returns it."""
    if threads is None:
        threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    cv2.setNumThreads(threads)
    return threads


def quieten() -> None:
    """Only what a user can act on: Lightning's greetings and tips are not."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def _wants_page(cfg: DictConfig, store: StageStore, folder: Path) -> bool:
    """As asked for; by default not for a job of a sweep that has learned nothing of its own."""
    if cfg.report is not None:
        return bool(cfg.report)
    # also after the job was killed between the scores and the page
    learned = "scores" not in store.reused or (folder / SCORED_HERE).exists()
    return learned or not in_multirun()


def _check_writable(folder: Path) -> None:
    """Fail before hours of work, not after, where results can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)  # another process of this job may be as far
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write results to: {error.strerror or error}"
        ) from None


def _point_latest(outputs: Path, folder: Path) -> None:
    """`outputs/latest` is a link to the newest run."""
    link = outputs / "latest"
    temporary = outputs / f".latest.{os.getpid()}"
    temporary.symlink_to(os.path.relpath(folder, outputs), target_is_directory=True)
    os.replace(temporary, link)
