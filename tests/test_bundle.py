"""The bundle: round trip, every kind of damage, hostile content, and a disk that refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from anomalib_lite import bundle as bundle_module
from anomalib_lite.bundle import ARRAYS, DTYPES, FORMAT, MANIFEST, SETTINGS, read_bundle, write_bundle
from anomalib_lite.types import InputError

SETTINGS_VALUE = {
    "name": "knn",
    "k": 5,
    "cut": 0.1 + 0.2,
    "mean": [1.5, None],
    "nested": {"ä": True, "empty": {}},
}


def example_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.integers(0, 2, (3, 4)).astype(name) for name in DTYPES}
    return arrays | {"float": rng.normal(size=(2, 3, 4)).astype(np.float32), "scalar": np.array(2.5)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", example_arrays(), SETTINGS_VALUE)
    return tmp_path / "bundle"


def assert_holds(folder: Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    found, values = read_bundle(folder)
    assert values == settings
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def forge(folder: Path, contents: dict[str, bytes], **manifest: Any) -> None:
    """Write files with a manifest that fits them, as somebody with bad intentions would."""
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    listed = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name in (SETTINGS, ARRAYS)
        for data in [(folder / name).read_bytes()]
    }
    content = {"format": FORMAT, "version": "0", "files": listed} | manifest

    def dump(value: dict) -> bytes:
        return (json.dumps(value, indent=2) + "\n").encode()

    (folder / MANIFEST).write_bytes(dump(content | {"sha256": hashlib.sha256(dump(content)).hexdigest()}))


def test_round_trip_of_every_dtype(folder: Path) -> None:
    assert_holds(folder, example_arrays(), SETTINGS_VALUE)
    assert sorted(os.listdir(folder)) == [SETTINGS, ARRAYS, MANIFEST]
    assert os.listdir(folder.parent) == ["bundle"]


def test_round_trip_of_views_and_empty_arrays(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {"transposed": base.T, "strided": base[::2, 1::2], "reversed": base[:, ::-1], "empty": base[:0]}
    write_bundle(tmp_path / "b", arrays, {})
    assert_holds(tmp_path / "b", arrays, {})
    write_bundle(tmp_path / "b", {"swapped": base.astype(">f4")}, {})
    assert_holds(tmp_path / "b", {"swapped": base}, {})
    write_bundle(tmp_path / "b", {}, {})
    assert_holds(tmp_path / "b", {}, {})


def test_same_content_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "again", dict(reversed(example_arrays().items())), SETTINGS_VALUE)
    for name in (ARRAYS, SETTINGS, MANIFEST):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(("name", "step"), [(MANIFEST, 1), (SETTINGS, 1), (ARRAYS, 7)])
def test_every_changed_byte_is_noticed(folder: Path, name: str, step: int) -> None:
    original = (folder / name).read_bytes()
    for position in range(0, len(original), step):
        changed = bytearray(original)
        changed[position] ^= 1 << (position % 8)
        (folder / name).write_bytes(changed)
        with pytest.raises(InputError) as error:
            read_bundle(folder)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [MANIFEST, SETTINGS, ARRAYS])
def test_every_truncation_is_noticed(folder: Path, name: str) -> None:
    original = (folder / name).read_bytes()
    for length in [0, 1, *range(2, len(original), 13), len(original) - 1]:
        (folder / name).write_bytes(original[:length])
        with pytest.raises(InputError):
            read_bundle(folder)
    (folder / name).write_bytes(original + b"\n")
    with pytest.raises(InputError):
        read_bundle(folder)
    (folder / name).write_bytes(original)
    assert_holds(folder, example_arrays(), SETTINGS_VALUE)


def test_a_file_of_another_bundle_is_noticed(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_bundle(other, example_arrays(seed=1), SETTINGS_VALUE | {"k": 6})
    for name in (ARRAYS, SETTINGS):
        assert (other / name).stat().st_size == (folder / name).stat().st_size
        kept = (folder / name).read_bytes()
        shutil.copy(other / name, folder / name)
        with pytest.raises(
            InputError, match=f"{name}: damaged bundle: its SHA-256 is not the one in {MANIFEST}"
        ):
            read_bundle(folder)
        (folder / name).write_bytes(kept)


@pytest.mark.parametrize("name", [ARRAYS, SETTINGS])
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=r"damaged bundle: expected .* found"):
        read_bundle(folder)


def test_an_extra_file_is_noticed(folder: Path) -> None:
    (folder / "extra.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"found \['detector.json', 'detector.safetensors', 'extra.pkl'"):
        read_bundle(folder)


def test_what_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(InputError, match="not a bundle"):
            read_bundle(path)


def test_another_format_version_says_who_wrote_it(folder: Path) -> None:
    forge(folder, {}, format=FORMAT + 1, version="9.1")
    with pytest.raises(
        InputError,
        match=rf"expected bundle format {FORMAT}, found {FORMAT + 1} \(written by anomalib-lite '9.1'",
    ):
        read_bundle(folder)


@pytest.mark.parametrize("name", [ARRAYS, SETTINGS, MANIFEST])
def test_links_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{name}: expected a regular file"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "detector.json\x00"])
def test_a_manifest_cannot_name_other_files(folder: Path, name: str) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    for listed in (
        files | {name: files[SETTINGS]},
        {name: files[SETTINGS], ARRAYS: files[ARRAYS]},
        [name],
        name,
    ):
        forge(folder, {}, files=listed)
        with pytest.raises(InputError, match=r"expected it to list detector\.safetensors and detector\.json"):
            read_bundle(folder)


@pytest.mark.parametrize(
    "entry", [None, [], {"size": 1}, {"size": True, "sha256": ""}, {"size": "1", "sha256": ""}]
)
def test_a_manifest_with_other_facts_is_refused(folder: Path, entry: Any) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    forge(folder, {}, files=files | {SETTINGS: entry})
    with pytest.raises(InputError, match=r"expected size and sha256 of detector\.json"):
        read_bundle(folder)


def test_a_grown_file_is_not_even_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (folder / ARRAYS).stat().st_size
    with (folder / ARRAYS).open("r+b") as file:
        file.truncate(2**40)  # a hole: takes no room on disk
    read = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))
    with pytest.raises(InputError, match=f"expected {size} bytes, found {2**40}"):
        read_bundle(folder)
    assert ARRAYS not in read


@pytest.mark.parametrize(
    "text",
    [
        '{\n  "a": NaN\n}\n',
        '{\n  "a": 1,\n  "a": 2\n}\n',
        '{"a": 1}\n',
        "[]\n",
        "1\n",
        "\ufeff{}\n",
        "[" * 100_000 + "]" * 100_000,
        json.dumps({"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}, indent=2)
        + "\n",
        '{\n  "a": 1' + "0" * 5000 + "\n}\n",
        '{\n  "a": 1e999\n}\n',
    ],
)
def test_hostile_settings_are_refused(folder: Path, text: str) -> None:
    forge(folder, {SETTINGS: text.encode()})
    with pytest.raises(InputError, match=r"detector\.json: damaged bundle"):
        read_bundle(folder)


def test_huge_settings_are_refused(folder: Path) -> None:
    forge(folder, {SETTINGS: b" " * (2**24 + 1)})
    with pytest.raises(InputError, match="at most 16777216 bytes"):
        read_bundle(folder)
    (folder / MANIFEST).write_bytes(b" " * (2**16 + 1))
    with pytest.raises(InputError, match="expected at most 65536 bytes, found 65537"):
        read_bundle(folder)


def safetensors_bytes(header: str, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        (2**60).to_bytes(8, "little"),
        safetensors_bytes("[" * 10_000),
        safetensors_bytes('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}', bytes(8)),
        safetensors_bytes('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(4)),
        safetensors_bytes('{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', bytes(4)),
        safetensors_bytes('{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        safetensors_bytes('{"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}'),
        safetensors.numpy.save({"a": np.array([1.0, np.nan])}),
        safetensors.numpy.save({"a": np.array([np.inf], dtype=np.float16)}),
    ],
)
def test_hostile_arrays_are_refused(folder: Path, content: bytes) -> None:
    forge(folder, {ARRAYS: content})
    with pytest.raises(InputError, match=str(folder)):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("arrays", "settings", "text"),
    [
        ({"a": np.array([1.0, np.nan])}, {}, "array 'a' holds NaN or infinity"),
        ({"a": np.array([-np.inf], dtype=np.float32)}, {}, "array 'a' holds NaN or infinity"),
        ({"a": np.zeros(1, dtype=np.complex64)}, {}, "must be one of float32 .* got complex64"),
        ({"a": np.array(["text"], dtype=object)}, {}, "got object"),
        ({}, {"a": float("nan")}, "a number that JSON lacks"),
    ],
)
def test_what_cannot_be_written_leaves_the_earlier_bundle(
    folder: Path, arrays: dict, settings: dict, text: str
) -> None:
    with pytest.raises(InputError, match=text):
        write_bundle(folder, arrays, settings)
    assert_holds(folder, example_arrays(), SETTINGS_VALUE)


def test_an_earlier_bundle_is_replaced_even_when_damaged(folder: Path) -> None:
    write_bundle(folder, example_arrays(seed=2), {"k": 7})
    assert_holds(folder, example_arrays(seed=2), {"k": 7})
    (folder / ARRAYS).unlink()
    write_bundle(folder, example_arrays(seed=3), {"k": 8})
    assert_holds(folder, example_arrays(seed=3), {"k": 8})
    assert os.listdir(folder.parent) == ["bundle"]


def test_a_link_to_a_bundle_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    write_bundle(tmp_path / "latest", example_arrays(seed=4), {})
    assert (tmp_path / "latest").is_symlink()
    assert_holds(folder, example_arrays(seed=4), {})


def test_other_peoples_files_are_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    for path in (tmp_path / "file", folder):
        with pytest.raises(InputError, match="exists and is not a bundle; it is not replaced"):
            write_bundle(path, {}, {})
    assert (folder / "notes.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_bundle(folder: Path) -> None:
    """A real failing write: the process may not write files beyond 1000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            InputError, match="cannot write the bundle: File too large; one that was there is whole"
        ):
            write_bundle(folder, {"large": np.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_holds(folder, example_arrays(), SETTINGS_VALUE)
    assert os.listdir(folder.parent) == ["bundle"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_read_only_folder_leaves_the_earlier_bundle(folder: Path) -> None:
    folder.parent.chmod(0o555)
    try:
        with pytest.raises(InputError, match="cannot write the bundle: Permission denied"):
            write_bundle(folder, {}, {})
        assert_holds(folder, example_arrays(), SETTINGS_VALUE)
    finally:
        folder.parent.chmod(0o755)


@pytest.mark.parametrize("failing_call", range(1, 8))
def test_a_failure_at_any_step_leaves_a_whole_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    """Each fsync and rename in turn fails once; the bundle is the earlier one or the new one, never half."""
    calls = 0

    def failing(original: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing_call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments)

        return call

    monkeypatch.setattr(bundle_module.os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    with pytest.raises(InputError, match="cannot write the bundle: No space left on device"):
        write_bundle(folder, example_arrays(seed=5), {"k": 9})
    renamed = failing_call == 7  # three files, their folder, two renames; then the parent's fsync
    assert_holds(folder, example_arrays(seed=5 if renamed else 0), {"k": 9} if renamed else SETTINGS_VALUE)
