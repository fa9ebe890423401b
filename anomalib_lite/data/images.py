"""Photographs and masks between disk and memory; a bad file becomes one line that names it.

The content of a file decides its format, not its name. Pillow decodes 8-bit files, noticing those cut short;
OpenCV decodes 16-bit and float files, because Pillow would reduce 16-bit colour to 8 bits.
"""

from __future__ import annotations

import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ExifTags import Base

from anomalib_lite.types import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 2**27  # a header may claim any size: what is above is refused before memory is asked for
MAX_TAGS = 4096  # of a page of a TIFF

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF, which Pillow reads in this byte order only
}
# The classes themselves, not Image.open: that one refuses large pictures without saying how large they are.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_EXPECTED = "expected grey, RGB or RGBA of 8 or 16 bits, or a float TIFF"

# Both libraries would print what the InputError says.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says about its pixels before they are decoded."""

    format: str  # PNG, JPEG, BMP or TIFF
    size: tuple[int, int]  # (H, W) as viewers show it
    deep: bool = False  # 16-bit or float channels
    turn: int = 1  # EXIF orientation, 1 to 8; 1 for TIFF, where both decoders apply it themselves


def read_image(path: Path) -> np.ndarray:
    """Read a photograph as float32 (H, W, 3), RGB in [0, 1], turned the way viewers show it.

    PNG, JPEG, BMP and TIFF of 1, 8 or 16 bits, and float TIFF in [0, 1]. Grey becomes three equal channels,
    a palette its colours; alpha is dropped, not blended. Raises InputError for anything else, for a file that
    is damaged, larger than MAX_PIXELS or holds several pages, and for NaN.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "part.png"
    ...     write_png(path, np.full((2, 3), 51, np.uint8))
    ...     read_image(path)[0, 0]
    array([0.2, 0.2, 0.2], dtype=float32)
    """
    _, pixels = _decode(path)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    return pixels.astype(np.float32) / np.iinfo(pixels.dtype).max


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read ground truth as bool (H, W), true on the defect; raises InputError unless its size is `size`.

    Every nonzero pixel counts, since masks mark defects with 255 as well as with 1, 2, 3. Only in a JPEG,
    whose compression smears the zeros, a pixel counts above half of white.
    """
    header, pixels = _decode(path)
    height, width = pixels.shape[:2]
    if (height, width) != tuple(size):
        raise InputError(
            f"{path}: expected a mask of its image's size, {size[0]} x {size[1]}, found {height} x {width}"
        )
    return np.asarray(pixels.max(axis=2) > (127 if header.format == "JPEG" else 0))


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) as viewers show it, from the header alone; raises InputError if that is unreadable."""
    with _opened(path) as stream:
        return _read_header(path, stream).size


def list_images(folder: Path) -> list[Path]:
    """The pictures directly in `folder`, sorted by name; hidden files are left out.

    Raises InputError if it is missing, is not a folder, or holds no pictures.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise InputError(f"{folder}: expected a folder of pictures, found {found}")
    pictures = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not pictures:
        raise InputError(f"no images in {folder} (looked for {' '.join(IMAGE_SUFFIXES)})")
    return sorted(pictures, key=lambda path: path.name)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W) grey or (H, W, 3) RGB; the file appears whole or not at all."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: expected uint8 pixels, got {pixels.dtype}")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", pixels)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data.tobytes())  # imwrite would fail on names that the system's code page lacks
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def open_file(path: Path, *, expected: str) -> BinaryIO:
    """The bytes of a file that a user has named; raises InputError with what was `expected` where there are none."""
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # would wait for a writer for ever
            raise InputError(f"{path}: expected {expected}, found a pipe")
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: expected {expected}, found no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected {expected}, found a folder") from None
    except OSError as error:
        raise InputError(f"{path}: expected {expected}, cannot open it ({error.strerror})") from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes; whatever a decoder trips over inside the block becomes an InputError."""
    with open_file(path, expected="a picture") as stream:
        try:
            yield stream
        except InputError:
            raise
        except (
            OSError,
            SyntaxError,
            ValueError,
            LookupError,
            TypeError,
            EOFError,
            OverflowError,
            struct.error,
            cv2.error,
        ) as error:
            reason = " ".join(str(error).split())  # on one line
            raise InputError(
                f"{path}: expected a whole picture, found it cut short or damaged ({reason})"
            ) from None
        except MemoryError:
            raise InputError(f"{path}: its pixels take more memory than there is") from None


def _read_header(path: Path, stream: BinaryIO) -> _Header:
    """Format, size and layout from the first bytes; leaves the stream at its start."""
    start = stream.read(32)
    stream.seek(0)
    file_format = next((name for magic, name in _SIGNATURES.items() if start.startswith(magic)), None)
    if file_format is None:
        raise InputError(f"{path}: expected a PNG, JPEG, BMP or TIFF picture, found {_describe(start)}")
    if file_format == "TIFF":
        header = _read_tiff_header(path, stream)
    else:
        picture = _PLUGINS[file_format](stream)
        _refuse_pages(path, getattr(picture, "n_frames", 1))
        # An EXIF block behind a PNG's pixels is not looked for: Pillow would decode the picture to reach it.
        exif = picture.getexif() if file_format == "JPEG" or "exif" in picture.info else {}
        turn = exif.get(Base.Orientation, 1)
        header = _Header(
            format=file_format,
            size=(picture.width, picture.height) if turn in _SIDEWAYS else (picture.height, picture.width),
            deep=file_format == "PNG" and start[24] == 16,  # IHDR's bit depth
            turn=turn,
        )
    height, width = header.size
    if height * width > MAX_PIXELS:
        raise InputError(f"{path}: expected at most {MAX_PIXELS:,} pixels, found {height} x {width}")
    stream.seek(0)
    return header


