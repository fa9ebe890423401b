"""The rendered belt: counts, determinism, continuous motion, masks of what changed, whole set or none."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.rendered import belt
from anomalib_lite.data.rendered.belt import COUNTS, DEFECTS, SPEED, Frame, frames, render_belt, render_frame
from anomalib_lite.data.rendered.belt_layout import lay_out
from anomalib_lite.data.rendered.belt_surface import belt_loop
from anomalib_lite.data.rendered.rendering import defect_strength
from anomalib_lite.types import InputError

TINY = (96, 72)
SMALL = (160, 120)
SIZE = (320, 240)
FEW = {"train/good": 6, "test/good": 3, "test/ring": 8, "test/broken": 8}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(belt, "COUNTS", FEW)
        return render_belt(tmp_path_factory.mktemp("belt"), size=TINY, seed=5)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def with_and_without(kind: str, index: int) -> tuple[Frame, Frame]:
    """A frame with the kind's `index`-th anomaly, and the same frame without."""
    number = belt._frame_of_anomaly(index, SIZE, 0, kind, 2)
    one = render_frame(number=number, run=kind, anomalies=(kind,), spacing=2)
    return one, render_frame(number=number, run=kind, spacing=2)


def difference(one: Frame, other: Frame) -> np.ndarray:
    return np.abs(one.image.astype(int) - other.image).max(axis=-1)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0


def test_counts() -> None:
    assert COUNTS == {"train/good": 300, "test/good": 60, "test/ring": 30, "test/broken": 30}
    assert set(belt.RUN_OF) == set(COUNTS)


def test_layout_on_disk(rendered: Path) -> None:
    assert rendered.name == f"belt_96x72_seed5_v{belt.RENDERER_VERSION}"
    files = {str(path.relative_to(rendered)) for path in rendered.rglob("*") if path.is_file()}
    expected = {f"{place}/{i:03d}.png" for place, count in FEW.items() for i in range(count)}
    expected |= {f"ground_truth/{defect}/{i:03d}_mask.png" for defect in DEFECTS for i in range(8)}
    assert files == expected | {"rendered.json", "frames.json"}


def test_record_says_that_the_pictures_are_rendered(rendered: Path) -> None:
    assert json.loads((rendered / "rendered.json").read_text()) == {
        "note": "These pictures are rendered, not photographed",
        "renderer_version": belt.RENDERER_VERSION,
        "size": [96, 72],
        "seed": 5,
        "counts": FEW,
        "pixels_per_frame": pytest.approx(17.3 * 0.3),
    }


def test_train_pictures_are_consecutive_frames(rendered: Path) -> None:
    truth = json.loads((rendered / "frames.json").read_text())
    assert len(truth) == sum(FEW.values())
    assert [truth[f"train/good/{i:03d}.png"]["frame"] for i in range(6)] == list(range(6))
    for index, frame in enumerate(frames(count=3, size=TINY, seed=5, run="train", anomalies=())):
        np.testing.assert_array_equal(read(rendered / f"train/good/{index:03d}.png")[..., ::-1], frame.image)


def test_ground_truth_of_every_defective_picture(rendered: Path) -> None:
    truth = json.loads((rendered / "frames.json").read_text())
    for defect in DEFECTS:
        plainest = []
        for index in range(8):
            mask = read(rendered / f"ground_truth/{defect}/{index:03d}_mask.png")
            assert mask.shape == (72, 96)
            assert set(np.unique(mask)) == {0, 255}
            anomalies = truth[f"test/{defect}/{index:03d}.png"]["anomalies"]
            assert {anomaly["kind"] for anomaly in anomalies} == {defect}
            inside = np.zeros(mask.shape, bool)
            for x, y, width, height in (anomaly["box"] for anomaly in anomalies):
                inside[y : y + height, x : x + width] = True
            assert not mask[~inside].any()
            plainest.append(max(anomaly["strength"] for anomaly in anomalies))
        own = [round(defect_strength(index), 3) for index in range(8)]
        assert np.sum(np.array(plainest) == own) >= 7  # its own; a neighbour may reach into the frame
    for place in ("train/good", "test/good"):
        assert not [frame for name, frame in truth.items() if name.startswith(place) and frame["anomalies"]]


def test_broken_capsules_are_named_in_the_ground_truth() -> None:
    frame, same_but_whole = with_and_without("broken", 2)
    (broken,) = [capsule for capsule in frame.capsules if capsule.broken]
    x, y, width, height = frame.anomalies[0].box
    reach = 32
    assert x - reach < broken.x < x + width + reach
    assert y - reach < broken.y < y + height + reach
    assert not [capsule for capsule in same_but_whole.capsules if capsule.broken]
    assert len(same_but_whole.capsules) == len(frame.capsules)


def test_same_frame_again_is_the_same_bytes_and_others_differ() -> None:
    def picture(**changed: object) -> bytes:
        asked = {"size": SMALL, "seed": 0, "run": "test", "number": 3}
        return render_frame(**(asked | changed)).image.tobytes()

    first = picture()
    belt_loop.cache_clear()
    lay_out.cache_clear()
    assert picture() == first
    changes = [{"seed": 1}, {"number": 4}, {"run": "train"}, {"size": (160, 121)}, {"anomalies": DEFECTS}]
    assert len({first} | {picture(**change) for change in changes}) == 6


def test_finished_set_is_reused(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belt, "COUNTS", FEW)
    monkeypatch.setattr(belt, "render_frame", lambda **_: pytest.fail("rendered again"))
    assert render_belt(rendered.parent, size=TINY, seed=5) == rendered


