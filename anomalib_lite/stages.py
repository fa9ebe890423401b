"""Results of earlier stages, kept on disk and keyed by all that determines them.

A stage is a folder that appears whole or not at all: it is made beside its final place and renamed, under a
lock, so that two processes that want the same stage make it once and a killed process leaves nothing that
could be mistaken for a result. What is computed picture by picture is kept picture by picture (`PictureStore`),
so that a killed job does not begin again with the first one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from filelock import AcquireReturnProxy, FileLock, Timeout
from safetensors import SafetensorError

from anomalib_lite.types import InputError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PACKAGES = (
    "torch", "torchvision", "timm", "lightning", "opencv-python-headless", "faiss-cpu", "numpy", "scipy",
    "scikit-learn", "pillow", "ImageHash",
)  # fmt: skip
CALL, POLL_SECONDS = "called.txt", 0.2
DONE = "stage.json"  # written last: what the stage was made from, and its files
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # a shared store that is not ours to write to
CLOCK_TICK = 100_000_000  # ns, more than the clocks of file systems take between two times
# a larger file is checked by its size and this many pieces of itself, spread over it evenly
WHOLLY_CHECKED, PIECES, PIECE = 2**28, 64, 2**20


def digest(what: Any) -> str:
    """SHA-256 (first 20 hex digits) of anything JSON can hold, independent of the order of keys.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; read once by a process, unless the file is another or was written to since."""
    facts = path.stat()
    signature = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) < CLOCK_TICK:
        return _file_digest.__wrapped__(path)  # another write may come within the same tick and go unnoticed
    return _file_digest(path, *signature)


@cache
def _file_digest(path: Path, *facts: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache  # the code that runs is the code that was there when it was imported
def code_digest(*modules: str) -> str:
    """Digest of the package's source files that shape a stage: files, or folders for all that is in them."""
    root = Path(__file__).parent
    files = [
        file
        for module in modules
        for file in ([root / module] if module.endswith(".py") else sorted((root / module).rglob("*.py")))
    ]
    return digest([[file.relative_to(root).as_posix(), file_digest(file)] for file in files])


@cache
def versions() -> dict[str, str]:
    """Of the packages whose numbers end up in stages."""
    return {name: version(name) for name in PACKAGES}


