"""kill -9 at any moment: what looks whole is, what is half is nothing, and the same command goes on to the same end.

A process that has imported everything forks a child for each command: the child runs what `train.py` and `predict.py`
run, and starting takes no time in which there is nothing to break.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.bundle import read_bundle, write_bundle
from anomalib_lite.data.images import read_image
from anomalib_lite.detector import Detector
from anomalib_lite.stages import DONE, _is_whole
from anomalib_lite.training import _read_checkpoint

SERVER = """
import json, os, sys
from anomalib_lite.run import predict_command, train_command
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    code = 99
    try:
        code = {"train": train_command, "predict": predict_command}[asked["command"]](asked["arguments"])
    finally:
        sys.stdout.flush()
        os._exit(code)
"""
KILLED = -signal.SIGKILL
STATIONS: dict[str, Callable[[Path], bool]] = {  # what a run's outputs show when it gets there
    "starting": lambda outputs: True,
    "preparing": lambda outputs: any(outputs.glob(".stages/prepared/*")),
    "training": lambda outputs: any(outputs.glob(".stages/network/*.unfinished")),
    "embedding": lambda outputs: any(whole_stages(outputs, "network")),
    "writing the chain's bundle": lambda outputs: any(
        outputs.glob(".stages/scores/*.unfinished/.chain.*.new")
    ),
    "concluding": lambda outputs: any(whole_stages(outputs, "scores")),
    "writing the bundle": lambda outputs: any(outputs.glob("cpcae/part/*/.bundle.*.new")),
    "ending": lambda outputs: any(outputs.glob("cpcae/part/*/bundle/manifest.json")),
}
TIMES = ("ms_per_image", "seconds", "training")  # of metrics.json
KILLS, OF_PREDICTION = 50, 10
PICTURES = 40  # that a prediction judges


def whole_stages(outputs: Path, name: str) -> Iterator[Path]:
    """The stages that a run would take over."""
    return (
        path.parent
        for path in outputs.glob(f".stages/{name}/*/{DONE}")
        if path.parent.suffix != ".unfinished"
    )


class Server:
    """Starts commands in forked processes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER],  # -P: not whatever the working folder holds
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def _ask(self, **asked: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, command: str, arguments: list[str], log: Path) -> int:
        """The process that runs a command."""
        log.parent.mkdir(parents=True, exist_ok=True)
        return self._ask(command=command, arguments=arguments, log=str(log))

    def wait(self, process: int) -> int:
        """How it ended: its exit code, or minus the signal."""
        return self._ask(wait=process)

    def run(self, command: str, arguments: list[str], log: Path) -> int:
        """Run a command to its end."""
        return self.wait(self.start(command, arguments, log))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.process.kill()
    started.process.wait()


def alive(process: int) -> bool:
    """Whether a process is neither gone nor waiting to be waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Whole:
    """An unbroken run: its results, and how long it was between one station and the next."""

    def __init__(self, server: Server, arguments: list[str], outputs: Path) -> None:
        self.outputs = outputs
        process = server.start("train", arguments, outputs / "log")
        passed: dict[str, float] = {}
        while alive(process):
            for station in list(STATIONS)[len(passed) :]:
                if not STATIONS[station](outputs):
                    break
                passed[station] = time.monotonic()
            time.sleep(0.001)
        ends = time.monotonic()
        assert server.wait(process) == 0, (outputs / "log").read_text()
        assert list(passed) == list(STATIONS), "a station was passed unseen"
        times = [*passed.values(), ends]
        self.seconds = {
            station: later - first
            for station, first, later in zip(passed, times[:-1], times[1:], strict=True)
        }
        self.metrics = figures(outputs / "latest" / "metrics.json")
        self.rows = (outputs / "latest" / "scores.csv").read_bytes()


def figures(path: Path) -> dict[str, Any]:
    """metrics.json without what a clock has measured."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in TIMES}