def test_everything_on_the_belt_moves_at_its_speed() -> None:
    for one, other in pairwise(frames(count=5, run="train", anomalies=())):
        before = {capsule.angle: capsule for capsule in one.capsules}  # no two have the same
        after = {capsule.angle: capsule for capsule in other.capsules}
        both = before.keys() & after.keys()
        assert len(both) >= 4
        for angle in both:
            assert after[angle].x - before[angle].x == pytest.approx(-SPEED, abs=0.002)
            assert after[angle].y == before[angle].y
        assert all(before[angle].x < SPEED for angle in before.keys() - both)  # gone at the left
        assert all(after[angle].x > 319 - SPEED for angle in after.keys() - both)  # come in at the right


def test_pictures_move_at_the_belts_speed() -> None:
    """Phase correlation of the belt in consecutive frames, capsules and bare belt alike."""
    video = [frame.image[24:-24].astype(np.float32).mean(axis=-1) for frame in frames(count=4, run="train")]
    window = cv2.createHanningWindow((320, 192), cv2.CV_32F)
    for one, other in pairwise(video):
        (dx, dy), response = cv2.phaseCorrelate(one - one.mean(), other - other.mean(), window)
        assert abs(dx + SPEED) < 0.4
        assert abs(dy) < 0.2
        assert response > 0.2


def test_next_frame_is_the_last_one_shifted() -> None:
    one, other = frames(count=2, run="train", anomalies=())
    shift = np.array([[1, 0, -SPEED], [0, 1, 0]])
    moved = cv2.warpAffine(one.image, shift, SIZE, flags=cv2.INTER_LINEAR).astype(float)
    belt_only = (slice(24, -24), slice(2, 300))
    still = np.abs(one.image.astype(float) - other.image)[belt_only].mean()
    followed = np.abs(moved - other.image)[belt_only].mean()
    assert followed < 6  # of 255: noise, flicker, light
    assert followed < 0.3 * still


def test_rails_stand_still_while_exposure_flickers() -> None:
    rail = np.stack([frame.image[:8].mean(axis=-1) for frame in frames(count=8, run="train")])
    levels = rail.mean(axis=(1, 2))
    assert 0.002 < levels.std() / levels.mean() < 0.03
    assert np.abs(rail / levels[:, None, None] - (rail / levels[:, None, None]).mean(axis=0)).mean() < 0.02


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("index", [17, 1, 3, 5, 2, 4])  # from faint to plain
def test_mask_is_what_the_anomaly_changed(kind: str, index: int) -> None:
    frame, good = with_and_without(kind, index)
    change = difference(frame, good)
    assert not good.mask.any()
    assert frame.mask.any()
    assert change[frame.mask].mean() > 5  # of 255
    assert change[~grown(frame.mask, 3)].sum() < 0.15 * change.sum()  # its shadow on the belt
    assert change[~grown(frame.mask, 26)].max() <= 1  # the shadow's reach
    if index == 17 and kind == "broken":
        return  # so small that the lens spreads most of it
    assert change[frame.mask].sum() > 0.6 * change.sum()


def test_plain_anomalies_show_more_than_faint_ones() -> None:
    for kind in DEFECTS:
        faint, plain = (difference(*with_and_without(kind, index)).sum() for index in (9, 12))
        assert faint < 0.2 * plain


def test_ring_has_a_hole_that_shows_the_belt() -> None:
    frame, good = with_and_without("ring", 4)
    x, y, width, height = frame.anomalies[0].box
    middle = (slice(y + height // 2 - 3, y + height // 2 + 4), slice(x + width // 2 - 3, x + width // 2 + 4))
    assert abs(width - height) <= 2
    assert not frame.mask[middle].any()
    assert difference(frame, good)[middle].mean() < 6


@settings(max_examples=8, deadline=None)
@given(width=st.integers(96, 200), height=st.integers(72, 200), number=st.integers(0, 2000))
def test_any_size_renders(width: int, height: int, number: int) -> None:
    frame = render_frame(size=(width, height), number=number, anomalies=DEFECTS)
    assert frame.image.shape == (height, width, 3)
    assert frame.mask.shape == (height, width)
    assert frame.image.std() > 10
    assert frame.mask.any() == bool(frame.anomalies)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": (95, 72)}, r"^size must be at least 96x72 pixels \(width x height\), got 95x72$"),
        ({"size": (96, 71)}, r"^size must be at least 96x72 pixels \(width x height\), got 96x71$"),
        ({"seed": -1}, r"^seed must be at least 0, got -1$"),
    ],
)
def test_what_cannot_be_rendered_is_said(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_belt(tmp_path / "root", **wrong)
    assert not (tmp_path / "root").exists()
    with pytest.raises(InputError, match=message):
        render_frame(**wrong)
    with pytest.raises(InputError, match=message):
        frames(count=1, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"number": -1}, "number must be at least 0, got -1"),
        ({"spacing": 0}, "spacing must be at least 1, got 0"),
        ({"run": "tests"}, "run must be one of train, test, ring, broken, video, got tests"),
        ({"anomalies": ("ring", "dent")}, "anomalies must be among ring, broken, got dent"),
    ],
)
def test_frame_that_does_not_exist_is_said(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        render_frame(**wrong)


def test_video_of_no_frames_is_said() -> None:
    with pytest.raises(InputError, match=r"^count must be at least 1, got 0$"):
        frames(count=0)


def test_root_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"belt_96x72_seed0_v1: expected to write the rendered pictures there"
    ):
        render_belt(tmp_path / "file", size=TINY)


def test_interrupted_run_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, image: np.ndarray) -> None:
        if path.name == "003.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(belt, "write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        render_belt(tmp_path, size=TINY)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
