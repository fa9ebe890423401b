"""Stages: made once, whole or not at all."""

import errno
import os
import threading

import numpy as np
import pytest
import torch

from anomalib_lite import stages
from anomalib_lite.cluster.job import is_other_process
from anomalib_lite.stages import PictureStore, StageStore, code_digest, digest, file_digest
from anomalib_lite.types import InputError


def writer(text, calls):
    def make(folder):
        calls.append(text)
        (folder / "result").write_text(text)

    return make


def test_made_once_and_again_for_another_key(tmp_path):
    store, calls = StageStore(root=tmp_path), []
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
        StageStore(root=tmp_path).get("maps", {}, fail)
    assert not [path for path in tmp_path.rglob("*") if path.name == "half"]
    assert StageStore(root=tmp_path).get("maps", {}, writer("a", [])).is_dir()


def test_half_a_stage_of_a_killed_process_is_made_again(tmp_path):
    folder = tmp_path / "maps" / digest({})
    folder.mkdir(parents=True)
    (folder / "result").write_text("half")
    folder.with_suffix(".unfinished").mkdir()
    assert (StageStore(root=tmp_path).get("maps", {}, writer("whole", [])) / "result").read_text() == "whole"


def test_two_at_once_make_it_once(tmp_path):
    calls, barrier = [], threading.Barrier(2)

    def want():
        barrier.wait()
        StageStore(root=tmp_path).get("maps", {}, writer("a", calls))

    threads = [threading.Thread(target=want) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert calls == ["a"]


def test_unwritable_store_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write stage maps in .*file"):
        StageStore(root=tmp_path / "file").get("maps", {}, writer("a", []))


def test_code_digest_follows_the_modules():
    assert code_digest("stages.py") != code_digest("types.py")


def test_code_digest_of_a_folder_holds_all_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "__file__", str(tmp_path / "stages.py"))
    (tmp_path / "models" / "deep").mkdir(parents=True)
    digests = []
    for number, name in enumerate(("a.py", "deep/b.py", "readme.txt")):
        (tmp_path / "models" / name).write_text(str(number))
        code_digest.cache_clear()
        digests.append(code_digest("models"))
    code_digest.cache_clear()
    assert len(set(digests)) == 2  # the text is no code


@pytest.mark.parametrize("damage", ["longer", "another", "gone"])
def test_a_damaged_stage_is_made_again(tmp_path, damage):
    calls, store = [], StageStore(root=tmp_path)
    result = store.get("maps", {}, writer("abc", calls)) / "result"
    if damage == "gone":
        result.unlink()
    else:
        result.write_text("abcd" if damage == "longer" else "abd")
    assert (StageStore(root=tmp_path).get("maps", {}, writer("abc", calls)) / "result").read_text() == "abc"
    assert len(calls) == 2


def test_a_large_file_is_looked_at_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "WHOLLY_CHECKED", 2**16)
    monkeypatch.setattr(stages, "PIECE", 2**10)

    def make(folder):
        (folder / "large").write_bytes(bytes(2**18))

    store = StageStore(root=tmp_path)
    large = store.get("prepared", {}, make) / "large"
    assert store.find("prepared", {}) is not None
    with large.open("r+b") as file:
        file.write(b"x")  # the first piece
    assert StageStore(root=tmp_path).find("prepared", {}) is None


def test_reused_stages_are_named_once(tmp_path):
    StageStore(root=tmp_path).get("maps", {}, writer("a", []))
    store = StageStore(root=tmp_path)
    for _ in range(2):
        store.get("maps", {}, writer("a", []))
    store.get("maps", {"seed": 1}, writer("a", []))
    assert store.reused == ["maps"]


def refuse_below(root, monkeypatch):
    """A file system that can be read only: permissions would not stop an administrator."""
    touch, mkdir = stages.Path.touch, stages.Path.mkdir

    def refusing(path, *arguments, call, **settings):
        if root in path.parents and not path.is_dir():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return call(path, *arguments, **settings)

    for name, call in (("touch", touch), ("mkdir", mkdir)):
        monkeypatch.setattr(
            stages.Path, name, lambda path, *a, call=call, **s: refusing(path, *a, call=call, **s)
        )


