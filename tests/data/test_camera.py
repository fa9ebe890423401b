"""A camera on the network that damages frames, vanishes, comes back and hangs: a local MJPEG server."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import cv2
import numpy as np
import pytest

from anomalib_lite.data import frame_reader
from anomalib_lite.data.camera import Camera, without_password
from anomalib_lite.data.video import Frame, FrameReader, Stop
from anomalib_lite.types import InputError

PAUSE_S = 0.02  # from frame to frame


def jpeg(number: int) -> bytes:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, : number % 60] = 255
    return cv2.imencode(".jpg", image)[1].tobytes()


class Server:
    """Serves `part(number)` for number = 0, 1, ... on every connection; None: hangs from there on."""

    def __init__(self, port: int, part: Callable[[int], bytes | None] = jpeg) -> None:
        self.alive = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                number = 0
                try:
                    while server.alive:
                        data = part(number)
                        if data is not None:
                            head = (
                                f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                            )
                            self.wfile.write(head.encode() + data + b"\r\n")
                            number += 1
                        time.sleep(PAUSE_S)
                except OSError:  # the camera has hung up
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        self.alive = False
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def serve(port: int) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(part: Callable[[int], bytes | None] = jpeg) -> Server:
        servers.append(Server(port, part))
        return servers[-1]

    yield start
    for server in servers:
        if server.alive:
            server.kill()


def camera(port: int, timeout_s: float = 2.0, give_up_s: float | None = None) -> Camera:
    url = f"http://user:secret@127.0.0.1:{port}/stream.mjpg"
    return Camera(url, timeout_s=timeout_s, longest_pause_s=0.1, give_up_s=give_up_s)


def take(reader: FrameReader, count: int) -> list[Frame]:
    taken: list[Frame] = []
    while len(taken) < count:
        frames = reader.take(count - len(taken))
        assert frames, "the stream ended"
        taken += frames
    return taken


def test_frames_come_with_rising_numbers_and_times(serve: Callable[..., Server], port: int) -> None:
    serve()
    with FrameReader(camera(port), policy="block", size=50) as reader:
        frames = take(reader, 12)
    assert [frame.number for frame in frames] == list(range(12))
    assert frames[0].seconds == pytest.approx(0, abs=0.05)
    assert all(later.seconds > earlier.seconds for earlier, later in pairwise(frames))
    widths = [int((frame.image[24, :, 0] > 128).sum()) for frame in frames]
    assert all(abs(width - number) <= 2 for number, width in enumerate(widths))


def test_camera_that_vanishes_and_returns_goes_on(
    serve: Callable[..., Server], port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    server = serve()
    with FrameReader(camera(port), policy="block", size=1000) as reader:
        before = take(reader, 5)
        server.kill()
        time.sleep(0.4)
        serve()
        while reader.reconnects == 0:
            before += take(reader, 1)
        after = take(reader, 5)
    numbers = [frame.number for frame in before + after]
    assert numbers == list(range(len(numbers)))
    assert reader.reconnects == 1
    assert after[-1].seconds > 0.4
    assert f"http://127.0.0.1:{port}/stream.mjpg: lost after" in caplog.text
    assert "back (1. time)" in caplog.text
    assert "secret" not in caplog.text


def test_damaged_frame_is_reported_and_the_next_one_comes(serve: Callable[..., Server], port: int) -> None:
    serve(lambda number: b"\xff\xd8" + bytes(400) + b"\xff\xd9" if number == 4 else jpeg(number))
    source = camera(port)
    with FrameReader(source, policy="block", size=100) as reader:
        frames = take(reader, 12)
    assert source.reconnects == 0
    errors = [frame for frame in frames if frame.image is None]
    assert [frame.error for frame in errors] == [
        f"frame {errors[0].number} of http://127.0.0.1:{port}/stream.mjpg cannot be decoded"
    ]


def test_camera_that_hangs_is_connected_to_again(serve: Callable[..., Server], port: int) -> None:
    serve(lambda number: jpeg(number) if number < 5 else None)
    with FrameReader(camera(port, timeout_s=0.5), policy="block", size=100) as reader:
        frames = take(reader, 8)
    assert reader.reconnects >= 1
    assert frames[-1].seconds > 0.3


def test_stop_does_not_wait_for_a_camera_that_hangs(
    serve: Callable[..., Server], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_reader, "JOIN_S", 0.3)
    serve(lambda number: jpeg(number) if number < 5 else None)
    reader = FrameReader(camera(port, timeout_s=4.0), policy="block", size=100)
    take(reader, 3)
    reader.stop()
    start = time.monotonic()
    list(reader)
    assert time.monotonic() - start < 1.5


def test_first_connection_that_fails_names_what_was_tried(port: int) -> None:
    with FrameReader(camera(port)) as reader, pytest.raises(InputError) as error:
        reader.take(1)
    assert str(error.value) == (
        f"http://127.0.0.1:{port}/stream.mjpg: expected a stream that gives frames, found none "
        "(tried FFmpeg, 2 s at most)"
    )


def test_index_without_a_camera() -> None:
    with pytest.raises(InputError, match=r"^camera 77: expected a camera that gives frames, found none"):
        next(Camera(77).frames(Stop()))


def test_camera_that_stays_away_is_given_up_if_asked(serve: Callable[..., Server], port: int) -> None:
    server = serve()
    with FrameReader(camera(port, give_up_s=0.3), policy="block", size=1000) as reader:
        take(reader, 2)
        server.kill()
        with pytest.raises(InputError, match=r"stream\.mjpg: lost, and not back within \d+ s"):
            list(reader)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:p@ss@10.0.0.7:554/ch1?x=1", "rtsp://10.0.0.7:554/ch1?x=1"),
        ("rtsp://10.0.0.7/ch1?mail=a@b", "rtsp://10.0.0.7/ch1?mail=a@b"),
        ("rtsp://h/user=a&password=b%20c&channel=1", "rtsp://h/user=a&password=***&channel=1"),
        ("http://h/x.mjpg?Token=abc", "http://h/x.mjpg?Token=***"),
        ("http://10.0.0.7", "http://10.0.0.7"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
