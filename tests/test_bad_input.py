"""What a user can get wrong is one line that names the file, exit code 2, and costs nothing that was there."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomalib_lite.data.images import write_png

Run = Callable[..., Any]
Damage = Callable[[Path], Path]  # damages a set and returns the path that the message must name


def assert_one_line(ended: Any, *parts: object) -> None:
    assert ended.code == 2, ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.out + ended.err
    assert [str(part) for part in parts if str(part) not in ended.err] == [], ended.err


@pytest.fixture
def root(draw_set: Callable[..., Path], tmp_path: Path) -> Path:
    """A set of the test's own."""
    return draw_set(tmp_path / "part")


def picture(root: Path) -> Path:
    return root / "train" / "good" / "007.png"


def no_folder(root: Path) -> Path:
    shutil.rmtree(root)
    return root


def no_train_folder(root: Path) -> Path:
    shutil.rmtree(root / "train")
    return root


def empty_folder(root: Path) -> Path:
    shutil.rmtree(root / "train" / "good")
    (root / "train" / "good").mkdir()
    return root / "train" / "good"


def text_named_png(root: Path) -> Path:
    picture(root).write_text("no picture")
    return picture(root)


def text_among_the_test_pictures(root: Path) -> Path:
    path = root / "test" / "hole" / "002.png"
    path.write_text("no picture")
    return path


def truncated_jpeg(root: Path) -> Path:
    path = picture(root).with_suffix(".jpg")
    content = cv2.imencode(".jpg", cv2.imread(str(picture(root))))[1].tobytes()
    picture(root).unlink()
    path.write_bytes(content[: len(content) // 2])
    return path


def no_bytes(root: Path) -> Path:
    picture(root).write_bytes(b"")
    return picture(root)


def mask_of_another_size(root: Path) -> Path:
    path = root / "ground_truth" / "hole" / "001_mask.png"
    write_png(path, np.zeros((20, 30), np.uint8))
    return path


def mask_without_its_picture(root: Path) -> Path:
    path = root / "ground_truth" / "hole" / "009_mask.png"
    write_png(path, np.zeros((48, 64), np.uint8))
    return path


def picture_without_its_mask(root: Path) -> Path:
    (root / "ground_truth" / "hole" / "003_mask.png").unlink()
    return root / "test" / "hole" / "003.png"


def damaged_mask(root: Path) -> Path:
    path = root / "ground_truth" / "hole" / "001_mask.png"
    path.write_bytes(path.read_bytes()[:-30])
    return path


def one_picture(root: Path) -> Path:
    for path in (root / "train" / "good").iterdir():
        if path != picture(root):
            path.unlink()
    return Path("1 normal picture")


def mixed_sizes(root: Path) -> Path:
    pixels = cv2.imread(str(picture(root)))
    write_png(picture(root), cv2.resize(pixels, (48, 64)))
    return picture(root)


def huge_header(root: Path) -> Path:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    picture(root).write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))))
    return picture(root)


def nan_in_a_float_tiff(root: Path) -> Path:
    path = picture(root).with_suffix(".tif")
    pixels = np.full((48, 64, 3), 0.5, np.float32)
    pixels[3, 4] = np.nan
    picture(root).unlink()
    cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (no_folder, ["expected a folder, found nothing there"]),
        (no_train_folder, ["expected train/good with pictures of good parts, found ground_truth, test"]),
        (empty_folder, ["no images in", "looked for .png"]),
        (text_named_png, ["expected a PNG, JPEG, BMP or TIFF picture, found a text file"]),
        (text_among_the_test_pictures, ["expected a PNG, JPEG, BMP or TIFF picture, found a text file"]),
        (truncated_jpeg, ["expected a whole picture, found it cut short or damaged"]),
        (no_bytes, ["expected a PNG, JPEG, BMP or TIFF picture, found an empty file"]),
        (mask_of_another_size, ["48 x 64", "found 20 x 30"]),
        (mask_without_its_picture, ["expected its picture", "found none"]),
        (picture_without_its_mask, ["expected its mask", "found none"]),
        pytest.param(damaged_mask, ["expected a whole picture, found it cut short or damaged"]),
        (one_picture, ["train/good"]),
        (mixed_sizes, ["48 x 64", "64 x 48"]),
        (huge_header, ["expected at most 134,217,728 pixels, found 60000 x 60000"]),
        (nan_in_a_float_tiff, ["expected finite values, found NaN or infinity"]),
    ],
)
def test_bad_pictures(
    damage: Damage,
    parts: Sequence[str],
    root: Path,
    finished: Any,
    train: Run,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Callable[[Path], None],
) -> None:
    earlier = finished.folder
    untouched(earlier)
    monkeypatch.setattr("anomalib_lite.run.make_model", lambda *arguments: pytest.fail("found too late"))
    named = damage(root)
    ended = train(root, finished.outputs)
    assert_one_line(ended, named, *parts)
    assert ended.folder == earlier  # `latest` is the last whole run


