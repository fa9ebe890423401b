"""Folders of photographs as samples: the MVTec layout, plain folders, and the split of the normals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Literal

from anomalib_lite.data.images import IMAGE_SUFFIXES, image_size, list_images, read_mask
from anomalib_lite.stages import file_digest
from anomalib_lite.types import GOOD, InputError, Sample

DEFECTIVE = "defective"  # the type of defective parts that lie in no subfolder
MASK_SUFFIX = "_mask"  # MVTec's ground truth of 000.png is 000_mask.png
TRAIN_MINIMUM = 4  # an autoencoder learns nothing general from fewer; k-NN needs neighbours
VALIDATION_MINIMUM = 2  # the spread of their scores scales every score


@dataclass(frozen=True, slots=True)
class Splits:
    """Normals by what they are used for; no picture has two uses."""

    train: list[Sample]
    validation: list[Sample]
    calibration: list[Sample]


def mvtec_samples(root: Path, category: str | None) -> list[Sample]:
    """Samples of a category in MVTec's layout; with `category` None, `root` is itself one.

    The layout is `<category>/{train/good,test/<defect>,ground_truth/<defect>/NNN_mask.png}`. A type of defect
    without a folder in ground_truth has no masks; one that has it needs a mask for every picture. Raises
    InputError for an unknown category, a missing train/good, and masks that do not fit.
    """
    folder = _category_folder(root, category)
    test = _folders_by_type(folder / "test")
    masks = _folders_by_type(folder / "ground_truth")
    for name, folders in (("test", test), ("ground_truth", masks)):
        if "" in folders:
            raise InputError(
                f"{folder / name}: expected a subfolder for each type (good, scratch ...), "
                "found pictures directly inside"
            )
    test_good = list_images(test.pop(GOOD)) if GOOD in test else []
    masks.pop(GOOD, None)  # some sets ship them for good parts too, all black
    return [
        *_good(list_images(folder / "train" / GOOD), "train"),
        *_good(test_good, "test"),
        *_defective(test, masks),
    ]


def folder_samples(
    *,
    normal_dir: Path,
    abnormal_dir: Path | None,
    mask_dir: Path | None,
    normal_test_dir: Path | None,
    test_share: float,
    seed: int,
) -> list[Sample]:
    """Samples of plain folders; without `normal_test_dir`, a seeded `test_share` of the normals is tested.

    Subfolders of `abnormal_dir` are types of defect, and `mask_dir` mirrors them. Raises InputError if a
    folder is missing, empty or used twice, or if masks do not fit.
    """
    folders = [folder.resolve() for folder in (normal_dir, normal_test_dir, abnormal_dir, mask_dir) if folder]
    if len(set(folders)) < len(folders):
        raise InputError(
            f"expected different folders, found normal_dir={normal_dir} normal_test_dir={normal_test_dir} "
            f"abnormal_dir={abnormal_dir} mask_dir={mask_dir}"
        )
    if mask_dir and not abnormal_dir:
        raise InputError(f"mask_dir={mask_dir}: expected abnormal_dir with the pictures that it belongs to")
    if not 0 <= test_share < 1:
        raise InputError(f"test_share must be in [0, 1), got {test_share}")

    normals = _good(list_images(normal_dir), "train")
    if normal_test_dir:
        test_normals = _good(list_images(normal_test_dir), "test")
    else:
        shuffled = _shuffled(normals, seed, "test")
        tested = round(test_share * len(normals))
        test_normals = _good([sample.path for sample in _by_name(shuffled[:tested])], "test")
        normals = _by_name(shuffled[tested:])

    abnormal: dict[str, Path] = {}
    if abnormal_dir:
        abnormal = _folders_by_type(abnormal_dir)
        if not abnormal:
            list_images(abnormal_dir)  # says what is missing
    masks = _folders_by_type(mask_dir) if mask_dir else {}
    if mask_dir and not masks:
        list_images(mask_dir)
    return [*normals, *test_normals, *_defective(abnormal, masks)]


def split_normals(
    samples: Iterable[Sample],
    *,
    validation_share: float,
    calibration_share: float,
    calibration_minimum: int,
    scores_only: bool,
    seed: int,
) -> Splits:
    """Split the training normals among `samples` at random, whatever their order and wherever they lie.

    A new picture leaves nearly all others where they are. Where pictures are few, the shares give way to what
    training and the threshold need at least; raises InputError if there are fewer than that. With `scores_only` (no
    verdict is asked for, and the model can do without validation) so few are all learned from.

    >>> samples = [Sample(Path(f"{i}.png"), "train") for i in range(28)]
    >>> splits = split_normals(
    ...     samples, validation_share=0.1, calibration_share=0.15, calibration_minimum=9, scores_only=False, seed=0
    ... )
    >>> len(splits.train), len(splits.validation), len(splits.calibration)
    (16, 3, 9)
    """
    if min(validation_share, calibration_share) < 0 or validation_share + calibration_share >= 1:
        raise InputError(
            "validation_share and calibration_share must not be negative and must add up to less than 1, "
            f"got {validation_share} and {calibration_share}"
        )
    normals = [sample for sample in samples if sample.split == "train"]
    spare = len(normals) - TRAIN_MINIMUM - VALIDATION_MINIMUM - calibration_minimum
    if scores_only and normals and spare < 0:
        return Splits(train=_by_name(normals), validation=[], calibration=[])
    if spare < 0:
        place = f" in {normals[0].path.parent}" if normals else ""
        raise InputError(
            f"found {len(normals)} normal picture{'s' * (len(normals) != 1)}{place}: expected at least "
            f"{len(normals) - spare}, {TRAIN_MINIMUM} to learn from, {VALIDATION_MINIMUM} for validation and "
            f"{calibration_minimum} to set the threshold; a single one is enough for raw scores and maps without "
            "a verdict: model=positional_memory threshold=none"
        )
    wanted = round(calibration_share * len(normals)) - calibration_minimum
    calibration = calibration_minimum + min(max(wanted, 0), spare)
    spare -= calibration - calibration_minimum
    wanted = round(validation_share * len(normals)) - VALIDATION_MINIMUM
    held_out = calibration + VALIDATION_MINIMUM + min(max(wanted, 0), spare)

    shuffled = _shuffled(normals, seed, "split")
    return Splits(
        train=_by_name(shuffled[held_out:]),
        validation=_by_name(shuffled[calibration:held_out]),
        calibration=_by_name(shuffled[:calibration]),
    )


def _shuffled(samples: Iterable[Sample], seed: int, purpose: str) -> list[Sample]:
    """Ordered by a hash of seed and name: unlike a permutation, it survives a moved or grown folder."""

    def rank(sample: Sample) -> bytes:
        return hashlib.blake2b(f"{seed} {purpose} {sample.path.name}".encode()).digest()

    return sorted(samples, key=rank)


def _by_name(samples: Iterable[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.path.name)


def _category_folder(root: Path, category: str | None) -> Path:
    """The folder that holds train/good."""
    if not root.is_dir():
        raise InputError(
            f"data.root={root}: expected a folder, found {'a file' if root.exists() else 'nothing there'}"
        )
    folder = root / category if category else root
    if (folder / "train" / GOOD).is_dir():
        return folder
    categories = sorted(entry.name for entry in root.iterdir() if (entry / "train" / GOOD).is_dir())
    if category and categories:
        # the likely one first
        categories.sort(key=lambda name: -SequenceMatcher(None, name.lower(), category.lower()).ratio())
        raise InputError(f"data.category={category}: not in {root}, which has {', '.join(categories)}")
    if categories:
        raise InputError(
            f"{root}: expected data.category to be one of {', '.join(categories)}, found none given"
        )
    if not folder.is_dir():
        raise InputError(f"data.category={category}: expected the folder {folder}, found nothing there")
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
    raise InputError(f"{folder}: expected train/good with pictures of good parts, found {found}")


def _folders_by_type(root: Path) -> dict[str, Path]:
    """Subfolders by name; `root` itself under "" if pictures lie directly inside; {} if it is missing."""
    if not root.is_dir():
        return {}
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    direct = any(entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries)
    return ({"": root} if direct else {}) | {entry.name: entry for entry in entries if entry.is_dir()}


def _good(paths: Iterable[Path], split: Literal["train", "test"]) -> list[Sample]:
    return [Sample(path, split) for path in paths]


def _defective(images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[Sample]:
    """Test samples of every type, with the masks of the types that have a mask folder."""
    if GOOD in images:
        raise InputError(f"{images[GOOD]}: expected defective parts only, found a type called {GOOD}")
    for defect in sorted(masks.keys() - images.keys()):
        raise InputError(
            f"{masks[defect]}: expected the pictures of these masks under the same name, found none"
        )
    samples = []
    for defect, folder in images.items():
        paths = list_images(folder)
        mask_of = _pair(paths, masks[defect]) if defect in masks else {}
        samples += [Sample(path, "test", defect or DEFECTIVE, mask_of.get(path)) for path in paths]
    for sample in samples:
        _check_mask(sample)
    return samples


def _pair(images: list[Path], mask_folder: Path) -> dict[Path, Path]:
    """The mask of each image: the same stem, or that and `_mask`."""
    image_of: dict[str, Path] = {}
    for path in images:
        if path.stem in image_of:
            raise InputError(f"{path}: expected one picture for a mask, found {image_of[path.stem].name} too")
        image_of[path.stem] = path
    mask_of: dict[Path, Path] = {}
    for mask in list_images(mask_folder):
        stem = mask.stem if mask.stem in image_of else mask.stem.removesuffix(MASK_SUFFIX)
        if stem not in image_of:
            raise InputError(f"{mask}: expected its picture, {images[0].parent / stem}.*, found none")
        if image_of[stem] in mask_of:
            raise InputError(
                f"{mask}: expected one mask for a picture, found {mask_of[image_of[stem]].name} too"
            )
        mask_of[image_of[stem]] = mask
    for path in images:
        if path not in mask_of:
            expected = mask_folder / f"{path.stem}{MASK_SUFFIX}"
            raise InputError(f"{path}: expected its mask, {expected}.* or {path.stem}.*, found none")
    return mask_of


def _check_mask(sample: Sample) -> None:
    """Read the mask once: a damaged one, or one of another size, should not be found after hours of training."""
    if sample.mask_path is None:
        return
    try:
        size = image_size(sample.path)
    except InputError:
        return  # whoever reads the picture reports it, or skips it if the user said so
    _read_once(sample.mask_path, size, file_digest(sample.mask_path))


@cache  # for the jobs of a sweep, which all look at the same masks
def _read_once(path: Path, size: tuple[int, int], content: str) -> None:
    read_mask(path, size)
