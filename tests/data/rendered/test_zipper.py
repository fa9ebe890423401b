"""Rendered zipper cursors: counts, determinism, masks that cover what changed, whole sets or none."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.rendered import zipper
from anomalib_lite.data.rendered.rendering import STALE_SECONDS
from anomalib_lite.data.rendered.zipper import (
    COUNTS,
    DEFECTS,
    defect_strength,
    list_pictures,
    render_picture,
    render_zipper,
)
from anomalib_lite.data.rendered.zipper_light import reflectance_map
from anomalib_lite.data.rendered.zipper_outlines import GLYPHS, box, capsule, leaf, polygon, text
from anomalib_lite.data.rendered.zipper_parts import FAMILIES, geometry
from anomalib_lite.types import InputError

SMALL = (160, 120)
MEDIUM = (400, 300)


def without_defect(monkeypatch: pytest.MonkeyPatch, defect: str, **picture: object) -> np.ndarray:
    """The same part, photographed the same way, without its defect."""
    with monkeypatch.context() as patch:
        patch.setitem(
            zipper.ADD_DEFECT, defect, lambda rng, surface, family, part, strength: 0 * part.coverage
        )
        image, _ = render_picture(split="test", defect=defect, **picture)
    return image


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_zipper(tmp_path_factory.mktemp("zipper"), set_number=3, size=SMALL, seed=4)


def test_the_paper_counts() -> None:
    counts = [(c.train, c.test_normal, c.test_defective) for c in COUNTS.values()]
    assert counts == [(60, 55, 148), (60, 47, 84), (49, 33, 14), (40, 39, 36), (44, 19, 31), (28, 23, 18)]
    for number, expected in enumerate(counts, start=1):
        pictures = list_pictures(number)
        assert len(set(pictures)) == len(pictures) == sum(expected)
        shares = [sum(kind == defect for _, kind, _ in pictures) for defect in DEFECTS]
        assert max(shares) - min(shares) <= 1


def test_layout_on_disk(rendered: Path) -> None:
    assert rendered.name == f"set3_160x120_seed4_v{zipper.RENDERER_VERSION}"
    files = {str(path.relative_to(rendered)) for path in rendered.rglob("*") if path.is_file()}
    expected = {f"train/good/{i:03d}.png" for i in range(49)} | {f"test/good/{i:03d}.png" for i in range(33)}
    for defect, count in zip(DEFECTS, (4, 4, 3, 3), strict=True):
        expected |= {f"test/{defect}/{i:03d}.png" for i in range(count)}
        expected |= {f"ground_truth/{defect}/{i:03d}_mask.png" for i in range(count)}
    assert files == expected | {"rendered.json"}
    assert not [path for path in rendered.parent.iterdir() if path.name.endswith(".part")]


def test_files_hold_the_rendered_picture_and_mask(rendered: Path) -> None:
    image, mask = render_picture(set_number=3, size=SMALL, seed=4, split="test", defect="halo", index=2)
    on_disk = cv2.imread(str(rendered / "test/halo/002.png"), cv2.IMREAD_UNCHANGED)
    mask_on_disk = cv2.imread(str(rendered / "ground_truth/halo/002_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(on_disk[..., ::-1], image)
    np.testing.assert_array_equal(mask_on_disk, mask * 255)


def test_record_says_that_the_pictures_are_rendered(rendered: Path) -> None:
    record = json.loads((rendered / "rendered.json").read_text())
    assert record == {
        "note": "These pictures are rendered, not photographed",
        "renderer_version": zipper.RENDERER_VERSION,
        "set": 3,
        "family": "leaf, antique brass",
        "size": [160, 120],
        "seed": 4,
        "counts": {"train": 49, "test_normal": 33, "test_defective": 14},
    }


def test_finished_set_is_reused(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipper, "render_posed", lambda **_: pytest.fail("rendered again"))
    assert render_zipper(rendered.parent, set_number=3, size=SMALL, seed=4) == rendered


def test_same_picture_again_is_the_same_bytes_and_others_differ() -> None:
    def picture(**changed: object) -> bytes:
        asked = {"set_number": 1, "size": SMALL, "seed": 0, "split": "test", "defect": "bubble", "index": 1}
        return render_picture(**(asked | changed))[0].tobytes()

    first = picture()
    geometry.cache_clear()
    reflectance_map.cache_clear()
    assert picture() == first
    changes = [{"seed": 1}, {"index": 2}, {"defect": "halo"}, {"defect": "good"}, {"set_number": 2}]
    assert len({first} | {picture(**change) for change in changes}) == 6
    assert picture(defect="good") != picture(defect="good", split="train")


@pytest.mark.parametrize("set_number", sorted(FAMILIES))
@pytest.mark.parametrize("defect", DEFECTS)
def test_mask_covers_what_the_defect_changed(
    set_number: int, defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = {"set_number": set_number, "size": MEDIUM, "index": 4}  # the plainest of the first pictures
    image, mask = render_picture(split="test", defect=defect, **picture)
    change = np.abs(image.astype(int) - without_defect(monkeypatch, defect, **picture)).max(axis=-1)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert mask.any()
    assert change[mask].mean() > 5  # of 255
    assert change[~near].sum() < 0.12 * change.sum()
    assert np.percentile(change[~near], 99) <= 2


@pytest.mark.parametrize("set_number", sorted(FAMILIES))
def test_every_defect_is_on_the_part_and_changes_the_picture(
    set_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for defect in DEFECTS:
        for index in range(3):
            picture = {"set_number": set_number, "size": SMALL, "index": index}
            image, mask = render_picture(split="test", defect=defect, **picture)
            *_, pose = zipper.render_posed(seed=0, split="test", defect=defect, **picture)
            coverage = cv2.warpAffine(geometry(set_number, SMALL).coverage, pose, SMALL)
            change = np.abs(image.astype(int) - without_defect(monkeypatch, defect, **picture)).max(axis=-1)
            assert mask.any()
            assert coverage[mask].min() > 0.5
            assert change[mask].max() >= 2


def test_plain_defects_show_more_than_faint_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert defect_strength(1) < 1 / 3
    assert defect_strength(4) > 2 / 3
    for defect in DEFECTS:
        total = []
        for index in (1, 4):
            picture = {"set_number": 1, "size": MEDIUM, "index": index}
            image, _ = render_picture(split="test", defect=defect, **picture)
            total.append(np.abs(image.astype(int) - without_defect(monkeypatch, defect, **picture)).sum())
        assert total[0] < 0.5 * total[1]


def test_a_third_of_the_defects_is_faint() -> None:
    strengths = np.array([defect_strength(index) for index in range(37)])
    assert abs(np.mean(strengths < 1 / 3) - 1 / 3) < 0.03
    assert abs(np.mean(strengths > 2 / 3) - 1 / 3) < 0.03


def test_pose_is_that_of_the_part() -> None:
    """Undoing the pose makes two good parts alike on the metal, which they are not before."""
    first, second = (
        zipper.render_posed(set_number=3, size=MEDIUM, seed=0, split="train", defect="good", index=index)
        for index in (0, 1)
    )
    inside = geometry(3, MEDIUM).coverage > 0.99

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(one[inside].ravel(), other[inside].ravel())[0, 1])

    undone = [
        cv2.warpAffine(image, pose, MEDIUM, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        for image, _, pose in (first, second)
    ]
    assert correlation(*undone) > 0.93
    assert correlation(*undone) > correlation(first[0], second[0]) + 0.1
    for _, _, pose in (first, second):
        assert abs(np.rad2deg(np.arctan2(pose[1, 0], pose[0, 0]))) <= FAMILIES[3].rotation


@settings(max_examples=12, deadline=None)
@given(width=st.integers(96, 260), height=st.integers(72, 260), set_number=st.integers(1, 6))
def test_any_size_renders(width: int, height: int, set_number: int) -> None:
    image, mask = render_picture(set_number=set_number, size=(width, height), split="test", defect="scratch")
    assert image.shape == (height, width, 3)
    assert mask.shape == (height, width)
    assert image.std() > 10  # a part, not an empty picture


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"set_number": 7}, "set must be one of 1..6, got 7"),
        ({"set_number": 0}, "set must be one of 1..6, got 0"),
        ({"size": (95, 72)}, r"size must be at least 96x72 pixels \(width x height\), got 95x72"),
        ({"size": (96, 71)}, r"size must be at least 96x72 pixels \(width x height\), got 96x71"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_rendered_is_said(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    asked = {"set_number": 1, "size": SMALL, "seed": 0} | wrong
    with pytest.raises(InputError, match=message):
        render_zipper(tmp_path / "root", **asked)
    assert not (tmp_path / "root").exists()
    with pytest.raises(InputError, match=message):
        render_picture(**asked)


def test_unknown_defect_names_the_choices() -> None:
    with pytest.raises(
        InputError, match="defect must be one of good, bubble, residue, halo, scratch, got dent"
    ):
        render_picture(set_number=1, size=SMALL, split="test", defect="dent")


def test_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(
        InputError, match=r"set6_96x72_seed0_v1: expected to write .* No space left on device"
    ):
        render_zipper(tmp_path, set_number=6, size=(96, 72))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_root_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"set6_96x72_seed0_v1: expected to write the rendered pictures there"
    ):
        render_zipper(tmp_path / "file", set_number=6, size=(96, 72))


def test_interrupted_run_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, image: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "003.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(zipper, "write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        render_zipper(tmp_path, set_number=6, size=(96, 72))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_only_old_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    old, young = (tmp_path / f".set6_96x72_seed0_v1.{name}.part" for name in ("old", "young"))
    for leftover in (old, young):
        (leftover / "train").mkdir(parents=True)
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(old, (long_ago, long_ago))
    folder = render_zipper(tmp_path, set_number=6, size=(96, 72))
    assert not old.exists()
    assert young.exists()
    assert (folder / "rendered.json").exists()


@pytest.mark.parametrize("record", [None, "{", '{"set": 6}'])
def test_folder_that_is_not_a_finished_set_is_not_taken_for_one(tmp_path: Path, record: str | None) -> None:
    folder = tmp_path / "set6_96x72_seed0_v1"
    folder.mkdir()
    if record is not None:
        (folder / "rendered.json").write_text(record)
    with pytest.raises(
        InputError, match=r"rendered\.json: expected .* found .*; remove .*set6_96x72_seed0_v1"
    ):
        render_zipper(tmp_path, set_number=6, size=(96, 72))


def test_bevels_mirror_the_low_ring_and_faces_do_not() -> None:
    """Dark field: a mirror tilted by half the ring's zenith angle (90 - 22 degrees) / 2 looks into it."""
    even = reflectance_map(FAMILIES[1].finish)[0, ..., 0]
    middle = even.shape[0] // 2
    tilts = np.rad2deg(np.arcsin((np.arange(middle, even.shape[1]) - middle) / middle))
    brightest = tilts[np.argmax(even[middle, middle:])]
    assert 28 < brightest < 42
    assert even[middle].max() > 8 * even[middle, middle]


def test_outlines_are_distances() -> None:
    """Away from their middle lines, true distances change by one unit per unit."""
    y, x = np.mgrid[-1:1:201j, -1.2:1.2:241j].astype(np.float32)
    triangle = [(-0.5, -0.4), (0.6, -0.2), (0.1, 0.5)]
    figures = {
        "box": box(x, y, (0.1, 0.0), (0.4, 0.3), 0.1),
        "capsule": capsule(x, y, (-0.3, 0.1), (0.4, -0.2), (0.1, 0.25)),
        "leaf": leaf(x, y, 0.6, 0.3),
        "polygon": polygon(x, y, triangle, rounding=0.05),
        "text": text(x, y, "".join(GLYPHS)[:3], (0.0, 0.0), 0.4),
    }
    for name, distance in figures.items():
        steepness = np.hypot(*np.gradient(distance, 0.01))
        far = distance > 0.05
        assert np.percentile(np.abs(steepness[far] - 1), 97) < 0.05, name
