"""Synthetic defects by pasting: cut-outs on pictures of good parts, with exact masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_lite.data.blending import (
    Window,
    blend_alpha,
    blend_poisson,
    in_contrast,
    overlap,
    silhouette,
    visible,
)
from anomalib_lite.data.cutouts import CutOut, drawn_cutouts, load_cutouts
from anomalib_lite.data.images import list_images
from anomalib_lite.data.synthetic import estimate_foreground
from anomalib_lite.types import InputError

FAMILIES = ("none", "defects", "objects", "mixed")
BLENDINGS = ("alpha", "poisson")
SCALE_LIMIT = 1.0  # of the shorter side: what is larger shows nothing but its inside
OPACITY_MINIMUM = 0.05  # below, not even black on white would show
EXTENT_MINIMUM = 3.0  # pixels
RUNNING = 2.0  # cracks and scratches are so many times as long as others
ASPECTS = (0.75, 1.33)  # a fixed set of cut-outs gives more shapes that way
PIXELS_MINIMUM = 4  # that an object changes visibly; at fewer another one is tried
TRIES = 12  # objects that do not show before one is made to
GREY = 2 / 255  # channels that differ by less have no colour
LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)
RIM = 0.02  # of the shorter side: the estimate of the part may leave out so much of its rim


@dataclass(frozen=True, slots=True)
class PastedObject:
    """One pasted object, by the pixels that it changed visibly."""

    kind: str
    box: tuple[int, int, int, int]  # (x, y, width, height), pixels
    area: int  # pixels


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A picture with synthetic defects."""

    image: np.ndarray  # (H, W, 3) float32 in [0, 1]
    mask: np.ndarray  # (H, W) bool, where the picture was changed
    objects: list[PastedObject]


