"""Writes an export of a bundle, once it has given the bundle's answers on photographs that taught it nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.bundle import GRAPHS, MANIFEST, PARITY, join_parts, write_bundle
from anomalib_lite.data.images import list_images
from anomalib_lite.detector import Detector
from anomalib_lite.exporting.graph import check_exportable, in_float32, to_onnx, to_openvino
from anomalib_lite.exporting.parity import Parity, as_json, check_parity
from anomalib_lite.runtime.exported import Exported
from anomalib_lite.stages import file_digest
from anomalib_lite.types import InputError

COMPARED = 24  # photographs


def export(bundle: Path, folder: Path, *, format: str, images: Path | None, threads: int) -> list[Parity]:
    """Write an export of a bundle into `folder`: the graph, arrays, settings, parity.json, a manifest.

    Args:
        bundle: of a run.
        folder: an earlier export there is replaced.
        format: `onnx` or `openvino`.
        images: photographs to compare answers on, that taught the bundle nothing; None: the test pictures of its run.
        threads: of the export while it is compared.

    Returns:
        The largest differences between bundle and export, by size of the photographs.

    Raises:
        InputError: for a part that can't be exported, a missing package, no photographs, answers that differ, and
            where nothing can be written; nothing is left at `folder` then but what was there.
    """
    if format not in GRAPHS:
        raise InputError(f"format must be one of {', '.join(GRAPHS)}, got {format}")
    if folder.resolve() == bundle.resolve():
        raise InputError(f"output={folder}: is the bundle itself; it is not replaced")
    detector = Detector.load(bundle)
    check_exportable(detector)
    paths = compared_images(bundle, images)
    precision = None if detector.embedder is None else detector.embedder.precision
    in_float32(detector)
    model, outputs = to_onnx(detector)
    files = {"model.onnx": model} if format == "onnx" else to_openvino(model)
    card = detector.card | {
        "exported from": file_digest(bundle / MANIFEST),
        "exported as": f"{format}, float32"
        + ("" if precision in (None, "float32") else f" (bundle: {precision})"),
        "exported with": {
            name: version(name) for name in ("torch", "onnx", format if format != "onnx" else "onnxruntime")
        },
    }
    arrays, settings = _content(detector, outputs, format=format, card=card)
    # what is compared is what a reader of the folder gets: JSON turns tuples into lists
    settings = json.loads(json.dumps(settings))
    exported = Exported.from_content(arrays, settings, files, threads=threads)
    parities = check_parity(detector, exported, paths)
    files[PARITY] = (json.dumps(as_json(parities), indent=2) + "\n").encode()
    write_bundle(folder, arrays, settings, more=files)
    return parities


def compared_images(bundle: Path, images: Path | None) -> list[Path]:
    """At most 24 photographs to compare answers on, evenly spaced: of a folder, or the test pictures of a bundle's run.

    Raises InputError where there are none.
    """
    if images is not None:
        return _spaced(list_images(images))
    scores = bundle.resolve().parent / "scores.csv"
    if not scores.is_file():
        raise InputError(
            f"{scores}: not there, so that the run's test pictures are unknown; give images=<folder of photographs>"
        )
    with scores.open(newline="") as table:
        paths = [Path(row["path"]) for row in csv.DictReader(table) if row.get("path")]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise InputError(
            f"{scores}: none of its {len(paths)} pictures is there any more; give images=<folder of photographs>"
        )
    return _spaced(there)


def _spaced(paths: Sequence[Path]) -> list[Path]:
    rows = np.unique(np.linspace(0, len(paths) - 1, COMPARED).round().astype(int))
    return [paths[row] for row in rows]


def _content(
    detector: Detector, outputs: list[str], *, format: str, card: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What an export's folder holds beside the graph."""
    parts = {"preparation": detector.preparation.state()}
    if "embedding" in outputs:
        parts |= {"scaler": detector.scaler.state(), "classifier": detector.classifier.state()}
    return join_parts({part: own for part, (own, _) in parts.items()}), {
        "format": format,
        "outputs": outputs,
        "parts": {part: settings for part, (_, settings) in parts.items()},
        "tau": detector.tau_,
        "peak_share": detector.postprocess.peak_share,
        "minimum_area": detector.postprocess.minimum_area,
        "mm_per_pixel": detector.mm_per_pixel,
        "threshold": detector.threshold.state(),
        "on_not_aligned": detector.on_not_aligned,
        "calibration": None if detector.calibration is None else detector.calibration.state(),
        "card": card,
    }
