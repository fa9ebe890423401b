"""Runs cells, each in a process of its own: memory comes back, and a failure stops only its own cell."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomalib_lite.benchmark.grid import Cell, cell_folder
from anomalib_lite.console import quoted
from anomalib_lite.report.files import replace_file

DONE = "cell.json"  # written last: the arguments of the run, and how it ended
OUTPUT = "output.txt"
POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0  # to finish a write after Ctrl-C
# with our own search path: the cell must run the code that we are part of, installed or in a clone
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from anomalib_lite.benchmark.child import main; sys.exit(main())"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a cell's process ended."""

    error: str  # one line; empty if it succeeded
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether there is no result."""
        return bool(self.error)


@dataclass(slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    resumed: bool
    started: float = field(default_factory=time.perf_counter)


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether a cell's whole result is there, from the same arguments."""
    place = cell_folder(folder, cell)
    try:
        marker = json.loads((place / DONE).read_text())
        json.loads((place / "metrics.json").read_text())
    except (OSError, ValueError):
        return False
    same = marker.get("arguments") == list(cell.arguments)
    return same and not marker.get("error") and (place / "scores.csv").is_file()


def run_cells(
    cells: Sequence[Cell],
    *,
    folder: Path,
    outputs: Path,
    jobs: int,
    threads: int,
    started: Callable[[Cell], None],
    ended: Callable[[Cell, Ended], None],
) -> None:
    """Run the cells in order, `jobs` at once with `threads` each; Ctrl-C and any error end what still runs.

    Args:
        cells: those without a result.
        folder: of the comparison; a cell's run goes to `cell_folder(folder, cell)`.
        outputs: whose `.stages` all of them share.
        jobs: how many at once.
        threads: of each run.
        started: told when a cell starts.
        ended: told when a cell has ended, well or not.
    """
    waiting, running = deque(cells), dict[Cell, _Running]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.popleft()
                started(cell)
                running[cell] = _start(cell, folder, outputs, threads)
            time.sleep(POLL_SECONDS)
            for cell in [cell for cell, run in running.items() if run.process.poll() is not None]:
                run = running.pop(cell)
                end = _end(run, cell_folder(folder, cell), cell)
                if end.failed and run.resumed:
                    waiting.appendleft(
                        cell
                    )  # what it went on from is of no use: once more from the beginning
                else:
                    ended(cell, end)
    finally:
        _stop([run.process for run in running.values()])


def _start(cell: Cell, folder: Path, outputs: Path, threads: int) -> _Running:
    place = cell_folder(folder, cell)
    resumed = _can_resume(place)
    if resumed:
        arguments = [f"resume={place}"]
    else:
        shutil.rmtree(
            place, ignore_errors=True
        )  # of a failed or killed run: nothing of it may mix with the new one
        arguments = [
            *cell.arguments,
            f"outputs={outputs}",
            f"threads={threads}",
            f"hydra.run.dir={quoted(str(place))}",
        ]
    place.mkdir(parents=True, exist_ok=True)
    with (place / OUTPUT).open("ab") as output:
        process = subprocess.Popen(
            # -P: until the path is set, no file of the working folder may stand in for a module
            [sys.executable, "-P", "-c", START, json.dumps(sys.path), *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the cell with all that it has started
        )
    return _Running(process, resumed)


def _can_resume(place: Path) -> bool:
    """Whether a killed run got as far as a checkpoint; a failed one would only fail again."""
    checkpoint = place / "checkpoints" / "last.ckpt"
    return (
        checkpoint.is_file()
        and (place / ".hydra" / "overrides.yaml").is_file()
        and not (place / DONE).exists()
    )


def _end(run: _Running, place: Path, cell: Cell) -> Ended:
    assert run.process.stdin is not None
    run.process.stdin.close()
    code = run.process.returncode
    error = "" if code == 0 else error_line((place / OUTPUT).read_text(errors="replace"), code)
    end = Ended(error=error, seconds=round(time.perf_counter() - run.started, 1))
    whole = None if run.resumed else end.seconds  # how long it had run before it was killed is not known
    marker = {"arguments": list(cell.arguments), "error": error, "seconds": whole}
    replace_file(place / DONE, (json.dumps(marker, indent=1) + "\n").encode())
    return end


def error_line(output: str, code: int) -> str:
    """What a run says of its end in one line.

    >>> error_line("12:00 reading\\nerror: data.root=x: found nothing there\\n", 2)
    'data.root=x: found nothing there'
    >>> error_line("", -9)
    'killed by SIGKILL'
    """
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (named or lines or [f"ended with exit code {code}"])[-1]


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes with all that they have started, and give them time to finish a write."""
    try:
        for process in processes:
            _signal_group(process, signal.SIGINT)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also after a second Ctrl-C
        for process in processes:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
