"""Hostile pictures and masks: refused in one line or read, within the memory that their pixels take."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

Refused = Callable[[str, Path], str]


def png(width: int, height: int, rows: bytes, *, depth: int = 8, more: bytes = b"") -> bytes:
    """A grey PNG with these decompressed rows, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff(entries: list[tuple[int, int, int, bytes]], data: bytes = b"") -> bytes:
    """A TIFF of one page: entries (tag, type, count, value of 4 bytes), in this order, and what follows."""
    table = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + data


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def deep_tiff(first: list[tuple[int, int]], last: list[tuple[int, int]], *, samples: int = 1) -> bytes:
    """A grey 16-bit TIFF with tags before and after the usual ones."""
    usual = [(258, 16), (259, 1), (262, 1), (273, 8), (277, samples), (278, 1), (279, 8)]
    return tiff([(tag, 4, 1, number(value)) for tag, value in [*first, *usual, *last]])


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def jpeg(width: int, height: int) -> bytes:
    """A JPEG of a few bytes whose header says another size."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def deep_png(size: int) -> bytes:
    return png(size, size, bytes(100), depth=16)


def twice(depth: int) -> bytes:
    """A small PNG with a second, large header."""
    return png(
        4,
        4,
        bytes(36),
        depth=depth,
        more=chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, depth, 0, 0, 0, 0)),
    )


SMALL, LARGE = [(256, 2), (257, 2)], [(256, 30_000), (257, 30_000)]  # width and height as tags
ZEROS = {megabytes: zlib.compress(bytes(megabytes * 10**6), 9) for megabytes in (10, 100)}


ATTACKS: dict[str, bytes] = {
    "PNG of 2^31 pixels a side": png(2**31 - 1, 2**31 - 1, bytes(10)),
    "PNG of 50,000 pixels a side": png(50_000, 50_000, bytes(50_001 * 100)),
    "16-bit PNG of 60,000 pixels a side": deep_png(60_000),
    "PNG of no pixels": png(0, 0, b""),
    "PNG with a second header": twice(8),
    "16-bit PNG with a second header": twice(16),
    "PNG with text of 1 GB": png(4, 4, bytes(20), more=chunk(b"zTXt", b"a\0\0" + ZEROS[10] * 100)),
    "PNG with a profile of 100 MB": png(4, 4, bytes(20), more=chunk(b"iCCP", b"a\0\0" + ZEROS[100])),
    "PNG with a chunk of 2 GB": png(4, 4, bytes(20))[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt",
    "PNG without pixels": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)),
    "BMP of 2^31 pixels a side": bmp(2**31 - 1, 2**31 - 1),
    "BMP of a negative size": bmp(-4, -4),
    "BMP without pixels": bmp(4, 4),
    "JPEG of 65,535 pixels a side": jpeg(65535, 65535),
    "TIFF of 2^32 pixels a side": deep_tiff([(256, 2**32 - 1), (257, 2**32 - 1)], []),
    "TIFF whose size is given twice, the large one first": deep_tiff(LARGE, SMALL),
    "TIFF whose size is given twice, the small one first": deep_tiff(SMALL, LARGE),
    "TIFF of 8 bits whose size is given twice": deep_tiff([*LARGE, (258, 8)], SMALL),
    "TIFF without tags": tiff([]),
    "TIFF whose pages are a circle": b"II*\0" + struct.pack("<IHI", 8, 0, 8),
    "TIFF whose page is outside": b"II*\0" + number(2**32 - 1),
    "TIFF with 2^32 bytes a strip": deep_tiff([(256, 4), (257, 4)], [(279, 2**32 - 1)]),
    "TIFF with a billion channels": deep_tiff([(256, 4), (257, 4)], [], samples=10**9),
    "TIFF with tiles of 2^30 pixels": deep_tiff([(256, 4), (257, 4)], [(322, 2**30), (323, 2**30), (324, 8), (325, 8)]),
    "TIFF with a value of 4 GB": tiff([(256, 4, 1, number(4)), (257, 4, 2**32 - 1, number(8))]),
    "BigTIFF with 2^64 tags": b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2**64 - 1),
    "a pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93\x8c\x0etouch code-ran\x85R.",
    "numpy's": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch code-ran) run\n",
    "a zip file": b"PK\x03\x04" + bytes(30),
    "text": b"P6 1000000000 1000000000 255\n",
}  # fmt: skip


@pytest.mark.parametrize("content", ATTACKS.values(), ids=ATTACKS)
def test_hostile_pictures(content: bytes, place: Path, refused: Refused) -> None:
    path = place / "picture.png"
    path.write_bytes(content)
    for reads in ("picture", "mask"):
        assert refused(reads, path).startswith(f"{path}: ")


def orientation(value: Any, kind: int, count: int) -> bytes:
    """A JPEG whose EXIF says this orientation."""
    entry = struct.pack("<HHI", 0x0112, kind, count) + value
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    data = cv2.imencode(".jpg", np.zeros((12, 17, 3), np.uint8))[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(
    "content",
    [
        orientation(b"\xff\xff\0\0", 3, 1),
        orientation(b"\x06\0\x06\0", 3, 2),
        orientation(b"\x06\0\0\0", 2, 4),
        orientation(number(2**32 - 1), 4, 2**32 - 1),
        orientation(bytes(4), 99, 1),
        orientation(bytes(4), 5, 1),
    ],
)
def test_a_hostile_orientation(content: bytes, place: Path, hostile: Any) -> None:
    path = place / "picture.jpg"
    path.write_bytes(content)
    assert hostile("picture", path).outcome in ("read", "refused")


def test_pipes_devices_and_folders(place: Path, refused: Refused) -> None:
    (place / "zero").symlink_to("/dev/zero")
    (place / "null").symlink_to("/dev/null")
    (place / "folder").mkdir()
    (place / "nowhere").symlink_to(place / "nothing")
    os.mkfifo(place / "pipe")
    for name in ("zero", "null", "folder", "nowhere", "pipe", "missing"):
        assert refused("picture", place / name).startswith(f"{place / name}: ")


def test_every_format_is_cut_at_every_tenth_byte(place: Path, hostile: Any, mutating: ModuleType) -> None:
    outcomes = set()
    for name, content in mutating.seed_pictures().items():
        path = place / name
        for length in range(0, len(content), max(1, len(content) // 10)):
            path.write_bytes(content[:length])
            found = hostile("picture", path)
            outcomes.add(found.outcome)
            assert found.outcome in ("refused", "read"), (name, length, found)
    assert "refused" in outcomes


def test_a_bomb_of_the_largest_size_that_is_allowed(place: Path, hostile: Any) -> None:
    """130 million pixels in 160 kB: more than the reading process may have, and a line all the same."""
    side = 11_585
    content = io.BytesIO()
    Image.new("1", (side, side)).save(content, "PNG")
    path = place / "bomb.png"
    path.write_bytes(content.getvalue())
    assert path.stat().st_size < 200_000
    assert hostile("picture", path).outcome == "refused"
