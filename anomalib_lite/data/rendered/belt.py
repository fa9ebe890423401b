"""A rendered conveyor belt with capsules, in place of a plant's own camera over its belt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.data.rendered.belt_damage import break_capsule
from anomalib_lite.data.rendered.belt_layout import (
    CELL,
    RUNS,
    Item,
    Run,
    View,
    anomaly_in,
    lay_out,
    visible_items,
)
from anomalib_lite.data.rendered.belt_light import AMBIENT, Array, photograph
from anomalib_lite.data.rendered.belt_parts import Drawn, Patch, draw_capsule, draw_ring, patch_of
from anomalib_lite.data.rendered.belt_surface import (
    LOOP,
    TINT,
    belt_loop,
    belt_window,
    lamp_fields,
    rails,
    to_pixels,
)
from anomalib_lite.data.rendered.rendering import RENDERED_NOTE, check_size_and_seed, render_folder, write_png
from anomalib_lite.types import GOOD, InputError

RENDERER_VERSION = 1  # part of the folder's name: a change of what is drawn needs a new number
DEFECTS = ("ring", "broken")
MINIMUM_SIZE = (96, 72)
COUNTS = {"train/good": 300, "test/good": 60, "test/ring": 30, "test/broken": 30}
RUN_OF: dict[str, Run] = {
    "train/good": "train",
    "test/good": "test",
    "test/ring": "ring",
    "test/broken": "broken",
}
SPEED = 17.3  # units (pixels of the default size) that the belt moves from frame to frame, leftwards
SHUTTER = 0.09  # share of the time between frames that the shutter is open
VISIBLE = 0.5  # share of a pixel that makes it count as anomalous
FAINTEST = 0.05  # what covers less of any pixel is not in the frame


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An anomaly in a frame: the box (x, y, width, height) of its pixels."""

    kind: str
    box: tuple[int, int, int, int]
    strength: float  # 0 barely visible .. 1 plain


@dataclass(frozen=True, slots=True)
class Capsule:
    """Where a capsule's middle is in a frame, in pixels; `angle` in degrees, clockwise, of its cap."""

    x: float
    y: float
    angle: float
    broken: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of the belt's video and its ground truth."""

    number: int
    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (H, W) bool
    capsules: tuple[Capsule, ...]  # whose middle is in the frame
    anomalies: tuple[Anomaly, ...]


def render_belt(root: Path, *, size: tuple[int, int] = (320, 240), seed: int = 0) -> Path:
    """Render the set in MVTec's layout under `root`, or find it there; its folder. `size` is (width, height).

    train/good and test/good are videos, frame after frame; of ring and broken, every picture shows another
    anomaly. frames.json holds every picture's ground truth. The folder appears only when it is whole, whatever
    else runs or is killed meanwhile. Raises InputError for a size below `MINIMUM_SIZE`, a negative seed, and
    where `root` cannot be written.

    >>> render_belt(Path("data"), size=(64, 48))
    Traceback (most recent call last):
    anomalib_lite.types.InputError: size must be at least 96x72 pixels (width x height), got 64x48
    """
    check_size_and_seed(size, minimum=MINIMUM_SIZE, seed=seed)
    description = {
        "note": RENDERED_NOTE,
        "renderer_version": RENDERER_VERSION,
        "size": list(size),
        "seed": seed,
        "counts": COUNTS,
        "pixels_per_frame": SPEED * View(*size).scale,
    }

    def write_into(unfinished: Path) -> None:
        _write_set(unfinished, size, seed)

    name = f"belt_{size[0]}x{size[1]}_seed{seed}_v{RENDERER_VERSION}"
    return render_folder(root / name, description=description, write_into=write_into)


def frames(
    *,
    count: int,
    size: tuple[int, int] = (320, 240),
    seed: int = 0,
    run: Run = "video",
    anomalies: tuple[str, ...] = DEFECTS,
    spacing: int = 4,
) -> Iterator[Frame]:
    """The first `count` frames of a video of the belt, one at a time; arguments and errors as of `render_frame`.

    >>> video = frames(count=3, size=(160, 120))
    >>> [frame.number for frame in video]
    [0, 1, 2]
    """
    _check(0, size, seed, run, anomalies, spacing)
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    return (
        render_frame(number=number, size=size, seed=seed, run=run, anomalies=anomalies, spacing=spacing)
        for number in range(count)
    )


