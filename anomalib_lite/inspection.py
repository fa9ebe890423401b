"""Judges photographs with a detector and writes what it says, part by part."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.data.images import list_images, read_image, write_png
from anomalib_lite.detector import Detector
from anomalib_lite.evaluation import score_row
from anomalib_lite.types import Alignment, InputError, Prediction


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
    `masks/` (PNG in the photograph's own pixels).

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
                row = score_row(prediction)
                if writer is None:
                    writer = csv.DictWriter(table, fieldnames=list(row))
                    writer.writeheader()
                writer.writerow(row)
                lines.write(json.dumps(row) + "\n")
                table.flush()
                lines.flush()
                counts[_verdict(prediction)] += 1
                if pictures and photograph is not None and prediction.anomaly_map is not None:
                    _write_pictures(detector, prediction, photograph, output, f"{number:05d}_{path.stem}")
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


def _write_pictures(
    detector: Detector, prediction: Prediction, photograph: np.ndarray, output: Path, name: str
) -> None:
    assert prediction.anomaly_map is not None
    size = (photograph.shape[0], photograph.shape[1])
    anomaly_map = detector.preparation.to_photograph(prediction.anomaly_map, prediction.alignment, size)
    cut = detector.tau_ or float(anomaly_map.max()) or 1.0
    mask = anomaly_map > cut
    write_png(output / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
    write_png(output / "overlays" / f"{name}.png", overlay(photograph, anomaly_map, cut))


def overlay(photograph: np.ndarray, anomaly_map: np.ndarray, cut: float) -> np.ndarray:
    """The photograph (H, W, 3) in [0, 1] under a blue-to-red map (H, W) that is half-way at `cut`; uint8 (H, W, 3).

    >>> overlay(np.zeros((4, 4, 3), np.float32), np.ones((4, 4), np.float32), cut=1.0).shape
    (4, 4, 3)
    """
    level = (anomaly_map / (2 * cut)).clip(0, 1)
    coloured = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    weight = (0.6 * level)[..., None]  # good regions stay as photographed
    return (photograph * 255 * (1 - weight) + coloured * weight).round().astype(np.uint8)
