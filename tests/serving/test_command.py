"""`serve.py` from its arguments to its last word."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest

from anomalib_lite.serving import command
from anomalib_lite.serving.command import serve_command
from anomalib_lite.serving.local import answer_times

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(finished):
    return finished.folder / "bundle"


def serve(tmp_path, monkeypatch, capsys, *arguments):
    monkeypatch.chdir(tmp_path)
    code = serve_command([f"reviews={tmp_path / 'reviews'}", "threads=1", *arguments])
    return code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("bundle=nothing", "nothing"),
        ("source=nothing.xyz", "nothing.xyz: expected a camera's index"),
        ("port=70000", "port must be a whole number from 0 to 65535, got 70000"),
        ("port=http", "port must be a whole number"),
        ("upload_mib=0", "upload_mib must be a whole number from 1 to 1024, got 0"),
        ("waiting=true", "waiting must be a whole number from 1 to 64, got True"),
        ("kept=0", "kept must be a whole number from 1 to 1000, got 0"),
        ("threads=0", "threads must be a whole number at least 1, got 0"),
        ("host=256.1.1.1", "host=256.1.1.1 port=0: cannot listen there"),
        ("drift.window=1", "drift.window must be a whole number, 2 or more, or null, got 1"),
        ("drift.false_alarms=often", "drift.false_alarms must be a number"),
        ("ports=1", "unknown option 'ports'"),
    ],
)
def test_mistakes_are_one_line(bundle, argument, said, tmp_path, monkeypatch, capsys):
    code, line = serve(tmp_path, monkeypatch, capsys, f"bundle={bundle}", "port=0", argument)
    assert code == 2
    assert line.startswith("error: ")
    assert said in line


def test_a_port_that_is_taken(bundle, tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = serve(tmp_path, monkeypatch, capsys, f"bundle={bundle}", f"port={port}")
    assert (code, line) == (
        2,
        f"error: host=127.0.0.1 port={port}: cannot listen there: Address already in use",
    )


def test_a_review_folder_that_cannot_be(bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "reviews").write_text("")
    code, line = serve(tmp_path, monkeypatch, capsys, f"bundle={bundle}")
    assert (code, "reviews: expected a folder to write to" in line) == (2, True)


def test_a_package_that_is_missing(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else True)
    code, line = serve(tmp_path, monkeypatch, capsys, f"bundle={bundle}")
    assert (code, line) == (2, "error: serve needs uvicorn: pip install 'anomalib-lite[serve]'")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_served_until_it_is_stopped(bundle, part, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, ROOT / "serve.py", f"bundle={bundle}", "port=0", "threads=1"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        port = int(re.fullmatch(r"page:    http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())[1])
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/api/parts", body=next((part / "test" / "hole").iterdir()).read_bytes())
        response = connection.getresponse()
        assert response.status == 201
        assert response.getheader("Server") is None
        number_of_part = json.loads(response.read())["id"]
        connection.request("POST", f"/api/parts/{number_of_part}/mark", body=b'{"mark": "good"}')
        assert connection.getresponse().read()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert out.endswith("stopped\n")
    written = sorted(path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file())
    assert [parts[:3] for parts in written] == [
        ("outputs", "reviews", "good"), ("outputs", "reviews", "reviews.jsonl"),
    ]  # fmt: skip


def test_answer_times(darkness, picture, encode, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        path.write_bytes(encode(picture(seed=seed)))
    times = answer_times(darkness(), paths, tmp_path / "reviews", rounds=3)
    assert (len(times.bare), len(times.page)) == (6, 6)
    assert min(*times.bare, *times.page) > 0
    assert min(times.page) < 0.03  # no answer waits for the network's own 40 ms
    assert times.ratio > 0
    assert not (tmp_path / "reviews").exists()