def render_frame(
    *,
    number: int = 0,
    size: tuple[int, int] = (320, 240),
    seed: int = 0,
    run: Run = "video",
    anomalies: tuple[str, ...] = (),
    spacing: int = 1,
) -> Frame:
    """Frame `number` of a run, a stretch of belt of its own; the next one shows the belt `SPEED` units further.

    In every `spacing`-th cell of belt, 320 units long, lies one of the `anomalies` ("ring", "broken"), the kinds
    in turn; without them, the rest of the frame is the same. The mask is the ring, or what is missing, damaged
    and spilled; never a shadow. Raises InputError as `render_belt` does, and for an unknown run or anomaly, a
    negative number and a spacing below 1.

    >>> frame = render_frame(size=(160, 120), anomalies=("ring",))
    >>> frame.image.shape, bool(frame.mask.any()), frame.anomalies[0].kind
    ((120, 160, 3), True, 'ring')
    """
    _check(number, size, seed, run, anomalies, spacing)
    view, start = View(*size), SPEED * number
    items = visible_items(view, seed=seed, run=run, start=start, anomalies=anomalies, spacing=spacing)
    scene, parts = _scene(view, seed, run, start, items)
    rng = np.random.default_rng([seed, RUNS.index(run), number, 1])  # the same with anomalies and without
    image = photograph(rng, scene, view, number)
    mask = np.zeros(image.shape[:2], bool)
    found = []
    for item, part in parts:
        mask |= part
        x, y, width, height = cv2.boundingRect(part.astype(np.uint8))
        found.append(Anomaly(item.anomaly, (x, y, width, height), item.strength))
    capsules = tuple(
        Capsule(x, y, float(np.rad2deg(item.angle)), item.anomaly == "broken")
        for item, (x, y) in ((item, _pixel(item, start, view)) for item in items)
        if item.kind == "capsule" and 0 <= x < size[0]
    )
    return Frame(number, image, mask, capsules, tuple(found))


def _scene(
    view: View, seed: int, run: Run, start: float, items: list[Item]
) -> tuple[Array, list[tuple[Item, np.ndarray]]]:
    """Linear radiance (H, W, 3) in pixels, and each visible anomaly with its pixels, bool (H, W)."""
    fields = [*(field.copy() for field in lamp_fields(view)), np.full(view.shape, AMBIENT, np.float32)]
    drawings = [(item, patch, _draw(item, patch)) for item in items if (patch := patch_of(item, start, view))]
    for _, patch, drawn in drawings:
        for field, taken in zip(fields, drawn.shadows, strict=True):
            field[patch.rows, patch.columns] *= 1 - taken
    away = float(np.random.default_rng([seed, RUNS.index(run), 2]).uniform(0, LOOP))
    reflectance = belt_window(belt_loop(seed, view), (start + away) * view.density, view.shape[1])
    scene = (reflectance * sum(fields))[..., None] * TINT
    supports = []
    for item, patch, drawn in drawings:
        window = scene[patch.rows, patch.columns]
        covered = window[drawn.where]
        window[drawn.where] = covered + drawn.alpha[:, None] * (drawn.light - covered)
        if item.anomaly != GOOD:
            support = np.zeros(view.shape, np.float32)
            support[patch.rows, patch.columns] = drawn.anomalous
            supports.append((item, support))
    fixed, cover = rails(view)
    scene = to_pixels(_smear(scene, view), view) * (1 - cover) + fixed
    pixels = [
        (item, to_pixels(_smear(support, view), view) * (1 - cover[..., 0])) for item, support in supports
    ]
    return scene, [(item, _mask(support)) for item, support in pixels if support.max() > FAINTEST]


def _draw(item: Item, patch: Patch) -> Drawn:
    if item.kind == "ring":
        return draw_ring(item, patch)
    capsule = draw_capsule(item, patch)
    return break_capsule(item, patch, capsule) if item.anomaly == "broken" else capsule