@dataclass(kw_only=True)
class StageStore:
    """Stages under one folder.

    Args:
        root: where stages live; created when the first one is made.
        spare: where those go that `root` does not let us write, as a shared read-only one doesn't; None: an error.
    """

    root: Path
    spare: Path | None = None
    reused: list[str] = field(default_factory=list)  # names of stages that were there already

    def find(self, name: str, made_from: dict[str, Any]) -> Path | None:
        """The folder of a whole stage, or None; does not wait for a process that is making it."""
        key = digest(made_from)
        for root in filter(None, (self.root, self.spare)):
            folder = root / name / key
            if (folder / DONE).is_file() and _is_whole(folder):
                log.info("reused stage %s from %s", name, folder)
                if name not in self.reused:
                    self.reused.append(name)
                return folder
        return None

    def wait_for_call(self, name: str, made_from: dict[str, Any]) -> bool:
        """Wait until the first process of this job makes a stage with the others' help (True), or has it (False).

        Under submitit a process that waits ends with its job; what the first one does with a stage is its affair.
        """
        folders = [root / name / digest(made_from) for root in (self.root, self.spare) if root is not None]
        while True:
            for folder in folders:
                with suppress(OSError):
                    if (folder.with_suffix(".unfinished") / CALL).read_text() == _job():
                        return True
                if "SUBMITIT_FOLDER" not in os.environ and (folder / DONE).is_file() and _is_whole(folder):
                    return False
            time.sleep(POLL_SECONDS)

    def get(self, name: str, made_from: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of stage `name` made from `made_from`; calls `make(folder)` where it does not exist yet.

        Raises:
            InputError: where the stage cannot be written (full disk, read-only folder).
        """
        if found := self.find(name, made_from):
            return found
        folder = self.root / name / digest(made_from)
        try:
            _check_writable(folder.parent)
        except OSError as error:
            if self.spare is None or error.errno not in REFUSED:
                raise _cannot_write(name, folder, error) from None
            log.warning(
                "%s can't be written to (%s): stage %s is kept in %s",
                self.root,
                error.strerror,
                name,
                self.spare,
            )
            folder = self.spare / name / folder.name
        try:
            lock = _locked(folder.with_suffix(".lock"), name)
        except OSError as error:
            raise _cannot_write(name, folder, error) from None
        with lock:
            if found := self.find(name, made_from):  # another process made it while we waited
                return found
            try:
                _make(folder, made_from, make)
            except OSError as error:
                if error.filename is not None and not str(error.filename).startswith(str(folder)):
                    raise  # not of the stage's own files
                raise _cannot_write(name, folder, error) from None
        return folder


@contextmanager
def taking_over(stage: Path) -> Iterator[None]:
    """For reading a stage's files: whatever trips over them is one line.

    Their digests tell damage, not forgery. Raises InputError for what could not have been written here.
    """
    try:
        yield
    except InputError:
        raise
    except (
        SafetensorError,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{stage}: expected a stage as it was written, found {type(error).__name__}: {reason:.200}; remove it"
        ) from None


def call_others(stage: Path) -> None:
    """Tell the other processes of this job that a stage is being made which they have to help with."""
    (stage / CALL).write_text(_job())


def _job() -> str:
    return "-".join(os.environ.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))


class PictureStore:
    """Arrays computed from one picture, in a file each: what was computed before is not computed again.

    A file is found by all that determines it: the bytes of the picture, and `made_from`. One that is damaged is made
    again; where none can be written, nothing is kept and nothing fails.

    Args:
        folder: of the store; None: nothing is kept.
        made_from: what computes the arrays.
    """

    def __init__(self, folder: Path | None, made_from: dict[str, Any]) -> None:
        self.folder = None if folder is None else folder / digest(made_from)
        self.writable, self.found, self.computed = True, 0, 0

    def get(self, picture: Tensor, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What `compute` gives for a picture, or gave for the same one earlier."""
        if self.folder is None:
            self.computed += 1
            return compute()
        content = hashlib.sha256(str(tuple(picture.shape)).encode())
        content.update(picture.detach().cpu().contiguous().numpy().data)
        path = self.folder / f"{content.hexdigest()[:40]}.safetensors"
        arrays = _read_arrays(path)
        if arrays is not None:
            self.found += 1
            return arrays
        self.computed += 1
        arrays = compute()
        self._write(path, arrays)
        return arrays

    def _write(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        if not self.writable:
            return
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            data = safetensors.numpy.save(content)
            # no fsync: what a crash of the machine leaves is noticed by the digest
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
            temporary.replace(path)
        except OSError as error:
            log.warning(
                "%s: maps and embeddings are not kept for later: %s", self.folder, error.strerror or error
            )
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.writable = False


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    length = hashlib.sha256().digest_size
    data = content[length:]
    if hashlib.sha256(data).digest() != content[:length]:
        log.warning("%s is damaged: it is made again", path)
        return None
    try:
        arrays: dict[str, np.ndarray] = safetensors.numpy.load(data)
    except (SafetensorError, LookupError, ValueError):  # the digest tells damage, not forgery
        return None
    return arrays


def _make(folder: Path, made_from: dict[str, Any], make: Callable[[Path], None]) -> None:
    unfinished = folder.with_suffix(".unfinished")  # ours alone while we hold the lock
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        make(unfinished)
        made = {"made_from": made_from, "files": _describe(unfinished)}
        (unfinished / DONE).write_text(json.dumps(made, indent=1, sort_keys=True, default=str))
        if folder.exists():  # damaged, or without its DONE: not a whole one
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _is_whole(folder: Path) -> bool:
    """Whether a stage's files are those that were written; read once by a process, as `file_digest` does."""
    try:
        whole = json.loads((folder / DONE).read_text())["files"] == _describe(folder)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        whole = False
    if not whole:
        log.warning("stage %s is damaged: it is made again", folder)
    return whole


def _describe(folder: Path) -> dict[str, list[Any]]:
    """Size and digest of every file of a stage."""
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _sampled_digest(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (DONE, CALL)
    }


def _sampled_digest(path: Path) -> str:
    """SHA-256 of a file, of a large one in pieces: a stage of many gigabytes must not be read before it is used."""
    facts = path.stat()
    # not the time of the last change of status: a bundle that shares the file with the stage changes that
    return _pieces_digest(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@cache
def _pieces_digest(path: Path, inode: int, size: int, modified: int) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLLY_CHECKED:
            return hashlib.file_digest(file, "sha256").hexdigest()
        for place in np.linspace(0, size - PIECE, PIECES).astype(int):
            file.seek(int(place))
            content.update(file.read(PIECE))
    return content.hexdigest()


def _check_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable-{secrets.token_hex(4)}"
    probe.touch()
    probe.unlink()


def _cannot_write(name: str, folder: Path, error: OSError) -> InputError:
    return InputError(f"cannot write stage {name} in {folder.parent}: {error.strerror or error}")


def _locked(path: Path, name: str) -> AcquireReturnProxy:
    """The stage's lock, which ends with its process, and a line in the log if somebody else holds it."""
    lock = FileLock(path)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process that makes stage %s", name)
        return lock.acquire()
