from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.affine import angle, compose, invert, quarter_turns, rotation, scaling, translation
from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.data.method_choice import agreement, choose_method
from anomalib_lite.data.pose import correlation
from anomalib_lite.data.registration import Registration
from anomalib_lite.types import InputError


def drawn_part(size: tuple[int, int] = (240, 320), seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """A bright plate with a slot, a hole and a mark: no rotation maps it to itself. `seed` draws its noise."""
    height, width = size
    canvas = np.full((height * 2, width * 2), 0.15, np.float32)  # drawn larger, for soft edges

    def point(x: float, y: float) -> tuple[int, int]:
        return round(x * width * 2), round(y * height * 2)

    cv2.rectangle(canvas, point(0.25, 0.3), point(0.75, 0.7), 0.75, -1)
    cv2.rectangle(canvas, point(0.3, 0.36), point(0.5, 0.42), 0.3, -1)
    cv2.circle(canvas, point(0.65, 0.6), height // 8, 0.2, -1)
    cv2.line(canvas, point(0.32, 0.65), point(0.45, 0.5), 0.95, max(1, height // 40))
    grey = cv2.GaussianBlur(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), (0, 0), 1)
    photograph = np.repeat(grey[..., None], 3, axis=2) * np.float32([1.0, 0.9, 0.8])
    rng = np.random.default_rng(seed)
    return (photograph + rng.normal(0, noise, photograph.shape)).clip(0, 1).astype(np.float32)


def moved(photograph: np.ndarray, motion: np.ndarray) -> np.ndarray:
    size = photograph.shape[1::-1]
    return cv2.warpAffine(
        photograph, motion, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    ).clip(0, 1)


def motion_of(size: tuple[int, int], *, degrees: float, x: float, y: float) -> np.ndarray:
    return compose(translation(x, y), rotation(degrees, size))


def farthest_corner(found: np.ndarray, expected: np.ndarray, size: tuple[int, int]) -> float:
    height, width = size
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
    return float(np.hypot(*((found - expected) @ corners)).max())


@pytest.fixture(scope="module")
def ecc() -> Registration:
    return Registration(method="ecc").fit([drawn_part(seed=seed) for seed in range(6)])


@pytest.fixture(scope="module")
def features() -> Registration:
    return Registration(method="features").fit([drawn_part(seed=seed) for seed in range(3)])


@pytest.mark.parametrize(("degrees", "x", "y"), [(0, 0, 0), (15, 32, -24), (-15, -32, 24), (7.3, 10.25, 3.5)])
def test_ecc_finds_a_known_motion_within_half_a_pixel_and_a_tenth_of_a_degree(
    ecc: Registration, degrees: float, x: float, y: float
) -> None:
    motion = motion_of((240, 320), degrees=degrees, x=x, y=y)
    alignment = ecc.align(moved(drawn_part(seed=9), motion))
    assert alignment.accepted, alignment.reason
    assert farthest_corner(alignment.matrix, motion, (240, 320)) < 0.5
    assert abs(angle(alignment.matrix) - degrees) < 0.1
    assert alignment.quality > 0.98


@pytest.mark.parametrize("degrees", [40, 95, 180, -130])
def test_features_finds_any_rotation(features: Registration, degrees: float) -> None:
    motion = motion_of((240, 320), degrees=degrees, x=-12, y=9)
    alignment = features.align(moved(drawn_part(seed=9), motion))
    assert alignment.accepted, alignment.reason
    assert farthest_corner(alignment.matrix, motion, (240, 320)) < 0.5


def test_phase_finds_shifts_only() -> None:
    registration = Registration(method="phase").fit([drawn_part(seed=seed) for seed in range(3)])
    found = registration.align(moved(drawn_part(seed=9), translation(-20.5, 13.25))).matrix
    np.testing.assert_allclose(found, translation(-20.5, 13.25), atol=0.1)
    turned = registration.align(moved(drawn_part(seed=9), rotation(5, (240, 320)))).matrix
    np.testing.assert_array_equal(turned[:, :2], np.eye(2))


def test_affine_motion_follows_a_sheared_part() -> None:
    registration = Registration(method="ecc", motion="affine").fit(
        [drawn_part(seed=seed) for seed in range(3)]
    )
    motion = compose(translation(4, -6), np.array([[1.03, 0.02, -8.0], [0.01, 0.97, 2.0]]))
    alignment = registration.align(moved(drawn_part(seed=9), motion))
    assert farthest_corner(alignment.matrix, motion, (240, 320)) < 0.5


def test_matrix_is_in_photograph_pixels_at_full_resolution() -> None:
    # 1210 x 906 is worked on at a quarter, and neither side is divisible by four
    photographs = [drawn_part((906, 1210), seed=seed) for seed in range(2)]
    registration = Registration(method="ecc").fit(photographs)
    assert (registration.factor_, registration.reference_.shape) == (4, (226, 302))
    motion = motion_of((906, 1210), degrees=-9, x=61.5, y=-33.25)
    found = registration.align(moved(drawn_part((906, 1210), seed=9), motion)).matrix
    assert farthest_corner(found, motion, (906, 1210)) < 0.5


def test_photograph_of_another_size_is_scaled_to_the_reference(ecc: Registration) -> None:
    motion = motion_of((240, 320), degrees=6, x=8, y=-5)
    larger = cv2.resize(moved(drawn_part(seed=9), motion), (640, 480), interpolation=cv2.INTER_CUBIC).clip(
        0, 1
    )
    alignment = ecc.align(larger)
    assert alignment.accepted, alignment.reason
    assert farthest_corner(alignment.matrix, compose(scaling(2, 2), motion), (240, 320)) < 0.8


def test_photograph_of_another_aspect_is_rejected_with_both_sizes(ecc: Registration) -> None:
    alignment = ecc.align(drawn_part((240, 240)))
    assert not alignment.accepted
    assert alignment.reason == "expected the aspect of the reference's 320 x 240 pixels, found 240 x 240"
    none = Registration(method="none").fit([drawn_part()])
    assert not none.align(drawn_part((240, 240))).accepted


@pytest.mark.parametrize("method", ["phase", "ecc", "features"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_blank_photograph_is_rejected_without_an_exception(method: str, value: float) -> None:
    registration = Registration(method=method).fit([drawn_part(seed=seed) for seed in range(2)])
    alignment = registration.align(np.full((240, 320, 3), value, np.float32))
    assert (alignment.accepted, alignment.quality) == (False, 0.0)
    assert alignment.reason == "no pose found: the part cannot be told from its surroundings"
    assert np.isfinite(alignment.matrix).all()


def test_noise_and_another_part_are_rejected(ecc: Registration) -> None:
    noise = np.random.default_rng(0).random((240, 320, 3), dtype=np.float32)
    other = np.zeros((240, 320, 3), np.float32)
    cv2.circle(other, (60, 60), 40, (1, 1, 1), -1)
    for photograph in (noise, other, 1 - drawn_part(seed=9)):
        alignment = ecc.align(photograph)
        assert not alignment.accepted
        assert alignment.reason


def test_upside_down_part_is_rejected_by_ecc_and_found_by_features(
    ecc: Registration, features: Registration
) -> None:
    upside_down = np.ascontiguousarray(drawn_part(seed=9)[::-1, ::-1])
    assert not ecc.align(upside_down).accepted
    assert abs(angle(features.align(upside_down).matrix)) == pytest.approx(180, abs=0.1)


def test_same_photograph_gives_the_same_bits_whatever_came_before(features: Registration) -> None:
    photograph = moved(drawn_part(seed=9), rotation(77, (240, 320)))
    before = features.align(photograph)
    untouched = photograph.copy()
    for seed in range(3):
        features.align(drawn_part(seed=seed))
        cv2.setRNGSeed(seed)
    after = features.align(photograph)
    np.testing.assert_array_equal(before.matrix, after.matrix)
    assert before.quality == after.quality
    np.testing.assert_array_equal(
        photograph, untouched
    )  # OpenCV's phase correlation writes into its arguments


def test_reference_is_the_most_typical_photograph() -> None:
    shifts = [0, 30, 34, 38, -60]
    photographs = [moved(drawn_part(seed=seed), translation(x, 0)) for seed, x in enumerate(shifts)]
    assert Registration(method="ecc").fit(photographs).reference_index_ == 2


def test_given_reference_sets_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "reference.png"
    motion = motion_of((240, 320), degrees=4, x=10, y=5)
    write_png(path, np.rint(moved(drawn_part(), motion) * 255).astype(np.uint8))
    registration = Registration(method="ecc", reference=path).fit(
        [drawn_part(seed=seed) for seed in range(3)]
    )
    assert farthest_corner(registration.align(read_image(path)).matrix, np.eye(2, 3), (240, 320)) < 0.05
    found = registration.align(drawn_part(seed=9)).matrix
    assert farthest_corner(found, invert(motion), (240, 320)) < 0.5
    with pytest.raises(
        InputError, match=r"reference\.png: expected a reference of 64 x 64 pixels.*found 320 x 240"
    ):
        Registration(method="ecc", reference=path).fit([drawn_part((64, 64))])


def test_misaligned_training_photographs_do_not_loosen_the_cut(ecc: Registration) -> None:
    noise = [np.random.default_rng(seed).random((240, 320, 3), dtype=np.float32) for seed in range(3)]
    registration = Registration(method="ecc").fit([*(drawn_part(seed=seed) for seed in range(6)), *noise])
    assert registration.cut_ == pytest.approx(ecc.cut_, abs=0.01)
    assert not any(registration.align(photograph).accepted for photograph in noise)


class CountedPhotographs(list):
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_fit_reads_each_photograph_once_and_at_most_64() -> None:
    photographs = CountedPhotographs(drawn_part((64, 80), seed=seed) for seed in range(100))
    Registration(method="phase").fit(photographs)
    assert photographs.reads == 64


def test_auto_registers_parts_that_moved() -> None:
    rng = np.random.default_rng(0)
    photographs = [
        moved(
            drawn_part(seed=seed),
            motion_of(
                (240, 320), degrees=rng.uniform(-12, 12), x=rng.uniform(-20, 20), y=rng.uniform(-15, 15)
            ),
        )
        for seed in range(10)
    ]
    registration = Registration(method="auto").fit(photographs)
    assert registration.method_ == "ecc"
    assert registration.decision_.startswith("ecc chosen: phase")
    assert "100% improve" in registration.decision_


def test_auto_leaves_parts_that_lie_still_and_round_parts_unturned() -> None:
    still = Registration(method="auto").fit([drawn_part(seed=seed) for seed in range(8)])
    assert still.method_ == "none"
    rng = np.random.default_rng(1)
    disc = np.zeros((200, 200, 3), np.float32)
    cv2.circle(disc, (100, 100), 60, (0.8, 0.8, 0.8), -1, cv2.LINE_AA)
    cv2.circle(disc, (100, 100), 30, (0.3, 0.3, 0.3), -1, cv2.LINE_AA)
    discs = [moved(disc, translation(*rng.uniform(-8, 8, 2))) for _ in range(10)]
    noisy = [(one + rng.normal(0, 0.01, one.shape)).clip(0, 1).astype(np.float32) for one in discs]
    assert Registration(method="auto").fit(noisy).method_ == "phase"


def test_auto_does_not_register_textures() -> None:
    rng = np.random.default_rng(2)
    textures = [
        cv2.GaussianBlur(rng.random((160, 160, 3), dtype=np.float32), (0, 0), sigma)
        for sigma in [2, 3, 4] * 3
    ]
    registration = Registration(method="auto").fit(textures)
    assert registration.method_ == "none"
    assert "aligns" in registration.decision_


@pytest.mark.parametrize(
    ("photographs", "reason"),
    [
        ([drawn_part()] * 3, "2 training pictures beside the reference are too few"),
        ([drawn_part((12, 16))] * 9, "the reference has 16 x 12 pixels"),
        ([np.zeros((60, 60, 3), np.float32)] * 9, "the reference is blank"),
    ],
)
def test_auto_says_why_it_cannot_choose(photographs: list[np.ndarray], reason: str) -> None:
    registration = Registration(method="auto").fit(photographs)
    assert registration.method_ == "none"
    assert reason in registration.decision_
    assert registration.align(photographs[0]).accepted


def test_wrong_settings_are_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="one of auto, none, phase, ecc, features, got 'sift'"):
        Registration(method="sift")
    with pytest.raises(InputError, match="one of euclidean, affine, got 'rigid'"):
        Registration(method="ecc", motion="rigid")
    with pytest.raises(InputError, match="between 0 and 1, got nan"):
        Registration(method="ecc", min_quality=float("nan"))
    with pytest.raises(InputError, match="found none"):
        Registration(method="ecc").fit([])
    with pytest.raises(
        InputError, match="registration ecc: expected a part to align to, but the reference is blank"
    ):
        Registration(method="ecc").fit([np.zeros((60, 60, 3), np.float32)])


@pytest.mark.parametrize("method", ["none", "ecc", "features"])
def test_state_round_trip_gives_the_same_bits(method: str) -> None:
    registration = Registration(method=method).fit([drawn_part(seed=seed) for seed in range(3)])
    arrays, described = registration.state()
    copy = Registration.from_state(arrays, json.loads(json.dumps(described)))
    photograph = moved(drawn_part(seed=9), motion_of((240, 320), degrees=8, x=3, y=4))
    np.testing.assert_array_equal(registration.align(photograph).matrix, copy.align(photograph).matrix)
    assert registration.align(photograph).quality == copy.align(photograph).quality
    assert copy.state()[1] == described


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method", "auto"),
        ("method", "os.system"),
        ("motion", "projective"),
        ("size", [10**9, 10**9]),
        ("size", [-240, 320]),
        ("size", [240]),
        ("size", [float("inf"), 320]),
        ("factor", 0),
        ("cut", float("nan")),
        ("cut", None),
    ],
)
def test_hostile_settings_are_refused(ecc: Registration, key: str, value: object) -> None:
    arrays, described = ecc.state()
    with pytest.raises(InputError, match="registration"):
        Registration.from_state(arrays, described | {key: value})


def test_hostile_reference_is_refused(ecc: Registration) -> None:
    _, described = ecc.state()
    view = ecc.reference_
    for reference in (np.full_like(view, np.nan), view[:5], view.astype(np.float64), np.zeros_like(view)):
        with pytest.raises(InputError, match="registration state"):
            Registration.from_state({"reference": reference}, described)
    with pytest.raises(InputError, match="reference"):
        Registration.from_state({}, described)


def test_settings_name_the_content_of_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "reference.png"
    digests = []
    for seed in (0, 1):
        write_png(path, np.rint(drawn_part(seed=seed) * 255).astype(np.uint8))
        digests.append(Registration(method="ecc", reference=path).settings()["reference"])
    assert digests[0] != digests[1]
    assert str(tmp_path) not in json.dumps(digests)


@given(st.floats(-180, 180), st.floats(-50, 50), st.floats(-50, 50), st.floats(0.5, 3), st.integers(-4, 4))
@settings(max_examples=50, deadline=None)
def test_affines_undo_one_another(degrees: float, x: float, y: float, scale: float, turns: int) -> None:
    matrix = compose(scaling(scale, 1 / scale), motion_of((30, 40), degrees=degrees, x=x, y=y))
    np.testing.assert_allclose(compose(invert(matrix), matrix), np.eye(2, 3), atol=1e-9)
    picture = np.arange(12.0).reshape(3, 4)
    turn, turned = quarter_turns(picture, turns)
    np.testing.assert_array_equal(turned, np.rot90(picture, turns))
    column, row = np.rint(turn @ (1, 2, 1)).astype(int)
    assert picture[row, column] == turned[2, 1]


def test_correlation_is_numpys() -> None:
    first, second = np.random.default_rng(0).random((2, 50))
    assert correlation(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert correlation(first, np.ones(50)) == 0.0


def test_agreement_is_the_correlation_with_the_mean_of_the_others() -> None:
    views = list(np.random.default_rng(0).random((4, 60, 60), dtype=np.float32))
    smooth = [cv2.GaussianBlur(view, (0, 0), 1.5)[3:57, 3:57] for view in views]
    expected = [
        np.corrcoef(smooth[i].ravel(), np.mean(smooth[:i] + smooth[i + 1 :], axis=0).ravel())[0, 1]
        for i in range(4)
    ]
    np.testing.assert_allclose(agreement(views), expected, rtol=1e-5)


def test_choice_ignores_agreement_with_the_reference_alone() -> None:
    # each view holds the reference's mark at a place of its own, on a strong pattern that all share: following
    # the mark would agree with the reference and tear the pattern apart
    rng = np.random.default_rng(0)
    pattern = cv2.GaussianBlur(rng.random((160, 160), dtype=np.float32), (0, 0), 4) * 5
    views = []
    for _ in range(8):
        view = pattern.copy()
        cv2.circle(view, tuple(int(v) for v in rng.integers(40, 120, 2)), 6, float(pattern.max()), -1)
        views.append(view)
    assert choose_method(views[0], views[1:], motion="euclidean", min_quality=0.5)[0] == "none"


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "expected"),
    [("mvtec/bottle", "phase"), ("mvtec/pill", "none"), ("casting", "none"), ("surface_crack", "none")],
)
def test_auto_on_real_photographs(assets: Path, folder: str, expected: str) -> None:
    paths = sorted((assets / "data" / folder / "train" / "good").iterdir())[::10]
    registration = Registration(method="auto").fit([read_image(path) for path in paths])
    assert registration.method_ == expected, registration.decision_


@pytest.mark.real
@pytest.mark.parametrize(("method", "degrees"), [("ecc", 15), ("features", 180)])
def test_warped_pills_are_found_again(assets: Path, method: str, degrees: float) -> None:
    paths = sorted((assets / "data" / "mvtec" / "pill" / "train" / "good").iterdir())[::25]
    photographs = [read_image(path) for path in paths]
    registration = Registration(method=method).fit(photographs)
    rng = np.random.default_rng(0)
    for photograph in photographs:
        x, y = rng.uniform(
            -40, 40, 2
        )  # half of the benchmark's: the part stays in view, and every case counts
        motion = motion_of((800, 800), degrees=rng.uniform(-degrees, degrees), x=x, y=y)
        original, copy = registration.align(photograph), registration.align(moved(photograph, motion))
        assert original.accepted, original.reason
        assert copy.accepted, copy.reason
        error = compose(invert(motion), copy.matrix)
        assert farthest_corner(error, original.matrix, (800, 800)) < 0.75
        assert abs(angle(compose(invert(original.matrix), error))) < 0.1
