"""Results of earlier stages, kept on disk and keyed by all that determines them.

A stage is a folder that appears whole or not at all: it is made beside its final place and renamed, under a
lock, so that two processes that want the same stage make it once and a killed process leaves nothing that
could be mistaken for a result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

DONE = "stage.json"  # written last: what the stage was made from


def digest(what: Any) -> str:
    """SHA-256 (first 20 hex digits) of anything JSON can hold, independent of the order of keys.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(modules: Iterable[str]) -> str:
    """Digest of the package's source files that shape a stage, by their place in the package."""
    root = Path(__file__).parent
    return digest([file_digest(root / module) for module in modules])


@dataclass(frozen=True)
class StageStore:
    """Stages under one folder.

    Args:
        root: where stages live; created when the first one is made.
    """

    root: Path

    def get(self, name: str, made_from: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of stage `name` made from `made_from`; calls `make(folder)` where it does not exist yet.

        Raises:
            InputError: where the stage cannot be written (full disk, read-only folder).
        """
        folder = self.root / name / digest(made_from)
        if (folder / DONE).is_file():
            log.info("reused stage %s from %s", name, folder)
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_suffix(".lock"), name):
                if (folder / DONE).is_file():  # another process made it while we waited
                    log.info("reused stage %s from %s", name, folder)
                    return folder
                self._make(folder, made_from, make)
        except OSError as error:
            raise InputError(
                f"cannot write stage {name} in {folder.parent}: {error.strerror or error}"
            ) from None
        return folder

    def _make(self, folder: Path, made_from: dict[str, Any], make: Callable[[Path], None]) -> None:
        unfinished = folder.with_suffix(".unfinished")  # ours alone while we hold the lock
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            make(unfinished)
            (unfinished / DONE).write_text(json.dumps(made_from, indent=1, sort_keys=True, default=str))
            if folder.exists():  # without its DONE: not a whole one
                shutil.rmtree(folder)
            os.replace(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def _locked(path: Path, name: str) -> AcquireReturnProxy:
    """The stage's lock, and a line in the log if somebody else holds it."""
    lock = FileLock(path)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process that makes stage %s", name)
        return lock.acquire()
