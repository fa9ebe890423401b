"""Processes that want the same thing at once, or are killed: nothing done twice, nothing half taken for whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.callbacks import LossHistory
from anomalib_lite.stages import StageStore

Run = Callable[..., Any]
TRAIN = Path(__file__).parents[1] / "train.py"


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """`train.py` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_at_once_train_once(
    part: Path, tmp_path: Path, small: Callable[..., list[str]], train: Run
) -> None:
    steps = "model.steps_per_epoch=300"  # long enough for the second to come while the first one trains
    processes = [start(small(part, tmp_path, steps, model=model)) for model in ("cpcae", "ae_l2")]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    assert [code for _, _, code in ended] == [0, 0], ended
    assert sorted("reused stage network" in out for out, _, _ in ended) == [False, True]
    assert len(list(tmp_path.glob(".stages/network/*/weights.safetensors"))) == 1
    assert len(list(tmp_path.glob("*/part/*/checkpoints"))) == 1
    assert len(list(tmp_path.glob("*/part/*/metrics.json"))) == 2
    assert not list(tmp_path.rglob("*.unfinished"))
    scores = next(tmp_path.glob("cpcae/part/*/scores.csv")).read_bytes()
    alone = train(part, tmp_path / "alone", steps)
    assert (alone.folder / "scores.csv").read_bytes() == scores


def test_the_exit_code_and_the_line_reach_the_shell(tmp_path: Path, small: Callable[..., list[str]]) -> None:
    process = start(small(tmp_path / "nothing", tmp_path))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == f"error: data.root={tmp_path / 'nothing'}: expected a folder, found nothing there\n"
    assert "Traceback" not in out


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_killed_at_any_moment_the_next_run_is_whole(
    delay: float, part: Path, tmp_path: Path, small: Callable[..., list[str]], train: Run, finished: Any
) -> None:
    process = start(small(part, tmp_path))
    while not (tmp_path / ".stages").exists():
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()
    ended = train(part, tmp_path)
    assert ended.code == 0, ended.err
    assert (ended.folder / "scores.csv").read_bytes() == (finished.folder / "scores.csv").read_bytes()
    assert not list(tmp_path.rglob("*.unfinished"))


def in_child(action: Callable[[], object]) -> int:
    """Run in a forked process; what ended it: minus the signal, or an exit code."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(99)  # only reached if nobody killed it
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_while_making(folder: Path) -> None:
    (folder / "pictures.npy").write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_stage_whose_maker_was_killed_is_made_again(tmp_path: Path) -> None:
    store = StageStore(root=tmp_path)
    assert in_child(lambda: store.get("prepared", {"seed": 0}, killed_while_making)) == -signal.SIGKILL
    assert list(tmp_path.rglob("pictures.npy")), "the child was to leave half a stage"

    def make(folder: Path) -> None:
        assert not list(folder.iterdir())
        np.save(folder / "pictures.npy", np.arange(3))

    folder = store.get("prepared", {"seed": 0}, make)  # does not wait for a lock that nobody holds
    assert np.load(folder / "pictures.npy").tolist() == [0, 1, 2]
    assert not list(tmp_path.rglob("*.unfinished"))


def test_killed_while_it_prepares(
    part: Path, tmp_path: Path, train: Run, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process killed after some pictures would leave it: no clean-up ran."""
    monkeypatch.setattr("anomalib_lite.stages.shutil.rmtree", lambda *arguments, **settings: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomalib_lite.data.datamodule.write_bundle", _interrupt)
        assert train(part, tmp_path).code == 130
    monkeypatch.undo()
    assert list(tmp_path.glob(".stages/prepared/*.unfinished/pictures.npy"))
    ended = train(part, tmp_path)
    assert ended.code == 0, ended.err
    assert (ended.folder / "scores.csv").read_bytes() == (finished.folder / "scores.csv").read_bytes()
    assert not list(tmp_path.rglob("*.unfinished"))


def _interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_terminated_while_it_trains(part: Path, tmp_path: Path, train: Run, finished: Any) -> None:
    """By `timeout`, or a service that is stopped: not with exit code 0, as if there were a bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossHistory, "on_train_epoch_end", _terminate)
        ended = train(part, tmp_path)
    assert ended.code == 143
    assert ended.err.splitlines()[-1].startswith("interrupted; ")
    assert not list(tmp_path.rglob("*.unfinished"))
    ended = train(part, tmp_path)
    assert ended.code == 0, ended.err
    assert (ended.folder / "scores.csv").read_bytes() == (finished.folder / "scores.csv").read_bytes()


def _terminate(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