@dataclass(kw_only=True)
class Corruption:
    """Pastes `count` cut-outs at random places, each flipped, turned and resized at random.

    Family `defects` looks like defects, `objects` has nothing to do with the part, `mixed` draws from both, and
    `none` changes nothing. Source: Rojas, Morton, Perez, Andrade (2020): two objects a picture.

    Raises InputError for a setting out of range and for a folder without transparent pictures.

    >>> corruption = Corruption(family="defects")
    >>> image = np.full((64, 64, 3), 0.5, np.float32)
    >>> corrupted = corruption(image, np.random.default_rng(0))
    >>> np.array_equal(corrupted.mask, (corrupted.image != image).any(axis=2)), len(corrupted.objects)
    (True, 2)
    """

    family: str  # none | defects | objects | mixed
    cutouts: str | None = None  # a folder of transparent pictures to paste instead of the family's drawn ones
    count: int = 2  # objects a picture
    # longer side, share of the picture's shorter one; cracks and scratches run twice as far
    scale: list[float] = field(default_factory=lambda: [0.1, 0.4])
    opacity: list[float] = field(default_factory=lambda: [0.6, 1.0])
    blending: str = "alpha"  # alpha | poisson: the object takes over the light of its place
    flips: bool = True
    rotation: bool = True
    foreground: bool = False  # only on the part, where the picture's frame shows the background

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"corruption.family must be one of {', '.join(FAMILIES)}, got {self.family}")
        if self.blending not in BLENDINGS:
            raise InputError(
                f"corruption.blending must be one of {', '.join(BLENDINGS)}, got {self.blending}"
            )
        if self.count < 1:
            raise InputError(f"corruption.count must be at least 1, got {self.count} (none: family=none)")
        _check_range("scale", self.scale, 0.01, SCALE_LIMIT)
        _check_range("opacity", self.opacity, OPACITY_MINIMUM, 1.0)
        if self.cutouts is not None:
            load_cutouts(Path(self.cutouts))  # a useless folder is no news for after the preparation

    @property
    def active(self) -> bool:
        """Whether anything is pasted."""
        return self.family != "none"

    def facts(self) -> dict[str, Any]:
        """All that determines what is pasted: the settings, and the SHA-256 of every file of `cutouts`."""
        files = [] if self.cutouts is None else list_images(Path(self.cutouts))
        return asdict(self) | {"files": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]}

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Corrupted:
        """Paste onto (H, W, 3) float32 in [0, 1]; the mask is where that changed it visibly, and never empty.

        Nothing changes outside the mask. An object that does not show, in `TRIES` tries, is made to: opaque, in
        black or white.
        """
        mask = np.zeros(image.shape[:2], bool)
        if not self.active:
            return Corrupted(image, mask, [])
        ground = _Ground.of(image, find_part=self.foreground)
        canvas = image.copy()
        pasted = [self._paste(canvas, ground, rng) for _ in range(self.count)]
        for _, window in pasted:
            mask[window] = visible(canvas[window], image[window])
        return Corrupted(canvas, mask, [found for found, _ in pasted])

    def _paste(
        self, canvas: np.ndarray, ground: _Ground, rng: np.random.Generator
    ) -> tuple[PastedObject, Window]:
        """Add one object to the canvas, in place; also returns where it lies."""
        for tries in range(TRIES + 1):
            insists = tries == TRIES
            cutout = self._draw_cutout(rng)
            stamp = self._draw_stamp(cutout, ground, rng)
            pixel = ground.draw_pixel(rng, at_edge=cutout.replaces)
            anchor = (stamp.shape[0] // 2, stamp.shape[1] // 2)
            if insists:
                stamp, anchor = silhouette(stamp, ground.image[pixel])
            inside, window = overlap(stamp, anchor, pixel, canvas.shape)
            stamp, below = stamp[inside], canvas[window]
            if cutout.adapts and not insists:
                stamp = in_contrast(stamp, below)
            blend = blend_poisson if self.blending == "poisson" and not insists else blend_alpha
            result = ground.restrict(blend(canvas, window, stamp), below, window, beyond=cutout.replaces)
            original = ground.image[window]
            shown = visible(result, below)
            change = (shown | insists) & visible(result, original)
            if insists or np.count_nonzero(change) >= PIXELS_MINIMUM:
                # what hardly shows stays as it was: several faint changes would add up to one of no object
                kept = np.where(shown[..., None], original, below)
                below[:] = np.where(change[..., None], result, kept)
                return _describe(cutout.kind, change, window), window
        raise AssertionError("the last try always returns")

    def _draw_cutout(self, rng: np.random.Generator) -> CutOut:
        if self.cutouts is not None:
            pool = load_cutouts(Path(self.cutouts))
        elif self.family == "mixed":
            pool = drawn_cutouts(("defects", "objects")[rng.integers(2)])
        else:
            pool = drawn_cutouts(self.family)
        return pool[rng.integers(len(pool))]

    def _draw_stamp(self, cutout: CutOut, ground: _Ground, rng: np.random.Generator) -> np.ndarray:
        """The cut-out as it will be pasted: (h, w, 4) float32, premultiplied with its alpha and its opacity."""
        extent = max(EXTENT_MINIMUM, min(ground.image.shape[:2]) * _log_uniform(self.scale, rng))
        extent *= RUNNING if cutout.runs else 1
        picture = cutout.level(extent)
        aspect = np.sqrt(_log_uniform(ASPECTS, rng))
        scale = extent / max(picture.shape[:2]) * np.array([aspect, 1 / aspect])  # of x and y
        if self.flips:
            scale *= rng.choice([-1.0, 1.0], 2)
        angle = rng.uniform(0, 2 * np.pi) if self.rotation else 0.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn * scale  # columns: where one pixel along x and along y goes
        size = np.array([picture.shape[1], picture.shape[0]])
        width, height = np.ceil(np.abs(matrix) @ size).astype(int) + 2
        shift = np.array([width - 1, height - 1]) / 2 - matrix @ ((size - 1) / 2)
        warped = cv2.warpAffine(picture, np.column_stack([matrix, shift]), (int(width), int(height)))
        opacity = 1.0 if cutout.replaces else rng.uniform(self.opacity[0], self.opacity[1])
        return ground.coloured(warped * np.float32(opacity / 255), replaces=cutout.replaces)


@dataclass(frozen=True)
class _Ground:
    """The picture below, and where on it may be pasted."""

    image: np.ndarray
    grey: bool  # a grey camera sees no colours
    part: np.ndarray | None  # (H, W) bool; None: everywhere
    outskirts: np.ndarray | None  # the part with all of its rim, which `part` leaves out to be safe
    inside: np.ndarray  # the part's pixels as flat indices; empty without a part
    edge: np.ndarray  # those at its outline
    background: np.ndarray  # (3,) colour beside the part

    @classmethod
    def of(cls, image: np.ndarray, *, find_part: bool) -> _Ground:
        sampled = image[::4, ::4]
        grey = bool((sampled.max(axis=2) - sampled.min(axis=2)).max() < GREY)
        nowhere = np.zeros(0, int)
        part = estimate_foreground(image) if find_part else None
        if part is None or part.all():
            return cls(image, grey, None, None, nowhere, nowhere, np.zeros(3, np.float32))
        pixels, side = part.astype(np.uint8), min(image.shape[:2])
        core = cv2.erode(pixels, np.ones((3, 3), np.uint8), borderValue=1) > 0
        reach = 2 * max(2, round(RIM * side)) + 1
        outskirts = cv2.dilate(pixels, np.ones((reach, reach), np.uint8)) > 0
        background = np.median(image[~outskirts if not outskirts.all() else ~part], axis=0)
        return cls(
            image, grey, part, outskirts, np.flatnonzero(part), np.flatnonzero(part & ~core), background
        )

    def coloured(self, stamp: np.ndarray, *, replaces: bool) -> np.ndarray:
        """The stamp (h, w, 4) in the colours that it would have here."""
        alpha = stamp[..., 3:]
        if replaces and self.part is not None:
            return np.concatenate([alpha * self.background, alpha], axis=2)
        if self.grey:
            return np.concatenate([np.repeat(stamp[..., :3] @ LUMA, 3, axis=2), alpha], axis=2)
        return stamp

    def restrict(self, result: np.ndarray, below: np.ndarray, window: Window, *, beyond: bool) -> np.ndarray:
        """`result` where the part is, or with `beyond` its rim too, else what is below."""
        allowed = self.outskirts if beyond else self.part
        return result if allowed is None else np.where(allowed[window][..., None], result, below)

    def draw_pixel(self, rng: np.random.Generator, *, at_edge: bool) -> tuple[int, int]:
        """A pixel (y, x) of the part, or of its outline."""
        height, width = self.image.shape[:2]
        if self.part is None:
            return int(rng.integers(height)), int(rng.integers(width))
        pixels = self.edge if at_edge and len(self.edge) else self.inside
        y, x = divmod(int(pixels[rng.integers(len(pixels))]), width)
        return y, x


def _check_range(name: str, limits: Sequence[float], lowest: float, highest: float) -> None:
    if len(limits) != 2 or not lowest <= limits[0] <= limits[1] <= highest:
        raise InputError(
            f"corruption.{name} must be [low, high] with {lowest:g} <= low <= high <= {highest:g}, "
            f"got {list(limits)}"
        )


def _log_uniform(limits: Sequence[float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def _describe(kind: str, change: np.ndarray, window: Window) -> PastedObject:
    """An object by the pixels of its window that it changed visibly."""
    x, y, width, height = cv2.boundingRect(change.astype(np.uint8))
    box = (window[1].start + x, window[0].start + y, width, height)
    return PastedObject(kind, box, int(np.count_nonzero(change)))
