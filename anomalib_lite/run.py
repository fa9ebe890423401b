"""The jobs behind the commands: instantiate, run, return one float. The only module that reads the config."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import faiss
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from anomalib_lite.callbacks import FeatureEmbedding, fit_and_calibrate
from anomalib_lite.console import ExitCode, main
from anomalib_lite.data.augmentation import Augmentation
from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.images import list_images
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.detector import Detector, Model
from anomalib_lite.evaluation import Evaluation, example, validation_metrics
from anomalib_lite.inspection import inspect
from anomalib_lite.loggers import flat_figures, log_results, log_settings, make_loggers
from anomalib_lite.models.reconstruction import PatchAutoencoder, Reconstruction, Testing
from anomalib_lite.record import about, gather_facts, gather_record
from anomalib_lite.report.comparison_examples import choose_shared, write_examples
from anomalib_lite.report.page import write_report
from anomalib_lite.report.tables import metrics_table, write_metrics, write_scores
from anomalib_lite.report.verdict import rate_intervals, tally
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.embedding import Embedder, find_weights
from anomalib_lite.stages import StageStore
from anomalib_lite.synthesise import synthesise
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
    started = time.perf_counter()
    folder = Path(HydraConfig.get().runtime.output_dir)
    threads = set_threads(cfg.threads)
    quieten()
    _check_writable(folder)
    loggers = make_loggers(cfg.logger or {})
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
    log_results(loggers, flat_figures(metrics), sorted((folder / "plots").glob("*.*g")))
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
    """Paste synthetic defects onto pictures of good parts; see `anomalib_lite.synthesise.synthesise`."""
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


def value_object(node: DictConfig) -> Any:
    """The dataclass whose schema a config node has; its own checks run here."""
    return OmegaConf.to_object(node)


def make_data(cfg: DictConfig, store: StageStore) -> InspectionData:
    """The datamodule of a config, not yet set up."""
    data = cfg.data
    registration = Registration(
        method=data.registration,
        motion=data.motion,
        reference=None if data.reference is None else Path(data.reference),
    )
    crop: Any = OmegaConf.to_container(data.crop) if OmegaConf.is_list(data.crop) else data.crop
    return InspectionData(
        source=instantiate(data.source),
        preparation=Preparation(registration=registration, crop=crop, size=data.size),
        roles=value_object(cfg.roles),
        calibration_minimum=value_object(cfg.threshold).minimum_calibration(),
        grid=value_object(cfg.grid),
        downsize=network_size(data.downsize),
        batch_size=cfg.model.batch_size,
        steps_per_epoch=cfg.model.steps_per_epoch,
        seed=cfg.seed,
        store=store,
        on_bad_image=data.on_bad_image,
        on_not_aligned=data.on_not_aligned,
        num_workers=data.num_workers,
    )


def check_settings(cfg: DictConfig, data: InspectionData) -> None:
    """Try a chain on black patches and drop it: what the settings alone can tell is known before a photograph is read.

    `data` is not set up. Raises InputError for settings out of range or that do not fit together.
    """
    for group in (cfg.corruption, cfg.augmentation):
        value_object(group)
    if data.largest is not None and data.grid.size > min(data.largest):
        raise InputError(
            f"grid.size must be at most {min(data.largest)}, the side of the picture that the network sees "
            f"(data.downsize, data.size), got {data.grid.size}"
        )
    detector = make_detector(cfg, data, None)
    if isinstance(detector.model, PatchAutoencoder):
        for key in ("model.patience", "trainer.max_epochs"):
            epochs = OmegaConf.select(cfg, key)
            if not isinstance(epochs, int) or epochs < 1:
                raise InputError(f"{key} must be a whole number, 1 or more, got {epochs}")
        try:
            instantiate(cfg.model.optimizer)(detector.model.parameters(), lr=cfg.model.learning_rate)
        except (ValueError, TypeError) as error:
            raise InputError(f"model.optimizer, model.learning_rate: {error}") from None
        patches = torch.zeros((min(data.batch_size, 2), 3, data.grid.size, data.grid.size))
        index = torch.zeros(len(patches), dtype=torch.int64)
        detector.model.network.loss(patches, index, patches, progress=0.0)
    if data.largest is not None:
        detector.check(data.largest)


def network_size(downsize: Any) -> int | tuple[int, int] | None:
    """`data.downsize` as a long side or as (height, width).

    Raises:
        InputError: for anything but null, a whole number or two of them, above 0.
    """
    sides = list(downsize) if OmegaConf.is_list(downsize) else [downsize]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if downsize is None or (whole and len(sides) == 1):
        return downsize
    if not (whole and len(sides) == 2):
        raise InputError(f"data.downsize: expected a long side or [height, width] in pixels, got {downsize}")
    return sides[0], sides[1]


def make_embedder(cfg: DictConfig) -> Embedder | None:
    """The backbone of a config with its weights; None where scoring does without."""
    scoring = value_object(cfg.scoring)
    if scoring.method != "embedding":
        return None
    weights = find_weights(cfg.embedding.backbone)
    embedder = Embedder(weights=weights, pooling=scoring.pooling, precision=cfg.embedding.precision)
    log.info("embedding: %s from %s, %s", weights.backbone, weights.source, embedder.precision)
    return embedder


def make_detector(cfg: DictConfig, data: InspectionData, embedder: Embedder | None) -> Detector:
    """The chain of a config, unfitted; an autoencoder has its first random weights."""
    return Detector(
        preparation=data.preparation,
        model=make_model(cfg, data),
        scoring=value_object(cfg.scoring),
        embedder=embedder,
        scaler=value_object(cfg.scaler),
        classifier=value_object(cfg.classifier),
        similarity=value_object(cfg.similarity),
        postprocess=value_object(cfg.postprocess),
        threshold=value_object(cfg.threshold),
    )


def make_model(cfg: DictConfig, data: InspectionData) -> Model:
    """The model of a config: what gives error maps."""
    if not cfg.model.trains:
        baseline = instantiate(cfg.model.baseline)
        return baseline(downsize=data.downsize) if callable(baseline) else baseline
    seed_everything(cfg.seed, workers=True, verbose=False)
    network = instantiate(cfg.model.network)(positions=data.positions)
    return PatchAutoencoder(network=network, grid=data.grid, downsize=data.downsize)


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
        augmentation=_fitting_augmentation(cfg, data),
        seed=cfg.seed,
    )
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    # a model's name and its score do not change what is trained: ae_l2 shares the CPCAE's weights
    settings = {"model": {key: value for key, value in plain["model"].items() if key != "name"}}
    settings |= {group: plain[group] for group in ("grid", "trainer", "seed")}
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


def _fitting_augmentation(cfg: DictConfig, data: InspectionData) -> Augmentation:
    """Without rotation and flips where parts are registered: the network would learn poses that it never meets."""
    augmentation: Augmentation = value_object(cfg.augmentation)
    method = data.preparation.registration.method_
    if method == "none" or not (augmentation.rotation or augmentation.flips):
        return augmentation
    log.warning("augmentation: parts are registered (%s), so neither rotated nor flipped", method)
    return replace(augmentation, rotation=0.0, flips=False)


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
