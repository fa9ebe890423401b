"""The jobs behind the commands: build, run, return one float."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import faiss
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from anomalib_lite.building import (
    check_settings,
    fitting_augmentation,
    make_data,
    make_detector,
    make_embedder,
    value_object,
)
from anomalib_lite.callbacks import FeatureEmbedding, fit_and_calibrate
from anomalib_lite.console import ExitCode, main
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.images import list_images
from anomalib_lite.detector import Detector
from anomalib_lite.evaluation import Evaluation, example, validation_metrics
from anomalib_lite.inspection import inspect
from anomalib_lite.loggers import flat_figures, log_results, log_settings, open_loggers
from anomalib_lite.models.reconstruction import PatchAutoencoder, Reconstruction, Testing
from anomalib_lite.record import about, gather_facts, gather_record
from anomalib_lite.report.comparison_examples import choose_shared, write_examples
from anomalib_lite.report.page import write_report
from anomalib_lite.report.tables import metrics_table, write_metrics, write_scores
from anomalib_lite.report.verdict import rate_intervals, tally
from anomalib_lite.schema import register_schemas
from anomalib_lite.stages import StageStore
from anomalib_lite.synthesis import synthesise
from anomalib_lite.training import Trained, train_autoencoder
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)


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
    quieten()
    _check_writable(folder)
    with open_loggers(cfg.logger or {}) as loggers:
        return _train(cfg, folder, loggers)


def _train(cfg: DictConfig, folder: Path, loggers: list[Logger]) -> float:
    started = time.perf_counter()
    threads = set_threads(cfg.threads)
    store = StageStore(Path(cfg.outputs) / ".stages" if cfg.cache else folder / "stages")
    seconds: dict[str, float] = {}
    data = make_data(cfg, store)
    check_settings(cfg, data)
    embedder = make_embedder(cfg)  # weights that can't be had are no news for after the preparation
    with _timed(seconds, "preparation"):
        data.setup()
    detector = make_detector(cfg, data, embedder).check(data.downsize)
    trained = Trained([], None)
    if cfg.model.trains:
        with _timed(seconds, "training"):
            trained = _train_network(cfg, detector, data, store, folder, loggers)
    with _timed(seconds, "fitting and testing"):
        evaluation = _test(cfg, detector, data, folder)
        metrics = evaluation.finish(seed=cfg.seed)
    with _timed(seconds, "validation"):
        validation = data.of_role("validation")
        metrics |= validation_metrics(detector, validation, seed=cfg.seed)
    metrics["intervals"] |= rate_intervals(tally(evaluation.rows()))  # Wilson's: a rate of 0 has a width too
    metrics |= about(detector, data, evaluation) | {"seconds": seconds}
    metrics["training"] = {"seconds": trained.seconds}  # of this network, also where it was reused
    facts = gather_facts(data, detector, name=cfg.data.name, seed=cfg.seed, threads=threads)
    detector.save(folder / "bundle", card=facts)
    write_metrics(metrics, folder)
    write_scores(evaluation.rows(), folder)
    print(metrics_table(metrics))
    if cfg.report:
        record = gather_record(
            title=f"{cfg.model.name} on {cfg.data.name}",
            command=" ".join(["anomalib-lite-train", *HydraConfig.get().overrides.task]),
            rendered=cfg.data.rendered and cfg.data.root is None,
            data=data,
            detector=detector,
            evaluation=evaluation,
            metrics=metrics,
            losses=trained.losses,
            facts=facts,
            corruption=value_object(cfg.corruption),
            seed=cfg.seed,
        )
        print(f"\nreport: {write_report(record, folder)}")
        pictures = data.of_role("test")
        shown = [example(detector, pictures[row]) for row in choose_shared(evaluation.rows())]
        write_examples(shown, folder, cut=detector.tau_)  # for a comparison: the same ones of every method
    log_settings(loggers, cfg)
    log_results(loggers, flat_figures(metrics), sorted((folder / "plots").glob("*.png")))
    _point_latest(Path(cfg.outputs), folder)
    print(f"bundle: {folder / 'bundle'}\ntook:   {time.perf_counter() - started:.0f} s")
    return float(metrics["validation_AUROC"])


def predict(cfg: DictConfig) -> ExitCode:
    """Judge new photographs; see `anomalib_lite.inspection.inspect`."""
    set_threads(cfg.threads)
    output = Path(cfg.output) if cfg.output is not None else Path(HydraConfig.get().runtime.output_dir)
    _check_writable(output)
    if cfg.on_not_aligned not in ("reject", "score"):
        raise InputError(f"on_not_aligned must be reject or score, got {cfg.on_not_aligned}")
    detector = Detector.load(Path(str(cfg.bundle)))
    detector.on_not_aligned = cfg.on_not_aligned
    counts = inspect(
        detector,
        Path(str(cfg.source)),
        output,
        pictures=cfg.overlays,
        on_bad_image=cfg.on_bad_image,
    )
    print(
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) + f"\nresults: {output}"
    )
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


def _train_network(
    cfg: DictConfig,
    detector: Detector,
    data: InspectionData,
    store: StageStore,
    folder: Path,
    loggers: list[Logger],
) -> Trained:
    model = cfg.model
    assert isinstance(detector.model, PatchAutoencoder)
    module = Reconstruction(
        autoencoder=detector.model,
        optimizer=instantiate(model.optimizer),
        learning_rate=model.learning_rate,
        corruption=value_object(cfg.corruption),
        augmentation=fitting_augmentation(cfg, data),
        seed=cfg.seed,
    )
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    # a model's name and its score do not change what is trained: ae_l2 shares the CPCAE's weights
    settings: dict[str, Any] = {"model": {k: v for k, v in plain["model"].items() if k != "name"}}
    settings |= {group: plain[group] for group in ("grid", "trainer", "seed")}
    settings |= {"downsize": list(data.downsize)}  # as it came out, whatever the pictures' shape
    settings |= {"corruption": module.corruption.facts(), "augmentation": asdict(module.augmentation)}
    return train_autoencoder(
        detector.model,
        module=module,
        make_trainer=partial(_trainer, cfg, folder, logger=loggers),
        data=data,
        store=store,
        settings=settings,
        folder=folder,
        patience=model.patience,
        resume=cfg.resume is not None,
    )


def _trainer(cfg: DictConfig, folder: Path, *, callbacks: list[Callback], logger: Any) -> Trainer:
    return instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=logger,
        default_root_dir=str(folder),
        enable_progress_bar=sys.stderr.isatty(),  # a log file is no place for a bar
    )


def _test(cfg: DictConfig, detector: Detector, data: InspectionData, folder: Path) -> Evaluation:
    """Fit what follows the network, calibrate, and score the test pictures."""
    if isinstance(detector.model, PatchAutoencoder):
        embedding = FeatureEmbedding(detector=detector, data=data)
        trainer = _trainer(cfg, folder, callbacks=[embedding], logger=False)
        trainer.test(Testing(detector.model), datamodule=data, verbose=False)
        detector.to(detector.device)  # Lightning has left the network in plain memory
        return embedding.evaluation
    on_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    detector.to(torch.device("cuda" if on_gpu else "cpu"))
    fit_and_calibrate(detector, data)
    evaluation = Evaluation(detector)
    for batch in tqdm(data.test_dataloader(), desc="testing", unit="picture", disable=None):
        start = time.perf_counter()
        scored = detector.score(batch.image)
        evaluation.add(batch, scored, seconds=time.perf_counter() - start)
    return evaluation


def _check_writable(folder: Path) -> None:
    """Fail before hours of work, not after, where results can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
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


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
