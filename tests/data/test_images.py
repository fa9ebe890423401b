"""Reading and writing pictures: values per format, and one clear line per bad file."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from anomalib_lite.data.images import (
    MAX_PIXELS,
    image_size,
    list_images,
    read_image,
    read_mask,
    write_png,
)
from anomalib_lite.types import InputError

DEEP = np.random.default_rng(0).integers(0, 65536, (9, 14, 3)).astype(np.uint16)
COLOUR = (DEEP >> 8).astype(np.uint8)
GREY = COLOUR[..., 0]


def write_pillow(path: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def write_tiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, **{"photometric": photometric, **options})
    return path


def write_deep_png(path: Path, pixels: np.ndarray) -> Path:
    order = {2: slice(None), 3: slice(None, None, -1)}.get(pixels.ndim)
    path.write_bytes(cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., order])[1].tobytes())
    return path


def assert_reads(path: Path, expected: np.ndarray, tolerance: float = 0) -> None:
    image = read_image(path)
    assert image.dtype == np.float32
    assert image_size(path) == image.shape[:2] == expected.shape[:2]
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    np.testing.assert_allclose(image, expected, rtol=0, atol=tolerance)


def error_of(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_image(path)
    text = str(error.value)
    assert text.startswith(f"{path}: expected ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_8_bits_are_read_exactly(tmp_path: Path, suffix: str, pixels: np.ndarray) -> None:
    path = write_pillow(tmp_path / f"part.{suffix}", pixels)
    assert_reads(path, pixels.astype(np.float32) / 255)


def test_jpeg_colours_are_in_rgb_order(tmp_path: Path) -> None:
    orange = np.full((16, 16, 3), (200, 100, 20), np.uint8)
    assert_reads(write_pillow(tmp_path / "part.jpg", orange, quality=95), orange / 255, tolerance=3 / 255)


@pytest.mark.parametrize("write", [write_deep_png, write_tiff])
@pytest.mark.parametrize("pixels", [DEEP, DEEP[..., 0]], ids=["colour", "grey"])
def test_16_bits_are_read_exactly(tmp_path: Path, write: Any, pixels: np.ndarray) -> None:
    suffix = "png" if write is write_deep_png else "tif"
    path = write(tmp_path / f"part.{suffix}", pixels)
    assert_reads(path, pixels.astype(np.float32) / 65535)
    assert np.array_equal(np.round(read_image(path)[..., 0] * 65535), pixels.reshape(9, 14, -1)[..., 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_tiff_is_read_as_it_is(tmp_path: Path, dtype: type) -> None:
    pixels = (DEEP / 65535).astype(dtype)
    assert_reads(write_tiff(tmp_path / "colour.tif", pixels), pixels.astype(np.float32))
    assert_reads(write_tiff(tmp_path / "grey.tif", pixels[..., 1]), pixels[..., 1].astype(np.float32))


@pytest.mark.parametrize(
    "options",
    [{"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": True}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("pixels", [COLOUR, DEEP], ids=["8", "16"])
def test_kinds_of_tiff(tmp_path: Path, pixels: np.ndarray, options: dict[str, Any]) -> None:
    path = write_tiff(tmp_path / "part.tif", pixels, **options)
    assert_reads(path, pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = np.arange(9 * 14).reshape(9, 14, 1)
    expected = COLOUR.astype(np.float32) / 255
    rgba = np.concatenate([COLOUR, alpha.astype(np.uint8)], axis=2)
    assert_reads(write_pillow(tmp_path / "rgba.png", rgba), expected)
    assert_reads(write_pillow(tmp_path / "rgba.tif", rgba), expected)
    assert_reads(write_pillow(tmp_path / "la.png", rgba[..., 2:]), expected[..., 2])

    deep = np.concatenate([DEEP, alpha.astype(np.uint16)], axis=2)
    path = write_tiff(tmp_path / "deep.tif", deep, extrasamples=["unassalpha"])
    assert_reads(path, DEEP.astype(np.float32) / 65535)
    path = tmp_path / "deep.png"
    path.write_bytes(cv2.imencode(".png", deep[..., [2, 1, 0, 3]])[1].tobytes())
    assert_reads(path, DEEP.astype(np.float32) / 65535)


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30]], np.uint8)
    picture = Image.new("P", (3, 1))
    picture.putpalette(colours.tobytes())
    picture.putdata([2, 0, 1])
    picture.save(tmp_path / "palette.png", transparency=b"\x00\x80\xff")
    assert_reads(tmp_path / "palette.png", colours[None, [2, 0, 1]].astype(np.float32) / 255)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    path = write_pillow(tmp_path / "bits.png", (GREY > 127).astype(np.uint8) * 255, "1")
    assert_reads(path, (GREY > 127).astype(np.float32))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_orientation_is_applied_as_viewers_do(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_pillow(tmp_path / f"part.{suffix}", COLOUR, exif=exif)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert_reads(path, expected.astype(np.float32) / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_tiff(tmp_path: Path, orientation: int) -> None:
    path = write_tiff(tmp_path / "deep.tif", DEEP, extratags=[(274, 3, 1, orientation, True)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_pillow(tmp_path / "same.png", COLOUR, exif=exif)
    assert image_size(path) == image_size(tmp_path / "same.png")
    assert np.array_equal(np.round(read_image(path) * 65535) // 256, read_image(tmp_path / "same.png") * 255)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    write_pillow(tmp_path / "part.bmp", COLOUR)
    assert_reads((tmp_path / "part.bmp").rename(tmp_path / "part.png"), COLOUR.astype(np.float32) / 255)


def test_what_is_not_a_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    assert error_of(path) == "expected a picture, found no such file"
    assert error_of(tmp_path) == "expected a picture, found a folder"
    for content, found in [
        (b"", "an empty file"),
        (b"this is a note\n", "a text file"),
        (b"%PDF-1.7\n\xe2\xe3", "something else (it starts with 25 50 44 46 2d 31 2e 37)"),
    ]:
        path.write_bytes(content)
        assert error_of(path) == f"expected a PNG, JPEG, BMP or TIFF picture, found {found}"
        with pytest.raises(InputError, match=re.escape(found)):
            image_size(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "deep.png", "deep.tif", "zip.tif"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_files_cut_short_are_refused(tmp_path: Path, name: str, kept: float, capfd: Any) -> None:
    path = tmp_path / name
    pixels = np.random.default_rng(1).integers(0, 65536, (60, 80, 3)).astype(np.uint16)
    if name == "deep.png":
        write_deep_png(path, pixels)
    elif name in ("deep.tif", "zip.tif"):
        write_tiff(path, pixels, compression="zlib" if name == "zip.tif" else None)
    else:
        write_pillow(path, (pixels >> 8).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert error_of(path).startswith("expected a whole picture, found it cut short or damaged (")
    assert capfd.readouterr().err == ""


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_a_huge_header_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(60_000, 60_000))
    assert error_of(path) == f"expected at most {MAX_PIXELS:,} pixels, found 60000 x 60000"

    path = write_tiff(tmp_path / "huge.tif", COLOUR)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageLength"].overwrite(50_000_000)
    assert error_of(path) == f"expected at most {MAX_PIXELS:,} pixels, found 50000000 x 14"


def test_a_large_but_possible_header_is_judged_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "large.png"  # above the size at which Pillow itself warns
    path.write_bytes(png_header(12_000, 10_000))
    assert image_size(path) == (10_000, 12_000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_tiff_must_be_finite(tmp_path: Path, value: float) -> None:
    pixels = np.full((5, 6), 0.5, np.float32)
    pixels[2, 3] = value
    path = write_tiff(tmp_path / "depth.tif", pixels)
    assert error_of(path) == "expected finite values, found NaN or infinity"


def test_float_tiff_must_lie_between_0_and_1(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "depth.tif", np.array([[0.25, 254.5]], np.float32))
    assert error_of(path) == "expected float values in [0, 1], found 0.25 to 254.5"


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "found"),
    [
        ((4, 5, 5), "uint8", {"planarconfig": "contig"}, "5 channels of 8 bits, unsigned"),
        ((4, 5, 2), "uint16", {"planarconfig": "contig"}, "2 channels of 16 bits, unsigned"),
        ((4, 5, 3), "int16", {"photometric": "rgb"}, "3 channels of 16 bits, signed"),
        ((4, 5, 3), "uint32", {"photometric": "rgb"}, "3 channels of 32 bits, unsigned"),
        ((4, 5, 3), "float16", {"photometric": "rgb"}, "3 channels of 16 bits, float"),
        (
            (3, 4, 5),
            "uint16",
            {"photometric": "rgb", "planarconfig": "separate"},
            "(photometric 2, planar 2)",
        ),
        ((4, 5), "uint16", {"photometric": "miniswhite"}, "(photometric 0, planar 1)"),
    ],
)
def test_unsupported_channels_are_named(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, options: dict[str, Any], found: str
) -> None:
    options = {"photometric": "minisblack", **options}
    text = error_of(write_tiff(tmp_path / "part.tif", np.zeros(shape, dtype), **options))
    assert text.startswith("expected grey, RGB or RGBA of 8 or 16 bits, or a float TIFF, found a TIFF with ")
    assert found in text


def test_cmyk_is_named(tmp_path: Path) -> None:
    assert error_of(write_pillow(tmp_path / "print.jpg", COLOUR, "CMYK")).endswith("found JPEG of mode CMYK")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_several_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    other = Image.fromarray(255 - COLOUR)
    path = write_pillow(tmp_path / f"pages.{suffix}", COLOUR, save_all=True, append_images=[other, other])
    assert error_of(path) == "expected one picture, found 3 pages or frames"


def test_a_thumbnail_in_a_tiff_is_no_page(tmp_path: Path) -> None:
    path = tmp_path / "part.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(DEEP, photometric="rgb")
        writer.write(DEEP[::3, ::3], photometric="rgb", subfiletype=1)
    assert_reads(path, DEEP.astype(np.float32) / 65535)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["a.png", "a.jpg", "a.bmp", "a.tif"]),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
)
def test_a_changed_byte_gives_a_picture_or_an_input_error(
    tmp_path: Path, name: str, at: int, byte: int
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(name[2:], name[2:]))
    content = bytearray(buffer.getvalue())
    content[at % len(content)] = byte
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_image(tmp_path / name).shape[:2] == image_size(tmp_path / name)


# Masks


def test_every_nonzero_pixel_of_a_mask_counts(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [255, 0, 128]], np.uint8)
    path = write_pillow(tmp_path / "mask.png", mask)
    assert read_mask(path, (2, 3)).tolist() == [[False, True, True], [True, False, True]]
    path = write_deep_png(tmp_path / "deep.png", mask.astype(np.uint16))
    assert read_mask(path, (2, 3)).tolist() == [[False, True, True], [True, False, True]]


def test_a_coloured_mask_counts_where_it_is_not_black(tmp_path: Path) -> None:
    mask = np.zeros((2, 2, 3), np.uint8)
    mask[0, 1] = (0, 0, 7)
    assert read_mask(write_pillow(tmp_path / "mask.png", mask), (2, 2)).tolist() == [
        [False, True],
        [False, False],
    ]


def test_a_jpeg_mask_is_not_widened_by_its_compression(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:37, 11:30] = 255
    path = write_pillow(tmp_path / "mask.jpg", mask, quality=90)
    assert (read_image(path)[..., 0] > 0).sum() > (mask > 0).sum()  # smeared
    assert np.array_equal(read_mask(path, (64, 64)), mask > 0)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = write_pillow(tmp_path / "mask.png", GREY)
    with pytest.raises(InputError) as error:
        read_mask(path, (900, 901))
    assert str(error.value) == f"{path}: expected a mask of its image's size, 900 x 901, found 9 x 14"


# Folders


def test_list_images_sorts_and_ignores_what_is_hidden_or_no_picture(tmp_path: Path) -> None:
    for name in ["b.PNG", "a.Tiff", "c.jpeg", ".hidden.png", "notes.txt", "Thumbs.db", "d.webp"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.Tiff", "b.PNG", "c.jpeg"]


def test_list_images_says_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        list_images(tmp_path)
    assert str(error.value) == f"no images in {tmp_path} (looked for .png .jpg .jpeg .bmp .tif .tiff)"
    with pytest.raises(InputError, match="expected a folder of pictures, found nothing there"):
        list_images(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder of pictures, found a file"):
        list_images(tmp_path / "file")


# Writing


@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_written_png_reads_back(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "überprüft 部品.png"
    write_png(path, pixels)
    assert_reads(path, pixels.astype(np.float32) / 255)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_write_png_replaces_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.png"
    write_png(path, GREY)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_png(path, 255 - GREY)
    assert_reads(path, GREY.astype(np.float32) / 255)
    assert [entry.name for entry in tmp_path.iterdir()] == ["part.png"]


def test_write_png_wants_bytes() -> None:
    with pytest.raises(ValueError, match="expected uint8 pixels, got float32"):
        write_png(Path("part.png"), np.zeros((2, 2), np.float32))


# Real photographs


@pytest.mark.real
def test_real_photographs_and_masks_agree(assets: Path) -> None:
    root = assets / "data" / "mvtec" / "bottle"
    photograph = root / "test" / "broken_large" / "000.jpg"
    image = read_image(photograph)
    assert image.shape == (*image_size(photograph), 3) == (900, 900, 3)
    mask = read_mask(root / "ground_truth" / "broken_large" / "000_mask.png", (900, 900))
    assert 0.01 < mask.mean() < 0.3
