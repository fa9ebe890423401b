from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.affine import compose, invert, rotation, translation
from anomalib_lite.data.images import read_image
from anomalib_lite.data.part import part_box
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.types import Alignment, InputError


def drawn_part(size: tuple[int, int] = (240, 320), seed: int = 0) -> np.ndarray:
    """A bright plate, with a hole and a slot, on a dark bench; `seed` draws the noise."""
    height, width = size
    grey = np.full(size, 0.15, np.float32)
    grey[round(0.3 * height) : round(0.7 * height), round(0.25 * width) : round(0.75 * width)] = 0.75
    grey[round(0.36 * height) : round(0.42 * height), round(0.3 * width) : round(0.5 * width)] = 0.3
    cv2.circle(grey, (round(0.65 * width), round(0.58 * height)), height // 10, 0.2, -1)
    photograph = cv2.GaussianBlur(grey, (0, 0), 1)[..., None] * np.float32([1.0, 0.9, 0.8])
    return (
        (photograph + np.random.default_rng(seed).normal(0, 0.01, (*size, 3))).clip(0, 1).astype(np.float32)
    )


def moved(photograph: np.ndarray, motion: np.ndarray) -> np.ndarray:
    size = photograph.shape[1::-1]
    warped = cv2.warpAffine(photograph, motion, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return warped.clip(0, 1)


def fitted(
    photographs: Sequence[np.ndarray],
    *,
    method: str = "none",
    crop: str | Sequence[int] | None = None,
    size: int | None = None,
) -> Preparation:
    paths = [Path(f"{number:03}.png") for number in range(len(photographs))]
    return Preparation(registration=Registration(method=method), crop=crop, size=size).fit(photographs, paths)


def blob(size: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)).astype(np.float32)


def centroid(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    total = float(image.sum())
    return float((columns * image).sum()) / total, float((rows * image).sum()) / total


MOTION = compose(translation(12.5, -7.25), rotation(10, (240, 320)))


@pytest.fixture(scope="module")
def registered() -> Preparation:
    return fitted(
        [drawn_part(seed=seed) for seed in range(6)], method="ecc", crop=(60, 50, 200, 140), size=100
    )


def test_without_registration_and_resizing_the_picture_is_the_crop_to_the_bit() -> None:
    photograph = drawn_part()
    picture, alignment = fitted([photograph], crop=(7, 11, 100, 60))(photograph)
    np.testing.assert_array_equal(picture, np.rint(photograph[11:71, 7:107].transpose(2, 0, 1) * 65535))
    assert picture.dtype == np.uint16
    np.testing.assert_array_equal(alignment.matrix, np.eye(2, 3))


def test_downsizing_by_two_averages_with_the_antialiasing_triangle() -> None:
    ramp = np.tile(np.linspace(0, 1, 16, dtype=np.float32)[None, :, None], (8, 1, 3))
    picture, _ = fitted([ramp], size=8)(ramp)
    assert picture.shape == (3, 4, 8)
    expected = (np.arange(8) * 2 + 0.5) / 15  # a ramp keeps its value at the centre of each pair
    np.testing.assert_allclose(picture[0, 0, 1:-1] / 65535, expected[1:-1], atol=1e-4)


def test_registered_picture_looks_like_the_unmoved_part(registered: Preparation) -> None:
    straight, _ = registered(drawn_part(seed=9))
    turned, alignment = registered(moved(drawn_part(seed=9), MOTION))
    assert alignment.accepted, alignment.reason
    assert np.abs(straight.astype(float) - turned).mean() / 65535 < 0.005
    untouched = fitted([drawn_part()], crop=(60, 50, 200, 140), size=100)(moved(drawn_part(seed=9), MOTION))[
        0
    ]
    assert np.abs(straight.astype(float) - untouched).mean() / 65535 > 0.05


def test_view_matrix_maps_registered_pixels_to_the_photograph(registered: Preparation) -> None:
    assert registered.size_ == (70, 100)
    matrix = registered.view_matrix(Alignment(np.eye(2, 3)))
    # the crop starts at (60, 50) and is halved: pixel 0 covers reference pixels 60 and 61
    np.testing.assert_allclose(matrix, [[2, 0, 60.5], [0, 2, 50.5]])
    np.testing.assert_allclose(registered.view_matrix(Alignment(MOTION)), compose(MOTION, matrix))


def test_a_blob_returns_to_its_place_in_the_photograph(registered: Preparation) -> None:
    photograph = moved(drawn_part(seed=9), MOTION)
    x, y = MOTION @ (155.0, 118.0, 1.0)
    mark = blob((240, 320), x, y, 9)
    photograph = np.maximum(photograph, mark[..., None])
    picture, alignment = registered(photograph)
    clean, _ = registered(moved(drawn_part(seed=9), MOTION))
    anomaly_map = (picture.astype(np.float32) - clean)[0] / 65535
    carried = registered.to_photograph(anomaly_map.clip(0), Alignment(alignment.matrix), (240, 320))
    assert carried.shape == (240, 320)
    assert carried.dtype == np.float32
    difference = (photograph - moved(drawn_part(seed=9), MOTION))[..., 0]
    np.testing.assert_allclose(centroid(carried), centroid(difference), atol=0.25)


@given(st.integers(40, 90), st.integers(40, 90), st.floats(-180, 180), st.integers(20, 60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_carried_blobs_keep_their_centroid(
    height: int, width: int, degrees: float, size: int, whole: bool
) -> None:
    photograph = np.zeros((height, width, 3), np.float32)
    crop = None if whole else (3, 5, width - 9, height - 11)
    preparation = fitted([photograph], crop=crop, size=size)
    x, y = width / 2 + 1.3, height / 2 - 0.8
    alignment = Alignment(rotation(degrees, (height, width)))
    row_column = invert(preparation.view_matrix(alignment)) @ (x, y, 1)
    scale = preparation.size_[1] / preparation.crop_[2]
    registered_blob = blob(preparation.size_, *row_column, 4 * scale)
    carried = preparation.to_photograph(registered_blob, alignment, (height, width))
    if (
        min(x, y, width - x, height - y) > 16 and 4 * scale > 1.5
    ):  # its tails are in view and it is not a spike
        np.testing.assert_allclose(centroid(carried), (x, y), atol=0.1)


def test_edges_of_the_view_are_exact_and_outside_is_zero() -> None:
    preparation = fitted([np.zeros((40, 60, 3), np.float32)], crop=(10, 8, 40, 20), size=20)
    carried = preparation.to_photograph(np.ones((10, 20), np.float32), Alignment(np.eye(2, 3)), (40, 60))
    expected = np.zeros((40, 60))
    expected[8:28, 10:50] = 1  # undimmed up to its last pixel
    np.testing.assert_array_equal(carried, expected)


def test_a_step_returns_between_the_same_pixels() -> None:
    preparation = fitted([np.zeros((40, 60, 3), np.float32)], crop=(10, 8, 40, 20), size=20)
    anomaly_map = np.zeros((10, 20), np.float32)
    anomaly_map[:, 10:] = 1  # from reference column 10 + 2 * 10 = 30 on
    row = preparation.to_photograph(anomaly_map, Alignment(np.eye(2, 3)), (40, 60))[15]
    np.testing.assert_allclose(row[28:32], [0, 0.25, 0.75, 1], atol=0.02)


def test_mask_goes_to_the_registered_picture_and_back(registered: Preparation) -> None:
    mask = np.zeros((240, 320), bool)
    corners = np.array([[120, 90], [170, 90], [170, 130], [120, 130]], float)
    turned = corners @ MOTION[:, :2].T + MOTION[:, 2]
    filled = cv2.fillConvexPoly(np.zeros((240, 320), np.uint8), np.rint(turned).astype(np.int32), 1)
    mask |= filled > 0
    there = registered.mask_to_registered(mask, Alignment(MOTION))
    assert there.shape == registered.size_
    assert there.dtype == bool
    expected = np.zeros(registered.size_, bool)
    expected[20:40, 30:55] = True  # the corners, less the crop's (60, 50), halved
    assert (there & expected).sum() / (there | expected).sum() > 0.93
    back = registered.to_photograph(there.astype(np.float32), Alignment(MOTION), (240, 320)) > 0.5
    assert (back & mask).sum() / (back | mask).sum() > 0.93


@pytest.mark.parametrize("method", ["none", "ecc"])
def test_photograph_of_another_size_is_brought_to_the_reference(method: str) -> None:
    preparation = fitted([drawn_part(seed=seed) for seed in range(3)], method=method, size=120)
    small, _ = preparation(drawn_part(seed=9))
    larger = cv2.resize(drawn_part(seed=9), (640, 480), interpolation=cv2.INTER_LINEAR)
    large, alignment = preparation(larger)
    assert alignment.accepted, alignment.reason
    assert large.shape == small.shape
    assert np.abs(small.astype(float) - large).mean() / 65535 < 0.005
    x, y = preparation.view_matrix(alignment) @ (59.5, 44.5, 1)  # the centre stays the centre
    np.testing.assert_allclose((x, y), (319.5, 239.5), atol=0.5)
    carried = preparation.to_photograph(np.ones(preparation.size_, np.float32), alignment, (480, 640))
    assert carried[2:-2, 2:-2].min() == 1


def test_photograph_of_another_aspect_is_prepared_but_not_accepted() -> None:
    preparation = fitted([drawn_part()], size=60)
    picture, alignment = preparation(drawn_part((240, 240)))
    assert picture.shape == (3, 45, 60)
    assert not alignment.accepted
    assert "found 240 x 240" in alignment.reason


def test_same_photograph_gives_the_same_bits_whatever_came_before(registered: Preparation) -> None:
    photograph = moved(drawn_part(seed=9), MOTION)
    untouched = photograph.copy()
    first, alignment = registered(photograph)
    for seed in range(3):
        registered(drawn_part(seed=seed))
    again, alignment_again = registered(photograph)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(alignment.matrix, alignment_again.matrix)
    np.testing.assert_array_equal(photograph, untouched)


def test_state_round_trip_gives_the_same_bits(registered: Preparation) -> None:
    arrays, described = registered.state()
    copy = Preparation.from_state(arrays, json.loads(json.dumps(described)))
    photograph = moved(drawn_part(seed=9), MOTION)
    np.testing.assert_array_equal(registered(photograph)[0], copy(photograph)[0])
    assert (copy.crop_, copy.size_) == (registered.crop_, registered.size_)
    assert copy.state()[1] == described


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop", [0, 0, 10**9, 10]),
        ("crop", [0, 0, 0, 10]),
        ("crop", [-1, 0, 10, 10]),
        ("crop", [0.5, 0, 10, 10]),
        ("crop", None),
        ("size", [70, 10**6]),
        ("size", [0, 0]),
        ("size", [float("nan"), 3]),
        ("size", [70]),
        ("registration", {}),
    ],
)
def test_hostile_state_is_refused(registered: Preparation, key: str, value: object) -> None:
    arrays, described = registered.state()
    with pytest.raises(InputError):
        Preparation.from_state(arrays, described | {key: value})


def test_wrong_settings_are_refused_in_words() -> None:
    with pytest.raises(
        InputError, match=r"data\.crop: expected auto, null or \[x, y, width, height\], got 'part'"
    ):
        fitted([drawn_part()], crop="part")
    with pytest.raises(
        InputError, match=r"data\.crop: expected \[x, y, width, height\] in whole pixels, got \[1, 2\]"
    ):
        fitted([drawn_part()], crop=[1, 2])
    with pytest.raises(InputError, match=r"inside the reference's 320 x 240 pixels, got \[300, 0, 21, 10\]"):
        fitted([drawn_part()], crop=[300, 0, 21, 10])
    with pytest.raises(InputError, match=r"data\.size: expected at least 1 pixel or null, got 0"):
        fitted([drawn_part()], size=0)


def test_auto_crop_finds_the_part_with_a_margin() -> None:
    preparation = fitted([drawn_part(seed=seed) for seed in range(5)], crop="auto")
    x, y, width, height = preparation.crop_
    margin = 0.04 * 320
    np.testing.assert_allclose(
        [x, y, x + width, y + height], [80 - margin, 72 - margin, 240 + margin, 168 + margin], atol=5
    )


def test_auto_crop_keeps_the_whole_view_where_no_part_stands_out() -> None:
    rng = np.random.default_rng(0)
    textures = [rng.random((80, 100, 3), dtype=np.float32) for _ in range(4)]
    assert fitted(textures, crop="auto").crop_ == (0, 0, 100, 80)
    assert fitted([np.full((80, 100, 3), 0.5, np.float32)], crop="auto").crop_ == (0, 0, 100, 80)


def test_auto_crop_keeps_the_whole_view_where_the_part_moves_unless_it_is_registered() -> None:
    photographs = [
        moved(drawn_part(seed=seed), translation(x, 0)) for seed, x in enumerate((0, -40, 40, 20, -20))
    ]
    assert fitted(photographs, crop="auto").crop_ == (0, 0, 320, 240)
    assert fitted(photographs, method="phase", crop="auto").crop_[2:] != (320, 240)


def test_auto_crop_ignores_dust() -> None:
    view = np.zeros((100, 100, 3), np.float32)
    view[40:60, 20:70] = 0.8
    view[5, 5] = view[90, 90] = 1
    assert part_box([view, view]) == (16, 36, 58, 28)


def test_reference_path_is_the_chosen_photographs() -> None:
    photographs = [
        moved(drawn_part(seed=seed), translation(x, 0)) for seed, x in enumerate((60, 0, 4, 8, -40))
    ]
    assert fitted(photographs, method="phase").reference_path_ == Path("002.png")


@pytest.mark.real
def test_auto_crop_on_real_photographs(assets: Path) -> None:
    pills = sorted((assets / "data" / "mvtec" / "pill" / "train" / "good").iterdir())[::30]
    x, y, width, height = fitted([read_image(path) for path in pills], crop="auto").crop_
    # read off the photographs: the pill spans about 55 to 745 and 164 to 636
    assert 0 <= x < 55 < 745 < x + width <= 800
    assert 110 < y < 164 < 636 < y + height < 690
