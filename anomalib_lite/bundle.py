"""A detector on disk: safetensors, JSON and a manifest of SHA-256; reading it runs no code from it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from anomalib_lite import __version__
from anomalib_lite.stages import file_digest
from anomalib_lite.types import InputError

FORMAT = 2
ARRAYS, SETTINGS, MANIFEST = "detector.safetensors", "detector.json", "manifest.json"
PARITY = "parity.json"
GRAPHS = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
}  # further files of an export, by its format
OURS = {ARRAYS, SETTINGS, MANIFEST, PARITY, *(name for names in GRAPHS.values() for name in names)}
DTYPES = ("float32", "float64", "float16", "uint16", "uint8", "int64", "bool")
MAX_MANIFEST_BYTES, MAX_SETTINGS_BYTES = 2**16, 2**24
MAX_JSON_DEPTH = 32


def write_bundle(
    folder: Path,
    arrays: dict[str, np.ndarray],
    settings: dict[str, Any],
    *,
    more: dict[str, bytes] | None = None,
) -> None:
    """Write a bundle, whole or not at all; an earlier one at `folder` is replaced once the new one is safe.

    `settings` are plain JSON values (a tuple comes back as a list); `more` are an export's further files. Raises
    InputError if `folder` holds something else than a bundle, a number is not finite, or the disk refuses.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as root:
    ...     write_bundle(Path(root, "bundle"), {"weight": np.ones(2)}, {"k": 5})
    ...     read_bundle(Path(root, "bundle"))
    ({'weight': array([1., 1.])}, {'k': 5})
    """
    files = {ARRAYS: safetensors.numpy.save(_checked(arrays, folder))}
    try:
        files[SETTINGS] = _dump(settings)
    except ValueError as error:
        raise InputError(f"{folder}: the settings hold a number that JSON lacks: {error}") from error
    try:
        files |= more or {}
        _write_folder(folder.resolve(), files | {MANIFEST: _manifest(files)})
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{folder}: cannot write the bundle: {reason}; one that was there is whole"
        ) from error


def derive_bundle(source: Path, folder: Path, changes: dict[str, Any]) -> None:
    """Write a bundle with the arrays of another one, and its settings with top-level `changes`.

    Arrays are shared with the source where the disk can (a link to the same file), so that a hundred bundles which
    differ in their cut take the room of one. Raises InputError as `read_bundle` and `write_bundle` do.
    """
    try:
        listed = _read_manifest(source / MANIFEST, (ARRAYS, SETTINGS))
        settings = _parse(source / SETTINGS, _read_listed(source / SETTINGS, **listed[SETTINGS]))
        files = {SETTINGS: _dump(settings | changes)}
        manifest = _manifest(files, known={ARRAYS: listed[ARRAYS]})
        _write_folder(folder.resolve(), files | {MANIFEST: manifest}, link=source / ARRAYS)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: the settings hold a number that JSON lacks: {error}") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot write the bundle: {error.strerror or error}") from error


def read_bundle(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and settings of a bundle, after checking every byte of it against the manifest.

    The manifest tells damage, not forgery: whoever can write the folder can write a manifest that fits. So
    the content is only ever read as numbers and text. Raises InputError for anything but a whole bundle.
    """
    arrays, settings, _ = read_export(folder, ())
    return arrays, settings


def read_export(
    folder: Path, more: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, bytes]]:
    """The arrays and settings of a bundle with the further files `more`, and the bytes of those; see `read_bundle`."""
    try:
        return _read_folder(folder, (ARRAYS, SETTINGS, *more))
    except OSError as error:
        raise InputError(f"{folder}: cannot read the bundle: {error.strerror or error}") from error


