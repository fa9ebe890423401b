"""Folders of rendered pictures: whole or absent, one writer at a time, errors in one line."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data.rendered.rendering import (
    STALE_SECONDS,
    check_size_and_seed,
    defect_strength,
    render_folder,
    write_png,
)
from anomalib_lite.types import InputError


def write_one(folder: Path) -> None:
    (folder / "000.txt").write_text("picture")


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_folder_holds_what_was_written_and_the_record(tmp_path: Path) -> None:
    folder = render_folder(tmp_path / "new" / "set_v1", description={"seed": 3}, write_into=write_one)
    assert folder == tmp_path / "new" / "set_v1"
    assert (folder / "000.txt").read_text() == "picture"
    assert json.loads((folder / "rendered.json").read_text()) == {"seed": 3}
    assert visible(folder.parent) == ["set_v1"]


def test_finished_folder_is_not_written_again(tmp_path: Path) -> None:
    render_folder(tmp_path / "set", description={"seed": 3}, write_into=write_one)
    render_folder(
        tmp_path / "set", description={"seed": 3}, write_into=lambda _: pytest.fail("written again")
    )


def test_folder_of_other_pictures_is_not_taken_for_this_one(tmp_path: Path) -> None:
    render_folder(tmp_path / "set", description={"seed": 3}, write_into=write_one)
    with pytest.raises(
        InputError, match=r"rendered\.json: expected {'seed': 4}, found {'seed': 3}; remove .*set"
    ):
        render_folder(tmp_path / "set", description={"seed": 4}, write_into=write_one)


def test_folder_is_absent_until_it_is_whole(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        write_one(folder)
        assert not (tmp_path / "set").exists()

    assert render_folder(tmp_path / "set", description={}, write_into=write).exists()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_failed_writing_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail(folder: Path) -> None:
        write_one(folder)
        raise failure

    with pytest.raises(failure):
        render_folder(tmp_path / "set", description={}, write_into=fail)
    assert visible(tmp_path) == []


def test_full_disk_is_one_message(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with pytest.raises(InputError, match=r"set: expected to write .* there, found: No space left on device$"):
        render_folder(tmp_path / "set", description={}, write_into=fail)
    assert visible(tmp_path) == []


def test_two_at_once_write_it_once(tmp_path: Path) -> None:
    written = []

    def write(folder: Path) -> None:
        written.append(folder)
        time.sleep(0.2)
        write_one(folder)

    def render() -> None:
        render_folder(tmp_path / "set", description={}, write_into=write)

    threads = [threading.Thread(target=render) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert visible(tmp_path) == ["set"]


def test_only_old_leftovers_of_the_same_set_are_removed(tmp_path: Path) -> None:
    names = (".set.old.part", ".set.young.part", ".other.old.part")
    for name in names:
        (tmp_path / name).mkdir()
    long_ago = time.time() - 2 * STALE_SECONDS
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (long_ago, long_ago))
    render_folder(tmp_path / "set", description={}, write_into=write_one)
    assert visible(tmp_path) == [".other.old.part", ".set.young.part", "set"]


def test_png_round_trip(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "a" / "colour.png", image)
    write_png(tmp_path / "a" / "grey.png", image[..., 0])
    stored = cv2.imread(str(tmp_path / "a" / "colour.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), image)
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / "a" / "grey.png"), cv2.IMREAD_UNCHANGED), image[..., 0]
    )


def test_size_and_seed_are_checked() -> None:
    check_size_and_seed((8, 6), minimum=(8, 6), seed=0)
    with pytest.raises(InputError, match=r"^size must be at least 8x6 pixels \(width x height\), got 7x9$"):
        check_size_and_seed((7, 9), minimum=(8, 6), seed=0)
    with pytest.raises(InputError, match="got 9x5"):
        check_size_and_seed((9, 5), minimum=(8, 6), seed=0)
    with pytest.raises(InputError, match=r"^seed must be at least 0, got -1$"):
        check_size_and_seed((8, 6), minimum=(8, 6), seed=-1)


def test_strengths_are_evenly_spread() -> None:
    strengths = np.sort([defect_strength(index) for index in range(30)])
    assert np.abs(strengths - (np.arange(30) + 0.5) / 30).max() < 0.04
