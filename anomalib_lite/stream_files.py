"""The lines of a stream, in a file or on stdout, and what an earlier stream left in its folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from anomalib_lite.lines import LineWriter
from anomalib_lite.types import InputError

LINES, SUMMARY, VIDEO = "stream.jsonl", "stream.json", "annotated.mkv"


class ConsumerGone(Exception):
    """Who read the lines from stdout has closed it."""


class LineFile:
    """Appends lines to a file that always ends with a whole one; raises InputError naming the file where it can't.

    Lines that are there already stay, if `append` is set; half a line, of a process that was killed, does not.
    """

    def __init__(self, path: Path, *, append: bool) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not append:
                path.unlink(missing_ok=True)
            self._file = path.open("a", encoding="utf-8", newline="\n")
            self._whole = whole_lines(path)
            os.truncate(path, self._whole)
        except OSError as error:
            raise InputError(f"{path}: cannot write the verdicts: {error.strerror or error}") from None
        self._writer = LineWriter(self._file)

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; of one that does not fit on the disk, nothing stays."""
        try:
            self._writer.write(line)
            self._whole = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            self.close()
            raise InputError(f"{self.path}: cannot write the verdicts: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the file; what was written of half a line is taken back."""
        try:
            self._file.close()
        except OSError:  # the half line that is still in its buffer
            os.truncate(self.path, self._whole)


class StandardOutput:
    """Writes lines to stdout; raises ConsumerGone once nobody reads them."""

    def __init__(self) -> None:
        self._writer = LineWriter(sys.stdout)

    def write(self, line: dict[str, Any]) -> None:
        """Write a line."""
        try:
            self._writer.write(line)
        except BrokenPipeError:
            # at the interpreter's end, what is still in the buffer would fail once more
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            raise ConsumerGone("who read the lines has closed stdout") from None
        except OSError as error:
            raise InputError(f"stdout: cannot write the verdicts: {error.strerror or error}") from None

    def close(self) -> None:
        """Stdout is not ours to close."""


def whole_lines(path: Path) -> int:
    """How many bytes of a file are whole lines: all up to its last line feed."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def judged_paths(folder: Path) -> set[str]:
    """The pictures that lines in a folder's `stream.jsonl` tell of; a watched folder's are not judged twice.

    Raises InputError for a line that is not JSON; half a line at the end, of a process that was killed, is none.
    """
    lines = folder / LINES
    if not lines.exists():
        return set()
    paths, end = set(), whole_lines(lines)
    with lines.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if file.tell() > end:
                break
            try:
                path = json.loads(text).get("path")
            except (ValueError, AttributeError, RecursionError):
                raise InputError(
                    f"{lines}: line {number}: expected a JSON object, found {text[:60]!r}"
                ) from None
            if isinstance(path, str):
                paths.add(path)
    return paths


def saved_drift(folder: Path) -> dict[str, Any] | None:
    """The state of the drift monitor that an earlier stream has left in a folder; None of none.

    Raises InputError for a `stream.json` that is something else.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_bytes())
        state = summary["drift_state"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: expected the summary of a stream, found something else") from None
    if not (state is None or isinstance(state, dict)):
        raise InputError(f"{path}: drift_state: expected an object or null, found {state!r:.60}")
    return state


def free_name(path: Path) -> Path:
    """A path that is not taken: itself, or with a number.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     (Path(folder) / "a.mkv").touch()
    ...     free_name(Path(folder) / "a.mkv").name
    'a-2.mkv'
    """
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
