"""A process that reads hostile files for the tests, and small whole bundles to make them from."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS, BENCHMARKS = Path(__file__).parent, Path(__file__).parents[2] / "benchmarks"
PATIENCE = 10.0  # seconds for one file, however hostile
STARTING = 240.0


@dataclass(frozen=True)
class Outcome:
    """What came of reading a file: `refused` with one line, `read`, or what must not happen."""

    outcome: str
    text: str


class Reader:
    """A worker that is started anew where a file has killed it, or kept it busy for too long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, reads: str, path: Path) -> Outcome:
        """Have a path below the folder read as a bundle, a picture ...; see worker.py."""
        assert path.is_relative_to(self.folder), "what is written elsewhere would go unnoticed"
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"reads": reads, "path": str(path)}) + "\n")
        process.stdin.flush()
        try:
            line = self.lines.get(timeout=PATIENCE)
        except queue.Empty:
            self.stop()
            return Outcome("timeout", f"over {PATIENCE:.0f} s")
        if not line:
            code = process.wait()
            self.process = None
            return Outcome("signal", str(-code))
        return Outcome(**json.loads(line))

    def _running(self) -> subprocess.Popen[str]:
        if self.process is not None:
            return self.process
        self.folder.mkdir(exist_ok=True)
        shutil.rmtree(self.folder / "warm", ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, str(TESTS / "worker.py"), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        self.process, self.lines = process, lines
        assert lines.get(timeout=STARTING) == "ready\n"
        return process

    def stop(self) -> None:
        """End the worker."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _read(stream: Any, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Reads a file in another process: a function of what it is read as and its path, below `hostile.folder`."""
    reader = Reader(tmp_path_factory.mktemp("hostile"))
    yield reader
    reader.stop()


@pytest.fixture
def place(hostile: Reader, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the test's own that the reading process may write to."""
    folder = hostile.folder / "place"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mutating() -> ModuleType:
    """The benchmark's module that damages files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import mutating as module
    return module


@pytest.fixture(scope="session")
def seeds(mutating: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small whole bundle by its name in `mutating.SEEDS`, which no test changes."""
    folder = tmp_path_factory.mktemp("seeds")

    def seed(name: str) -> Path:
        if not (folder / name).exists():
            mutating.seed_bundle(name, folder / name)
        return folder / name

    return seed


@pytest.fixture
def refused(hostile: Reader) -> Callable[[str, Path], str]:
    """Asserts that a path is refused with one line, and nothing else happens; returns the line."""

    def check(reads: str, path: Path) -> str:
        found = hostile(reads, path)
        assert found.outcome == "refused", found
        assert "\n" not in found.text
        assert len(found.text) < 1500  # a line, not a file
        # what only the limit of that process has stopped would fill a machine
        assert "allocate" not in found.text, found
        return found.text

    return check
