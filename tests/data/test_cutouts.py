"""Cut-outs, drawn and loaded: numbers, alpha, colours at transparent borders, and bad folders."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_lite.data.cutouts import DRAWN, CutOut, drawn_cutouts, load_cutouts, read_cutout
from anomalib_lite.data.drawn_defects import DEFECTS
from anomalib_lite.data.drawn_objects import OBJECTS
from anomalib_lite.types import InputError


def save(path: Path, *, alpha: int | np.ndarray, colour: tuple[int, int, int] = (10, 200, 30)) -> Path:
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[..., :3], picture[..., 3] = colour, alpha
    Image.fromarray(picture).save(path)
    return path


def half() -> np.ndarray:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 255
    return alpha


@pytest.mark.parametrize(("family", "kinds"), [("defects", set(DEFECTS)), ("objects", set(OBJECTS))])
def test_the_drawn_families(family: str, kinds: set[str]) -> None:
    pool = drawn_cutouts(family)
    assert len(pool) == DRAWN[family] == {"defects": 51, "objects": 80}[family]
    assert {cutout.kind for cutout in pool} == kinds
    for cutout in pool:
        alpha = cutout.picture[..., 3]
        assert cutout.picture.dtype == np.uint8
        assert max(alpha.shape) > 100
        assert alpha.max() > 60
        assert 0.003 < (alpha > 25).mean() < 0.999
        # cut to what shows
        for border in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert border.max() > 5
    assert len({cutout.picture.tobytes() for cutout in pool}) == len(pool)


@pytest.mark.parametrize("draw", [*DEFECTS.values(), *OBJECTS.values()])
def test_a_drawing_depends_on_its_generator_alone(draw) -> None:
    first, again, other = (draw(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    assert first.shape == (96, 96, 4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_objects_are_more_colourful_than_defects() -> None:
    def colourfulness(family: str) -> float:
        values = []
        for cutout in drawn_cutouts(family):
            colours = cutout.picture[cutout.picture[..., 3] > 128, :3].astype(float)
            values.append(np.ptp(colours, axis=1).mean() if len(colours) else 0.0)
        return float(np.mean(values))

    assert colourfulness("objects") > 3 * colourfulness("defects")


def test_levels_halve_and_keep_thin_lines() -> None:
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[31, :] = 255
    cutout = CutOut(kind="line", picture=np.pad(picture, ((0, 0), (5, 5), (0, 0))))
    assert cutout.picture.shape == (1, 64, 4)
    assert [level.shape[1] for level in cutout.levels] == [64, 32, 16, 8]
    assert all(level[..., 3].min() == 255 for level in cutout.levels)
    assert [cutout.level(extent).shape[1] for extent in (3, 8, 9, 33, 500)] == [8, 8, 16, 64, 64]


def test_colours_under_transparent_pixels_do_not_bleed() -> None:
    """White paint under the transparent half: smaller levels must stay red, premultiplied."""
    picture = np.full((16, 15, 4), 255, np.uint8)
    picture[:, :7] = (255, 0, 0, 255)
    picture[:, 7:, 3] = 0
    picture[0, -1] = (255, 0, 0, 255)  # keeps the transparent half from being cut away
    cutout = CutOut(kind="half", picture=picture)
    assert cutout.picture.shape == (16, 15, 4)
    for level in cutout.levels:
        assert level[..., 1:3].max() == 0
        assert np.array_equal(level[..., 0], level[..., 3])


def test_loading_leaves_out_opaque_pictures_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "b.png", alpha=half())
    save(tmp_path / "a leaf.png", alpha=half() // 3)
    save(tmp_path / "opaque.png", alpha=255)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "photo.jpg")
    with caplog.at_level(logging.WARNING):
        cutouts = load_cutouts(tmp_path)
    assert [cutout.kind for cutout in cutouts] == ["a leaf", "b"]
    assert [cutout.picture.shape for cutout in cutouts] == [(8, 4, 4)] * 2
    assert f"{tmp_path}: left out 2 without transparency" in caplog.text
    assert not any(cutout.adapts or cutout.runs or cutout.replaces for cutout in cutouts)


def test_a_palette_with_a_transparent_colour_is_read(tmp_path: Path) -> None:
    picture = Image.new("P", (6, 6), 0)
    picture.putpalette([0, 0, 0, 200, 10, 10] + [0] * 762)
    picture.paste(1, (2, 2, 5, 5))
    picture.save(tmp_path / "palette.png", transparency=0)
    (cutout,) = load_cutouts(tmp_path)
    assert cutout.picture.shape == (3, 3, 4)
    assert (cutout.picture == [200, 10, 10, 255]).all()


def test_a_folder_without_transparency_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", alpha=255)
    save(tmp_path / "invisible.png", alpha=0)
    with pytest.raises(InputError) as caught:
        load_cutouts(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected transparent pictures (PNG with alpha that varies), found 2 pictures without"
    )


def test_bad_files_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    whole = tmp_path / "whole.png"
    Image.fromarray(noise).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"cut.png: expected a whole picture, found it cut short or damaged"):
        load_cutouts(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("hello")
    with pytest.raises(
        InputError, match=r"text.png: expected a PNG, JPEG, BMP or TIFF picture, found a text file"
    ):
        read_cutout(text)


def test_an_empty_folder_and_a_transparent_cutout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        load_cutouts(tmp_path)
    with pytest.raises(ValueError, match="ghost: expected a picture with something to see"):
        CutOut(kind="ghost", picture=np.zeros((4, 4, 4), np.uint8))
