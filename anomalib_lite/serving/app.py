"""The page's routes: what is uploaded, what is shown, what a reviewer says. No path of a request is a file's."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from anomalib_lite.data.frame_reader import FrameReader
from anomalib_lite.drift_watch import Monitor
from anomalib_lite.inspector import Inspector
from anomalib_lite.serving.guard import HEADERS, Guard
from anomalib_lite.serving.judging import Judge, TooManyError
from anomalib_lite.serving.parts import Part, PartTable
from anomalib_lite.serving.reviews import MARKS, Reviews
from anomalib_lite.serving.uploads import receive, shown_name
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

PAGE = {"": "index.html", "page.css": "page.css", "page.js": "page.js", "icon.svg": "icon.svg"}
MEDIA = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
UPLOAD_SECONDS = 120  # for one upload to come in: on a loopback, or a factory's network, it is there at once
DRAWN_SCORES = 500  # of the calibration set, on the page's scale

# newer versions of FastAPI report to wherever the environment says; older ones ignore this
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def make_app(
    inspector: Inspector,
    *,
    bundle: str,
    reviews: Reviews,
    frames: FrameReader | None = None,
    monitor: Monitor | None = None,
    upload_bytes: int = 2**26,
    waiting: int = 8,
    kept: int = 100,
    memory: int = 2**29,
    names: tuple[str, ...] = (),
    addresses: bool = False,
    prepare: Callable[[], object] | None = None,
) -> FastAPI:
    """The page for one inspector, as an ASGI application.

    Args:
        inspector: a detector or an export.
        bundle: its name, shown and written beside reviews.
        reviews: where marked parts go.
        frames: a stream to judge while the page is served.
        monitor: watches drift.
        upload_bytes: the largest upload.
        waiting: uploads that may be under way at once.
        kept, memory: how many parts are listed, and the bytes that their pictures may take.
        names, addresses: what the server may be called, see `Guard`.
        prepare: called once in the thread that judges.
    """
    table = PartTable(kept=kept, memory=memory)
    judge = Judge(inspector, table, monitor=monitor, waiting=waiting, prepare=prepare)
    encoding = asyncio.Semaphore(2)  # pictures encoded at once

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if frames is not None:
            judge.follow(frames)
        yield
        await run_in_threadpool(judge.close)

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,  # pages that fetch scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # an address is right or it is not
        telemetry=NO_TELEMETRY,
    )
    app.add_middleware(Guard, names=names, addresses=addresses)
    _answer_errors(app)
    _add_page(app)
    about = _plain(
        {
            "bundle": bundle,
            "cut": inspector.raw_cut,
            "scores": _thinned(inspector.calibration.scores if inspector.calibration else []),
            "card": inspector.card,
            "upload_bytes": upload_bytes,
            "kept": kept,
            "reviews": str(reviews.folder),
        }
    )

    @app.get("/api/about")
    async def get_about() -> Response:
        return JSONResponse(about)

    @app.get("/api/parts")
    async def get_parts(request: Request) -> Response:
        state = table.state(_number(request.query_params.get("after", "0")) or 0)
        return JSONResponse(state | {"stream": judge.stream(), "drift": _plain(judge.drift)})

    @app.post("/api/parts")
    async def post_part(request: Request) -> Response:
        try:
            with judge.place():
                content = await receive(request, limit=upload_bytes, seconds=UPLOAD_SECONDS)
                future = judge.upload(content, shown_name(request.query_params.get("name", "")))
                part = await asyncio.wrap_future(future)
        except TooManyError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
        except InputError as error:
            raise HTTPException(400, str(error)) from None
        except OSError as error:  # the disk's, on the way of an upload to its reader
            raise HTTPException(507, f"cannot take the upload: {error.strerror or error}") from None
        return JSONResponse(part.state(), status_code=201)

    @app.get("/api/parts/{number}")
    async def get_part(number: str) -> Response:
        return JSONResponse(_part(table, number).state())

    @app.get("/api/parts/{number}/{picture}")
    async def get_picture(number: str, picture: str) -> Response:
        part = _part(table, number)
        media = {"photograph.jpg": "image/jpeg", "thumbnail.jpg": "image/jpeg", "overlay.png": "image/png"}
        if picture not in media:
            raise HTTPException(404, "no such picture")
        async with encoding:
            content = await run_in_threadpool(_encoded, part, picture)
        if content is None:
            raise HTTPException(404, "this picture is not kept")
        return Response(content, media_type=media[picture])

    @app.post("/api/parts/{number}/mark")
    async def post_mark(number: str, request: Request) -> Response:
        part = _part(table, number)
        mark = _read_mark(await receive(request, limit=1024, seconds=UPLOAD_SECONDS))
        original = part.original
        if original is None:
            raise HTTPException(409, "this part's picture is no longer kept, so it cannot be marked")
        try:
            await run_in_threadpool(reviews.mark, part.facts, original, mark)
        except OSError as error:
            raise HTTPException(507, f"{reviews.folder}: cannot write the review: {error.strerror}") from None
        part.mark = mark
        return JSONResponse(part.state())

    return app


def _answer_errors(app: FastAPI) -> None:
    """One line of JSON, whatever went wrong."""

    @app.exception_handler(StarletteHTTPException)
    async def refuse(request: Request, error: StarletteHTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        text = f"internal error ({type(error).__name__}), see the server's log"
        return JSONResponse({"error": text}, 500, headers=HEADERS)  # the guard is not around this one


def _add_page(app: FastAPI) -> None:
    for address, name in PAGE.items():
        content = files("anomalib_lite.serving").joinpath("page", name).read_bytes()
        app.add_route(f"/{address}", _file(content, MEDIA[name.rpartition(".")[2]]))


def _file(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


def _encoded(part: Part, picture: str) -> bytes | None:
    pictures = part.pictures
    if pictures is None:
        return part.thumbnail if picture == "thumbnail.jpg" else None
    if picture == "overlay.png":
        return pictures.overlay()
    return pictures.thumbnail() if picture == "thumbnail.jpg" else pictures.photograph()


def _part(table: PartTable, number: str) -> Part:
    found = _number(number)
    part = None if found is None else table.get(found)
    if part is None:
        raise HTTPException(404, "no such part, or no longer kept")
    return part


def _number(text: str) -> int | None:
    """Digits only: what Python reads as a number beside them has no place in an address."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _read_mark(content: bytes) -> Any:
    try:
        asked = json.loads(content)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict) or set(asked) != {"mark"} or asked["mark"] not in (*MARKS, None):
        raise HTTPException(400, 'expected {"mark": "good"}, {"mark": "defective"} or {"mark": null}')
    return asked["mark"]


def _thinned(scores: list[float]) -> list[float]:
    ordered = sorted(scores)
    return ordered[:: math.ceil(len(ordered) / DRAWN_SCORES)] if ordered else []


def _plain(value: Any) -> Any:
    """JSON values: what is not finite becomes null, what JSON does not know becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
