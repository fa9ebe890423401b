"""The gallery: which pictures deserve a look, in which order, and how they are drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomalib_lite.report.plots import printable
from anomalib_lite.report.verdict import is_scored
from anomalib_lite.types import GOOD, Example

WIDTH = 320  # pixels of a panel's long side
TEXT, QUIET = (38, 48, 58), (96, 106, 116)
PREDICTED, TRUE = (213, 94, 0), (0, 158, 115)  # vermilion and green of Okabe & Ito's palette


def _colours(*parts: tuple[str, float, float]) -> np.ndarray:
    """A table (256, 3) uint8 of equal parts: a colour map's name, where in it the part starts and ends."""
    shares = np.array_split(np.arange(256), len(parts))
    tables = [
        matplotlib.colormaps[name](np.linspace(start, end, share.size))[:, :3]
        for (name, start, end), share in zip(parts, shares, strict=True)
    ]
    return (np.concatenate(tables) * 255).round().astype(np.uint8)


BLUE_TO_RED = _colours(("coolwarm", 0.0, 1.0))
BLUE_CUT_RED = _colours(("Blues_r", 0.1, 0.8), ("OrRd", 0.4, 1.0))  # a visible step at the cut


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a row, or the reason why there is none."""

    title: str
    picture: np.ndarray | None  # (h, w, 3) uint8
    absence: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that belong together, in the order in which they deserve a look."""

    title: str
    examples: list[Example]


@dataclass(frozen=True, slots=True)
class Scale:
    """How anomaly values become colours, the same for every picture: blue up to the pixel cut, then red."""

    top: float  # the value of the darkest red
    cut: float | None  # the pixel cut, or None where it is not known

    @property
    def colours(self) -> np.ndarray:
        """The colours (256, 3) uint8 from the lowest to the highest place."""
        return BLUE_TO_RED if self.cut is None else BLUE_CUT_RED

    def place(self, values: np.ndarray) -> np.ndarray:
        """Places on the colour scale in 0..1, with 0.5 at the pixel cut if there is one.

        >>> Scale(top=1.0, cut=0.2).place(np.array([0.0, 0.1, 0.2, 0.6, 9.0]))
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
        """
        middle = self.top / 2 if self.cut is None else self.cut
        return np.interp(values, [0.0, middle, self.top], [0.0, 0.5, 1.0])


def common_scale(examples: Sequence[Example], cut: float | None) -> Scale:
    """The scale on which the strongest thousandth of all pixels shown is the darkest red."""
    maps = [example.anomaly_map for example in examples if example.anomaly_map is not None]
    # every 16th pixel is enough for a percentile and keeps large maps out of one big array
    sampled = np.concatenate([anomaly_map.ravel()[::16] for anomaly_map in maps] or [np.zeros(0)])
    strongest = float(np.percentile(sampled, 99.9)) if sampled.size else 1.0
    cut = cut if cut is not None and cut > 0 else None
    return Scale(top=max(strongest, 1.5 * (cut or 0.0), 1e-12), cut=cut)


