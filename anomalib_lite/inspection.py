"""Judges photographs with a detector and writes what it says, part by part."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.data.images import list_images, read_image, write_png
from anomalib_lite.detector import Detector
from anomalib_lite.evaluation import score_row
from anomalib_lite.scoring.defects import find_defects
from anomalib_lite.types import Alignment, InputError, Prediction

OUTLINE = (255, 0, 255)  # magenta: neither in the colour map nor usual in a photograph
OUTLINE_SHARE = 600  # the long side of a photograph, in widths of the outline


class Localised(NamedTuple):
    """An anomaly map in the photograph's own pixels."""

    anomaly_map: np.ndarray  # (H0, W0) float32
    mask: np.ndarray  # (H0, W0) bool, above the cut, less regions below the minimum area
    cut: float  # above 0, for drawing


def inspect(
    detector: Detector,
    source: Path,
    output: Path,
    *,
    pictures: bool,
    on_bad_image: Literal["reject", "error"],
) -> dict[str, int]:
    """Judge a photograph or every photograph of a folder, and write each verdict before the next part is read.

    Writes `scores.csv` and `scores.jsonl` (a row a photograph), and, where `pictures` is set, `overlays/` and
    `masks/` (PNG in the photograph's own pixels). `defects` is the list of regions above the pixel cut, as `Defect`
    states them, in the photograph's own pixels; in `scores.csv` only their number. The image cut and the pixel cut
    are two rules: a part judged good may have such regions, and a defective one none. The list is empty as well
    where nothing could be looked for: a rejected part, a method that does not localise, no pixel cut.

    Returns:
        How many parts were `good`, `defective`, `rejected` (not judged: not aligned, or not readable) or, by a
        detector without a threshold, `unjudged`.

    Raises:
        InputError: for a source that is not there or holds no picture, and for an output that cannot be written.
    """
    if on_bad_image not in ("reject", "error"):
        raise InputError(f"on_bad_image must be reject or error, got {on_bad_image}")
    paths = [source] if source.is_file() else list_images(source)
    counts = {"good": 0, "defective": 0, "rejected": 0, "unjudged": 0}
    try:
        for folder in (output, output / "overlays", output / "masks") if pictures else (output,):
            folder.mkdir(parents=True, exist_ok=True)
        with (
            (output / "scores.csv").open("w", newline="") as table,
            (output / "scores.jsonl").open("w") as lines,
        ):
            writer: csv.DictWriter[str] | None = None
            for number, path in enumerate(tqdm(paths, desc="inspecting", unit="part", disable=None)):
                prediction, photograph = _judge(detector, path, on_bad_image)
                localised = None if photograph is None else _localise(detector, prediction, photograph)
                defects = [] if localised is None else _defects(detector, localised)
                row = score_row(prediction)
                if writer is None:
                    writer = csv.DictWriter(table, fieldnames=[*row, "defects"])
                    writer.writeheader()
                writer.writerow(row | {"defects": len(defects)})
                lines.write(json.dumps(row | {"defects": defects}) + "\n")
                table.flush()
                lines.flush()
                counts[_verdict(prediction)] += 1
                if pictures and photograph is not None and localised is not None:
                    _write_pictures(localised, photograph, output, f"{number:05d}_{path.stem}")
    except OSError as error:
        raise InputError(f"{output}: cannot write the results: {error.strerror or error}") from None
    return counts


def _judge(detector: Detector, path: Path, on_bad_image: str) -> tuple[Prediction, np.ndarray | None]:
    try:
        photograph = read_image(path)
    except InputError as error:
        if on_bad_image == "error":
            raise
        alignment = Alignment(np.eye(2, 3), quality=0.0, accepted=False, reason="not readable")
        return Prediction(path, float("nan"), None, None, None, None, alignment, rejected=str(error)), None
    return detector.predict(photograph, path), photograph


def _verdict(prediction: Prediction) -> str:
    if prediction.rejected:
        return "rejected"
    return {0: "good", 1: "defective", None: "unjudged"}[prediction.pred_label]


def _localise(detector: Detector, prediction: Prediction, photograph: np.ndarray) -> Localised | None:
    """The map and its mask in the photograph's pixels; None where the detector gives no map."""
    if prediction.anomaly_map is None:
        return None
    size = (photograph.shape[0], photograph.shape[1])
    carried, mask = detector.carry(prediction.anomaly_map, prediction.alignment, size)
    if mask is None or detector.tau_ is None:
        return Localised(carried, np.zeros(size, bool), float(carried.max()) or 1.0)
    return Localised(carried, mask, max(detector.tau_, float(np.finfo(np.float32).tiny)))


def _defects(detector: Detector, localised: Localised) -> list[dict[str, Any]]:
    scale = detector.postprocess.mm_per_pixel
    found = find_defects(localised.anomaly_map, localised.mask, mm_per_pixel=scale)
    return [asdict(defect) for defect in found]


def _write_pictures(localised: Localised, photograph: np.ndarray, output: Path, name: str) -> None:
    write_png(output / "masks" / f"{name}.png", localised.mask.astype(np.uint8) * 255)
    coloured = overlay(photograph, localised.anomaly_map, localised.cut)
    write_png(output / "overlays" / f"{name}.png", outlined(coloured, localised.mask))


def overlay(photograph: np.ndarray, anomaly_map: np.ndarray, cut: float) -> np.ndarray:
    """The photograph (H, W, 3) in [0, 1] under a blue-to-red map (H, W) that is half-way at `cut`; uint8 (H, W, 3).

    >>> overlay(np.zeros((4, 4, 3), np.float32), np.ones((4, 4), np.float32), cut=1.0).shape
    (4, 4, 3)
    """
    level = (anomaly_map / (2 * cut)).clip(0, 1)
    coloured = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    weight = (0.6 * level)[..., None]  # good regions stay as photographed
    return (photograph * 255 * (1 - weight) + coloured * weight).round().astype(np.uint8)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of a picture (H, W, 3) uint8 with a line around each region of a mask (H, W), just outside of it.

    >>> outlined(np.zeros((3, 5, 3), np.uint8), np.eye(3, 5, 1, dtype=bool))[0].tolist()
    [[255, 0, 255], [0, 0, 0], [255, 0, 255], [255, 0, 255], [0, 0, 0]]
    """
    width = max(1, round(max(mask.shape) / OUTLINE_SHARE))
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    ring = cv2.dilate(mask.astype(np.uint8), square).astype(bool) & ~mask
    drawn = picture.copy()
    drawn[ring] = OUTLINE
    return drawn
