"""Annotations: what other readers find in the JSON, the CSV and the XML."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

from anomalib_lite.data.annotations import Annotation, write_csv, write_json, write_voc
from anomalib_lite.data.pasting import PastedObject

SCRATCH = PastedObject("scratch", (3, 4, 10, 5), 31)
LEAF = PastedObject('a leaf, <red> & "wet"', (0, 0, 20, 30), 400)
ANNOTATIONS = [
    Annotation("0.png", "0.png", "parts/a,b.png", (60, 80), [SCRATCH, LEAF]),
    Annotation("1.png", "1.png", "parts/c\udcff.png", (50, 40), [SCRATCH]),
]


def test_json_is_coco(tmp_path: Path) -> None:
    write_json(tmp_path / "annotations.json", ANNOTATIONS)
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert content["categories"] == [{"id": 1, "name": LEAF.kind}, {"id": 2, "name": "scratch"}]
    assert content["images"][0] == {
        "id": 1,
        "file_name": "0.png",
        "width": 80,
        "height": 60,
        "mask": "0.png",
        "source": "parts/a,b.png",
    }
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [3, 4, 10, 5], "area": 31, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 30], "area": 400, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [3, 4, 10, 5], "area": 31, "iscrowd": 0},
    ]


def test_csv_has_a_row_an_object(tmp_path: Path) -> None:
    write_csv(tmp_path / "annotations.csv", ANNOTATIONS)
    with (tmp_path / "annotations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert rows[1] == {
        "image": "0.png",
        "mask": "0.png",
        "source": "parts/a,b.png",
        "kind": LEAF.kind,
        "x": "0",
        "y": "0",
        "width": "20",
        "height": "30",
        "area": "400",
    }


def test_voc_counts_from_one_and_includes_the_last_pixel(tmp_path: Path) -> None:
    write_voc(tmp_path / "0.xml", ANNOTATIONS[0])
    root = ElementTree.parse(tmp_path / "0.xml").getroot()
    assert root.tag == "annotation"
    assert root.findtext("filename") == "0.png"
    assert [root.findtext(f"size/{name}") for name in ("width", "height", "depth")] == ["80", "60", "3"]
    scratch, leaf = root.findall("object")
    corners = ("xmin", "ymin", "xmax", "ymax")
    assert [scratch.findtext(f"bndbox/{name}") for name in corners] == ["4", "5", "13", "9"]
    assert [leaf.findtext(f"bndbox/{name}") for name in corners] == ["1", "1", "20", "30"]
    assert [leaf.findtext("name"), scratch.findtext("name")] == [LEAF.kind, "scratch"]
    assert [scratch.findtext("truncated"), leaf.findtext("truncated")] == ["0", "1"]
