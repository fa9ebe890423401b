"""Stages: made once, whole or not at all."""

import threading

import pytest

from anomalib_lite.stages import StageStore, code_digest, digest
from anomalib_lite.types import InputError


def writer(text, calls):
    def make(folder):
        calls.append(text)
        (folder / "result").write_text(text)

    return make


def test_made_once_and_again_for_another_key(tmp_path):
    store, calls = StageStore(tmp_path), []
    first = store.get("maps", {"seed": 0}, writer("a", calls))
    again = store.get("maps", {"seed": 0}, writer("b", calls))
    other = store.get("maps", {"seed": 1}, writer("c", calls))
    assert (first, (again / "result").read_text(), (other / "result").read_text()) == (again, "a", "c")
    assert calls == ["a", "c"]


def test_failed_stage_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        StageStore(tmp_path).get("maps", {}, fail)
    assert not [path for path in tmp_path.rglob("*") if path.name == "half"]
    assert StageStore(tmp_path).get("maps", {}, writer("a", [])).is_dir()


def test_half_a_stage_of_a_killed_process_is_made_again(tmp_path):
    folder = tmp_path / "maps" / digest({})
    folder.mkdir(parents=True)
    (folder / "result").write_text("half")
    folder.with_suffix(".unfinished").mkdir()
    assert (StageStore(tmp_path).get("maps", {}, writer("whole", [])) / "result").read_text() == "whole"


def test_two_at_once_make_it_once(tmp_path):
    calls, barrier = [], threading.Barrier(2)

    def want():
        barrier.wait()
        StageStore(tmp_path).get("maps", {}, writer("a", calls))

    threads = [threading.Thread(target=want) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert calls == ["a"]


def test_unwritable_store_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write stage maps in .*file"):
        StageStore(tmp_path / "file").get("maps", {}, writer("a", []))


def test_code_digest_follows_the_modules():
    assert code_digest(["stages.py"]) != code_digest(["types.py"])