def _smear(picture: Array, view: View) -> Array:
    """What moves while the shutter is open."""
    length = max(1, round(SPEED * SHUTTER * view.density))
    return cv2.blur(picture, (length, 1), borderType=cv2.BORDER_REPLICATE)


def _mask(support: Array) -> np.ndarray:
    """Pixels that are anomalous for the most part; of something thinner than a pixel, the most anomalous."""
    return support > VISIBLE * float(support.max())


def _pixel(item: Item, start: float, view: View) -> tuple[float, float]:
    """Where an item's middle is: (x, y) in pixels, (0, 0) being the first pixel's middle."""
    x = (item.x - start) * view.scale - 0.5
    return round(x, 3), round(item.y * view.scale + view.height / 2 - 0.5, 3)


def _write_set(folder: Path, size: tuple[int, int], seed: int) -> None:
    truth: dict[str, Any] = {}
    pictures = [(place, index) for place, count in COUNTS.items() for index in range(count)]
    for place, index in tqdm(pictures, desc="rendering the belt", unit="picture", disable=None):
        split, defect = place.split("/")
        run: Run = RUN_OF[place]
        anomalies = () if defect == GOOD else (defect,)
        spacing = _spacing(View(*size))
        number = index if defect == GOOD else _frame_of_anomaly(index, size, seed, run, spacing)
        frame = render_frame(
            number=number, size=size, seed=seed, run=run, anomalies=anomalies, spacing=spacing
        )
        write_png(folder / split / defect / f"{index:03d}.png", frame.image)
        if defect != GOOD:
            mask = frame.mask.astype(np.uint8) * 255
            write_png(folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask)
        truth[f"{place}/{index:03d}.png"] = describe_frame(frame, run)
    text = json.dumps(truth, indent=1) + "\n"
    (folder / "frames.json").write_text(text, encoding="utf-8")


def _spacing(view: View) -> int:
    """Cells from anomaly to anomaly, so that no frame shows two of them whole."""
    return int(np.ceil(view.width / view.scale / CELL)) + 1


def _frame_of_anomaly(index: int, size: tuple[int, int], seed: int, run: Run, spacing: int) -> int:
    """A frame in which the run's `index`-th anomaly is well in the picture."""
    view, cell = View(*size), index * spacing + spacing // 2
    kind, strength = anomaly_in(cell, (run,), spacing)
    items = lay_out(seed, run, cell, view.half_belt, kind, strength)
    anomaly = next(item for item in items if item.anomaly != GOOD)
    place = np.random.default_rng([seed, RUNS.index(run), index, 3]).uniform(0.2, 0.8)
    return max(0, round((anomaly.x - place * view.width / view.scale) / SPEED))


def _check(
    number: int, size: tuple[int, int], seed: int, run: str, anomalies: tuple[str, ...], spacing: int
) -> None:
    check_size_and_seed(size, minimum=MINIMUM_SIZE, seed=seed)
    if run not in RUNS:
        raise InputError(f"run must be one of {', '.join(RUNS)}, got {run}")
    for anomaly in anomalies:
        if anomaly not in DEFECTS:
            raise InputError(f"anomalies must be among {', '.join(DEFECTS)}, got {anomaly}")
    for name, value, least in (("number", number, 0), ("spacing", spacing, 1)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")


def describe_frame(frame: Frame, run: Run) -> dict[str, Any]:
    """A frame's ground truth as plain values.

    >>> describe_frame(Frame(7, np.zeros((2, 2, 3)), np.zeros((2, 2)), (), ()), "video")
    {'run': 'video', 'frame': 7, 'capsules': [], 'anomalies': []}
    """
    capsules = [
        {"x": part.x, "y": part.y, "angle": round(part.angle, 2), "broken": part.broken}
        for part in frame.capsules
    ]
    anomalies = [
        {"kind": part.kind, "box": list(part.box), "strength": round(part.strength, 3)}
        for part in frame.anomalies
    ]
    return {"run": run, "frame": frame.number, "capsules": capsules, "anomalies": anomalies}