@pytest.mark.parametrize(
    "damage", [text_named_png, truncated_jpeg, no_bytes, huge_header, nan_in_a_float_tiff]
)
def test_skipped_pictures_are_listed(damage: Damage, root: Path, tmp_path: Path, train: Run) -> None:
    named = damage(root)
    ended = train(root, tmp_path / "outputs", "data.on_bad_image=skip", "report=true", model="variation")
    assert ended.code == 0, ended.err
    assert f"skipped: {named}" in ended.out
    assert str(named) in (ended.folder / "report.html").read_text()
    assert '"excluded": 1' in (ended.folder / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("grid.size=64 grid.stride=32", ["patch size 64 is larger than the image (24 x 32)"]),
        ("model.widths=[4,4,4,4,4]", ["patch size must be a multiple of 32", "got 16"]),
        ("threshold.alpha=0.001", ["found 20 normal pictures", "999 to set the threshold"]),
        ("data.crop=[0,0,500,500]", ["data.crop", "64 x 48"]),
        ("data.registration=magic", ["registration", "magic", "features"]),
        pytest.param("data.on_bad_image=ignore", ["data.on_bad_image", "ignore", "skip"]),
        pytest.param("data.on_not_aligned=ignore", ["data.on_not_aligned", "ignore", "exclude"]),
        ("embedding=timm embedding.backbone=no_such_net", ["no_such_net"]),
        ("embedding=xception", ["legacy_xception", "ANOMALIB_LITE_WEIGHTS_DIR"]),
        pytest.param("seed=-1", ["seed"]),
        pytest.param("model.batch_size=0", ["model.batch_size"]),
        pytest.param("threads=0", ["threads"]),
    ],
)
def test_bad_settings(
    arguments: str,
    parts: Sequence[str],
    part: Path,
    tmp_path: Path,
    train: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANOMALIB_LITE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_one_line(train(part, tmp_path, *arguments.split()), *parts)


def test_outputs_below_a_file(part: Path, tmp_path: Path, train: Run) -> None:
    (tmp_path / "file").write_text("mine")
    assert_one_line(train(part, tmp_path / "file" / "outputs"), tmp_path / "file", "Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_read_only_outputs(part: Path, tmp_path: Path, train: Run) -> None:
    tmp_path.chmod(0o555)
    try:
        assert_one_line(train(part, tmp_path / "outputs"), tmp_path / "outputs", "Permission denied")
    finally:
        tmp_path.chmod(0o755)


def fill_disk(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(target, full)


@pytest.mark.parametrize(
    "target",
    [
        "anomalib_lite.data.datamodule.write_bundle",  # while preparing
        "anomalib_lite.training.replace_file",  # at a checkpoint
        "anomalib_lite.bundle._write_file",
        "anomalib_lite.run.write_metrics",
        "anomalib_lite.run.write_scores",
        "anomalib_lite.run.write_report",
    ],
)
def test_a_full_disk_at_any_step(
    target: str,
    root: Path,
    finished: Any,
    train: Run,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Callable[[Path], None],
) -> None:
    earlier = finished.folder
    untouched(earlier)
    write_png(picture(root), np.full((48, 64, 3), hash(target) % 200, np.uint8))  # nothing to reuse
    fill_disk(monkeypatch, target)
    ended = train(root, finished.outputs, "report=true")
    assert_one_line(ended, finished.outputs, "No space left on device")
    assert ended.folder == earlier
    monkeypatch.undo()
    assert not [path for path in finished.outputs.rglob("*") if path.name.endswith(".unfinished")]


def test_a_full_disk_in_prediction(
    finished: Any, part: Path, tmp_path: Path, predict: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, "anomalib_lite.inspection.write_png")
    ended = predict(finished.folder / "bundle", part / "test" / "hole", tmp_path)
    assert_one_line(ended, tmp_path, "cannot write the results", "No space left on device")


@pytest.mark.parametrize(
    ("source", "parts"),
    [("nothing", ["expected a folder of pictures, found nothing there"]), ("empty", ["no images in"])],
)
def test_bad_sources(
    source: str,
    parts: Sequence[str],
    finished: Any,
    tmp_path: Path,
    predict: Run,
    untouched: Callable[[Path], None],
) -> None:
    untouched(finished.folder)
    (tmp_path / "empty").mkdir()
    ended = predict(finished.folder / "bundle", tmp_path / source, tmp_path / "out")
    assert_one_line(ended, tmp_path / source, *parts)


def test_an_earlier_prediction_outlives_a_bad_one(
    finished: Any, accepted: list[Path], tmp_path: Path, predict: Run, untouched: Callable[[Path], None]
) -> None:
    bundle, output = finished.folder / "bundle", tmp_path / "out"
    assert predict(bundle, accepted[0], output, "overlays=false").code == 0
    for name in ("scores.csv", "scores.jsonl"):
        (tmp_path / "watched").mkdir(exist_ok=True)
        (tmp_path / "watched" / name).symlink_to(output / name)
    untouched(tmp_path / "watched")
    assert predict(bundle, tmp_path / "nothing", output).code == 2
    assert predict(tmp_path / "no_bundle", accepted[0], output).code == 2
