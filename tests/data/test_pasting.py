"""Pasted defects: exact masks at any size, boxes, place, colours, determinism, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from anomalib_lite.data.pasting import Corruption
from anomalib_lite.data.synthetic import VISIBLE
from anomalib_lite.types import InputError


def grainy(height: int, width: int, level: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(-0.02, 0.02, (height, width, 3))
    return (level + noise).clip(0, 1).astype(np.float32)


def disc(background: float, part: float) -> tuple[np.ndarray, np.ndarray]:
    """A round part and where it is."""
    y, x = np.mgrid[:160, :200]
    inside = np.hypot(y - 80, x - 100) < 60
    return np.repeat(np.where(inside, part, background)[..., None], 3, axis=2).astype(np.float32), inside


def blue(height: int, width: int) -> np.ndarray:
    """A picture with a colour: pasted onto a grey one, cut-outs become grey."""
    return np.tile(np.float32([0, 0, 0.5]), (height, width, 1))


@pytest.fixture
def square(tmp_path: Path) -> Path:
    """A folder with one cut-out, an opaque red square in a transparent frame."""
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[4:12, 4:12] = (255, 0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "red.png")
    return tmp_path


@pytest.mark.parametrize("blending", ["alpha", "poisson"])
@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(4, 90),
    width=st.integers(4, 90),
    level=st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.97, 1.0]),
    family=st.sampled_from(["defects", "objects", "mixed"]),
    foreground=st.booleans(),
    opacity=st.sampled_from([0.05, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_the_mask_is_exact_and_never_empty(
    blending: str,
    height: int,
    width: int,
    level: float,
    family: str,
    foreground: bool,
    opacity: float,
    seed: int,
) -> None:
    image = grainy(height, width, level, seed)
    before = image.copy()
    corruption = Corruption(
        family=family, blending=blending, foreground=foreground, opacity=[opacity, opacity], scale=[0.01, 1.0]
    )
    corrupted = corruption(image, np.random.default_rng(seed))
    change = np.abs(corrupted.image - image).max(axis=2)
    assert corrupted.image.dtype == np.float32
    assert corrupted.mask.dtype == bool
    assert corrupted.image.min() >= 0
    assert corrupted.image.max() <= 1
    assert corrupted.mask.any()
    assert change[corrupted.mask].min() > VISIBLE
    assert change[~corrupted.mask].max(initial=0) == 0
    assert np.array_equal(image, before)
    # every changed pixel lies in the box of an object
    boxed = np.zeros_like(corrupted.mask)
    for found in corrupted.objects:
        x, y, box_width, box_height = found.box
        assert x >= 0
        assert y >= 0
        assert x + box_width <= width
        assert y + box_height <= height
        assert 1 <= found.area <= box_width * box_height
        boxed[y : y + box_height, x : x + box_width] = True
    assert len(corrupted.objects) == 2
    assert not (corrupted.mask & ~boxed).any()


def test_a_single_object_is_what_the_mask_shows() -> None:
    for seed in range(20):
        corrupted = Corruption(family="mixed", count=1)(grainy(80, 100, 0.6), np.random.default_rng(seed))
        (found,) = corrupted.objects
        assert found.area == corrupted.mask.sum()
        assert found.box == cv2.boundingRect(corrupted.mask.astype(np.uint8))


def test_the_same_generator_pastes_the_same() -> None:
    image, corruption = grainy(64, 64, 0.5), Corruption(family="mixed")
    first, again, other = (corruption(image, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    assert not np.array_equal(first.image, other.image)


def test_patches_of_a_tensor_are_pasted_alike() -> None:
    """A batch of patches comes as a view with channels last, whose memory lies otherwise."""
    image, corruption = grainy(48, 48, 0.5), Corruption(family="mixed", blending="poisson", foreground=True)
    view = torch.from_numpy(image).permute(2, 0, 1).contiguous().permute(1, 2, 0).numpy()
    assert not view.flags.c_contiguous
    images = [corruption(picture, np.random.default_rng(1)).image for picture in (image, view)]
    assert np.array_equal(*images)


def test_none_changes_nothing() -> None:
    image = grainy(20, 30, 0.5)
    corruption = Corruption(family="none")
    corrupted = corruption(image, np.random.default_rng(0))
    assert not corruption.active
    assert np.array_equal(corrupted.image, image)
    assert not corrupted.mask.any()
    assert corrupted.objects == []


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_number_of_objects(count: int) -> None:
    corrupted = Corruption(family="objects", count=count)(grainy(128, 128, 0.5), np.random.default_rng(0))
    assert len(corrupted.objects) == count


def test_families_are_kept_apart() -> None:
    def kinds(family: str) -> set[str]:
        corruption, rng = Corruption(family=family, count=60), np.random.default_rng(0)
        return {found.kind for found in corruption(grainy(96, 96, 0.5), rng).objects}

    defects, objects, mixed = kinds("defects"), kinds("objects"), kinds("mixed")
    assert {"crack", "scratch", "stain", "missing piece"} <= defects
    assert {"washer", "screw", "leaf", "letter"} <= objects
    assert not defects & objects
    assert mixed & defects
    assert mixed & objects


def test_a_loaded_cutout_keeps_its_colour_size_and_name(square: Path) -> None:
    """Without flips, rotation and translucency it is red, and 40 pixels but for the random aspect."""
    corruption = Corruption(
        family="objects", cutouts=str(square), count=1, scale=[0.4, 0.4], opacity=[1, 1], rotation=False
    )
    whole = 0
    for seed in range(30):
        corrupted = corruption(blue(100, 100), np.random.default_rng(seed))
        (found,) = corrupted.objects
        x, y, width, height = found.box
        assert found.kind == "red"
        inner = corrupted.image[y + 6 : y + height - 6, x + 6 : x + width - 6]
        assert (inner == np.float32([1, 0, 0])).all()
        if x > 0 and y > 0 and x + width < 100 and y + height < 100:
            whole += 1
            assert abs(np.sqrt(width * height) - 40) < 4
            assert 0.6 < width / height < 1.6
    assert whole > 5


def test_scale_is_the_longer_side_as_a_share_of_the_pictures_shorter(square: Path) -> None:
    sides = {}
    for scale in (0.1, 0.5):
        corruption = Corruption(
            family="objects",
            cutouts=str(square),
            count=1,
            scale=[scale, scale],
            opacity=[1, 1],
            rotation=False,
        )
        areas = [
            corruption(np.zeros((200, 300, 3), np.float32), np.random.default_rng(seed)).objects[0].area
            for seed in range(30)
        ]
        sides[scale] = np.sqrt(max(areas))
    assert sides[0.1] == pytest.approx(20, abs=3)
    assert sides[0.5] == pytest.approx(100, abs=5)


def test_opacity_is_the_share_of_the_object(square: Path) -> None:
    corruption = Corruption(family="objects", cutouts=str(square), count=1, opacity=[0.5, 0.5])
    corrupted = corruption(blue(100, 100), np.random.default_rng(0))
    assert corrupted.image[..., 0].max() == pytest.approx(0.5, abs=0.01)
    assert corrupted.image[..., 2].min() == pytest.approx(0.25, abs=0.01)


def test_without_rotation_a_square_stays_upright(square: Path) -> None:
    def fills(rotation: bool) -> list[float]:
        corruption = Corruption(
            family="objects", cutouts=str(square), count=1, scale=[0.3, 0.3], rotation=rotation
        )
        shown = [
            corruption(np.zeros((90, 90, 3), np.float32), np.random.default_rng(i)).objects[0]
            for i in range(20)
        ]
        return [found.area / (found.box[2] * found.box[3]) for found in shown]

    assert min(fills(rotation=False)) > 0.97
    assert min(fills(rotation=True)) < 0.8


def test_flips_mirror(tmp_path: Path) -> None:
    """A cut-out that is red on its left and blue on its right."""
    picture = np.zeros((10, 12, 4), np.uint8)
    picture[1:-1, 1:6], picture[1:-1, 6:-1] = (255, 0, 0, 255), (0, 0, 255, 255)
    Image.fromarray(picture).save(tmp_path / "halves.png")

    def red_is_left(flips: bool) -> set[bool]:
        corruption = Corruption(
            family="objects", cutouts=str(tmp_path), count=1, flips=flips, rotation=False, scale=[0.5, 0.5]
        )
        answers, green = set(), np.tile(np.float32([0, 0.5, 0]), (64, 64, 1))
        for seed in range(25):
            image = corruption(green, np.random.default_rng(seed)).image
            red, blue = (np.flatnonzero(image[..., channel].max(axis=0) > 0.4) for channel in (0, 2))
            if len(red) and len(blue):
                answers.add(bool(red.mean() < blue.mean()))
        return answers

    assert red_is_left(flips=False) == {True}
    assert red_is_left(flips=True) == {True, False}


@pytest.mark.parametrize("blending", ["alpha", "poisson"])
def test_foreground_keeps_to_the_part(blending: str) -> None:
    image, inside = disc(background=0.9, part=0.4)
    corruption = Corruption(family="objects", foreground=True, count=3, blending=blending)
    for seed in range(20):
        corrupted = corruption(image, np.random.default_rng(seed))
        assert not (corrupted.mask & ~inside).any()
    everywhere = Corruption(family="objects", count=3)
    assert any((everywhere(image, np.random.default_rng(seed)).mask & ~inside).any() for seed in range(5))


def test_a_missing_piece_shows_the_background() -> None:
    image, inside = disc(background=0.9, part=0.4)
    corruption = Corruption(family="defects", foreground=True, count=1, scale=[0.2, 0.4])
    seen = 0
    for seed in range(60):
        corrupted = corruption(image, np.random.default_rng(seed))
        if corrupted.objects[0].kind == "missing piece":
            seen += 1
            assert np.median(corrupted.image[corrupted.mask]) == pytest.approx(0.9)
            # at the outline: a mask that touches what is not the part
            assert (cv2.dilate(corrupted.mask.astype(np.uint8), np.ones((7, 7))).astype(bool) & ~inside).any()
    assert seen >= 3


@pytest.mark.parametrize(("level", "least"), [(0.03, 0.15), (0.97, 0.5)])
def test_cracks_show_on_dark_and_on_bright_ground(level: float, least: float) -> None:
    image = np.full((96, 96, 3), level, np.float32)
    corruption = Corruption(family="defects", count=1, scale=[0.4, 0.4], opacity=[1, 1])
    contrasts = []
    for seed in range(80):
        corrupted = corruption(image, np.random.default_rng(seed))
        if corrupted.objects[0].kind == "crack" and corrupted.mask.sum() > 100:  # not nearly out of sight
            contrasts.append(np.abs(corrupted.image - level).max())
    assert len(contrasts) > 8
    assert min(contrasts) > least
    assert np.median(contrasts) > 0.6


@pytest.mark.parametrize("blending", ["alpha", "poisson"])
def test_a_grey_picture_stays_grey(blending: str) -> None:
    grey = np.repeat(grainy(96, 96, 0.5)[..., :1], 3, axis=2)
    corruption = Corruption(family="objects", count=4, blending=blending)
    for seed in range(10):
        image = corruption(grey, np.random.default_rng(seed)).image
        assert np.ptp(image, axis=2).max() < 2 / 255
    tinted = grey * np.float32([1, 0.9, 0.8])
    image = corruption(tinted, np.random.default_rng(0)).image
    assert np.ptp(image, axis=2).max() > 0.3


def test_cutouts_of_the_grounds_own_colour_are_made_to_show(square: Path) -> None:
    image = np.zeros((32, 32, 3), np.float32)
    image[..., 0] = 1.0
    corrupted = Corruption(family="objects", cutouts=str(square))(image, np.random.default_rng(0))
    assert corrupted.mask.any()
    assert len(corrupted.objects) == 2


def test_the_dataclass_is_a_schema_that_can_be_overridden() -> None:
    node = OmegaConf.merge(
        OmegaConf.structured(Corruption), {"family": "mixed", "count": 3, "scale": [0.2, 0.3]}
    )
    assert OmegaConf.to_object(node) == Corruption(family="mixed", count=3, scale=[0.2, 0.3])


def test_facts_change_with_a_cutout(square: Path) -> None:
    corruption = Corruption(family="objects", cutouts=str(square))
    before = corruption.facts()
    assert before["count"] == 2
    assert before == corruption.facts()
    picture = np.full((8, 8, 4), 255, np.uint8)
    picture[0] = 0
    Image.fromarray(picture).save(square / "red.png")
    assert corruption.facts() != before


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"family": "cracks"}, "corruption.family must be one of none, defects, objects, mixed, got cracks"),
        ({"blending": "add"}, "corruption.blending must be one of alpha, poisson, got add"),
        ({"count": 0}, r"corruption.count must be at least 1, got 0 \(none: family=none\)"),
        (
            {"scale": [0.5, 0.1]},
            r"corruption.scale must be \[low, high\] with 0.01 <= .* <= 1, got \[0.5, 0.1\]",
        ),
        ({"scale": [0.0, 0.1]}, r"corruption.scale .* got \[0.0, 0.1\]"),
        ({"scale": [0.1]}, r"corruption.scale .* got \[0.1\]"),
        ({"scale": [0.1, float("nan")]}, "corruption.scale"),
        (
            {"opacity": [0.01, 1.0]},
            r"corruption.opacity must be \[low, high\] with 0.05 <= .* got \[0.01, 1.0\]",
        ),
        ({"opacity": [0.5, 1.1]}, r"corruption.opacity .* got \[0.5, 1.1\]"),
        ({"cutouts": "nowhere"}, "nowhere: expected a folder of pictures, found nothing there"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Corruption(**({"family": "mixed"} | wrong))  # type: ignore[arg-type]  # wrong on purpose
