"""Rendered close-ups of woven cloth, normal and with faults, in place of a textile inspection's photographs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.data.rendered.fabric_defects import ADD_DEFECT, LooseEnd, Visible
from anomalib_lite.data.rendered.fabric_light import (
    Lighting,
    develop,
    draw_lighting,
    expose,
    lay_hairs,
    shade,
    tone_curve,
)
from anomalib_lite.data.rendered.fabric_weave import (
    MARGIN,
    WEAVES,
    Array,
    Cloth,
    Colour,
    look_from_above,
    weave_cloth,
)
from anomalib_lite.data.rendered.rendering import (
    RENDERED_NOTE,
    check_size_and_seed,
    defect_strength,
    render_folder,
    write_png,
)
from anomalib_lite.data.rendered.zipper_surface import cloud
from anomalib_lite.types import GOOD, InputError

RENDERER_VERSION = 1  # part of the folder's name: a change of what is drawn needs a new number
DEFECTS = tuple(ADD_DEFECT)
MINIMUM_SIZE = (96, 96)
THREADS_ACROSS = 28  # warp pitches along the picture's shorter side
ROTATION = 2.0  # degrees, to each side
FINER = 2  # times as many points are lit as the picture has pixels, along each side
VISIBLE = 5 / 255  # the smallest change of a channel that counts as defect
HAIRS = 0.11  # fibres that stand off the cloth, for each square of one pitch
Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pictures a set has."""

    train: int
    test_normal: int
    of_each_defect: int


COUNTS = Counts(train=120, test_normal=40, of_each_defect=12)


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera looks: from finely sampled pixels (x, y) to places on the cloth (warp, weft)."""

    pitch: float  # of the warp, in fine pixels
    weft_pitch: float
    turn: float  # radians
    middle: tuple[float, float]  # the place that the picture's middle shows
    size: tuple[int, int]  # of the picture

    @property
    def centre(self) -> np.ndarray:
        """The picture's middle in fine pixels."""
        return (np.array(self.size) * FINER - 1) / 2

    @property
    def scale(self) -> np.ndarray:
        """Fine pixels for each warp and each weft."""
        return np.array((self.pitch, self.weft_pitch))

    def to_pixels(self, places: np.ndarray) -> np.ndarray:
        """(points, 2) fine pixels of places (points, 2) on cloth that is not wavy."""
        flat = (places - np.array(self.middle)) * self.scale
        cosine, sine = np.cos(self.turn), np.sin(self.turn)
        return np.asarray(flat @ np.array([[cosine, sine], [-sine, cosine]]) + self.centre)

    def to_cloth(self) -> tuple[Array, Array]:
        """The warp's and weft's number, each (H, W), at each fine pixel."""
        width, height = self.size[0] * FINER, self.size[1] * FINER
        y, x = np.mgrid[:height, :width].astype(np.float32)
        x, y = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        cosine, sine = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        u = (cosine * x + sine * y) / np.float32(self.pitch) + np.float32(self.middle[0])
        v = (cosine * y - sine * x) / np.float32(self.weft_pitch) + np.float32(self.middle[1])
        return u, v


def render_fabric(
    root: Path, *, weave: str = "twill", size: tuple[int, int] = (256, 256), seed: int = 0
) -> Path:
    """Render a set of (width, height) pictures in MVTec's layout under `root`, or find it there; its folder.

    The folder appears only when it is whole, whatever else runs or is killed meanwhile. Raises InputError for
    an unknown weave, a size below `MINIMUM_SIZE`, a negative seed, and where `root` cannot be written.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> render_fabric(root, weave="satin")
    Traceback (most recent call last):
    anomalib_lite.types.InputError: weave must be one of plain, twill, got satin
    """
    _check(weave, size, seed)
    description = {
        "note": RENDERED_NOTE,
        "renderer_version": RENDERER_VERSION,
        "weave": weave,
        "cloth": WEAVES[weave].name,
        "size": list(size),
        "seed": seed,
        "counts": asdict(COUNTS),
    }

    def write_into(folder: Path) -> None:
        for split, defect, index in tqdm(
            list_pictures(), desc=f"rendering fabric, {weave}", unit="picture", disable=None
        ):
            image, mask = render_picture(
                weave=weave, size=size, seed=seed, split=split, defect=defect, index=index
            )
            write_png(folder / split / defect / f"{index:03d}.png", image)
            if defect != GOOD:
                write_png(
                    folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255
                )

    name = f"{weave}_{size[0]}x{size[1]}_seed{seed}_v{RENDERER_VERSION}"
    return render_folder(root / name, description=description, write_into=write_into)


def list_pictures() -> list[tuple[Split, str, int]]:
    """(split, defect, index) of every picture of a set.

    >>> len(list_pictures()), list_pictures()[-1]
    (232, ('test', 'knot', 11))
    """
    pictures: list[tuple[Split, str, int]] = [("train", GOOD, index) for index in range(COUNTS.train)]
    pictures += [("test", GOOD, index) for index in range(COUNTS.test_normal)]
    return pictures + [
        ("test", defect, index) for defect in DEFECTS for index in range(COUNTS.of_each_defect)
    ]


