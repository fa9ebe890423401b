"""Six rendered data sets of zipper cursors, in place of the private ones of Saeedi & Giusti (VISAPP 2022)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.data.rendered.rendering import (
    RENDERED_NOTE,
    check_size_and_seed,
    defect_strength,
    render_folder,
    write_png,
)
from anomalib_lite.data.rendered.zipper_defects import ADD_DEFECT
from anomalib_lite.data.rendered.zipper_light import bench_picture, photograph, shade
from anomalib_lite.data.rendered.zipper_parts import FAMILIES, geometry
from anomalib_lite.data.rendered.zipper_surface import machined_surface
from anomalib_lite.types import GOOD, InputError

RENDERER_VERSION = 1  # part of the folder's name: a change of what is drawn needs a new number
DEFECTS = tuple(ADD_DEFECT)
MINIMUM_SIZE = (96, 72)
Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pictures a set has."""

    train: int
    test_normal: int
    test_defective: int


COUNTS: dict[int, Counts] = {  # the paper's
    1: Counts(60, 55, 148),
    2: Counts(60, 47, 84),
    3: Counts(49, 33, 14),
    4: Counts(40, 39, 36),
    5: Counts(44, 19, 31),
    6: Counts(28, 23, 18),
}


def render_zipper(
    root: Path, *, set_number: int, size: tuple[int, int] = (1600, 1200), seed: int = 0
) -> Path:
    """Render a set of (width, height) pictures in MVTec's layout under `root`, or find it there; its folder.

    The folder appears only when it is whole, whatever else runs or is killed meanwhile. Raises InputError for
    a set outside 1..6, a size below `MINIMUM_SIZE`, a negative seed, and where `root` cannot be written.

    >>> import tempfile
    >>> folder = render_zipper(Path(tempfile.mkdtemp()), set_number=6, size=(96, 72))
    >>> folder.name, len(list(folder.glob("train/good/*.png")))
    ('set6_96x72_seed0_v1', 28)
    """
    _check(set_number, size, seed)
    folder = root / f"set{set_number}_{size[0]}x{size[1]}_seed{seed}_v{RENDERER_VERSION}"

    def write_into(unfinished: Path) -> None:
        _write_set(unfinished, set_number, size, seed)

    return render_folder(folder, description=_describe(set_number, size, seed), write_into=write_into)


def render_picture(
    *,
    set_number: int,
    size: tuple[int, int] = (1600, 1200),
    seed: int = 0,
    split: Split = "train",
    defect: str = GOOD,
    index: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """One picture, uint8 RGB (H, W, 3), and where its defect shows, bool (H, W); `size` is (width, height).

    Raises InputError as `render_zipper` does, and for an unknown defect.

    >>> image, mask = render_picture(set_number=1, size=(160, 120), split="test", defect="bubble")
    >>> image.shape, image.dtype, bool(mask.any())
    ((120, 160, 3), dtype('uint8'), True)
    """
    image, mask, _ = render_posed(
        set_number=set_number, size=size, seed=seed, split=split, defect=defect, index=index
    )
    return image, mask


def render_posed(
    *, set_number: int, size: tuple[int, int], seed: int, split: Split, defect: str, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `render_picture`, and the part's true pose: (2, 3) from the reference's pixels to the picture's.

    >>> *_, pose = render_posed(set_number=1, size=(160, 120), seed=0, split="train", defect="good", index=0)
    >>> pose.shape, bool(abs(pose[0, 0] - 1) < 0.01)
    ((2, 3), True)
    """
    _check(set_number, size, seed)
    if defect not in (GOOD, *DEFECTS):
        raise InputError(f"defect must be one of {', '.join((GOOD, *DEFECTS))}, got {defect}")
    family, part = FAMILIES[set_number], geometry(set_number, size)
    key = [seed, set_number, int(split == "test"), (GOOD, *DEFECTS).index(defect), index]
    # a generator for each concern: without its defect, the same part would be photographed the same way
    for_pose, for_part, for_defect, for_camera = np.random.default_rng(key).spawn(4)
    turn, pose = _pose(for_pose, family.rotation, family.shift * part.scale, size)
    surface = machined_surface(for_part, family, part)
    support = np.zeros_like(part.coverage)
    if defect != GOOD:
        support = ADD_DEFECT[defect](for_defect, surface, family, part, defect_strength(index))
    side, across = for_camera.normal((0.12, -0.18), 0.025)  # the ring is darker where its cable leaves
    tilt = (side * np.cos(turn) + across * np.sin(turn), across * np.cos(turn) - side * np.sin(turn))
    light = shade(surface, family.finish, part, tilt) * np.float32(family.exposure)
    light *= part.coverage[..., None]
    light = np.maximum(cv2.warpAffine(light, pose, size, flags=cv2.INTER_CUBIC), 0)
    coverage = cv2.warpAffine(part.coverage, pose, size, flags=cv2.INTER_LINEAR)
    image = photograph(for_camera, light, coverage, bench_picture(set_number, size), part.scale)
    mask = (cv2.warpAffine(support, pose, size, flags=cv2.INTER_LINEAR) > 0.5) & (coverage > 0.5)
    return image, mask, pose


def _pose(
    rng: np.random.Generator, rotation: float, shift: float, size: tuple[int, int]
) -> tuple[float, np.ndarray]:
    """A random rotation in radians (clockwise as seen), and the (2, 3) matrix of it and a random shift."""
    angle = rng.uniform(-rotation, rotation)
    matrix = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), -angle, 1.0)
    offset = np.zeros((2, 3))
    offset[:, 2] = rng.uniform(-shift, shift, 2)
    return float(np.deg2rad(angle)), matrix + offset


def _check(set_number: int, size: tuple[int, int], seed: int) -> None:
    if set_number not in FAMILIES:
        raise InputError(f"set must be one of {min(FAMILIES)}..{max(FAMILIES)}, got {set_number}")
    check_size_and_seed(size, minimum=MINIMUM_SIZE, seed=seed)


def _describe(set_number: int, size: tuple[int, int], seed: int) -> dict[str, Any]:
    return {
        "note": RENDERED_NOTE,
        "renderer_version": RENDERER_VERSION,
        "set": set_number,
        "family": FAMILIES[set_number].name,
        "size": list(size),
        "seed": seed,
        "counts": asdict(COUNTS[set_number]),
    }


def _write_set(folder: Path, set_number: int, size: tuple[int, int], seed: int) -> None:
    for split, defect, index in tqdm(
        list_pictures(set_number), desc=f"rendering zipper set {set_number}", unit="picture", disable=None
    ):
        image, mask = render_picture(
            set_number=set_number, size=size, seed=seed, split=split, defect=defect, index=index
        )
        write_png(folder / split / defect / f"{index:03d}.png", image)
        if defect != GOOD:
            write_png(folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255)


def list_pictures(set_number: int) -> list[tuple[Split, str, int]]:
    """(split, defect, index) of every picture of a set; the defective ones are shared out evenly.

    >>> [sum(defect == kind for _, defect, _ in list_pictures(3)) for kind in ("good", *DEFECTS)]
    [82, 4, 4, 3, 3]
    """
    counts = COUNTS[set_number]
    pictures: list[tuple[Split, str, int]] = [("train", GOOD, index) for index in range(counts.train)]
    pictures += [("test", GOOD, index) for index in range(counts.test_normal)]
    for number in range(counts.test_defective):
        pictures.append(("test", DEFECTS[number % len(DEFECTS)], number // len(DEFECTS)))
    return pictures