@pytest.fixture(scope="module")
def whole(
    server: Server, part: Path, small: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    outputs = tmp_path_factory.mktemp("whole")
    return Whole(server, small(part, outputs), outputs)


@pytest.fixture(scope="module")
def photographs(part: Path) -> list[Path]:
    return sorted((part / "test").rglob("*.png"))[::3]


def raw_scores(bundle: Path, photographs: list[Path]) -> list[float]:
    detector = Detector.load(bundle)
    return [detector.predict(read_image(path), path).raw_score for path in photographs]


def check_remains(outputs: Path, whole: Whole, photographs: list[Path]) -> None:
    """All that looks whole is: bundles, stages, checkpoints, results, and what `latest` points at."""
    expected = raw_scores(whole.outputs / "latest" / "bundle", photographs)
    for manifest in outputs.rglob("manifest.json"):
        bundle = manifest.parent
        inner = bundle.relative_to(outputs).parts
        if any(name.endswith((".unfinished", ".new", ".old")) for name in inner):
            continue  # by its name not a whole one: nothing looks there
        if bundle.name == "preparation":
            read_bundle(bundle)
        else:
            assert raw_scores(bundle, photographs) == expected, bundle
    for name in ("prepared", "downsized", "network", "scores"):
        for stage in whole_stages(outputs, name):
            assert _is_whole(stage), stage
    for checkpoint in outputs.rglob("*.ckpt"):
        _read_checkpoint(checkpoint)
    for folder in outputs.glob("cpcae/part/*"):
        if (folder / "metrics.json").exists():
            assert figures(folder / "metrics.json") == whole.metrics
        if (folder / "scores.csv").exists():
            assert (folder / "scores.csv").read_bytes() == whole.rows
    if (outputs / "latest").exists():
        assert (outputs / "latest" / "metrics.json").exists()
        assert (outputs / "latest" / "bundle").is_dir()


def kill_in(
    station: str, share: float, server: Server, arguments: list[str], outputs: Path, whole: Whole
) -> int:
    """Run, and kill at this share of the way from a station to the next; how the process ended."""
    process = server.start("train", arguments, outputs / "log")
    while alive(process) and not STATIONS[station](outputs):
        time.sleep(0.0005)
    time.sleep(share * whole.seconds[station])
    os.kill(process, signal.SIGKILL)  # not waited for yet: its number is still its own
    return server.wait(process)


TRAINING = [
    (station, number)
    for number in range(KILLS - OF_PREDICTION)
    for station in [list(STATIONS)[number % len(STATIONS)]]
]


@pytest.mark.slow
@pytest.mark.parametrize(("station", "number"), TRAINING)
def test_killed_in_training(
    station: str,
    number: int,
    server: Server,
    whole: Whole,
    photographs: list[Path],
    part: Path,
    tmp_path: Path,
    small: Callable[..., list[str]],
) -> None:
    share = random.Random(number).random()
    arguments = small(part, tmp_path)
    ended = kill_in(station, share, server, arguments, tmp_path, whole)
    assert ended in (KILLED, 0), (tmp_path / "log").read_text()  # 0: it was faster than the unbroken run
    check_remains(tmp_path, whole, photographs)
    (folder,) = [*tmp_path.glob("cpcae/part/*")] or [None]
    if ended == KILLED and number % 2 and folder and (folder / "checkpoints" / "last.ckpt").exists():
        arguments = [f"resume={folder}"]
    assert server.run("train", arguments, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert figures(tmp_path / "latest" / "metrics.json") == whole.metrics
    assert (tmp_path / "latest" / "scores.csv").read_bytes() == whole.rows
    assert not list(tmp_path.rglob("*.unfinished"))
    check_remains(tmp_path, whole, photographs)


@pytest.fixture(scope="module")
def source(photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for number in range(PICTURES):
        os.link(photographs[number % len(photographs)], folder / f"{number:03}.png")
    return folder


def predicting(whole: Whole, source: Path, output: Path) -> list[str]:
    bundle = (whole.outputs / "latest" / "bundle").resolve()
    return [
        f"bundle={bundle}",
        f"source={source}",
        f"output={output}",
        f"hydra.run.dir={output}",
        "threads=1",
    ]


def judged(output: Path) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """The rows and the lines that a prediction has written, without the times."""
    rows = list(csv.DictReader((output / "scores.csv").open(newline="")))
    text = (output / "scores.jsonl").read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return rows, [{name: value for name, value in line.items() if name != "time"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(OF_PREDICTION))
def test_killed_in_prediction(
    number: int, server: Server, whole: Whole, source: Path, tmp_path: Path
) -> None:
    begins = time.monotonic()
    assert server.run("predict", predicting(whole, source, tmp_path / "whole"), tmp_path / "log") == 1
    seconds = time.monotonic() - begins
    rows, lines = judged(tmp_path / "whole")
    assert len(rows) == len(lines) == PICTURES

    output = tmp_path / "killed"
    process = server.start("predict", predicting(whole, source, output), tmp_path / "log")
    time.sleep((number + random.Random(number).random()) / OF_PREDICTION * seconds)
    os.kill(process, signal.SIGKILL)
    assert server.wait(process) in (KILLED, 1)
    if (output / "scores.jsonl").exists():
        found, said = judged(output)
        assert said == lines[: len(said)]
        assert found[: len(said)] == rows[: len(said)]
    for picture in [*output.glob("overlays/[!.]*"), *output.glob("masks/[!.]*")]:
        read_image(picture)

    assert server.run("predict", predicting(whole, source, output), tmp_path / "log") == 1
    assert judged(output) == (rows, lines)
    for name in ("overlays", "masks"):
        pictures = sorted(path.name for path in (output / name).glob("[!.]*"))
        assert pictures == sorted(path.name for path in (tmp_path / "whole" / name).iterdir())


@pytest.mark.parametrize("number", range(20))
def test_a_bundle_that_is_replaced_again_and_again(number: int, tmp_path: Path) -> None:
    """Killed while it writes one after the other: the one that is there is whole."""
    bundle = tmp_path / "bundle"

    def write(version: int) -> None:
        array = np.full(20_000, version, np.int64)
        write_bundle(bundle, {"version": array}, {"version": version})

    write(0)
    child = os.fork()
    if child == 0:
        for version in range(1, 10**6):
            write(version)
        os._exit(99)
    time.sleep(random.Random(number).uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    # between two renames only, the earlier one lies beside its place
    (there,) = [bundle] if bundle.exists() else tmp_path.glob(".bundle.*.old")
    arrays, settings = read_bundle(there)
    assert arrays["version"].tolist() == [settings["version"]] * 20_000
    write(-1)
    assert read_bundle(bundle)[1] == {"version": -1}
