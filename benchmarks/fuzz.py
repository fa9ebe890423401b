"""Feeds damaged and forged files to everything that reads a file, and counts what comes of it.

Every input may be refused with an InputError or be read; what is read gives finite scores or a rejection. All else is a
crash: another exception, a signal, more than 20 seconds, more memory than 2 GiB, code that ran, a file written outside.
Inputs are tried in processes of their own, so that a crash of native code is counted and the next input tried.

    python benchmarks/fuzz.py --seconds 600 --workers 2 --out fuzz.json
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TARGETS = (
    "bundles",
    "pictures",
    "masks",
    "checkpoints",
    "weights",
    "stages",
    "runs",
    "streams",
    "exports",
)  # of targets.py
PATIENCE = 20.0  # seconds for one input
SETTING_UP = 300.0  # seconds for the imports and the seeds
MEMORY = 2 * 2**30  # bytes of address space beyond what a worker has when it begins
MARKER = "code-ran"  # what the payloads in the inputs would create
PAYLOAD = f"touch {MARKER}"
# of Python's audit events: what starts a process, and what changes a file at a path
STARTING = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn")
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OUTCOMES = ("refused", "read", "crash", "timeout", "signal", "ran code", "wrote outside")


@dataclass
class Watch:
    """Notes, by Python's audit events, what an input makes this process start or write outside of a folder."""

    folder: Path
    on: bool = False
    started: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        sys.addaudithook(self.hear)  # for as long as the process lives

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """One event."""
        if not self.on:
            return
        if event in STARTING:
            self.started.append(f"{event} {arguments[:1]}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._note(arguments[0], -1)
        elif event in CHANGING:
            paths = [path for path in arguments if isinstance(path, str | bytes | os.PathLike)]
            numbers = [number for number in arguments if isinstance(number, int)]
            for path, descriptor in zip(paths, numbers[-len(paths) :], strict=False):
                self._note(path, descriptor)

    def _note(self, path: Any, descriptor: int) -> None:
        """A path that is changed; a relative one starts at the open folder `descriptor`, if that is not -1."""
        if not isinstance(path, str | bytes | os.PathLike):
            return  # an open file
        start = os.getcwd() if descriptor < 0 else os.readlink(f"/proc/self/fd/{descriptor}")
        place = os.path.realpath(os.path.join(start, os.fsdecode(path)))
        if place != os.devnull and not f"{place}{os.sep}".startswith(f"{self.folder}{os.sep}"):
            self.written.append(place)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Listens inside the block, from nothing noted."""
        self.started, self.written, self.on = [], [], True
        try:
            yield
        finally:
            self.on = False


# --- in a worker


def work(target: str, seeds: Iterator[int], folder: Path) -> None:
    """Try one input a seed and say on stdout what came of it: a line before and a line after each."""
    sys.dont_write_bytecode = True
    os.chdir(folder)
    attempt = _set_up(target, folder)
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch(folder.resolve())
    say = sys.stdout.buffer
    for seed in seeds:
        say.write(json.dumps({"begins": seed}).encode() + b"\n")
        say.flush()
        detail = example = ""
        try:
            with watch.watching():
                outcome = attempt(random.Random(seed))
        except BaseException as error:
            outcome, detail = "crash", f"{type(error).__name__} {_place(error)}".strip()
            example = " ".join(str(error).split())[:200]
        if watch.started or (folder / MARKER).exists():
            outcome, example = "ran code", str(watch.started)
            (folder / MARKER).unlink(missing_ok=True)
        elif watch.written:
            outcome, example = "wrote outside", str(watch.written)[:200]
        line = {"seed": seed, "outcome": outcome, "detail": detail, "example": example}
        say.write(json.dumps(line).encode() + b"\n")
        say.flush()


def _place(error: BaseException) -> str:
    """Where in the package an exception came from."""
    places, trace = [], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if f"anomalib_lite{os.sep}" in file:
            places.append(f"{file.rpartition('anomalib_lite' + os.sep)[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"({places[-1]})" if places else ""


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _set_up(target: str, folder: Path) -> Callable[[random.Random], str]:
    """What tries one input; imports and seeds are made here, before anything is limited or watched."""
    import targets

    return targets.TARGETS[target](folder)


# --- in the parent


@dataclass
class Tally:
    """What came of the inputs of one target."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # what went wrong: how often, an example
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: str, seed: int, detail: str = "", example: str = "") -> None:
        """One input."""
        with self.lock:
            self.outcomes[outcome] += 1
            if outcome not in ("refused", "read"):
                first = {"inputs": 0, "seed": seed, "example": example}
                self.failures.setdefault(f"{outcome} {detail}".strip(), first)["inputs"] += 1


