"""What the benchmarks share: figures with targets, timing in turns, a process's memory, drawn photographs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from unittest.mock import patch

import numpy as np

from anomalib_lite.data.images import list_images, write_png
from anomalib_lite.data.rendered.zipper import render_picture

DRAWN = 8  # different photographs; links to them make up any number
SAMPLED_EVERY = 0.02  # seconds between two looks at a process's memory


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of a table; a target is a least or a most."""

    name: str
    value: float
    unit: str = ""
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        target = f">= {self.least:g}" if self.least is not None else ""
        target = f"<= {self.most:g}" if self.most is not None else target
        return f"{self.name:62} {self.value:10.3f} {self.unit:10} {target:8} {'' if self.met else 'MISSED'}"

    @property
    def met(self) -> bool:
        """Whether the target, if there is one, is reached."""
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)


def timed_in_turns(jobs: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """Seconds (rounds, jobs) of jobs done one after the other, after a round that is not timed."""
    seconds = np.empty((rounds + 1, len(jobs)))
    for turn in seconds:
        for number, job in enumerate(jobs):
            start = time.perf_counter()
            job()
            turn[number] = time.perf_counter() - start
    return seconds[1:]


class Timed:
    """Stands in for something that is called, and notes how many seconds each call takes."""

    def __init__(self, inner: Any, seconds: list[float]) -> None:
        self.inner, self.seconds = inner, seconds

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = self.inner(*arguments, **named)
        self.seconds.append(time.perf_counter() - start)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def watched(job: Callable[[], object], parts: Mapping[str, tuple[Any, str]]) -> dict[str, np.ndarray]:
    """Seconds of every call of what is found as (owner, attribute), by name, while `job` runs."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    with ExitStack() as watching:
        for name, (owner, attribute) in parts.items():
            timed = Timed(getattr(owner, attribute), seconds[name])
            watching.enter_context(patch.object(owner, attribute, timed))
        job()
    return {name: np.array(times) for name, times in seconds.items()}


def peak_private_mb(command: Sequence[str], *, allowed: Sequence[int] = (0,)) -> float:
    """The most memory that a command was seen to hold, without mapped files (RssAnon of Linux's /proc).

    Raises SystemExit with the command's output if its exit code is not among the `allowed` ones.
    """
    with TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        status, peak = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            for line in status.read_text().splitlines():  # once it has ended, the line is missing
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]))
            time.sleep(SAMPLED_EVERY)
        output.seek(0)
        if process.returncode not in allowed:
            raise SystemExit(f"{' '.join(command)}\n{output.read()}")
    return peak / 1024


def parser_of(description: str | None, *, quick: bool = True) -> argparse.ArgumentParser:
    """The options that benchmarks of speed share; `quick` where there is a small version of it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=2)
    if quick:
        parser.add_argument("--quick", action="store_true", help="small and short, to see that it runs")
    return parser


def write_figures(out: Path | None, settings: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    """Write settings and figures as JSON, if a file was asked for."""
    if out is not None:
        listed = [asdict(figure) | {"met": figure.met} for figure in figures]
        out.write_text(json.dumps({"settings": dict(settings), "figures": listed}, indent=2))


def draw(folder: Path, size: tuple[int, int]) -> list[Path]:
    """Write some different photographs of good parts, (width, height) pixels."""
    folder.mkdir()
    for index in range(DRAWN):
        write_png(folder / f"{index}.png", render_picture(set_number=1, size=size, index=index)[0])
    return list_images(folder)


def link(drawn: Sequence[Path], folder: Path, count: int) -> Path:
    """A folder of `count` pictures, each a link to one of the drawn ones."""
    folder.mkdir(parents=True)
    for number in range(count):
        os.link(drawn[number % len(drawn)], folder / f"{number:05}.png")
    return folder
