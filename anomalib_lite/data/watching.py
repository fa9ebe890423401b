"""Pictures that appear in a folder, each once it is whole."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from anomalib_lite.data.frames import Frame, Stop, now
from anomalib_lite.data.images import IMAGE_SUFFIXES, read_image
from anomalib_lite.types import InputError

DAMAGED_AFTER_S = 10.0  # a file that rests so long and still cannot be read is not being written

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    """What tells that a file was written to."""

    modified: int  # nanoseconds
    size: int


class WatchedFolder:
    """A folder into which somebody puts pictures; `frames` gives each new one, and ends only when stopped.

    A picture is read once its size and time have rested from one look to the next, `poll_s` later, and it decodes; one
    that rests for `damaged_after_s` and does not decode is a frame with an error. Pictures found in one look come by
    (time, name). A name is given once, and those in `seen` never: a restart does not judge again; `seen` grows by
    what is given. A folder that vanishes (a network share) is waited for. Raises InputError where there is none
    at first.

    >>> WatchedFolder(Path("no_such"))
    Traceback (most recent call last):
    anomalib_lite.types.InputError: no_such: expected a folder to watch, found nothing there
    """

    live = False  # its files wait
    fps: float | None = None

    def __init__(
        self,
        path: Path,
        *,
        poll_s: float = 0.5,
        seen: Collection[str] = (),
        damaged_after_s: float = DAMAGED_AFTER_S,
    ) -> None:
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing there"
            raise InputError(f"{path}: expected a folder to watch, found {found}")
        if poll_s <= 0:
            raise InputError(f"poll_s must be above 0, got {poll_s}")
        self.path = path
        self.name = str(path)
        self.reconnects = 0  # times that the folder was away
        self.note = ""
        self.seen = set(seen)
        self._poll_s = poll_s
        self._damaged_after_s = damaged_after_s
        self._resting: dict[str, tuple[_State, float]] = {}  # since when, as time.monotonic()

    def frames(self, stop: Stop) -> Iterator[Frame]:
        """New pictures, float32 in [0, 1] as `read_image` gives them; `seconds` counts from the first look."""
        start, number, away = time.monotonic(), 0, False
        while True:
            try:
                rested = self._look()
            except OSError as error:
                if not away:
                    log.warning("%s: cannot be looked into (%s); waiting", self.name, error.strerror)
                away, rested = True, []
            else:
                self.reconnects += away
                away = False
            for name, state, since in rested:
                if stop.is_set:
                    return
                frame = self._read(name, state, since, number, start)
                if frame is not None:
                    self.seen.add(name)
                    del self._resting[name]
                    number += 1
                    yield frame
            if stop.wait(self._poll_s):
                return

    def _look(self) -> list[tuple[str, _State, float]]:
        """New pictures that have not changed since the last look, by (time, name); raises OSError."""
        found: dict[str, tuple[_State, float]] = {}
        rested = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                name = entry.name
                if name in self.seen or name.startswith(".") or not name.lower().endswith(IMAGE_SUFFIXES):
                    continue
                try:
                    if not entry.is_file():
                        continue
                    state = _state_of(self.path / name)
                except OSError:  # gone in between
                    continue
                before = self._resting.get(name)
                since = before[1] if before is not None and before[0] == state else time.monotonic()
                found[name] = (state, since)
                if before is not None and before[0] == state:
                    rested.append((name, state, since))
        self._resting = found
        return sorted(rested, key=lambda picture: (picture[1].modified, picture[0]))

    def _read(self, name: str, state: _State, since: float, number: int, start: float) -> Frame | None:
        """The picture, or its error once it has rested for long; None: look again later."""
        path = self.path / name
        try:
            image, error = read_image(path), ""
        except InputError as failure:
            image, error = None, str(failure)
        try:
            if _state_of(path) != state:  # written to meanwhile
                return None
        except OSError:  # gone; if it decoded, it was whole
            if image is None:
                return None
        if image is None and time.monotonic() - since < self._damaged_after_s:
            return None
        return Frame(number, time.monotonic() - start, now(), image, error, path)


def _state_of(path: Path) -> _State:
    facts = path.stat()
    return _State(facts.st_mtime_ns, facts.st_size)