def fuzz(target: str, tally: Tally, *, seconds: float, first: int, step: int) -> None:
    """Try inputs for so long, in one process after the other; what setting up takes is not counted."""
    seed = first
    while seconds > 0:
        with TemporaryDirectory(prefix="fuzz-") as folder:
            seed, spent = _one_process(target, seed, step, seconds, Path(folder), tally)
        seconds -= spent


def _one_process(
    target: str, seed: int, step: int, seconds: float, folder: Path, tally: Tally
) -> tuple[int, float]:
    """Until the time is over or the process has died; the seed to go on with, and the seconds that it tried inputs."""
    command = [sys.executable, __file__, "--work", target, str(seed), str(step), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
    lines: queue.Queue[bytes] = queue.Queue()
    assert process.stdout is not None
    reader = threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True)
    reader.start()
    patience, began = SETTING_UP, None
    try:
        while True:
            line = lines.get(timeout=patience)
            if not line:
                code = process.wait()
                if began is None:  # not for what it was given: nothing to go on with
                    tally.add("crash", seed, "no worker began", (folder / "stderr").read_text()[-2000:])
                    return seed, seconds
                tally.add(
                    *(("signal", seed, str(-code)) if code < 0 else ("crash", seed, f"exit code {code}"))
                )
                break
            said, patience = json.loads(line), PATIENCE
            if "begins" in said:
                seed, began = said["begins"], began or time.monotonic()
            else:
                tally.add(**said)
                if time.monotonic() - (began or 0) > seconds:
                    break
    except queue.Empty:
        tally.add("timeout", seed)
    finally:
        process.kill()
        process.wait()
        reader.join()
    return seed + step, time.monotonic() - (began or 0)


def _read_lines(stream: Any, lines: queue.Queue[bytes]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")


def table(tallies: dict[str, Tally]) -> str:
    """A row a target and one of all, and below it what went wrong."""
    rows = [f"{'target':14}" + f"{'inputs':>10}" + "".join(f"{name:>15}" for name in OUTCOMES)]
    total: Counter[str] = Counter()
    for name, tally in tallies.items():
        total.update(tally.outcomes)
        rows.append(_row(name, tally.outcomes))
    rows.append(_row("all", total))
    for name, tally in tallies.items():
        for what, facts in sorted(tally.failures.items()):
            rows.append(
                f"{name}: {what}: {facts['inputs']} inputs, first seed {facts['seed']}: {facts['example']}"
            )
    return "\n".join(rows)


def _row(name: str, counts: Counter[str]) -> str:
    return f"{name:14}{counts.total():10,}" + "".join(f"{counts[outcome]:15,}" for outcome in OUTCOMES)


def main(typed: Sequence[str] | None = None) -> int:
    """Fuzz every target for its share of the time; 1 if anything but refusals and reads came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120, help="in all")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--workers", type=int, default=1, help="processes at once")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args(typed)
    if shutil.which("true") is None or not Path("/proc/self/statm").exists():
        raise SystemExit("fuzz.py needs Linux")
    started, tallies = time.monotonic(), {}
    for target in arguments.targets:
        tally = Tally()
        workers = [
            threading.Thread(
                target=fuzz,
                args=(target, tally),
                kwargs={
                    "seconds": arguments.seconds / len(arguments.targets),
                    "first": arguments.seed + number,
                    "step": arguments.workers,
                },
            )
            for number in range(arguments.workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        tallies[target] = tally
        print(_row(target, tally.outcomes), file=sys.stderr)
    print(table(tallies))
    if arguments.out:
        content = {
            "settings": {"seconds": arguments.seconds, "seed": arguments.seed, "workers": arguments.workers},
            "took": round(time.monotonic() - started, 1),
            "targets": {
                name: {"outcomes": dict(tally.outcomes), "failures": tally.failures}
                for name, tally in tallies.items()
            },
        }
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        name, start, stride, place = sys.argv[2:]
        work(name, iter(range(int(start), 2**62, int(stride))), Path(place))
    else:
        sys.exit(main())
