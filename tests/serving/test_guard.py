"""Who is let through: by the server's name, by the origin of a change."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from anomalib_lite.serving.guard import Guard, is_loopback


def ask(host, method="GET", *, names=(), addresses=False, headers=None):
    guard = Guard(PlainTextResponse("in"), names=names, addresses=addresses)
    client = TestClient(guard, base_url="http://127.0.0.1")
    return client.request(method, "/", headers={"Host": host, **(headers or {})})


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "localhost."]
)
def test_names_of_the_loopback(host):
    assert ask(host).text == "in"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example",
     "192.168.1.7", "", "localhost:8000:1", "[::1", "::1", "local host", "localhost/", "127.0.0.1:80a"],
)  # fmt: skip
def test_other_names_are_refused(host):
    answer = ask(host)
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("this server is not called that")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_beyond_the_loopback_addresses_cannot_be_rebound_but_names_can():
    assert ask("192.168.1.7:8000", addresses=True).status_code == 200
    assert ask("[fe80::1]:8000", addresses=True).status_code == 200
    assert ask("evil.example", addresses=True).status_code == 403
    assert ask("line-3", addresses=True, names=("Line-3",)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # not a browser
        ({"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1:9000"}, 403),  # another server of this machine
        ({"Origin": "http://localhost:8000"}, 403),
        ({"Origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:8000"}, 403),
    ],
)
def test_changes_come_from_the_page_itself(headers, status):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert ask("127.0.0.1:8000", method, headers=headers).status_code == status
    assert ask("127.0.0.1:8000", headers=headers).status_code == 200  # reading is the browser's to forbid


def test_loopback():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "Localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "line-3")] == [False] * 4
