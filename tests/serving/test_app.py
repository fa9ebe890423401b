"""The routes: what an upload is answered, what is refused and how, and that no request reaches a file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from anomalib_lite.data.folder import folder_samples
from anomalib_lite.data.images import read_image
from anomalib_lite.inspector import annotate, examine, load_inspector
from anomalib_lite.serving.app import make_app
from anomalib_lite.serving.reviews import Reviews

HOLE = (20, 10, 6, 4)  # x, y, width, height


def test_an_upload_is_answered_with_verdict_score_and_defects(client, picture, encode, upload):
    answer = upload(client, encode(picture(HOLE)), name="a b.png")
    assert answer.status_code == 201
    part = answer.json()
    assert (part["schema"], part["version"]) == ("anomalib-lite/part", 1)
    assert (part["verdict"], part["raw_score"], part["path"]) == ("defective", 24.0, "a b.png")
    assert (part["width"], part["height"], part["localised"], part["mark"]) == (60, 40, True, None)
    assert part["defect_count"] == 1
    assert part["defects"][0]["box"] == list(HOLE)
    assert part["defects"][0]["area"] == 24
    assert client.get(f"/api/parts/{part['id']}").json() == part
    assert client.get("/api/parts").json()["counts"] == {
        "good": 0, "defective": 1, "rejected": 0, "unjudged": 0,
    }  # fmt: skip


def test_good_not_aligned_and_unjudged_parts(client, picture, encode, darkness, reviews, upload):
    assert upload(client, encode(picture())).json()["verdict"] == "good"
    part = upload(client, encode(np.full((40, 60, 3), 255, np.uint8))).json()
    assert (part["verdict"], part["rejected"], part["raw_score"]) == ("rejected", "nothing but bench", None)
    assert not part["localised"]
    assert client.get(f"/api/parts/{part['id']}/photograph.jpg").status_code == 200
    assert client.get(f"/api/parts/{part['id']}/overlay.png").status_code == 404

    app = make_app(darkness(raw_cut=None, tau_=None), bundle="b", reviews=Reviews(reviews, bundle="b"))
    with TestClient(app, base_url="http://127.0.0.1") as other:
        assert other.get("/api/about").json()["cut"] is None
        assert upload(other, encode(picture(HOLE))).json()["verdict"] == "unjudged"


def test_the_pictures_are_the_part_as_annotated_elsewhere(client, picture, encode, darkness, upload):
    number = upload(client, encode(picture(HOLE))).json()["id"]
    shown = {
        name: cv2.imdecode(
            np.frombuffer(client.get(f"/api/parts/{number}/{name}").content, np.uint8), cv2.IMREAD_UNCHANGED
        )
        for name in ("photograph.jpg", "thumbnail.jpg", "overlay.png")
    }
    assert (
        np.abs(shown["photograph.jpg"][..., ::-1].astype(int) - picture(HOLE)).mean() < 8
    )  # noise, in a JPEG
    assert shown["thumbnail.jpg"].shape == (40, 60, 3)
    overlay = shown["overlay.png"].astype(float)
    assert overlay.shape == (40, 60, 4)
    assert overlay[0, 0, 3] == 0
    # at the opacity that the page begins with it is what predict.py writes
    opacity = 0.6 * overlay[..., 3:] / 255
    blended = picture(HOLE) * (1 - opacity) + overlay[..., 2::-1] * opacity
    photograph = picture(HOLE).astype(np.float32) / 255
    annotated = annotate(photograph, examine(darkness(), photograph, Path("x")))
    inside = (slice(10, 14), slice(20, 26))
    assert np.abs(blended[inside] - annotated[inside]).max() < 2


def test_what_is_kept_in_16_bits_or_sideways_is_judged_as_a_file_would_be(client, encode, picture, upload):
    deep = cv2.imencode(".png", picture(HOLE).astype(np.uint16) * 257)[1].tobytes()
    assert upload(client, deep).json()["raw_score"] == 24
    assert upload(client, encode(picture(HOLE), ".bmp")).json()["raw_score"] == 24
    assert upload(client, encode(picture(HOLE), ".tiff")).json()["raw_score"] == 24


@pytest.mark.parametrize(
    "address",
    [
        "0", "1", "-1", "9" * 30, "9" * 5000, "1.0", "1e3", "\u0661", "%00", "..", "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd", "x/../1",
    ],
)  # fmt: skip
def test_numbers_that_are_not_there(client, address):
    for path in (f"/api/parts/{address}", f"/api/parts/{address}/photograph.jpg"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]
    assert client.post(f"/api/parts/{address}/mark", json={"mark": "good"}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/redoc",
        "/openapi.json",
        "/page.js/../index.html",
        "/index.html",
        "/%2e%2e/app.py",
        "/static/x",
        "/api/parts/",
        "/page.js/",
    ],
)
def test_other_addresses(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json() == {"error": "Not Found"}


def test_other_pictures_and_methods(client, picture, encode, upload):
    number = upload(client, encode(picture())).json()["id"]
    assert client.get(f"/api/parts/{number}/map.npy").status_code == 404
    assert client.get(f"/api/parts/{number}/..%2f").status_code == 404
    assert client.delete(f"/api/parts/{number}").status_code == 405
    assert client.put("/api/parts", content=b"").status_code == 405


def test_parts_after_a_number(client, picture, encode, upload):
    numbers = [upload(client, encode(picture(seed=seed))).json()["id"] for seed in range(3)]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    for after, expected in (
        (0, numbers),
        (numbers[0], numbers[1:]),
        (numbers[2], []),
        ("x", numbers),
        (-1, numbers),
    ):
        state = client.get("/api/parts", params={"after": after}).json()
        assert [part["id"] for part in state["parts"]] == expected
    assert state["session"] == numbers[0] - 1
    assert state["stream"] is None
    assert state["drift"] is None


def test_about(client):
    about = client.get("/api/about").json()
    assert (about["bundle"], about["cut"], about["upload_bytes"]) == ("outputs/x/bundle", 10.0, 50_000)
    assert about["scores"] == [float(score) for score in range(9)]
    assert about["card"]["calibration"]["guarantee"] == "at most 10 % of good parts are rejected"


def test_a_card_may_hold_anything_that_a_bundle_holds(darkness, reviews):
    inspector = darkness(
        raw_cut=float("inf"), calibration=None, card={"a": [float("nan"), None, True], "b": Path("x")}
    )
    app = make_app(inspector, bundle="b", reviews=Reviews(reviews, bundle="b"))
    with TestClient(app, base_url="http://localhost") as client:
        about = client.get("/api/about").json()
    assert (about["cut"], about["scores"]) == (None, [])
    assert about["card"] == {"a": [None, None, True], "b": "x"}


def test_marks_are_written_where_training_reads_them(client, picture, encode, reviews, upload):
    good = [encode(picture(HOLE, seed=seed), suffix) for seed, suffix in enumerate((".png", ".jpg", ".bmp"))]
    missed = encode(picture((5, 5, 3, 2)), ".tiff")
    for content in good:
        number = upload(client, content, "same.png").json()["id"]
        assert client.post(f"/api/parts/{number}/mark", json={"mark": "good"}).json()["mark"] == "good"
    part = upload(client, missed).json()
    assert part["verdict"] == "good"
    client.post(f"/api/parts/{part['id']}/mark", json={"mark": "defective"})
    samples = folder_samples(
        normal_dir=reviews / "good", abnormal_dir=reviews / "defective",
        mask_dir=None, normal_test_dir=None, test_share=0, seed=0,
    )  # fmt: skip
    assert sorted(sample.label for sample in samples) == [0, 0, 0, 1]
    assert {sample.path.read_bytes() for sample in samples} == {*good, missed}  # the uploads as they came
    assert {sample.path.suffix for sample in samples} == {".png", ".jpg", ".bmp", ".tif"}
    for sample in samples:
        read_image(sample.path)
    assert client.get("/api/parts").json()["marks"][str(part["id"])] == "defective"
    lines = [json.loads(line) for line in (reviews / "reviews.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["false reject"] * 3 + ["miss"]
    assert (lines[0]["raw_score"], lines[0]["verdict"], lines[0]["bundle"]) == (24.0, "defective", "b")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"mark": "bad"}', b'{"mark": ["good"]}', b'{"mark": {}}',
     b'{"mark": "good", "path": "/x"}', b'{"mark": "../good"}', b"[" * 1000, b"\xff\xfe"],
)  # fmt: skip
def test_marks_that_are_none(client, body, picture, encode, reviews, upload):
    number = upload(client, encode(picture())).json()["id"]
    answer = client.post(f"/api/parts/{number}/mark", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith('expected {"mark": "good"}')
    assert client.post(f"/api/parts/{number}/mark", content=bytes(2000)).status_code == 413
    assert not reviews.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_review_that_cannot_be_written(client, picture, encode, reviews, upload):
    number = upload(client, encode(picture())).json()["id"]
    reviews.mkdir(mode=0o500)
    answer = client.post(f"/api/parts/{number}/mark", json={"mark": "good"})
    assert answer.status_code == 507
    assert "cannot write the review: Permission denied" in answer.json()["error"]


def test_a_review_folder_that_is_a_file(client, picture, encode, reviews, upload):
    number = upload(client, encode(picture())).json()["id"]
    reviews.write_text("")
    answer = client.post(f"/api/parts/{number}/mark", json={"mark": "good"})
    assert answer.status_code == 507
    assert "cannot write the review: Not a directory" in answer.json()["error"]
    assert client.get(f"/api/parts/{number}").json()["mark"] is None


def test_old_parts_go_and_their_pictures_go_first(darkness, reviews, picture, encode, upload):
    contents = [encode(picture(HOLE, seed=seed)) for seed in range(6)]
    app = make_app(
        darkness(), bundle="b", reviews=Reviews(reviews, bundle="b"), kept=4, memory=3 * len(contents[0])
    )
    with TestClient(app, base_url="http://127.0.0.1") as client:
        numbers = [upload(client, content).json()["id"] for content in contents]
        state = client.get("/api/parts").json()
        assert [part["id"] for part in state["parts"]] == numbers[2:]
        assert state["counts"]["defective"] == 6
        assert client.get(f"/api/parts/{numbers[0]}").status_code == 404
        assert state["pictured"] > numbers[2]
        old = f"/api/parts/{numbers[2]}"
        assert client.get(f"{old}/photograph.jpg").status_code == 404
        assert client.get(f"{old}/thumbnail.jpg").content[:3] == b"\xff\xd8\xff"
        refused = client.post(f"{old}/mark", json={"mark": "good"})
        assert (refused.status_code, "no longer kept" in refused.json()["error"]) == (409, True)
        assert client.get(f"/api/parts/{numbers[-1]}/photograph.jpg").status_code == 200


def test_no_telemetry_whatever_the_environment_says(darkness, reviews, monkeypatch):
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "no address")  # refused where it is looked at
    app = make_app(darkness(), bundle="b", reviews=Reviews(reviews, bundle="b"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/api/about").status_code == 200


def test_a_fault_of_ours_is_one_line_and_the_page_lives_on(darkness, reviews, picture, encode, upload):
    inspector = darkness()
    app = make_app(inspector, bundle="b", reviews=Reviews(reviews, bundle="b"))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        inspector.predict = None
        answer = upload(client, encode(picture()))
        assert answer.status_code == 500
        assert answer.json() == {"error": "internal error (TypeError), see the server's log"}
        assert "Content-Security-Policy" in answer.headers
        del inspector.predict
        assert upload(client, encode(picture())).status_code == 201


def test_headers(client, picture, encode, upload):
    number = upload(client, encode(picture())).json()["id"]
    for path in ("/", "/page.js", "/api/parts", f"/api/parts/{number}/photograph.jpg", "/nothing"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_asks_nothing_of_the_network(client):
    page = "".join(client.get(path).text for path in ("/", "/page.css", "/page.js", "/icon.svg"))
    page = page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "http:" not in page
    assert "https:" not in page
    for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert markup not in page
    index = client.get("/").text
    assert "<script>" not in index
    assert "style=" not in index
    assert not re.search(r"\son\w+\s*=", index)  # no handlers inside of tags


def test_a_bundle(finished, part, reviews, upload):
    bundle = finished.folder / "bundle"
    inspector = load_inspector(bundle, threads=1)
    app = make_app(inspector, bundle=str(bundle), reviews=Reviews(reviews, bundle=str(bundle)))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for path in sorted((part / "test").rglob("*.png")):
            expected = examine(inspector, read_image(path), path)
            answer = upload(client, path.read_bytes(), path.name).json()
            assert answer["raw_score"] == expected.prediction.raw_score
            assert answer["verdict"] == expected.verdict
            assert answer["defect_count"] == len(expected.defects)
            assert client.get(f"/api/parts/{answer['id']}/overlay.png").status_code == 200
        assert client.get("/api/about").json()["card"]["calibration"]["rule"] == "conformal"