def render_picture(
    *,
    weave: str = "twill",
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    split: Split = "train",
    defect: str = GOOD,
    index: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """One picture, uint8 RGB (H, W, 3), and where its defect shows, bool (H, W); `size` is (width, height).

    Outside the mask the picture is the same, bit for bit, as of that cloth without the defect. Raises
    InputError as `render_fabric` does, and for an unknown defect.

    >>> image, mask = render_picture(weave="plain", size=(96, 96), split="test", defect="hole")
    >>> image.shape, image.dtype, bool(mask.any())
    ((96, 96, 3), dtype('uint8'), True)
    """
    _check(weave, size, seed)
    if defect not in (GOOD, *DEFECTS):
        raise InputError(f"defect must be one of {', '.join((GOOD, *DEFECTS))}, got {defect}")
    key = [seed, tuple(WEAVES).index(weave), int(split == "test"), (GOOD, *DEFECTS).index(defect), index]
    # a generator for each concern: without its defect, the same cloth would be photographed the same way
    for_view, for_cloth, for_light, for_defect, for_sensor = np.random.default_rng(key).spawn(5)
    view, warps, wefts = _draw_view(for_view, weave, size)
    u, v = view.to_cloth()
    u, v = _ripple(for_view, u, v, view)
    cloth = weave_cloth(for_cloth, WEAVES[weave], warps=warps, wefts=wefts)
    area = size[0] * size[1] * FINER**2 / (view.pitch * view.weft_pitch)
    lighting = draw_lighting(for_light, size, view.pitch, finer=FINER, hairs=round(HAIRS * area))
    light = _photograph(cloth, view, u, v, lighting, [])
    mask = np.zeros(light.shape[:2], dtype=np.bool_)
    if defect != GOOD:
        faulty = cloth.copy()
        reach = np.array(size) * FINER / 2 / view.scale
        visible = Visible(view.middle, (float(reach[0]), float(reach[1])))
        ends = ADD_DEFECT[defect](for_defect, faulty, visible, defect_strength(index))
        changed = _photograph(faulty, view, u, v, lighting, ends)
        mask = _visible_change(light, changed, view.pitch / FINER)
        light = np.where(mask[..., None], changed, light)
    return develop(light, for_sensor.standard_normal(light.shape, dtype=np.float32)), mask


def _check(weave: str, size: tuple[int, int], seed: int) -> None:
    if weave not in WEAVES:
        raise InputError(f"weave must be one of {', '.join(WEAVES)}, got {weave}")
    check_size_and_seed(size, minimum=MINIMUM_SIZE, seed=seed)


def _draw_view(rng: np.random.Generator, weave: str, size: tuple[int, int]) -> tuple[View, int, int]:
    """A view, and how many warps and wefts a cloth needs to fill it."""
    pitch = min(size) * FINER / THREADS_ACROSS * rng.uniform(0.985, 1.015)
    weft_pitch = pitch * WEAVES[weave].weft_pitch
    turn = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    width, height = np.array(size) * FINER
    lean = abs(np.sin(turn))
    warps = int((width + lean * height) / pitch) + 2 * MARGIN + 2
    wefts = int((height + lean * width) / weft_pitch) + 2 * MARGIN + 2
    u, v = warps / 2 - rng.random(), wefts / 2 - rng.random()
    return View(pitch, weft_pitch, float(turn), (u, v), size), warps, wefts


def _ripple(rng: np.random.Generator, u: Array, v: Array, view: View) -> tuple[Array, Array]:
    """Handled cloth is not quite straight: its threads bend together, slowly, by a fraction of a pitch."""
    ripples = [np.float32(0.22) * cloud(rng, u.shape, 5.0 * view.pitch, octaves=2) for _ in range(2)]
    return np.add(u, ripples[0], dtype=np.float32), np.add(v, ripples[1], dtype=np.float32)


def _photograph(
    cloth: Cloth, view: View, u: Array, v: Array, lighting: Lighting, ends: list[LooseEnd]
) -> Array:
    """Linear light (height, width, 3) on the sensor."""
    surface = look_from_above(cloth, u, v)
    light = shade(surface, cloth.weave, lighting, view.pitch)
    hair_colour = _scale(cloth.weave.weft_colour, 1.05)
    lay_hairs(light, lighting.hairs, hair_colour, view.pitch, width=0.05, cover=0.3)
    for end in ends:
        colour = cloth.weave.warp_colour if end.of == "warp" else cloth.weave.weft_colour
        course = view.to_pixels(end.course)
        shadow = course + 0.18 * view.pitch * np.array((-np.cos(lighting.azimuth), -np.sin(lighting.azimuth)))
        lay_hairs(light, (shadow,), (0.0, 0.0, 0.0), view.pitch, width=end.width, cover=0.35)
        for share, width in ((0.75, 1.0), (1.15, 0.55)):  # darker towards its edges, as round things are
            shaded = _scale(colour, share)
            lay_hairs(light, (course,), shaded, view.pitch, width=width * end.width, cover=0.85)
    return expose(light, lighting.field, view.size, view.pitch / FINER)


def _scale(colour: Colour, factor: float) -> Colour:
    return factor * colour[0], factor * colour[1], factor * colour[2]


def _visible_change(light: Array, changed: Array, pitch: float) -> np.ndarray:
    """Where two pictures differ visibly, bool (H, W), without specks and pinholes finer than the threads."""
    difference = np.abs(tone_curve(changed) - tone_curve(light)).max(axis=2)
    seen = (cv2.GaussianBlur(difference, (0, 0), 0.12 * pitch) > VISIBLE).astype(np.uint8)
    side = max(3, round(0.4 * pitch) | 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.morphologyEx(seen, cv2.MORPH_CLOSE, disc) > 0)