def test_a_read_only_store_is_used_and_not_written_to(tmp_path, monkeypatch):
    shared, own, calls = tmp_path / "shared", tmp_path / "own", []
    there = StageStore(root=shared).get("maps", {}, writer("a", calls))
    refuse_below(shared, monkeypatch)
    store = StageStore(root=shared, spare=own)
    assert store.get("maps", {}, writer("b", calls)) == there
    made = store.get("maps", {"seed": 1}, writer("c", calls))
    assert own in made.parents
    assert store.get("maps", {"seed": 1}, writer("d", calls)) == made
    assert calls == ["a", "c"]
    with pytest.raises(InputError, match=r"cannot write stage maps in .*Read-only"):
        StageStore(root=shared).get("maps", {"seed": 2}, writer("e", calls))


def test_a_full_disk_leaves_nothing_and_is_one_clear_line(tmp_path):
    def fill(folder):
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"cannot write stage maps in .*No space left"):
        StageStore(root=tmp_path).get("maps", {}, fill)
    assert not list(tmp_path.rglob("half"))


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    def read(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/photographs/a.png")

    with pytest.raises(PermissionError, match=r"/photographs/a\.png"):
        StageStore(root=tmp_path).get("maps", {}, read)


def test_a_changed_file_has_another_digest_even_with_its_old_time(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    earlier = 10**18
    os.utime(path, ns=(earlier, earlier))
    first = file_digest(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(earlier, earlier))
    assert file_digest(path) != first


class Computing:
    """Counts how often it computes."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"map": np.arange(6, dtype=np.float32).reshape(2, 3), "latent": np.full(2, self.calls)}


def test_what_was_computed_from_a_picture_is_not_computed_again(tmp_path):
    picture, compute = torch.rand(1, 3, 4, 4), Computing()
    first = PictureStore(tmp_path, {"weights": "a"}).get(picture, compute)
    store = PictureStore(tmp_path, {"weights": "a"})
    again = store.get(picture.clone(), compute)
    assert (store.found, store.computed, compute.calls) == (1, 0, 1)
    assert all(np.array_equal(first[name], again[name]) for name in ("map", "latent"))
    for another, other in (
        (PictureStore(tmp_path, {"weights": "b"}), picture),  # another network
        (store, picture + 1e-7),  # a picture that differs in its last bits
        (store, picture.reshape(1, 3, 2, 8)),
    ):
        calls = compute.calls
        another.get(other, compute)
        assert compute.calls == calls + 1


@pytest.mark.parametrize("content", [b"", b"abc", None])
def test_a_damaged_map_is_computed_again(tmp_path, content):
    picture, compute, store = torch.rand(1, 3, 4, 4), Computing(), PictureStore(tmp_path, {})
    store.get(picture, compute)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!" if content is None else content)
    assert store.get(picture, compute)["latent"].tolist() == [2, 2]
    assert store.get(picture, compute)["latent"].tolist() == [2, 2]
    assert compute.calls == 2


def test_what_a_read_only_store_has_is_used_also_after_what_it_lacks(tmp_path, monkeypatch):
    picture, compute, store = torch.rand(1, 3, 4, 4), Computing(), PictureStore(tmp_path, {})
    store.get(picture, compute)
    monkeypatch.setattr(stages.Path, "write_bytes", refuse_to_write)
    reading = PictureStore(tmp_path, {})
    reading.get(picture + 1, compute)
    reading.get(picture, compute)
    assert (reading.found, reading.computed, compute.calls) == (1, 1, 2)


def refuse_to_write(path, data):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_where_nothing_can_be_kept_everything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    picture, compute = torch.rand(1, 3, 4, 4), Computing()
    for store in (PictureStore(tmp_path / "file", {}), PictureStore(None, {})):
        store.get(picture, compute)
        store.get(picture, compute)
    assert compute.calls == 4
    assert (tmp_path / "file").read_text() == ""


def test_the_other_processes_of_a_job_wait_for_its_call(tmp_path, monkeypatch):
    store = StageStore(root=tmp_path)
    for name, value in {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert is_other_process()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(store.wait_for_call("network", {})))
    waiting.start()

    def make(folder):
        assert answers == []
        stages.call_others(folder)
        waiting.join(10)
        (folder / "weights").write_text("x")

    made = store.get("network", {}, make)
    assert answers == [True]
    assert store.wait_for_call("network", {}) is False  # there already: nothing to help with
    assert store.find("network", {}) == made
