"""The page's server in a thread of this process, and how long its answers take beside a bare prediction."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from anomalib_lite.data.images import read_image
from anomalib_lite.inspector import Inspector, examine
from anomalib_lite.serving.app import make_app
from anomalib_lite.serving.reviews import Reviews
from anomalib_lite.types import InputError

CONNECTIONS = 64
CLOSING_SECONDS = 5


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 picks a free one. Raises InputError where that may not be."""
    ear = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # by name: of a socket without its protocol, asyncio does not know that small answers must not wait (40 ms)
        ear = socket.socket(family, kind, socket.IPPROTO_TCP)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.bind(address)
        ear.listen(CONNECTIONS)
        return ear
    except OSError as error:
        if ear is not None:
            ear.close()
        raise InputError(f"host={host} port={port}: cannot listen there: {error.strerror or error}") from None


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server that says nothing of itself, takes `CONNECTIONS` at once and logs as its caller does."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who asks is not judged by what a request says
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
    )


@contextmanager
def running(app: FastAPI) -> Iterator[int]:
    """Serve on a free port of the loopback for the length of a block; gives the port."""
    server, ear = make_server(app), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [ear]}, name="page", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the page's server did not start")
            time.sleep(0.01)
        yield int(ear.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=3 * CLOSING_SECONDS)
        ear.close()


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """Seconds per photograph: reading and judging it here, and the page's whole answer to an upload of it."""

    bare: list[float]
    page: list[float]

    @property
    def ratio(self) -> float:
        """The page's median in medians of the bare prediction."""
        return statistics.median(self.page) / statistics.median(self.bare)


def answer_times(
    inspector: Inspector, paths: Sequence[Path], reviews: Path, *, rounds: int = 1
) -> AnswerTimes:
    """Judge each photograph here and through the page, in turns, `rounds` times after a warm-up.

    `reviews` is a folder for the page, where nothing is written. Raises InputError for a file that is no picture.
    """
    bare, page = [], []
    app = make_app(inspector, bundle="measured", reviews=Reviews(reviews, bundle="measured"))
    with running(app) as port:
        connection = HTTPConnection("127.0.0.1", port)
        for number in range(rounds + 1):
            for path in paths:
                start = time.perf_counter()
                examine(inspector, read_image(path), path)
                middle = time.perf_counter()
                connection.request("POST", "/api/parts", body=path.read_bytes())
                response = connection.getresponse()
                answer = response.read()
                end = time.perf_counter()
                if response.status != 201:
                    raise InputError(f"{path}: {answer.decode()}")
                if number:  # the first round finds caches cold
                    bare.append(middle - start)
                    page.append(end - middle)
        connection.close()
    return AnswerTimes(bare, page)
