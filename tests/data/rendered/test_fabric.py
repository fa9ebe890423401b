"""Rendered cloth: counts, determinism, masks that cover exactly what changed, whole sets or none, the weave."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.rendered import fabric
from anomalib_lite.data.rendered.fabric import (
    COUNTS,
    DEFECTS,
    Counts,
    View,
    list_pictures,
    render_fabric,
    render_picture,
)
from anomalib_lite.data.rendered.fabric_defects import ADD_DEFECT, Visible
from anomalib_lite.data.rendered.fabric_weave import (
    SAMPLES,
    WEAVES,
    Cloth,
    Surface,
    look_from_above,
    weave_cloth,
)
from anomalib_lite.types import InputError

SMALL = (96, 96)
MEDIUM = (160, 128)
FAINTEST, PLAINEST = 9, 4  # of a type's pictures
NAME = f"twill_96x96_seed3_v{fabric.RENDERER_VERSION}"


def without_defect(monkeypatch: pytest.MonkeyPatch, defect: str, **picture: object) -> np.ndarray:
    """The same cloth, photographed the same way, without its defect."""
    with monkeypatch.context() as patch:
        patch.setitem(fabric.ADD_DEFECT, defect, lambda rng, cloth, visible, strength: [])
        image, mask = render_picture(split="test", defect=defect, **picture)
    assert not mask.any()
    return image


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric, "COUNTS", Counts(train=3, test_normal=2, of_each_defect=1))


def a_cloth(weave: str = "twill", seed: int = 0) -> Cloth:
    return weave_cloth(np.random.default_rng(seed), WEAVES[weave], warps=40, wefts=36)


def with_defect(
    defect: str, *, weave: str = "twill", seed: int = 0, strength: float = 0.8
) -> tuple[Cloth, Cloth]:
    """Cloth before and after the defect."""
    good = a_cloth(weave, seed)
    faulty = good.copy()
    visible = Visible(middle=(20.0, 18.0), reach=(12.0, 10.0))
    ADD_DEFECT[defect](np.random.default_rng(seed), faulty, visible, strength)
    return good, faulty


def seen(cloth: Cloth, step: float = 0.1) -> Surface:
    """Cloth from above, `step` of a pitch between points, from crossing (0, 0) on."""
    wefts, warps = cloth.crossings.shape
    v, u = np.mgrid[0 : wefts - 1 : step, 0 : warps - 1 : step].astype(np.float32)
    return look_from_above(cloth, u, v)


def test_the_set_has_the_promised_pictures() -> None:
    pictures = list_pictures()
    assert len(set(pictures)) == len(pictures) == 120 + 40 + 6 * 12
    assert sum(picture[:2] == ("train", "good") for picture in pictures) == COUNTS.train == 120
    assert sum(picture[:2] == ("test", "good") for picture in pictures) == COUNTS.test_normal == 40
    assert DEFECTS == ("hole", "broken_end", "slub", "stain", "float", "knot")
    for defect in DEFECTS:
        assert [index for split, kind, index in pictures if (split, kind) == ("test", defect)] == list(
            range(12)
        )


@pytest.mark.usefixtures("few")
def test_layout_record_and_files_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = render_fabric(tmp_path, size=SMALL, seed=3)
    assert folder == tmp_path / NAME
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {f"train/good/{i:03d}.png" for i in range(3)} | {f"test/good/{i:03d}.png" for i in range(2)}
    expected |= {f"test/{defect}/000.png" for defect in DEFECTS}
    expected |= {f"ground_truth/{defect}/000_mask.png" for defect in DEFECTS}
    assert files == expected | {"rendered.json"}
    assert json.loads((folder / "rendered.json").read_text()) == {
        "note": "These pictures are rendered, not photographed",
        "renderer_version": fabric.RENDERER_VERSION,
        "weave": "twill",
        "cloth": "3/1 warp-faced twill, indigo denim",
        "size": [96, 96],
        "seed": 3,
        "counts": {"train": 3, "test_normal": 2, "of_each_defect": 1},
    }
    image, mask = render_picture(size=SMALL, seed=3, split="test", defect="stain", index=0)
    on_disk = cv2.imread(str(folder / "test/stain/000.png"), cv2.IMREAD_UNCHANGED)
    mask_on_disk = cv2.imread(str(folder / "ground_truth/stain/000_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(on_disk[..., ::-1], image)
    np.testing.assert_array_equal(mask_on_disk, mask * 255)
    monkeypatch.setattr(fabric, "render_picture", lambda **_: pytest.fail("rendered again"))
    assert render_fabric(tmp_path, size=SMALL, seed=3) == folder


def test_same_picture_again_is_the_same_bytes_and_others_differ() -> None:
    def picture(**changed: object) -> bytes:
        asked = {"weave": "twill", "size": SMALL, "seed": 0, "split": "test", "defect": "slub", "index": 1}
        return render_picture(**(asked | changed))[0].tobytes()

    first = picture()
    assert picture() == first
    changes = [{"seed": 1}, {"index": 2}, {"defect": "hole"}, {"defect": "good"}, {"weave": "plain"}]
    assert len({first} | {picture(**change) for change in changes}) == 6
    assert picture(defect="good") != picture(defect="good", split="train")


@pytest.mark.parametrize("weave", WEAVES)
@pytest.mark.parametrize("defect", DEFECTS)
def test_mask_covers_exactly_what_the_defect_changed(
    weave: str, defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = []
    for index in (FAINTEST, PLAINEST):
        picture = {"weave": weave, "size": MEDIUM, "index": index}
        image, mask = render_picture(split="test", defect=defect, **picture)
        change = np.abs(image.astype(int) - without_defect(monkeypatch, defect, **picture)).max(axis=-1)
        assert change[~mask].max() == 0
        assert change[mask].mean() > 5  # of 255
        assert 0.001 < mask.mean() < 0.25
        count, pieces = cv2.connectedComponents(mask.astype(np.uint8))
        assert all(change[pieces == piece].max() >= 4 for piece in range(1, count))
        total.append(change.sum())
    assert total[0] < 0.7 * total[1]


def test_good_pictures_differ_in_light_and_in_the_place_but_not_much() -> None:
    pictures = np.stack([render_picture(size=SMALL, index=index)[0] for index in range(8)]).astype(float)
    means = pictures.mean(axis=(1, 2, 3))
    assert 0.5 < means.std() < 10
    assert 60 < means.min() < means.max() < 160
    assert np.mean(pictures == 255) < 0.002
    flat = pictures.reshape(8, -1)
    assert np.abs(np.corrcoef(flat)[np.triu_indices(8, 1)]).max() < 0.7  # no two show the weave in phase


def spectrum_peak(image: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """Cycles (x, y), x > 0, that are strongest among those of a length within `band` cycles a picture."""
    grey = image.astype(float).mean(axis=2)
    window = np.outer(np.hanning(grey.shape[0]), np.hanning(grey.shape[1]))
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    power = np.asarray(cv2.GaussianBlur(np.fft.fftshift(power), (0, 0), 1.0))
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    y, x = y - grey.shape[0] // 2, x - grey.shape[1] // 2
    length = np.hypot(x, y)
    power[(x <= 0) | (length < band[0]) | (length > band[1])] = 0
    row, column = np.unravel_index(np.argmax(power), power.shape)
    return np.array((x[row, column], y[row, column]))


@pytest.mark.parametrize("size", [(160, 160), (256, 256)])
def test_twill_repeats_every_four_threads_along_a_diagonal(size: tuple[int, int]) -> None:
    """28 warps a picture, one cycle in 4 of them; the wefts lie 1.15 times as far apart: 7 by 6.1 cycles."""
    for index in range(3):
        found = spectrum_peak(render_picture(size=size, index=index)[0], band=(4, 20))
        np.testing.assert_allclose(found, (7, 28 / 1.15 / 4), atol=1.1)


def test_plain_weave_repeats_every_thread() -> None:
    for index in range(3):
        image, _ = render_picture(weave="plain", index=index)
        along_x, along_y = spectrum_peak(image, band=(12, 34))
        steep = abs(along_y) > abs(along_x)
        expected = 28 / 1.08 if steep else 28
        assert abs(np.hypot(along_x, along_y) - expected) < 1.6


def test_draft_of_the_cloths() -> None:
    twill = a_cloth("twill").crossings
    np.testing.assert_array_equal(twill[4:], twill[:-4])
    np.testing.assert_array_equal(twill[1:, :-1], twill[:-1, 1:])  # the diagonal runs up to the right
    assert (twill == 1).sum(axis=0).tolist() == [27] * 40  # three of four
    plain = a_cloth("plain").crossings
    np.testing.assert_array_equal(plain[1:], -plain[:-1])
    np.testing.assert_array_equal(plain[:, 1:], -plain[:, :-1])


@pytest.mark.parametrize("weave", WEAVES)
def test_what_the_draft_puts_on_top_is_seen_there(weave: str) -> None:
    cloth = a_cloth(weave)
    wefts, warps = cloth.crossings.shape
    v, u = np.mgrid[:wefts, :warps].astype(np.float32)
    surface = look_from_above(cloth, u, v)
    np.testing.assert_array_equal(surface.is_warp[2:-2, 2:-2], (cloth.crossings == 1)[2:-2, 2:-2])
    assert surface.is_thread.all()


def test_threads_of_even_weave_lie_where_counted() -> None:
    """Independent of the renderer: the middle of a warp is at its number, and its edges at the radius."""
    cloth = a_cloth("plain")
    for threads in (cloth.warp, cloth.weft):
        threads.offset[:], threads.radius[:], threads.rise[:] = 0, 0.4, 0
    cloth.weft.radius[:] = 0  # nothing but warps
    cloth.crossings[:] = 0
    u = np.linspace(9.5, 10.5, 1001, dtype=np.float32)[None]
    surface = look_from_above(cloth, u, np.full_like(u, 12))
    np.testing.assert_array_equal(surface.is_thread, np.abs(u - 10) < 0.4)
    inside = surface.is_thread
    np.testing.assert_allclose(surface.across[inside], ((u - 10) / 0.4)[inside], atol=1e-4)
    assert surface.height[0].argmax() in range(499, 502)


def test_broken_end_is_a_missing_warp_that_nothing_bends_around() -> None:
    good, faulty = with_defect("broken_end")
    missing = np.flatnonzero((faulty.crossings == 0).any(axis=0))
    assert len(missing) == 1
    rows = np.flatnonzero(faulty.crossings[:, missing[0]] == 0)
    middle = rows[len(rows) // 2]
    assert faulty.warp.radius[missing[0], middle * SAMPLES] == 0
    around = slice((middle - 1) * 10, (middle + 1) * 10)
    column = slice(missing[0] * 10 - 2, missing[0] * 10 + 3)
    assert not seen(faulty).is_warp[around, column].any()
    assert seen(good).is_warp[around, column].any()
    np.testing.assert_array_equal(
        np.delete(faulty.crossings, missing, 1), np.delete(good.crossings, missing, 1)
    )


@pytest.mark.parametrize("weave", WEAVES)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_float_passes_over_more_than_the_draft_ever_does(weave: str, strength: float) -> None:
    directions = set()
    for seed in range(12):
        good, faulty = with_defect("float", weave=weave, seed=seed, strength=strength)
        changed = faulty.crossings != good.crossings
        assert changed.any()
        into = set(faulty.crossings[changed])
        assert len(into) == 1  # all of the same direction
        directions |= into
        threads = np.flatnonzero(changed.any(axis=0 if into == {1} else 1))
        assert len(threads) == (2 if strength > 0.7 else 1)
        course = faulty.across("warp" if into == {1} else "weft")[threads[0]]
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate(([0], course == 1, [0]))))).tolist()[::2]
        assert max(runs) >= len(WEAVES[weave].draft) + 1
    assert directions == {1, -1}


def test_hole_goes_through() -> None:
    good, faulty = with_defect("hole")
    assert seen(good).is_thread.mean() > 0.97
    gap = ~seen(faulty).is_thread & seen(good).is_thread
    radius = 0.9 + 2.4 * 0.8
    area = gap.sum() * 0.1 * 0.1 * WEAVES["twill"].weft_pitch  # in squares of one warp pitch
    assert 0.5 * np.pi * radius**2 < area < 1.1 * np.pi * radius**2


def test_slub_thickens_one_thread_and_moves_its_two_neighbours() -> None:
    for seed in range(6):
        good, faulty = with_defect("slub", seed=seed)
        np.testing.assert_array_equal(good.crossings, faulty.crossings)
        thick, moved = [], []
        for direction in ("warp", "weft"):
            before, after = good.threads(direction), faulty.threads(direction)
            growth = (after.radius / before.radius).max(axis=1)
            thick += [(direction, index) for index in np.flatnonzero(growth > 1.001)]
            shift = np.abs(after.offset - before.offset).max(axis=1)
            moved += [(direction, index) for index in np.flatnonzero(shift > 1e-4)]
        ((direction, index),) = thick
        assert moved == [(direction, index - 1), (direction, index + 1)]
        assert 1.5 < (faulty.threads(direction).radius / good.threads(direction).radius).max() < 2.5


def test_stain_soaks_threads_and_leaves_the_weave_as_it_is() -> None:
    good, faulty = with_defect("stain")
    surface, clean = seen(faulty), seen(good)
    np.testing.assert_array_equal(surface.height, clean.height)
    assert clean.stain.max() == 0
    assert surface.stain.max() > 0.5
    soaked = surface.stain > 0.05
    assert 0.003 < soaked.mean() < 0.25


def test_stain_creeps_further_along_some_threads_than_along_their_neighbours() -> None:
    ragged = 0
    for seed in range(10):
        _, faulty = with_defect("stain", seed=seed)
        reach = (faulty.warp.stain > 0.05).sum(axis=1)
        turns = np.diff(np.sign(np.diff(reach[reach > 0])))
        ragged += int((turns > 0).any())  # a drop's outline alone grows, then shrinks
    assert ragged >= 3


def test_knot_is_the_highest_place_of_the_cloth() -> None:
    for seed in range(4):
        good, faulty = with_defect("knot", seed=seed)
        grown = seen(faulty).height - seen(good).height
        assert np.unravel_index(seen(faulty).height.argmax(), grown.shape) == pytest.approx(
            np.unravel_index(grown.argmax(), grown.shape), abs=15
        )
        assert grown.max() > 0.3


def test_view_there_and_back() -> None:
    view = View(pitch=18.0, weft_pitch=20.7, turn=0.03, middle=(20.2, 18.7), size=(90, 70))
    u, v = view.to_cloth()
    for row, column in ((0, 0), (139, 179), (31, 150)):
        place = np.array([[u[row, column], v[row, column]]])
        np.testing.assert_allclose(view.to_pixels(place), [[column, row]], atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(
    width=st.integers(96, 180),
    height=st.integers(96, 180),
    weave=st.sampled_from(tuple(WEAVES)),
    defect=st.sampled_from(DEFECTS),
    index=st.integers(0, 11),
)
def test_any_size_renders(width: int, height: int, weave: str, defect: str, index: int) -> None:
    image, mask = render_picture(weave=weave, size=(width, height), split="test", defect=defect, index=index)
    assert image.shape == (height, width, 3)
    assert mask.shape == (height, width)
    assert mask.any()
    assert image.std() > 10  # threads, not an even area


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weave": "satin"}, "weave must be one of plain, twill, got satin"),
        ({"size": (95, 96)}, r"size must be at least 96x96 pixels \(width x height\), got 95x96"),
        ({"size": (96, 95)}, r"size must be at least 96x96 pixels \(width x height\), got 96x95"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_rendered_is_said(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    asked = {"weave": "twill", "size": SMALL, "seed": 0} | wrong
    with pytest.raises(InputError, match=message):
        render_fabric(tmp_path / "root", **asked)
    assert not (tmp_path / "root").exists()
    with pytest.raises(InputError, match=message):
        render_picture(**asked)


def test_unknown_defect_names_the_choices() -> None:
    with pytest.raises(
        InputError,
        match="defect must be one of good, hole, broken_end, slub, stain, float, knot, got moth",
    ):
        render_picture(size=SMALL, split="test", defect="moth")


@pytest.mark.usefixtures("few")
def test_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=rf"{NAME}: expected to write .* No space left on device"):
        render_fabric(tmp_path, size=SMALL, seed=3)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.usefixtures("few")
def test_interrupted_run_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, image: np.ndarray) -> None:
        if path.name == "002.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(fabric, "write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        render_fabric(tmp_path, size=SMALL, seed=3)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_root_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=rf"{NAME}: expected to write the rendered pictures there"):
        render_fabric(tmp_path / "file", size=SMALL, seed=3)


def test_folder_that_is_not_a_finished_set_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "rendered.json").write_text('{"weave": "plain"}')
    with pytest.raises(InputError, match=rf"rendered\.json: expected .* found .*; remove .*{NAME}"):
        render_fabric(tmp_path, size=SMALL, seed=3)
