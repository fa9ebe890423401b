"""How `model=positional_memory` stands what a production line does to it: a curve for each question.

    python benchmarks/reality.py --root .../mvtec --category bottle --out reality.json
    python benchmarks/reality.py --root .../mvtec --category pill --studies parts hidden

- parts: from how many good parts it learns. Below 15 there is no cut (`threshold=none`).
- hidden: defective parts among the training ones, as a share of that folder. What may be hidden is never tested.
- misplaced: every photograph, of training and test, shifted and rotated at random, with registration and without.
- photograph: test photographs alone changed, as by lamps, lenses, cameras and files.
- resolution: pixels of the side that the backbone sees, and milliseconds from photograph to verdict.

A part that could not be aligned is rejected, as on the line: it counts as one with the highest score.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from hydra import compose, initialize_config_dir
from measuring import parser_of

from anomalib_lite import building, run
from anomalib_lite.callbacks import fit_and_calibrate
from anomalib_lite.console import config_folder
from anomalib_lite.data.affine import compose as joined
from anomalib_lite.data.affine import rotation, translation
from anomalib_lite.data.folder import TRAIN_MINIMUM, VALIDATION_MINIMUM, mvtec_samples
from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.detector import Detector
from anomalib_lite.metrics import image_metrics
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.threshold import ConformalThreshold
from anomalib_lite.stages import StageStore
from anomalib_lite.types import Sample

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]

PARTS = (1, 2, 5, 10, 20, 50)  # and all of them
FEWEST_WITH_A_CUT = TRAIN_MINIMUM + VALIDATION_MINIMUM + ConformalThreshold().minimum_calibration()
HIDDEN = (0.0, 0.02, 0.05, 0.1)
MISPLACED = ((0.0, 0.0), (0.02, 2.0), (0.05, 5.0), (0.1, 15.0))  # of each side; degrees
SIZES = (320, 512, 800)


@dataclass(frozen=True)
class Case:
    """One point of one curve."""

    study: str
    level: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    options: tuple[str, ...] = ()
    change: Change | None = None  # of a test photograph (H, W, 3) in [0, 1]


@dataclass(frozen=True)
class Point:
    """What one case gave with one seed; shares in %, None where nothing was to be told."""

    study: str
    level: str
    seed: int
    image_AUROC: float | None
    image_AP: float | None
    found: float | None  # of defective parts
    false_rejects: float | None  # of good parts
    not_aligned: float  # of all test parts
    milliseconds: float  # from photograph to verdict and map, median
    trained_on: int


def exposed(factor: float) -> Change:
    return lambda picture, rng: (picture * factor).clip(0, 1)


def blurred(sigma: float) -> Change:
    return lambda picture, rng: cv2.GaussianBlur(picture, (0, 0), sigma)


def noisy(sigma: float) -> Change:
    return lambda picture, rng: (picture + rng.normal(0, sigma, picture.shape)).clip(0, 1).astype(np.float32)


def compressed(quality: int) -> Change:
    def change(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _, data = cv2.imencode(".jpg", np.rint(picture * 255), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return (cv2.imdecode(data, cv2.IMREAD_COLOR) / 255).astype(np.float32)

    return change


CHANGES: dict[str, Change | None] = {
    "as it is": None,
    "exposure -30 %": exposed(0.7),
    "exposure +30 %": exposed(1.3),
    "blur, sigma 1 pixel": blurred(1.0),
    "blur, sigma 2 pixels": blurred(2.0),
    "JPEG 50": compressed(50),
    "noise, sigma 2 %": noisy(0.02),
    "noise, sigma 5 %": noisy(0.05),
}


def parts(train: list[Sample], test: list[Sample], rng: np.random.Generator, work: Path) -> Iterator[Case]:
    order = rng.permutation(len(train))
    for count in (*(count for count in PARTS if count < len(train)), len(train)):
        few = ("threshold=none", "roles.calibration_share=0") if count < FEWEST_WITH_A_CUT else ()
        chosen = tuple(train[index] for index in order[:count])
        yield Case("parts", f"{count} good parts", chosen, tuple(test), few)


def hidden(train: list[Sample], test: list[Sample], rng: np.random.Generator, work: Path) -> Iterator[Case]:
    defective = [sample for sample in test if sample.label == 1]
    counts = [round(share / (1 - share) * len(train)) for share in HIDDEN]
    if max(counts) >= len(defective):
        raise SystemExit(f"hidden: expected more than {max(counts)} defective parts, found {len(defective)}")
    order = rng.permutation(len(defective))[: max(counts)]
    never_tested = {defective[index].path for index in order}
    tested = tuple(sample for sample in test if sample.path not in never_tested)
    for share, count in zip(HIDDEN, counts, strict=True):
        among = tuple(Sample(defective[index].path, "train") for index in order[:count])
        yield Case("hidden", f"{share:.0%} defective", (*train, *among), tested)


def misplaced(
    train: list[Sample], test: list[Sample], rng: np.random.Generator, work: Path
) -> Iterator[Case]:
    for shift, degrees in MISPLACED:
        moved: list[list[Sample]] = []
        for role, samples in (("train", train), ("test", test)):
            moved.append([])
            for number, sample in enumerate(samples):
                path = work / f"{shift}-{role}-{number}.png"
                write_png(
                    path,
                    np.rint(displaced(read_image(sample.path), rng, shift, degrees) * 255).astype(np.uint8),
                )
                moved[-1].append(replace(sample, path=path, mask_path=None))
        for method in ("none", "ecc"):
            level = f"{shift:.0%}, {degrees:g} degrees, registration={method}"
            yield Case("misplaced", level, tuple(moved[0]), tuple(moved[1]), (f"data.registration={method}",))


def displaced(picture: np.ndarray, rng: np.random.Generator, shift: float, degrees: float) -> np.ndarray:
    """Rotated about its centre and shifted, each at random up to that much; the border is repeated."""
    size = picture.shape[:2]
    x, y = rng.uniform(-shift, shift, 2) * size[::-1]
    motion = joined(translation(x, y), rotation(rng.uniform(-degrees, degrees), size))
    return cv2.warpAffine(
        picture, motion, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    ).clip(0, 1)


def photograph(
    train: list[Sample], test: list[Sample], rng: np.random.Generator, work: Path
) -> Iterator[Case]:
    for name, change in CHANGES.items():
        yield Case("photograph", name, tuple(train), tuple(test), (), change)


def resolution(
    train: list[Sample], test: list[Sample], rng: np.random.Generator, work: Path
) -> Iterator[Case]:
    for size in SIZES:
        yield Case("resolution", f"{size} pixels", tuple(train), tuple(test), (f"data.size={size}",))


STUDIES = {study.__name__: study for study in (parts, hidden, misplaced, photograph, resolution)}


@dataclass
class Given:
    """A source of photographs that are known already."""

    given: list[Sample]

    def samples(self) -> list[Sample]:
        return self.given


def fitted(case: Case, seed: int, options: list[str]) -> Detector:
    """The detector that learned from a case's training photographs."""
    general = [
        "model=positional_memory",
        "data=mvtec",
        "data.root=given",
        f"seed={seed}",
        "data.on_not_aligned=exclude",
    ]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [*general, *case.options, *options])
    with TemporaryDirectory() as folder:
        data = building.make_data(cfg, StageStore(root=Path(folder)))
        data.source = Given(list(case.train))
        data.setup()
        detector = building.make_detector(cfg, data, None)
        fit_and_calibrate(detector, data)
    return detector


