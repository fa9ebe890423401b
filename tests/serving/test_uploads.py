"""Uploads that are none, too large, too many, or named to go where they should not."""

from __future__ import annotations

import json
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import numpy as np
import pytest

from anomalib_lite.serving.app import make_app
from anomalib_lite.serving.local import running
from anomalib_lite.serving.reviews import Reviews

HOLE = (20, 10, 6, 4)  # x, y, width, height


def png_claiming(width, height):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BAD = {
    "text": (b"not a picture", "found a text file"),
    "empty": (b"", "found an empty file"),
    "binary": (b"\x00\x01\x02\xff" * 50, "found something else"),
    "pickle": (b"\x80\x04cos\nsystem\n.", "found something else"),
    "claims 10 billion pixels": (png_claiming(100_000, 100_000), "expected at most 134,217,728 pixels"),
    "claims more than it holds": (png_claiming(300, 300), "cut short or damaged"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "found a text file"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_in_one_line(client, content, said, picture, encode, upload):
    answer = upload(client, content)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "/" not in answer.json()["error"]  # no place of this machine
    state = client.get("/api/parts").json()
    assert (state["parts"], sum(state["counts"].values())) == ([], 0)
    assert upload(client, encode(picture())).status_code == 201  # it lives on


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
def test_every_prefix_of_a_picture_is_refused(client, suffix, picture, encode, upload):
    whole = encode(picture(HOLE), suffix)
    for length in np.linspace(0, len(whole) * 0.95, 25).astype(int):
        answer = upload(client, whole[:length])
        assert answer.status_code == 400, length
    assert upload(client, whole).status_code == 201


def test_too_large_is_refused_while_it_comes(client):
    claimed = client.post("/api/parts", content=bytes(50_001))
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield bytes(10_000)

    unclaimed = client.post("/api/parts", content=chunks())
    for answer in (claimed, unclaimed):
        assert answer.status_code == 413
        assert answer.json() == {"error": "expected at most 50,000 bytes, found more"}
    huge = client.post("/api/parts", content=b"", headers={"Content-Length": "9" * 4000})
    assert huge.status_code == 413


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "..\\x.png", "a\x00b.png", "\u202egnp.exe", "x" * 9000, "", "%2e%2e"],
)
def test_a_name_is_text_to_show_and_nothing_else(
    client, name, picture, encode, tmp_path, monkeypatch, reviews, upload
):
    monkeypatch.chdir(tmp_path)
    part = upload(client, encode(picture()), name=name).json()
    assert len(part["path"]) <= 120
    assert part["path"].isprintable()
    client.post(f"/api/parts/{part['id']}/mark", json={"mark": "good"})
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.parent.name for path in written) == ["good", "reviews"]
    assert all(path.is_relative_to(reviews) for path in written)


def test_too_many_uploads_at_once(darkness, reviews, picture, encode):
    judging, go_on = threading.Event(), threading.Event()

    class Slow(darkness):
        def predict(self, photograph, path):
            judging.set()
            go_on.wait(20)
            return super().predict(photograph, path)

    app = make_app(Slow(), bundle="b", reviews=Reviews(reviews, bundle="b"), waiting=1)
    content = encode(picture())
    with running(app) as port, ThreadPoolExecutor(1) as pool:

        def post():
            connection = HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/api/parts", body=content)
            response = connection.getresponse()
            return response.status, response.getheader("Retry-After"), json.loads(response.read())

        first = pool.submit(post)
        assert judging.wait(20)
        assert post() == (503, "1", {"error": "too many uploads at once (1): try again soon"})
        go_on.set()
        assert first.result()[0] == 201
        assert post()[0] == 201


def test_uploads_leave_no_files_behind(client, picture, encode, tmp_path, monkeypatch, upload):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for seed in range(5):
        upload(client, encode(picture(seed=seed)))
        upload(client, b"nothing")
    assert list(tmp_path.iterdir()) == []
