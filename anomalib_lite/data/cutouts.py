"""Cut-outs: small pictures with an outline of their own, ready to be pasted onto pictures of good parts."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from anomalib_lite.data.drawn_defects import DEFECTS
from anomalib_lite.data.drawn_objects import OBJECTS
from anomalib_lite.data.images import image_size, list_images
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

DRAWN = {"defects": 51, "objects": 80}  # how many of each family, as published
SIDE = 256  # pixels of a drawn cut-out
SEED = 7  # of the drawings: with it, stains of all sorts and light and dark blobs are among them
TRANSPARENT = 5  # of 255: up to here alpha shows nothing
_DRAWINGS: dict[str, dict[str, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "defects": DEFECTS,
    "objects": OBJECTS,
}
# cracks twice as often as others: concrete, castings, glass and ceramics all have them
_ORDER = {"defects": [*DEFECTS, "crack"], "objects": [*OBJECTS]}


@dataclass(frozen=True, eq=False)
class CutOut:
    """A picture with alpha; transparent borders are cut away.

    Raises ValueError for a picture that is transparent everywhere.

    >>> cutout = CutOut(kind="dot", picture=np.pad(np.full((2, 2, 4), 255, np.uint8), ((3, 3), (3, 3), (0, 0))))
    >>> cutout.picture.shape
    (2, 2, 4)
    """

    kind: str
    picture: np.ndarray  # (h, w, 4) uint8, RGB and alpha
    adapts: bool = False  # its colours are about contrast: light and dark may change places to show
    runs: bool = False  # long and thin: shown at twice the extent of others, or little would be seen of it
    replaces: bool = (
        False  # a hole in the part: shows the background where there is one, and is never translucent
    )
    levels: list[np.ndarray] = field(
        init=False, repr=False
    )  # premultiplied, each half the size of the one before

    def __post_init__(self) -> None:
        alpha = self.picture[..., 3]
        rows, columns = (np.flatnonzero((alpha > TRANSPARENT).any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            raise ValueError(f"{self.kind}: expected a picture with something to see, got a transparent one")
        picture = self.picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # premultiplied: the colours under transparent pixels, often black, must not bleed into the border
        level = picture.astype(np.float32)
        level[..., :3] *= level[..., 3:] / 255
        levels: list[np.ndarray] = [level.round().astype(np.uint8)]
        while max(levels[-1].shape[:2]) > 8:
            height, width = levels[-1].shape[:2]
            half = (max(1, width // 2), max(1, height // 2))
            levels.append(np.asarray(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA), np.uint8))
        object.__setattr__(self, "picture", picture)
        object.__setattr__(self, "levels", levels)

    def level(self, extent: float) -> np.ndarray:
        """The premultiplied picture that is nearest above `extent` pixels on its longer side: shrinking a large
        one at once would lose thin lines."""
        return next(
            (level for level in reversed(self.levels) if max(level.shape[:2]) >= extent), self.levels[0]
        )


@cache
def drawn_cutouts(family: str) -> tuple[CutOut, ...]:
    """The fixed set of a family, `defects` or `objects`; drawn at the first call.

    Source: Rojas, Morton, Perez, Andrade (2020) pasted 51 drawn defects and 80 cut-outs of unrelated objects;
    these are drawings of our own.

    >>> sorted({cutout.kind for cutout in drawn_cutouts("defects")})
    ['blob', 'crack', 'missing piece', 'pores', 'scratch', 'stain', 'textured patch']
    """
    order = _ORDER[family]
    cutouts = []
    for number in range(DRAWN[family]):
        kind = order[number % len(order)]
        cutouts.append(
            CutOut(
                kind=kind,
                picture=_DRAWINGS[family][kind](np.random.default_rng([SEED, number]), SIDE),
                adapts=family == "defects",
                runs=kind in ("crack", "scratch"),
                replaces=kind == "missing piece",
            )
        )
    return tuple(cutouts)


@cache
def load_cutouts(folder: Path) -> tuple[CutOut, ...]:
    """The transparent pictures of a folder, each of the kind that its name says; opaque ones are left out.

    Raises InputError for a folder that is missing or has no picture whose alpha varies, and for a damaged file.
    """
    pictures = {path: read_cutout(path) for path in list_images(folder)}
    cutouts = tuple(
        CutOut(kind=path.stem, picture=picture)
        for path, picture in pictures.items()
        if TRANSPARENT < picture[..., 3].max() > picture[..., 3].min()
    )
    if not cutouts:
        raise InputError(
            f"{folder}: expected transparent pictures (PNG with alpha that varies), "
            f"found {len(pictures)} picture{'s' * (len(pictures) != 1)} without"
        )
    if len(cutouts) < len(pictures):
        log.warning("%s: left out %d without transparency", folder, len(pictures) - len(cutouts))
    return cutouts


def read_cutout(path: Path) -> np.ndarray:
    """Read a picture as uint8 (h, w, 4), RGB and alpha; opaque if it has no alpha.

    Raises InputError for a damaged file, and for what `image_size` refuses.
    """
    image_size(path)  # a header may claim any size: refused before memory is asked for
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error) as error:
        reason = " ".join(str(error).split())  # on one line
        raise InputError(
            f"{path}: expected a whole picture, found it cut short or damaged ({reason})"
        ) from None
