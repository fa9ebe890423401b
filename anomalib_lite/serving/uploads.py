"""From a request's body to a photograph: counted while it comes in, read by its content, named by the server."""

from __future__ import annotations

import asyncio
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from anomalib_lite.data.images import read_image
from anomalib_lite.types import InputError

LONGEST_NAME = 120


async def receive(request: Request, *, limit: int, seconds: float) -> bytes:
    """A request's body of at most `limit` bytes that comes within `seconds`; HTTPException otherwise."""
    too_large = HTTPException(413, f"expected at most {limit:,} bytes, found more")
    claimed = request.headers.get("content-length", "")
    if claimed.isascii() and claimed.isdigit() and (len(claimed) > 15 or int(claimed) > limit):
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(content) + len(chunk) > limit:
                    raise too_large
                content += chunk
    except TimeoutError:
        raise HTTPException(408, f"expected the whole upload within {seconds:g} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the upload was cut short") from None
    return bytes(content)


def read_upload(content: bytes) -> np.ndarray:
    """The photograph (H, W, 3) float32 in [0, 1] of an uploaded file.

    Raises:
        InputError: as `read_image`, without the name of the file that the upload was put in.
    """
    with tempfile.NamedTemporaryFile(prefix="anomalib-lite-") as file:  # for the owner's eyes, gone after
        file.write(content)
        file.flush()
        try:
            return read_image(Path(file.name))
        except InputError as error:
            raise InputError(str(error).removeprefix(f"{file.name}: ")) from None


def shown_name(name: str) -> str:
    """What a browser calls a file, for reading only: one short line without control characters.

    >>> shown_name("../etc/\\x00pass\\nwd\\u202egnp.exe")
    '../etc/passwdgnp.exe'
    """
    visible = "".join(letter for letter in name if unicodedata.category(letter)[0] != "C")
    return visible[:LONGEST_NAME] or "upload"
