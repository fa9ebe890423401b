"""What a user can get wrong is one line that names the file, exit code 2, and costs nothing that was there."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
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
    monkeypatch.setattr(
        "anomalib_lite.fitting.train_autoencoder", lambda *arguments, **more: pytest.fail("found too late")
    )
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
        ("grid.size=28 grid.stride=14", ["patch size 28 is larger than the image (24 x 32)"]),
        ("postprocess.median=51", ["postprocess.median reaches 25 pixels", "24 x 32"]),
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


@pytest.fixture
def no_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails what gets as far as to look for photographs or a backbone: the settings alone were enough to know."""
    for target in ("data.datamodule.InspectionData.setup", "building.find_weights"):
        monkeypatch.setattr(f"anomalib_lite.{target}", lambda *arguments: pytest.fail("found too late"))


@pytest.mark.usefixtures("no_photographs")
@pytest.mark.parametrize(
    ("model", "arguments", "parts"),
    [
        ("vae", "postprocess.tau=-1", ["postprocess.tau must be 0 or more, or null, got -1"]),
        ("vae", "postprocess.median=4", ["postprocess.median must be odd and positive, got 4"]),
        ("vae", "postprocess.median=65", ["postprocess.median reaches 32 pixels", "32 x 32"]),
        ("vae", "postprocess.predicted_error=0.1", ["postprocess.predicted_error needs", "(cae)"]),
        ("variation", "postprocess=conveyor", ["postprocess.predicted_error needs", "(cae)"]),
        ("cpcae", "model.latent_dim=0", ["model.latent_dim must be at least 1, got 0"]),
        ("vae", "model.latent_dim=0", ["model.latent_dim must be at least 1, got 0"]),
        ("gan", "model.latent_dim=0", ["model.latent_dim must be at least 1, got 0"]),
        (
            "encoder_decoder",
            "grid.size=256 data.downsize=[256,256] model.latent_dim=0",
            ["model.latent_dim must be at least 1, got 0"],
        ),
        ("vae", "model.latent_dim=2.5", ["model.latent_dim must be at least 1 and whole, got 2.5"]),
        ("cpcae", "model.widths=4", ["model.widths must be numbers of at least 1, one or more, got 4"]),
        ("cpcae", "model.widths=[4,4,4,4,4]", ["patch size must be a multiple of 32", "got 16"]),
        ("cae", "model.filters=0", ["model.filters must be at least 1, got 0"]),
        ("cae", "model.depth=5", ["patch size must be a multiple of 32", "model.depth=5", "got 16"]),
        ("dilated", "grid.size=20", ["patch size must be a multiple of 8", "model.widths", "got 20"]),
        ("dilated", "model.dilations=[1,2]", ["model.dilations must be below 2", "16 pixels", "got 2"]),
        ("encoder_decoder", "", ["patch size must be 256 for encoder_decoder", "got 16"]),
        (
            "encoder_decoder",
            "grid.size=256 data.downsize=[256,256] model.batch_size=1",
            ["model.batch_size", "at least 2 patches", "got 1"],
        ),
        ("vae", "model.learning_rate=-1", ["model.learning_rate", "-1"]),
        ("vae", "model.patience=0", ["model.patience must be a whole number, 1 or more, got 0"]),
        ("vae", "trainer.max_epochs=0", ["trainer.max_epochs must be a whole number, 1 or more, got 0"]),
        ("vae", "corruption=mixed corruption.count=0", ["corruption.count must be at least 1, got 0"]),
        ("variation", "corruption=mixed corruption.count=0", ["corruption.count must be at least 1, got 0"]),
        ("cpcae", "scoring=reconstruction_probability", ["a probability (vae), got cpcae"]),
        ("deep_feature", "scoring=similarity", ["needs a model that reconstructs, got deep_feature"]),
        ("variation", "scoring=similarity", ["needs a model that reconstructs, got variation"]),
        ("deep_feature", "scoring=map_maximum", ["needs a model that compares pictures, got deep_feature"]),
        ("vae", "similarity=psnr", ["unknown choice 'similarity/psnr' (choices: average_hash,"]),
        ("vae", "classifier=forest", ["unknown choice 'classifier/forest' (choices: knn, lof,"]),
        ("vae", "logger=[csv,nothing]", ["unknown choice 'logger/nothing' (choices: csv, mlflow,"]),
        ("vae", "classifier=one_class_svm classifier.nu=0", ["classifier.nu must be between 0 and 1", "0.0"]),
        ("vae", "data.downsize=[0,10]", ["data.downsize: expected", "[height, width]", "got [0, 10]"]),
        ("vae", "data.downsize=[1,2,3]", ["data.downsize: expected", "got [1, 2, 3]"]),
        ("vae", "data.downsize=small", ["data.downsize: expected", "got small"]),
        ("vae", "data.downsize=true", ["data.downsize: expected", "got True"]),
        ("vae", "grid.size=64", ["grid.size must be at most 32", "data.downsize", "got 64"]),
    ],
)
def test_settings_that_are_wrong_whatever_the_photographs(
    model: str, arguments: str, parts: Sequence[str], tmp_path: Path, train: Run
) -> None:
    # the photographs need not even be there; the stride fits any size of patch
    ended = train(tmp_path / "nothing", tmp_path, "grid.stride=16", *arguments.split(), model=model)
    assert_one_line(ended, *parts)


