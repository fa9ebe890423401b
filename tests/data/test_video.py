"""Video files: every frame given or reported, whatever is damaged; which text names which source."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data.video import Camera, Frame, Stop, VideoFile, WatchedFolder, is_stream, open_source
from anomalib_lite.types import InputError

COUNT, FPS, SIZE = 50, 25.0, (96, 64)
CODECS = {"a.avi": "MJPG", "b.mp4": "mp4v", "c.mkv": "FFV1", "d.avi": "FFV1"}
B_FRAMES = (  # ten 32x16 frames of MPEG-4 in an AVI, with frames that need later ones: base85 of zlib
    "c-jl{baT5P&cNUp=BeQ0865IPkbxm1r6?z{EHlG`fq}tc4g(wra56A(LD`HD5e5Y?i3vbvO#w<2mlWjyG1#oK%#>m`-vAS2bs%#j"
    "p=^-Z$w2%c2w?IGK+}Qx(=>o=4KN>KA0vYV1K2D!OuM~8{k$cBiddk01A~-ghEXsIM!_f;1*2dTjDk@x3P!;w7zLwX6pSbU8XsU`"
    "WMIfo$;|<xj2|O7EI{KlQb5|%&&}U6*e!$)B$il~W@e;k2t)=(;L!TPJeq1o!6+E1B?KF=w9L&f%LI+2LWWWqH+%#VTUQE0hHx1b"
    "IIi?^Fq~y%VG@zB2l6)o3z1}CA!1|!E<_j@H!}#Z1F3BS2|=BX4;0PWTmFT}DX~nbIsf5c&_Psz`^RqAfk$m2qs@%l0zW7{Xs-u}"
    "a6m;SJV?2Z%%7M5;lp$UCn!CrN6|4U0aeGO2dFwiJ}4JBqv)87X2%qu37IJsh6@-VW6Gd$XwVpQG6Q0axqtyOjt%2C0Wk*>e-avh"
    "5t{lfX!1wU_*c->KSPuM2IT_)rk0DK"
)


def picture(number: int) -> np.ndarray:
    """(H, W, 3) RGB: a red left part as wide as the number, so that decoded frames tell theirs."""
    width, height = SIZE
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : 10 + number, 0] = 200
    return image


def number_in(image: np.ndarray) -> int:
    return int((image[SIZE[1] // 2, :, 0] > 100).sum()) - 10


def write_video(path: Path, codec: str, count: int = COUNT) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), FPS, SIZE)
    for number in range(count):
        writer.write(np.ascontiguousarray(picture(number)[..., ::-1]))
    writer.release()
    return path


def damage(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(data)


def read(path: Path) -> tuple[VideoFile, list[Frame]]:
    video = VideoFile(path)
    return video, list(video.frames(Stop()))


def start_of_frame(path: Path, number: int) -> int:
    """Where an AVI's frame begins."""
    data = path.read_bytes()
    place = data.index(b"movi")
    for _ in range(number + 1):
        place = data.index(b"00dc", place + 1)
    return place + 8


@pytest.mark.parametrize("name", CODECS)
def test_every_frame_comes_in_order_with_its_time(tmp_path: Path, name: str) -> None:
    video, frames = read(write_video(tmp_path / name, CODECS[name]))
    assert [frame.number for frame in frames] == list(range(COUNT))
    assert all(abs(number_in(frame.image) - frame.number) <= 1 for frame in frames)
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(COUNT) / FPS, atol=1e-3)
    assert (video.fps, video.size, video.claimed, video.note) == (FPS, (64, 96), COUNT, "")
    assert frames[0].image.dtype == np.uint8
    assert all(frame.time.tzinfo is not None for frame in frames)


def test_lossless_video_gives_the_pixels_that_were_written(tmp_path: Path) -> None:
    _, frames = read(write_video(tmp_path / "d.avi", "FFV1"))
    for frame in frames:
        np.testing.assert_array_equal(frame.image, picture(frame.number))


