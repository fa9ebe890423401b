"""Writes pictures with synthetic defects, their masks and their annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.data.annotations import Annotation, write_csv, write_json, write_voc
from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.report.files import replace_file
from anomalib_lite.types import InputError

FORMATS = ("png", "jpg")
JPEG_QUALITY = 95
SETTINGS = "synthesis.json"  # written first: whose folder this is, and what it is made from
STEM_LIMIT = 80  # characters of a photograph's name in the names of what is made from it


def synthesise(
    paths: Sequence[Path], corruption: Corruption, output: Path, *, seed: int, copies: int, format: str
) -> int:
    """Make `copies` pictures with synthetic defects from each photograph; returns how many were made.

    Writes `images/`, `masks/` (PNG, 255 where the picture was changed), `voc/` (an XML file a picture),
    `annotations.json` (COCO) and `annotations.csv`. JPEG compression changes pixels outside the masks, too. The
    same call writes the same files, so that one that was killed can be repeated.

    Raises:
        InputError: for settings out of range, for a photograph that cannot be read, and for an output that cannot
            be written or holds anything else.
    """
    if not corruption.active:
        raise InputError(f"corruption.family={corruption.family}: expected a family to paste")
    if copies < 1:
        raise InputError(f"copies must be at least 1, got {copies}")
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}")
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {format}")
    settings = {
        "sources": [_text(path) for path in paths],
        "seed": seed,
        "copies": copies,
        "format": format,
        "corruption": corruption.facts(),
    }
    try:
        _claim(output, settings)
        jobs = [(number, path, copy) for number, path in enumerate(paths) for copy in range(copies)]
        annotations = []
        for number, path, copy in tqdm(jobs, desc="synthesising", unit="picture", disable=None):
            rng = np.random.default_rng([seed, number, copy])
            name = f"{number:05d}_{safe_stem(path)}_{copy:02d}"
            annotations.append(_make(path, corruption, rng, output, name, format))
        write_csv(output / "annotations.csv", annotations)
        write_json(output / "annotations.json", annotations)
    except OSError as error:
        raise InputError(f"{output}: cannot write the pictures: {error.strerror or error}") from None
    return len(annotations)


def safe_stem(path: Path) -> str:
    """A file's name without its ending, of letters, digits and `_.-` only.

    >>> safe_stem(Path("parts/a (1), left.png"))
    'a_1_left'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).strip("_.")[:STEM_LIMIT] or "picture"


def _make(
    path: Path, corruption: Corruption, rng: np.random.Generator, output: Path, name: str, format: str
) -> Annotation:
    """One picture with its mask and its XML file."""
    corrupted = corruption(read_image(path), rng)
    height, width = corrupted.mask.shape
    annotation = Annotation(
        image=f"{name}.{format}",
        mask=f"{name}.png",
        source=_text(path),
        size=(height, width),
        objects=corrupted.objects,
    )
    pixels = (corrupted.image * 255).round().astype(np.uint8)
    image_path = output / "images" / annotation.image
    if format == "png":
        write_png(image_path, pixels)
    else:
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
        replace_file(image_path, data.tobytes())
    write_png(output / "masks" / annotation.mask, corrupted.mask.astype(np.uint8) * 255)
    write_voc(output / "voc" / f"{name}.xml", annotation)
    return annotation


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Make the folders; raises InputError unless `output` is empty or from the same call."""
    if output.exists() and not output.is_dir():
        raise InputError(f"output={output}: expected a folder, found a file")
    marker = output / SETTINGS
    content = json.dumps(settings, indent=1) + "\n"
    if marker.exists():
        if marker.read_text(encoding="utf-8", errors="replace") != content:
            raise InputError(
                f"output={output}: expected an empty folder, found pictures from other settings or photographs "
                f"(see {SETTINGS})"
            )
    elif output.is_dir():
        # Hydra's own files are there already where a run's folder is the output
        others = sorted(
            entry.name
            for entry in output.iterdir()
            if not entry.name.startswith(".") and entry.suffix != ".log"
        )
        if others:
            raise InputError(
                f"output={output}: expected an empty folder, found {', '.join(map(repr, others[:3]))}"
            )
    for folder in ("images", "masks", "voc"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    replace_file(marker, content.encode())


def _text(path: Path) -> str:
    """A path for a file that is text; its name may hold bytes that are none."""
    return str(path).encode(errors="backslashreplace").decode()