def join_parts(parts: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several parts under one roof, as `part_of` finds them again.

    >>> part_of(join_parts({"model": {"weight": np.ones(2)}, "scaler": {"mean": np.zeros(1)}}), "model")
    {'weight': array([1., 1.])}
    """
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def part_of(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The arrays of one part, by their own names."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _read_folder(
    folder: Path, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, bytes]]:
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder}: not a bundle (expected a folder with {MANIFEST})")
    found = sorted(os.listdir(folder))
    expected = sorted((*names, MANIFEST))
    if found != expected:
        raise InputError(f"{folder}: damaged bundle: expected {expected}, found {found!s:.200}")
    listed = _read_manifest(folder / MANIFEST, names)
    content = {name: _read_listed(folder / name, **listed[name]) for name in names}
    settings = _parse(folder / SETTINGS, content.pop(SETTINGS))
    try:
        arrays = safetensors.numpy.load(content.pop(ARRAYS))
    except (
        SafetensorError,
        KeyError,
        ValueError,
        OverflowError,
    ) as error:  # KeyError: a dtype that numpy lacks
        raise InputError(f"{folder / ARRAYS}: not a safetensors file of numbers: {error}") from error
    return _checked(arrays, folder), settings, content


def _checked(arrays: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """The same arrays, contiguous and of native byte order; raises InputError for another dtype or NaN."""
    checked = {}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise InputError(
                f"{folder}: array {name!r} must be one of {' '.join(DTYPES)}, got {array.dtype.name}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{folder}: array {name!r} holds NaN or infinity, expected finite numbers")
        checked[name] = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=None)
    return checked


# --- the manifest


def _manifest(files: dict[str, bytes], *, known: dict[str, Any] | None = None) -> bytes:
    listed = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    listed = dict(sorted((listed | (known or {})).items()))
    content = {"format": FORMAT, "version": __version__, "files": listed}
    return _dump(content | {"sha256": _sha256(_dump(content))})  # of itself: a changed version is noticed too


def _read_manifest(path: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    size = _regular_size(path)
    if size > MAX_MANIFEST_BYTES:
        raise InputError(f"{path}: expected at most {MAX_MANIFEST_BYTES} bytes, found {size}")
    content = _parse(path, path.read_bytes())
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected bundle format {FORMAT}, found {content.get('format')!r:.40} "
            f"(written by anomalib-lite {content.get('version')!r:.40}, this is {__version__})"
        )
    digest = content.pop("sha256", None)
    if digest != _sha256(_dump(content)):
        raise InputError(f"{path}: damaged bundle: the manifest was changed after it was written")
    # exactly our names: nothing else can be made to be read, wherever a listed name would lead
    entry = {"size": int, "sha256": str}
    listed = content.get("files")
    if not isinstance(listed, dict) or sorted(listed) != sorted(names):
        raise InputError(f"{path}: expected it to list {' and '.join(names)}, found {listed!r:.200}")
    for name, facts in listed.items():
        if not isinstance(facts, dict) or {key: type(value) for key, value in facts.items()} != entry:
            raise InputError(f"{path}: expected size and sha256 of {name}, found {facts!r:.200}")
    if listed[SETTINGS]["size"] > MAX_SETTINGS_BYTES:
        raise InputError(f"{path}: expected {SETTINGS} to have at most {MAX_SETTINGS_BYTES} bytes")
    return listed


def _read_listed(path: Path, *, size: int, sha256: str) -> bytes:
    found = _regular_size(path)
    if found != size:  # before reading: a file that has grown may not fit into memory
        raise InputError(f"{path}: damaged bundle: expected {size} bytes, found {found}")
    data = path.read_bytes()
    if _sha256(data) != sha256:
        raise InputError(f"{path}: damaged bundle: its SHA-256 is not the one in {MANIFEST}")
    return data


def _regular_size(path: Path) -> int:
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(f"{path}: expected a regular file, found a link, a folder or a device")
    return facts.st_size


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- JSON


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    """The object in `data`, which must be byte for byte as `_dump` writes it: no second key, no NaN."""
    try:
        content = json.loads(data.decode())
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, found {type(content).__name__}")
        _check_depth(content)
        canonical = _dump(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged bundle: not the JSON it should be: {error}") from error
    if canonical != data:
        raise InputError(f"{path}: damaged bundle: not written by anomalib-lite")
    return content


def _check_depth(content: dict[str, Any]) -> None:
    level: list[Any] = [content]
    for _ in range(MAX_JSON_DEPTH):
        containers = [item.values() if isinstance(item, dict) else item for item in level]
        level = [child for items in containers for child in items if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"more than {MAX_JSON_DEPTH} levels deep")


# --- the disk


def _write_folder(folder: Path, files: dict[str, bytes], *, link: Path | None = None) -> None:
    """Write beside `folder`, read it back, then swap: what is at `folder` is whole at any time.

    `link` is a file of another bundle that becomes one of this too.
    """
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unique = f".{folder.name}.{secrets.token_hex(4)}"
    fresh, earlier = folder.with_name(f"{unique}.new"), folder.with_name(f"{unique}.old")
    try:
        fresh.mkdir()
        for name, data in files.items():
            _write_file(fresh / name, data)
        if link is not None:
            _link_or_copy(link, fresh / link.name)
        _sync_folder(fresh)
        for name, data in files.items():
            if file_digest(fresh / name) != _sha256(data):
                raise OSError(errno.EIO, f"{name} did not reach the disk as written")
        _swap(fresh, folder, earlier)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    _sync_folder(folder.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def _swap(fresh: Path, folder: Path, earlier: Path) -> None:
    if not folder.exists():
        fresh.rename(folder)
        return
    # a folder cannot be renamed onto a full one; killed between these two, the earlier bundle is beside it
    folder.rename(earlier)
    try:
        fresh.rename(folder)
    except BaseException:
        earlier.rename(folder)
        raise


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or not OURS.issuperset(os.listdir(folder)):
        raise InputError(f"{folder}: exists and is not a bundle; it is not replaced")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        _write_file(target, source.read_bytes())


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