def test_frame_that_cannot_be_decoded_is_reported_and_reading_goes_on(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG")
    damage(path, start_of_frame(path, 20), bytes(200))
    video, frames = read(path)
    assert [frame.number for frame in frames] == list(range(COUNT))
    assert [frame.number for frame in frames if frame.image is None] == [20]
    assert frames[20].error == f"frame 20 of {path} cannot be decoded"
    assert frames[20].seconds == pytest.approx(20 / FPS)
    assert all(abs(number_in(frame.image) - frame.number) <= 1 for frame in frames if frame.image is not None)
    assert video.note == ""


def test_order_of_decoding_is_not_taken_for_lost_frames(tmp_path: Path) -> None:
    path = tmp_path / "b_frames.avi"  # FFmpeg times its first frame as the second packet, its last one as 0
    path.write_bytes(zlib.decompress(base64.b85decode(B_FRAMES)))
    video, frames = read(path)
    assert [round(25 * frame.seconds, 6) for frame in frames] == list(range(10))
    assert [(frame.image[8, :, 0] > 100).sum() for frame in frames] == [
        4 + 2 * number for number in range(10)
    ]
    assert video.note == ""


@pytest.mark.parametrize("lost", [0, 1, COUNT - 1])
def test_a_lost_first_or_last_frame_is_reported(tmp_path: Path, lost: int) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG")
    damage(path, start_of_frame(path, lost), bytes(200))
    _, frames = read(path)
    assert len(frames) == COUNT
    assert [frame.number for frame in frames if frame.image is None] == [lost]


def test_many_lost_frames_in_a_row_do_not_end_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG")
    for number in range(5, 45):
        damage(path, start_of_frame(path, number), bytes(200))
    _, frames = read(path)
    assert [frame.number for frame in frames if frame.image is None] == list(range(5, 45))
    assert number_in(frames[45].image) == pytest.approx(45, abs=1)


@pytest.mark.parametrize("name", CODECS)
def test_noise_anywhere_ends_in_frames_or_a_note(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    whole = write_video(tmp_path / name, CODECS[name]).read_bytes()
    for start in rng.integers(len(whole) // 5, len(whole) * 4 // 5, 8):
        path = tmp_path / f"damaged_{name}"
        path.write_bytes(whole)
        damage(path, int(start), rng.integers(0, 256, 300, np.uint8).tobytes())
        video, frames = read(path)
        assert [frame.number for frame in frames] == list(range(len(frames)))
        assert len(frames) <= COUNT
        assert len(frames) == COUNT or f"{len(frames)} frames read of {COUNT}" in video.note
        assert all((frame.image is None) == bool(frame.error) for frame in frames)


@pytest.mark.parametrize("name", ["a.avi", "c.mkv", "d.avi"])
def test_file_cut_short_says_how_much_is_missing(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, CODECS[name])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    video, frames = read(path)
    assert 20 < len(frames) < 40
    assert video.note == (
        f"{path}: {len(frames)} frames read of {COUNT} that its header claims; it is cut short or damaged"
    )


def test_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "b.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[:2000])  # an MP4's index comes last
    with pytest.raises(
        InputError, match=r"b\.mp4: expected a whole video, found one that FFmpeg cannot open"
    ):
        VideoFile(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (
            b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/\n",
            "something else (it starts with 23 45 58 54 4d 33 55 0a)",
        ),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "something else"),
        (b"\x89PNG\r\n\x1a\n" + bytes(400), "something else"),
    ],
)
def test_content_that_is_no_video_never_reaches_ffmpeg(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "belt.avi"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        VideoFile(path)
    assert str(error.value).startswith(
        f"{path}: expected a video (AVI, MP4, MOV, MKV, WebM, MPEG or WMV), found {found}"
    )


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.avi: expected a video, found no such file"):
        VideoFile(tmp_path / "gone.avi")
    with pytest.raises(InputError, match="expected a video, found a folder"):
        VideoFile(tmp_path)


def test_stop_ends_reading_within_a_frame(tmp_path: Path) -> None:
    stop = Stop()
    frames = VideoFile(write_video(tmp_path / "a.avi", "MJPG")).frames(stop)
    assert next(frames).number == 0
    stop.set()
    assert list(frames) == []


def test_text_names_a_source(tmp_path: Path) -> None:
    video = write_video(tmp_path / "Belt.AVI", "MJPG")
    for text, kind in (
        ("0", Camera),
        ("rtsp://10.0.0.7/ch1", Camera),
        (str(video), VideoFile),
        (str(tmp_path), WatchedFolder),
    ):
        assert isinstance(open_source(text), kind)
    assert [is_stream(text) for text in ("12", str(video), str(tmp_path), "a.png")] == [
        True,
        True,
        False,
        False,
    ]


def test_watched_folder_gets_its_settings(tmp_path: Path) -> None:
    source = open_source(str(tmp_path), seen={"a.png"})
    assert isinstance(source, WatchedFolder)
    assert source.seen == {"a.png"}


@pytest.mark.parametrize("text", ["part.txt", "99999", "", "-1"])
def test_other_texts_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part.txt").write_text("no video")
    found = "another file" if text == "part.txt" else "nothing there"
    with pytest.raises(InputError, match=r"expected a camera's index \(0\), an address \(rtsp://") as error:
        open_source(text or "none")
    assert str(error.value).endswith(f"or a folder to watch, found {found}")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://x", "concat://a"])
def test_addresses_of_other_kinds_are_refused(url: str) -> None:
    with pytest.raises(
        InputError, match="expected one of rtsp, rtsps, rtmp, http, https, rtp, udp, tcp, found"
    ):
        open_source(url)