@pytest.mark.usefixtures("no_photographs")
@pytest.mark.parametrize("data", ["belt", "fabric"])
def test_a_patch_larger_than_a_rendered_picture(data: str, tmp_path: Path, train: Run) -> None:
    as_rendered = ["data.size=256", "data.downsize=null", "grid.size=300", "grid.stride=300"]
    ended = train(None, tmp_path, f"data={data}", *as_rendered, model="vae")
    assert_one_line(ended, "grid.size must be at most 256", "got 300")


@pytest.mark.parametrize(
    ("data", "picture", "least"),
    [
        ("fabric", "[95,96]", "[96, 96], got [95, 96]"),
        ("belt", "[96,71]", "[96, 72], got [96, 71]"),
        ("fabric", "large", "[96, 96], got large"),
    ],
)
def test_a_rendered_picture_too_small(
    data: str, picture: str, least: str, tmp_path: Path, train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "anomalib_lite.data.datamodule.InspectionData._prepare",
        lambda *arguments: pytest.fail("found too late"),
    )
    ended = train(None, tmp_path, f"data={data}", f"data.picture={picture}", model="variation")
    assert_one_line(ended, f"data.picture must be [width, height] in pixels, at least {least}")
    assert not (tmp_path / "rendered").exists()


def opaque(folder: Path) -> Path:
    write_png(folder / "opaque.png", np.full((9, 9, 3), 200, np.uint8))
    return folder


def damaged_cutout(folder: Path) -> Path:
    path = folder / "leaf.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes()[:900])
    return path


@pytest.mark.usefixtures("no_photographs")
@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda folder: folder / "nowhere", ["expected a folder of pictures, found nothing there"]),
        (lambda folder: folder, ["no images in", "looked for .png"]),
        (opaque, ["expected transparent pictures", "found 1 picture without"]),
        (damaged_cutout, ["expected a whole picture, found it cut short or damaged"]),
    ],
)
def test_bad_cutouts(make: Damage, parts: Sequence[str], tmp_path: Path, train: Run, synthesise: Run) -> None:
    folder = tmp_path / "cut, outs"
    folder.mkdir()
    named = make(folder)
    choice = ["corruption=objects", f"corruption.cutouts={folder if named.is_file() else named}"]
    assert_one_line(train(tmp_path / "nothing", tmp_path / "outputs", *choice, model="vae"), named, *parts)
    write_png(tmp_path / "good.png", np.full((40, 40, 3), 90, np.uint8))
    assert_one_line(synthesise(tmp_path / "good.png", tmp_path / "made", *choice), named, *parts)
    assert not (tmp_path / "made" / "images").exists()


@pytest.fixture
def synthesise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`synthesise.py` in this process: a function of the source, the output and further arguments."""
    from anomalib_lite.run import synthesise_command

    def run(source: Path, output: Path, *more: str) -> SimpleNamespace:
        arguments = [f"source={source}", f"output={output}", f"hydra.run.dir={tmp_path / 'run'}"]
        code = synthesise_command([*arguments, "threads=1", *more])
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return run


@pytest.mark.parametrize(
    ("source", "arguments", "parts"),
    [
        ("nothing", "", ["nothing: expected a folder of pictures, found nothing there"]),
        ("empty", "", ["no images in", "empty", "looked for .png"]),
        ("text.png", "", ["text.png: expected a PNG, JPEG, BMP or TIFF picture, found a text file"]),
        ("part", "format=gif", ["format must be one of png, jpg, got gif"]),
        ("part", "corruption=none", ["corruption.family=none: expected a family to paste"]),
        ("part", "corruption=nothing", ["unknown choice 'corruption/nothing' (choices: defects, mixed,"]),
    ],
)
def test_bad_synthesis(
    source: str, arguments: str, parts: Sequence[str], part: Path, tmp_path: Path, synthesise: Run
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    path = part / "train" / "good" / "000.png" if source == "part" else tmp_path / source
    assert_one_line(synthesise(path, tmp_path / "made", *arguments.split()), *parts)
    assert not list((tmp_path / "made").glob("images/*"))


def test_a_synthesis_leaves_somebody_elses_folder_alone(
    part: Path, tmp_path: Path, synthesise: Run, untouched: Callable[[Path], None]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    untouched(tmp_path / "mine")
    untouched(part)
    source = part / "train" / "good" / "000.png"
    assert_one_line(
        synthesise(source, tmp_path / "mine"), "mine: expected an empty folder, found 'notes.txt'"
    )
    assert_one_line(
        synthesise(source, source.parent), source.parent, "expected an empty folder, found '000.png'"
    )
    assert_one_line(synthesise(source, tmp_path / "mine" / "notes.txt"), "expected a folder")
    assert synthesise(source, tmp_path / "made").code == 0
    untouched(tmp_path / "made" / "images")
    assert_one_line(synthesise(source, tmp_path / "made", "seed=1"), "other settings or photographs")


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
        "anomalib_lite.conclusion.write_metrics",
        "anomalib_lite.conclusion.write_scores",
        "anomalib_lite.conclusion.write_report",
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
