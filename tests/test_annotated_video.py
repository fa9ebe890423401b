"""The annotated video: sizes, what the bar says, and files that can't be written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.annotated_video import (
    COLOURS,
    MOST,
    AnnotatedVideo,
    bar_height,
    letterboxed,
    shown_size,
    with_bar,
)
from anomalib_lite.inspector import Examined, unreadable
from anomalib_lite.types import Alignment, InputError, Prediction


def examined(
    score: float | None = 0.25, *, label: int | None = 0, raw: float = 3.0, rejected: str = ""
) -> Examined:
    return Examined(
        Prediction(Path("a"), raw, score, label, None, None, Alignment(np.eye(2, 3)), rejected=rejected)
    )


def pictures(path: Path) -> list[np.ndarray]:
    reader, found = cv2.VideoCapture(str(path)), []
    while (picture := reader.read())[0]:
        found.append(picture[1][..., ::-1])
    return found


def write(path: Path, sizes: list[tuple[int, int] | None], *, pace: float = 25.0) -> list[np.ndarray]:
    video = AnnotatedVideo(path, frames_per_second=pace)
    for number, size in enumerate(sizes):
        picture = None if size is None else np.full((*size, 3), 200, np.uint8)
        video.write(picture, examined(), number=number, seconds=number / pace)
    video.close()
    return pictures(path)


def test_a_frame_of_another_size_is_fitted_into_the_first(tmp_path: Path) -> None:
    shown = write(tmp_path / "a.mkv", [None, (240, 320), (480, 320), None, (60, 80)])
    assert [picture.shape for picture in shown] == [(264, 320, 3)] * 4
    assert (np.abs(shown[0][:240].astype(int) - 200) < 8).all()
    tall = shown[1][:240].astype(int)  # 160 wide, centred
    assert (np.abs(tall[:, 90:230] - 200) < 8).all()
    assert tall[:, :70].max() < 8
    assert tall[:, 250:].max() < 8
    assert shown[2][:240].max() < 8
    assert (np.abs(shown[3][:240].astype(int) - 200) < 8).all()  # enlarged


def test_a_video_of_unreadable_frames_alone_has_no_size_and_no_file(tmp_path: Path) -> None:
    assert write(tmp_path / "a.mkv", [None, None]) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pace", [0.5, 23.976, 24000 / 1001, 29.97, 59.94005994, 119.88, 1000.0])
def test_the_pace_is_kept(tmp_path: Path, pace: float) -> None:
    assert len(write(tmp_path / "a.mkv", [(240, 320)] * 30, pace=pace)) == 30
    assert cv2.VideoCapture(str(tmp_path / "a.mkv")).get(cv2.CAP_PROP_FPS) == pytest.approx(pace, rel=1e-3)


def test_wide_and_odd_sizes_can_be_written(tmp_path: Path) -> None:
    for number, size in enumerate([(1, 1), (33, 47), (7, 2000), (300, 9001), (1500, 20)]):
        (shown,) = write(tmp_path / f"{number}.mkv", [size])
        width, height = shown_size(size[1], size[0])
        assert shown.shape == (height + bar_height((width, height)), width, 3)


@settings(deadline=None, max_examples=100)
@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000))
def test_shown_sizes_are_even_and_bounded(width: int, height: int) -> None:
    size = shown_size(width, height)
    assert size[0] % 2 == size[1] % 2 == 0
    assert 2 <= min(size) <= max(size) <= MOST
    if min(size) > 200:
        assert size[0] / size[1] == pytest.approx(width / height, rel=0.02)


@settings(deadline=None, max_examples=50)
@given(
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    inside=st.tuples(st.integers(1, 80), st.integers(1, 80)),
)
def test_a_letterboxed_picture_touches_two_sides_and_lies_in_the_middle(
    width: int, height: int, inside: tuple[int, int]
) -> None:
    boxed = letterboxed(np.full((height, width, 3), 255, np.uint8), inside)
    assert boxed.shape == (inside[1], inside[0], 3)
    rows, columns = boxed[..., 0].any(axis=1), boxed[..., 0].any(axis=0)
    assert rows.all() or columns.all()
    for filled in (rows, columns):
        first, last = filled.argmax(), filled[::-1].argmax()
        assert abs(int(first) - int(last)) <= 1
        assert filled[first : len(filled) - last].all()


def letters(bar: np.ndarray) -> int:
    """Where the columns with white ink end."""
    return int(np.flatnonzero((bar.min(axis=2) > 200).any(axis=0)).max())


@pytest.mark.parametrize("size", [(240, 320), (1080, 1920), (2000, 330)])
@pytest.mark.parametrize(
    "part",
    [
        examined(),
        examined(0.9, label=1),
        examined(None, label=None, raw=123456.789),
        examined(rejected="not aligned: correlation 0.11, expected at least 0.6 " * 5),
        unreadable(Path("a"), "kein Bild: \N{GREEK SMALL LETTER ALPHA}"),
    ],
)
def test_the_bar_has_the_verdicts_colour_and_keeps_its_words_inside(
    size: tuple[int, int], part: Examined
) -> None:
    picture = np.full((*size, 3), 90, np.uint8)
    drawn = with_bar(picture, part, number=12_345_678, seconds=90_061.5)
    assert np.array_equal(drawn[: size[0]], picture)
    bar = drawn[size[0] :]
    assert bar[2, 2].tolist() == list(COLOURS[part.verdict])
    assert bar[2, -1].tolist() == [26, 26, 30]
    assert letters(bar) < size[1] - 2
    assert letters(bar) > size[1] * 0.9  # the place is at the right


def test_the_gauge_is_as_full_as_the_score_is_high() -> None:
    filled = []
    for score in (0.0, 0.25, 0.5, 1.0):
        bar = with_bar(np.zeros((1080, 1920, 3), np.uint8), examined(score), number=1, seconds=1)[1080:]
        row = bar[28].astype(int)  # above the middle of the letters
        filled.append(int((np.abs(row - COLOURS["good"]).max(axis=1) < 3).sum()))
    block = filled[0]  # behind the verdict
    whole = filled[3] - block
    assert whole > 400
    assert filled == [block, block + whole // 4, block + whole // 2, block + whole]


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.mp4: expected a video's name with the suffix .mkv"):
        AnnotatedVideo(tmp_path / "a.mp4", frames_per_second=25)
    for pace in (0, -1, float("nan"), 1001):
        with pytest.raises(InputError, match=rf"frames_per_second must be in \(0, 1000\], got {pace}"):
            AnnotatedVideo(tmp_path / "a.mkv", frames_per_second=pace)
    (tmp_path / "b.mkv").mkdir()
    with pytest.raises(InputError, match=r"b.mkv: cannot write a video of 320 x 264"):
        write(tmp_path / "b.mkv", [(240, 320)])


def test_a_file_that_has_lost_its_end_is_noticed(tmp_path: Path) -> None:
    video = AnnotatedVideo(tmp_path / "a.mkv", frames_per_second=25)
    for number in range(20):
        video.write(np.full((240, 320, 3), number, np.uint8), examined(), number=number, seconds=0)
    (tmp_path / "a.mkv").rename(tmp_path / "b.mkv")
    with pytest.raises(InputError, match=r"a.mkv: expected 20 frames written, the file ends before"):
        video.close()
    video.close()  # once is enough
