"""What lies on disk after marks: one picture in one place, the record of all that was said."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from anomalib_lite.data.images import read_image
from anomalib_lite.serving.reviews import Reviews
from anomalib_lite.types import InputError

FACTS = {
    "time": "2026-11-26T10:00:00.000+01:00", "verdict": "defective", "raw_score": 3.0, "pred_score": 0.7,
    "rejected": "", "source": "camera 0", "frame": 7,
}  # fmt: skip


def pictures(folder):
    return sorted(
        path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.suffix in (".png", ".jpg")
    )


def record(folder):
    return [json.loads(line) for line in (folder / "reviews.jsonl").read_text().splitlines()]


def test_marked_again_a_picture_moves(tmp_path, encode, picture):
    content = encode(picture())
    first = Reviews(tmp_path, bundle="b").mark(FACTS, content, "good")
    assert first.read_bytes() == content
    assert first.parent == tmp_path / "good"
    again = Reviews(tmp_path, bundle="b").mark(FACTS, content, "defective")  # after a restart
    assert (again.name, pictures(tmp_path)) == (first.name, ["defective"])
    reviews = Reviews(tmp_path, bundle="b")
    assert reviews.mark(FACTS, content, "defective") == again
    assert pictures(tmp_path) == ["defective"]
    assert reviews.mark(FACTS, content, None) is None
    assert pictures(tmp_path) == []
    assert [line["mark"] for line in record(tmp_path)] == ["good", "defective", "defective", None]


def test_the_record(tmp_path, encode, picture):
    content = encode(picture())
    path = Reviews(tmp_path, bundle="outputs/x/bundle").mark(FACTS, content, "good")
    (line,) = record(tmp_path)
    assert line.pop("time")[:2] == "20"
    digest = hashlib.sha256(content).hexdigest()
    assert digest[:32] in path.name
    assert line == {
        "schema": "anomalib-lite/review", "version": 1, "mark": "good", "kind": "false reject",
        "file": f"good/{path.name}", "sha256": digest, "bundle": "outputs/x/bundle",
        "judged": FACTS["time"], "verdict": "defective", "raw_score": 3.0, "pred_score": 0.7, "rejected": "",
        "source": "camera 0", "frame": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "mark", "kind"),
    [
        ("good", "defective", "miss"),
        ("good", "good", "other"),
        ("rejected", "good", "other"),
        ("good", None, None),
    ],
)
def test_kinds(tmp_path, encode, picture, verdict, mark, kind):
    Reviews(tmp_path, bundle="b").mark(FACTS | {"verdict": verdict}, encode(picture()), mark)
    assert record(tmp_path)[0]["kind"] == kind


def test_a_frame_is_written_without_loss(tmp_path, picture):
    frame = picture((3, 4, 5, 6))
    path = Reviews(tmp_path, bundle="b").mark(FACTS, frame, "defective")
    assert path.suffix == ".png"
    assert np.array_equal(np.rint(read_image(path) * 255).astype(np.uint8), frame)


def test_other_pictures_stay(tmp_path, encode, picture):
    reviews = Reviews(tmp_path, bundle="b")
    for seed in range(3):
        reviews.mark(FACTS, encode(picture(seed=seed)), "good")
    reviews.mark(FACTS, encode(picture(seed=1)), "defective")
    assert pictures(tmp_path) == ["defective", "good", "good"]


def test_a_torn_line_is_left_alone(tmp_path, encode, picture):
    (tmp_path / "reviews.jsonl").write_text('{"mark": "go')
    Reviews(tmp_path, bundle="b").mark(FACTS, encode(picture()), "good")
    lines = (tmp_path / "reviews.jsonl").read_text().splitlines()
    assert lines[0] == '{"mark": "go'
    assert json.loads(lines[1])["mark"] == "good"


def test_a_write_that_fails_leaves_no_half_of_a_picture(tmp_path, encode, picture, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Reviews(tmp_path, bundle="b").mark(FACTS, encode(picture()), "good")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_used(tmp_path):
    Reviews(tmp_path / "new", bundle="b").check()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["defective", "good"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"reviews=.*file: expected a folder to write to: Not a directory"):
        Reviews(tmp_path / "file", bundle="b").check()
