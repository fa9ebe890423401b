"""Property: whatever was done to a file, it is refused with one line or read, and what is read gives finite answers.

`benchmarks/fuzz.py` feeds the same inputs for as long as one likes, each in a process that may die of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Attempt = Callable[[Random], str]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TARGETS = ["bundles", "pictures", "masks", "checkpoints", "weights", "stages", "runs", "streams"]
FEW = {"bundles": 40, "weights": 15, "checkpoints": 60}  # of what takes longer; of the others, EXAMPLES
EXAMPLES, MANY = 150, 5000
# seeds, as in the script: what fails here is repeated there
ANYTHING = st.integers(0, 2**32).map(Random)


@pytest.fixture(scope="module")
def fuzzers(mutating: ModuleType) -> tuple[ModuleType, ModuleType]:
    """The benchmark's script, and what it feeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import fuzz
        import targets
    return fuzz, targets


@pytest.fixture(scope="module")
def attempts(
    fuzzers: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Attempt]:
    """What tries one input of a target, which the tests of this module share."""
    made: dict[str, Attempt] = {}

    def attempt(name: str) -> Attempt:
        if name not in made:
            made[name] = fuzzers[1].TARGETS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return attempt


def check(attempt: Attempt, watch: Any, examples: int) -> None:
    outcomes = set()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(ANYTHING)
    def try_one(rng: Random) -> None:
        with watch.watching():
            outcomes.add(attempt(rng))
        assert (watch.started, watch.written) == ([], [])

    try_one()
    assert outcomes <= {"refused", "read"}
    assert "refused" in outcomes, "nothing was damaged enough to be refused: the test tests nothing"


@pytest.fixture(scope="module")
def watch(fuzzers: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Notes what is started, and what is written outside of the tests' folder."""
    return fuzzers[0].Watch(tmp_path_factory.getbasetemp().resolve())


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_damaged_files(name: str, attempts: Callable[[str], Attempt], watch: Any) -> None:
    check(attempts(name), watch, FEW.get(name, EXAMPLES))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files(name: str, attempts: Callable[[str], Attempt], watch: Any) -> None:
    check(attempts(name), watch, MANY // 4 if name in FEW else MANY)


def test_the_script_feeds_every_target(fuzzers: tuple[ModuleType, ModuleType]) -> None:
    fuzz, targets = fuzzers
    # an export is read by native code, which may take this process with it
    assert list(fuzz.TARGETS) == list(targets.TARGETS) == [*TARGETS, "exports"]


def test_the_watch_hears_what_is_started_and_written(watch: Any, tmp_path: Path) -> None:
    with watch.watching():
        subprocess.run(["true"], check=True)
        (tmp_path / "inside").write_text("")
        assert watch.written == []
        with Path("/dev/shm/anomalib-lite-outside").open("w"):
            pass
        Path("/dev/shm/anomalib-lite-outside").unlink()
    assert watch.started
    assert set(watch.written) == {"/dev/shm/anomalib-lite-outside"}
    with watch.watching():
        pass
    assert watch.written == []


@pytest.mark.slow
def test_the_script_counts_and_writes_what_came_of_it(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    typed = ["--seconds", "4", "--targets", "streams", "runs", "--out", str(out)]
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "fuzz.py"), *typed], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(out.read_text())["targets"]
    assert list(found) == ["streams", "runs"]
    for target in found.values():
        assert set(target["outcomes"]) <= {"refused", "read"}
        assert sum(target["outcomes"].values()) > 10
        assert target["failures"] == {}
    assert "streams" in ended.stdout


CRASHES = """
import os, sys
sys.path.insert(0, {benchmarks!r})
import fuzz
def attempt(rng):
    match attempt.seed % 6:
        case 0: raise KeyError("a")
        case 1: os.kill(os.getpid(), 11)
        case 2: os.system("touch code-ran")
        case 3: open("/dev/shm/anomalib-lite-outside", "w").close()
        case 4: return "refused"
        case 5: return "read"
def counted(rng):
    attempt.seed = next(seeds)
    return attempt(rng)
seeds = iter(range(int(sys.argv[3]), 2**62))
fuzz._set_up = lambda target, folder: counted
name, start, stride, place = sys.argv[2:]
fuzz.work(name, iter(range(int(start), 2**62, int(stride))), fuzz.Path(place))
"""


def test_the_script_counts_every_way_to_fail(
    fuzzers: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuzz, _ = fuzzers
    script = tmp_path / "fuzz.py"
    script.write_text(CRASHES.format(benchmarks=str(BENCHMARKS)))
    monkeypatch.setattr(fuzz, "__file__", str(script))
    tally = fuzz.Tally()
    fuzz.fuzz("streams", tally, seconds=0.2, first=0, step=1)
    Path("/dev/shm/anomalib-lite-outside").unlink(missing_ok=True)
    assert set(tally.outcomes) == {"crash", "signal", "ran code", "wrote outside", "refused", "read"}
    assert sorted(tally.failures) == ["crash KeyError", "ran code", "signal 11", "wrote outside"]
    assert tally.failures["crash KeyError"]["seed"] == 0
    assert "signal 11: " in fuzz.table({"streams": tally})