def choose_examples(scores: Sequence[Mapping[str, Any]], limit: int = 24) -> list[int]:
    """Rows worth showing: the worst misses, the worst false rejects, some of each defect type, good ones.

    >>> rows = [{"defect": d, "label": int(d != "good"), "raw_score": s, "pred_label": int(s > 2)}
    ...         for d, s in (("good", 1.0), ("good", 3.0), ("hole", 1.5), ("hole", 4.0), ("hole", 0.5))]
    >>> choose_examples(rows, limit=3)
    [4, 1, 3]
    """
    scored = sorted(
        (i for i, row in enumerate(scores) if is_scored(row)), key=lambda i: scores[i]["raw_score"]
    )
    wrong = [i for i in scored if scores[i].get("pred_label") not in (None, scores[i]["label"])]
    misses = [i for i in wrong if scores[i]["label"]][: max(1, limit // 3)]
    false_rejects = [i for i in wrong if not scores[i]["label"]][::-1][: max(1, limit // 4)]
    chosen = misses + false_rejects

    right = [i for i in scored if i not in wrong]
    types = sorted({scores[i]["defect"] for i in right} - {GOOD})
    share = max(1, (limit - len(chosen)) // (len(types) + 1))
    for defect in [*types, GOOD]:
        chosen += _spread([i for i in right if scores[i]["defect"] == defect], share)
    return chosen[:limit]


def arrange(examples: Sequence[Example]) -> list[Group]:
    """Examples in groups: misses, the hardest first; false rejects, the worst first; defect types; good."""
    groups: dict[str, list[Example]] = {
        "Missed: defective, but accepted": [],
        "False rejects: good, but rejected": [],
    }
    rising = sorted(examples, key=lambda example: example.raw_score)
    types = sorted({example.defect for example in examples} - {GOOD})
    groups |= {f"Defective: {defect}": [] for defect in types} | {"Good": []}
    missed, false_rejects = list(groups.values())[:2]
    for example in rising:
        if example.defect != GOOD:
            (missed if example.pred_label == 0 else groups[f"Defective: {example.defect}"]).append(example)
        elif example.pred_label == 1:
            false_rejects.insert(0, example)
        else:
            groups["Good"].append(example)
    return [Group(title, members) for title, members in groups.items() if members]


def panels(example: Example, scale: Scale) -> list[Panel]:
    """The five pictures of a row, at display size: input, reconstruction, map, predicted and true mask."""
    image = _shrink(example.image)
    grey = np.repeat(_luminance(image)[..., None], 3, axis=2)  # (h, w, 3) float32
    predicted = None if example.pred_mask is None else _shrink_mask(example.pred_mask)
    true = None if example.true_mask is None else _shrink_mask(example.true_mask)
    overlay = None if example.anomaly_map is None else _overlay(grey, _shrink_map(example.anomaly_map), scale)
    if overlay is not None and predicted is not None:
        overlay[_outline(predicted)] = (0, 0, 0)
    reconstruction = None if example.reconstruction is None else _shrink(example.reconstruction)
    no_truth = "good part: nothing to mark" if example.defect == GOOD else "no mask was given"
    return [
        Panel("Input", image),
        Panel("Reconstruction", reconstruction, "this method has none"),
        Panel("Anomaly map", overlay, "this method has none"),
        Panel("Predicted mask", _mark(grey, predicted, PREDICTED), "no pixel cut"),
        Panel("Ground truth", _mark(grey, true, TRUE), no_truth),
    ]


def jpeg(picture: np.ndarray) -> bytes:
    """A picture (h, w, 3) uint8 as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, subsampling=0)
    return buffer.getvalue()


def png(picture: np.ndarray) -> bytes:
    """A picture (h, w, 3) uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def montage(rows: Sequence[tuple[str, Sequence[Panel]]]) -> bytes:
    """All rows, each a caption over its panels, below the panels' titles, as one PNG."""
    line, gap = 26, 8
    font = ImageFont.load_default(15)
    height, width = (max(_extent(panels, axis) for _, panels in rows) for axis in (0, 1))
    lefts = [gap + column * (width + gap) for column in range(len(rows[0][1]))]
    sheet = Image.new(
        "RGB", (lefts[-1] + width + gap, gap + line + len(rows) * (line + height + gap)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for left, panel in zip(lefts, rows[0][1], strict=True):
        pen.text((left, gap), panel.title, fill=QUIET, font=font)
    for i, (caption, row) in enumerate(rows):
        top = gap + line + i * (line + height + gap)
        pen.text((gap, top + 3), printable(caption, 120), fill=TEXT, font=font)
        for left, panel in zip(lefts, row, strict=True):
            if panel.picture is None:
                pen.text((left, top + line + gap), panel.absence, fill=QUIET, font=font)
            else:
                sheet.paste(Image.fromarray(panel.picture), (left, top + line))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _spread(rows: list[int], count: int) -> list[int]:
    """At most `count` of the rows, evenly over their order."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[place] for place in places]


def _extent(row: Sequence[Panel], axis: int) -> int:
    return max(panel.picture.shape[axis] for panel in row if panel.picture is not None)


def _display_size(height: int, width: int) -> tuple[int, int]:
    """Width and height, as PIL wants them, with the long side at most `WIDTH`."""
    factor = min(1.0, WIDTH / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _shrink(picture: np.ndarray) -> np.ndarray:
    size = _display_size(*picture.shape[:2])
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _shrink_map(anomaly_map: np.ndarray) -> np.ndarray:
    image = Image.fromarray(anomaly_map.astype(np.float32))
    return np.array(image.resize(_display_size(*anomaly_map.shape), Image.Resampling.BOX))


def _shrink_mask(mask: np.ndarray) -> np.ndarray:
    # any pixel counts: a hair-thin scratch must not vanish in the small picture
    return _shrink_map(mask) > 0


def _luminance(image: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(image).convert("L"), dtype=np.float32)


def _overlay(grey: np.ndarray, anomaly_map: np.ndarray, scale: Scale) -> np.ndarray:
    place = np.floor(scale.place(anomaly_map) * 255.999).astype(np.uint8)
    # a paler picture, so that the colours mean the same on dark parts
    return (0.35 * (90 + 0.65 * grey) + 0.65 * scale.colours[place]).round().astype(np.uint8)


def _mark(grey: np.ndarray, mask: np.ndarray | None, colour: tuple[int, int, int]) -> np.ndarray | None:
    """The picture, pale, with the mask in full colour."""
    if mask is None:
        return None
    marked = 150 + 0.4 * grey
    marked[mask] = 0.25 * grey[mask] + 0.75 * np.array(colour)
    return marked.clip(0, 255).round().astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask that touch a pixel outside it."""
    inside = np.pad(mask, 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return mask & ~core