def _read_tiff_header(path: Path, stream: BinaryIO) -> _Header:
    """Pillow's parser of TIFF tags without its picture class, which knows no float colour."""
    pages = list(_tiff_pages(stream))
    # A reduced copy of the first page (a thumbnail) is not a page of its own.
    _refuse_pages(path, 1 + sum(not page.get(Base.NewSubfileType, 0) & 1 for page in pages[1:]))
    tags = pages[0]
    height, width = tags.get(Base.ImageLength), tags.get(Base.ImageWidth)
    if not height or not width:
        raise OSError("a TIFF without height and width")
    samples, planar = tags.get(Base.SamplesPerPixel, 1), tags.get(Base.PlanarConfiguration, 1)
    bits, kind = max(tags.get(Base.BitsPerSample, (1,))), max(tags.get(Base.SampleFormat, (1,)))
    photometric = tags.get(Base.PhotometricInterpretation, 1)
    shallow = kind == 1 and bits <= 8 and samples <= 4
    # OpenCV misreads the rest: planes apart, white as zero, grey with alpha.
    layout_known = samples in (1, 3, 4) and photometric in (1, 2) and (planar == 1 or samples == 1)
    deep = (kind, bits) in ((1, 16), (3, 32), (3, 64)) and layout_known
    if not (shallow or deep):
        number = {1: "unsigned", 2: "signed", 3: "float"}.get(kind, "unknown")
        raise InputError(
            f"{path}: {_EXPECTED}, found a TIFF with {samples} channels of {bits} bits, {number} "
            f"(photometric {photometric}, planar {planar})"
        )
    sideways = tags.get(Base.Orientation, 1) in _SIDEWAYS
    return _Header(format="TIFF", size=(width, height) if sideways else (height, width), deep=deep)


def _tiff_pages(stream: BinaryIO) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """The tags of every page."""
    start = stream.read(8)
    if start[2:3] == b"+":  # BigTIFF has longer offsets
        start += stream.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    seen = set()
    while tags.next and tags.next not in seen:
        seen.add(tags.next)
        stream.seek(tags.next)
        _refuse_doubled_tags(start[:2], len(start) == 16, stream)
        stream.seek(tags.next)
        tags.load(stream)
        yield copy(tags)


def _refuse_doubled_tags(order: bytes, big: bool, stream: BinaryIO) -> None:
    # of a tag that is there twice Pillow takes the last and libtiff the first: one would check a size, the other
    # decode another
    width, count_format, entry = (8, "Q", 20) if big else (2, "H", 12)
    endian = "<" if order == b"II" else ">"
    (count,) = struct.unpack(f"{endian}{count_format}", stream.read(width))
    entries = stream.read(min(count, MAX_TAGS) * entry)
    found = [entries[place : place + 2] for place in range(0, len(entries), entry)]
    if count > MAX_TAGS or len(set(found)) < len(found):
        raise OSError("tags of a TIFF given twice, or too many of them")


def _refuse_pages(path: Path, pages: int) -> None:
    # Using the first of several lights or frames would silently ignore the others.
    if pages != 1:
        raise InputError(f"{path}: expected one picture, found {pages} pages or frames")


def _describe(start: bytes) -> str:
    if not start:
        return "an empty file"
    if all(32 <= byte < 127 or byte in b"\t\n\r" for byte in start):
        return "a text file"
    return f"something else (it starts with {start[:8].hex(' ')})"


def _decode(path: Path) -> tuple[_Header, np.ndarray]:
    """The header and the pixels (H, W, 3) RGB: uint8, uint16, or float in [0, 1]."""
    with _opened(path) as stream:
        header = _read_header(path, stream)
        pixels = _decode_deep(stream, header) if header.deep else _decode_8_bits(path, stream, header)
        pixels = _turned(pixels, header.turn)
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise InputError(f"{path}: expected finite values, found NaN or infinity")
        if pixels.min() < 0 or pixels.max() > 1:
            raise InputError(
                f"{path}: expected float values in [0, 1], found {pixels.min():g} to {pixels.max():g}"
            )
    return header, pixels


def _decode_8_bits(path: Path, stream: BinaryIO, header: _Header) -> np.ndarray:
    picture = _PLUGINS[header.format](stream)
    if picture.mode not in _MODES:
        raise InputError(f"{path}: {_EXPECTED}, found {header.format} of mode {picture.mode}")
    picture.load()
    picture.info.pop("transparency", None)  # Pillow would warn that it is lost
    return np.asarray(picture.convert("RGB"))


def _decode_deep(stream: BinaryIO, header: _Header) -> np.ndarray:
    if header.format == "PNG":
        PngImagePlugin.PngImageFile(
            stream
        ).verify()  # every chunk's checksum: libpng may return half a picture
        stream.seek(0)
    pixels = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise OSError(f"not a complete {header.format}")
    if sorted(pixels.shape[:2]) != sorted(header.size):  # sorted: OpenCV has turned a TIFF
        raise OSError(f"{header.size} pixels announced, {pixels.shape[:2]} found")
    if pixels.ndim == 2:
        return np.stack([pixels] * 3, axis=-1)
    return pixels[..., 2::-1]  # BGR or BGRA


def _turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Apply an EXIF orientation: 2 to 4 mirror or turn by 180 degrees, 5 to 8 lie on the side."""
    if turn in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