def judged(detector: Detector, case: Case, seed: int) -> Point:
    """What the detector says of a case's test photographs."""
    rng = np.random.default_rng(seed)
    raw, flagged, seconds, refused = [], [], [], 0
    for sample in case.test:
        picture = read_image(sample.path)
        if case.change is not None:
            picture = case.change(picture, rng)
        start = time.perf_counter()
        prediction = detector.predict(picture, sample.path)
        seconds.append(time.perf_counter() - start)
        refused += bool(prediction.rejected)
        raw.append(np.inf if prediction.rejected else prediction.raw_score)
        flagged.append(1 if prediction.rejected else prediction.pred_label)
    labels = np.array([sample.label for sample in case.test])
    found = image_metrics(labels, np.array(raw), None if None in flagged else np.array(flagged))

    def percent(name: str) -> float | None:
        return None if found[name] is None else 100 * found[name]

    return Point(
        study=case.study,
        level=case.level,
        seed=seed,
        image_AUROC=percent("image_AUROC"),
        image_AP=percent("image_AP"),
        found=percent("image_Recall"),
        false_rejects=percent("false_reject_rate"),
        not_aligned=100 * refused / len(labels),
        milliseconds=1000 * float(np.median(seconds)),
        trained_on=len(case.train),
    )


def table(points: list[Point]) -> str:
    """A row for each level: means over the seeds, and in brackets the lowest and highest AUROC."""
    rows = defaultdict(list)
    for point in points:
        rows[point.study, point.level].append(point)
    lines = [f"{'':56} AUROC                 AP     found  rejected  not aligned  ms"]
    for (study, level), of_seeds in rows.items():
        values = [point.image_AUROC for point in of_seeds if point.image_AUROC is not None]
        columns = [f"{np.mean(values):6.2f} ({min(values):.1f}-{max(values):.1f})".ljust(20)]
        for name in ("image_AP", "found", "false_rejects", "not_aligned", "milliseconds"):
            known = [getattr(point, name) for point in of_seeds if getattr(point, name) is not None]
            columns.append(f"{np.mean(known):6.1f}" if known else "     -")
        lines.append(f"{study + ': ' + level:56} " + "   ".join(columns))
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = parser_of(__doc__, quick=False)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the category")
    parser.add_argument("--category", required=True)
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES), metavar="STUDY")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=["embedding=efficientnet_lite0"], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    register_schemas()
    run.set_threads(arguments.threads)
    run.quieten()
    samples = mvtec_samples(arguments.root, arguments.category)
    train = [sample for sample in samples if sample.split == "train"]
    test = [sample for sample in samples if sample.split == "test"]
    points: list[Point] = []
    for name in arguments.studies:
        for seed in arguments.seeds:
            before: tuple[tuple[Sample, ...], tuple[str, ...]] | None = None
            with TemporaryDirectory() as folder:
                for case in STUDIES[name](train, test, np.random.default_rng(seed), Path(folder)):
                    if before != (case.train, case.options):
                        detector, before = fitted(case, seed, arguments.set), (case.train, case.options)
                    points.append(judged(detector, case, seed))
                    print(points[-1], flush=True)
                    if arguments.out is not None:
                        arguments.out.write_text(json.dumps([asdict(point) for point in points], indent=2))
    print(f"\n{arguments.category}, means of seeds {arguments.seeds}\n{table(points)}")


if __name__ == "__main__":
    main()
