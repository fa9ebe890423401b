"""Annotations of pictures with known defects, in the formats that other tools read: COCO JSON, CSV, Pascal VOC."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from anomalib_lite.data.pasting import PastedObject
from anomalib_lite.report.files import replace_file

COLUMNS = ("image", "mask", "source", "kind", "x", "y", "width", "height", "area")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One picture, its mask and what is in it."""

    image: str  # file names
    mask: str
    source: str  # the photograph that it was made from
    size: tuple[int, int]  # (H, W)
    objects: list[PastedObject]


def write_json(path: Path, annotations: Sequence[Annotation]) -> None:
    """Write one file as COCO has it; boxes are [x, y, width, height] in pixels, from 0.

    Each picture also names its `mask` and its `source`.
    """
    kinds = sorted({found.kind for annotation in annotations for found in annotation.objects})
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, annotation in enumerate(annotations, start=1):
        height, width = annotation.size
        images.append(
            {
                "id": number,
                "file_name": annotation.image,
                "width": width,
                "height": height,
                "mask": annotation.mask,
                "source": annotation.source,
            }
        )
        for found in annotation.objects:
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": kinds.index(found.kind) + 1,
                    "bbox": list(found.box),
                    "area": found.area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": kind} for number, kind in enumerate(kinds, start=1)]
    content = {"images": images, "annotations": objects, "categories": categories}
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: Path, annotations: Sequence[Annotation]) -> None:
    """Write one file with a row an object; boxes as in `write_json`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for annotation in annotations:
        for found in annotation.objects:
            names = (annotation.image, annotation.mask, annotation.source, found.kind)
            writer.writerow([*names, *found.box, found.area])
    # a file's name may hold bytes that are no text
    replace_file(path, text.getvalue().encode(errors="backslashreplace"))


def write_voc(path: Path, annotation: Annotation) -> None:
    """Write one picture's file as Pascal VOC has it: corners of boxes in pixels, from 1, both inclusive.

    An object is `truncated` where its box touches the picture's border.
    """
    height, width = annotation.size
    root = ElementTree.Element("annotation")
    _add(root, "folder", "images")
    _add(root, "filename", annotation.image)
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, name, value)
    _add(root, "segmented", 1)
    for found in annotation.objects:
        left, top, box_width, box_height = found.box
        right, bottom = left + box_width, top + box_height
        element = ElementTree.SubElement(root, "object")
        _add(element, "name", found.kind)
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", int(left == 0 or top == 0 or right == width or bottom == height))
        _add(element, "difficult", 0)
        box = ElementTree.SubElement(element, "bndbox")
        corners = (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom))
        for name, value in corners:
            _add(box, name, value)
    ElementTree.indent(root)
    replace_file(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _add(parent: ElementTree.Element, name: str, value: str | int) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
