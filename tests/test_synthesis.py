"""The synthesise job: files that fit each other, the same again, and folders that it leaves alone."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from anomalib_lite.data.folder import folder_samples
from anomalib_lite.data.images import read_image, read_mask, write_png
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.synthesis import safe_stem, synthesise
from anomalib_lite.types import InputError

MIXED = Corruption(family="mixed")


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two good parts; the name of one is awkward."""
    folder = tmp_path / "parts"
    folder.mkdir()
    paths = [folder / "plain.png", folder / "a (1), été <b>&.png"]
    for level, path in zip((90, 160), paths, strict=True):
        write_png(path, np.full((40, 56, 3), level, np.uint8))
    return paths


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_images_masks_and_annotations_agree(parts: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "set"
    assert synthesise(parts, MIXED, output, seed=3, copies=2, format="png") == 4
    names = ["00000_plain_00", "00000_plain_01", "00001_a_1_t_b_00", "00001_a_1_t_b_01"]
    for folder, ending in (("images", "png"), ("masks", "png"), ("voc", "xml")):
        assert sorted(path.name for path in (output / folder).iterdir()) == [f"{n}.{ending}" for n in names]
    content = json.loads((output / "annotations.json").read_text())
    with (output / "annotations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(content["images"]) == 4
    assert len(content["annotations"]) == len(rows) == 8
    for image in content["images"]:
        source = read_image(Path(image["source"]))
        made = read_image(output / "images" / image["file_name"])
        mask = read_mask(output / "masks" / image["mask"], (40, 56))
        assert np.array_equal((made != source).any(axis=2), mask)
        assert mask.any()
        boxed = np.zeros_like(mask)
        boxes = [found["bbox"] for found in content["annotations"] if found["image_id"] == image["id"]]
        for x, y, width, height in boxes:
            boxed[y : y + height, x : x + width] = True
        assert not (mask & ~boxed).any()
        own = [row for row in rows if row["image"] == image["file_name"]]
        assert [[int(row[key]) for key in ("x", "y", "width", "height")] for row in own] == boxes
        root = ElementTree.parse(output / "voc" / f"{Path(image['file_name']).stem}.xml").getroot()
        assert [found.findtext("name") for found in root.findall("object")] == [row["kind"] for row in own]


def test_the_set_is_a_folder_of_labelled_test_pictures(parts: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "set"
    synthesise(parts, MIXED, output, seed=0, copies=1, format="jpg")
    samples = folder_samples(
        normal_dir=parts[0].parent,
        normal_test_dir=None,
        abnormal_dir=output / "images",
        mask_dir=output / "masks",
        test_share=0.0,
        seed=0,
    )
    made = [sample for sample in samples if sample.label]
    assert [sample.path.suffix for sample in made] == [".jpg", ".jpg"]
    assert all(sample.mask_path is not None for sample in made)


def test_a_jpeg_looks_like_the_png(parts: list[Path], tmp_path: Path) -> None:
    pictures = []
    for format in ("png", "jpg"):
        synthesise(parts[:1], MIXED, tmp_path / format, seed=0, copies=1, format=format)
        pictures.append(read_image(tmp_path / format / "images" / f"00000_plain_00.{format}"))
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 0.03
    masks = [(tmp_path / format / "masks" / "00000_plain_00.png").read_bytes() for format in ("png", "jpg")]
    assert masks[0] == masks[1]


def test_the_same_call_writes_the_same_files(parts: list[Path], tmp_path: Path) -> None:
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    for folder, seed in ((first, 7), (second, 7), (other, 8)):
        synthesise(parts, MIXED, folder, seed=seed, copies=2, format="png")
    assert contents(first) == contents(second)
    assert contents(first)["images/00000_plain_00.png"] != contents(other)["images/00000_plain_00.png"]
    images = [digest for name, digest in contents(first).items() if name.startswith("images/")]
    assert len(set(images)) == 4


def test_a_killed_run_can_be_repeated(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    synthesise(parts, MIXED, whole, seed=7, copies=2, format="png")
    with monkeypatch.context() as patch:
        made: list[object] = []

        def dies(path: Path, *rest: object) -> None:
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(path)
            write_voc(path, *rest)

        from anomalib_lite.data.annotations import write_voc

        patch.setattr("anomalib_lite.synthesis.write_voc", dies)
        with pytest.raises(KeyboardInterrupt):
            synthesise(parts, MIXED, killed, seed=7, copies=2, format="png")
    assert not (killed / "annotations.json").exists()
    synthesise(parts, MIXED, killed, seed=7, copies=2, format="png")
    assert contents(killed) == contents(whole)


def test_other_settings_do_not_mix_with_what_is_there(parts: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "set"
    synthesise(parts, MIXED, output, seed=0, copies=1, format="png")
    before = contents(output)
    for changed in ({"seed": 1}, {"copies": 2}, {"format": "jpg"}):
        with pytest.raises(
            InputError, match=r"set: expected an empty folder, found pictures from other settings"
        ):
            synthesise(parts, MIXED, output, **({"seed": 0, "copies": 1, "format": "png"} | changed))
    with pytest.raises(InputError, match="other settings or photographs"):
        synthesise(parts[:1], MIXED, output, seed=0, copies=1, format="png")
    assert contents(output) == before


def test_a_folder_of_something_else_is_left_alone(parts: list[Path], tmp_path: Path) -> None:
    before = contents(parts[0].parent)
    with pytest.raises(InputError, match=r"parts: expected an empty folder, found 'a \(1\), été <b>&.png'"):
        synthesise(parts, MIXED, parts[0].parent, seed=0, copies=1, format="png")
    assert contents(parts[0].parent) == before
    with pytest.raises(InputError, match=r"plain.png: expected a folder, found a file"):
        synthesise(parts, MIXED, parts[0], seed=0, copies=1, format="png")


def test_hydras_own_files_are_no_hindrance(parts: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "run"
    (output / ".hydra").mkdir(parents=True)
    (output / "synthesise.log").write_text("")
    assert synthesise(parts[:1], MIXED, output, seed=0, copies=1, format="png") == 1


def test_an_output_that_cannot_be_written_is_named(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/set: cannot write the pictures: Not a directory"):
        synthesise(parts, MIXED, tmp_path / "file" / "set", seed=0, copies=1, format="png")


def test_a_damaged_photograph_is_named(parts: list[Path], tmp_path: Path) -> None:
    parts[1].write_bytes(parts[1].read_bytes()[:60])
    with pytest.raises(InputError, match=r"été <b>&.png: expected a whole picture"):
        synthesise(parts, MIXED, tmp_path / "set", seed=0, copies=1, format="png")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"copies": 0}, "copies must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"format": "gif"}, "format must be one of png, jpg, got gif"),
    ],
)
def test_mistakes_are_named(parts: list[Path], tmp_path: Path, wrong: dict[str, object], text: str) -> None:
    arguments: dict[str, object] = {"seed": 0, "copies": 1, "format": "png"} | wrong
    with pytest.raises(InputError, match=text):
        synthesise(parts, MIXED, tmp_path / "set", **arguments)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InputError, match=r"corruption.family=none: expected a family to paste"):
        synthesise(parts, Corruption(family="none"), tmp_path / "set", seed=0, copies=1, format="png")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("ok-1.2_b.png", "ok-1.2_b"),
        (".hidden.png", "hidden"),
        ("日本.png", "picture"),
        ("../up.png", "up"),
        ("x" * 200 + ".png", "x" * 80),
        ("bad\udcff\n.png", "bad"),
    ],
)
def test_stems_are_safe(name: str, stem: str) -> None:
    assert safe_stem(Path(name)) == stem
