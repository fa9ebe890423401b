"""The comparison: what it reads, what it runs, what it keeps, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from anomalib_lite.benchmark import runner
from anomalib_lite.benchmark.arguments import as_argument, quote_entries
from anomalib_lite.benchmark.command import benchmark_command, plan
from anomalib_lite.benchmark.grid import (
    Cell,
    DataSet,
    Method,
    cell_folder,
    make_cells,
    parse_entries,
    parse_options,
    parse_seeds,
)
from anomalib_lite.benchmark.runner import Ended, is_done, run_cells
from anomalib_lite.report import comparison_tables
from anomalib_lite.schema import register_schemas
from anomalib_lite.types import InputError

# what stands in for a training run: it ends as its argument `mode` says
FAKE = """
import json, os, pathlib, subprocess, sys, time
arguments = sys.argv[2:]
named = dict(argument.partition("=")[::2] for argument in arguments)
mode = named.get("mode", "good")
place = pathlib.Path((named.get("resume") or named["hydra.run.dir"]).strip("'").replace(chr(92) + "'", "'"))
with open(place.parent / "log.txt", "a") as log:
    log.write(json.dumps([arguments, os.environ["OMP_NUM_THREADS"], time.time()]) + "\\n")
if "resume" in named and not (place / "usable").is_file():
    sys.exit("error: no use")
if mode == "bad":
    print("reading"); sys.exit("error: nothing there")
if mode == "crash":
    raise RuntimeError("a fault of ours")
if mode == "killed":
    os.kill(os.getpid(), 9)
if mode == "hang":
    helper = subprocess.Popen(["sleep", "60"])
    (place / "helper.pid").write_text(str(helper.pid))
    time.sleep(60)
if mode == "slow":
    time.sleep(0.4)
(place / "scores.csv").write_text("path,label,raw_score\\na.png,0,0.5\\nb.png,1,1.5\\n")
(place / "metrics.json").write_text(json.dumps({"image": {"image_AUROC": 0.75}}))
with open(place.parent / "log.txt", "a") as log:
    log.write(json.dumps(["ended", named["seed"] if "seed" in named else "", time.time()]) + "\\n")
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "START", FAKE)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)


def cell(mode: str = "good", seed: int = 0, method: str = "m") -> Cell:
    return Cell(method, "d", seed, (f"mode={mode}", f"seed={seed}"))


def run(cells: list[Cell], folder: Path, *, jobs: int = 1) -> dict[Cell, Ended]:
    ends: dict[Cell, Ended] = {}
    run_cells(
        cells,
        folder=folder,
        outputs=folder / "outputs",
        jobs=jobs,
        threads=3,
        started=lambda _: None,
        ended=lambda one, end: ends.update({one: end}),
    )
    return ends


def log_of(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "runs" / "log.txt").read_text().splitlines()]


# what the user lists


@pytest.mark.parametrize(
    ("entry", "label", "options", "paper"),
    [
        ("cpcae", "cpcae", ("model=cpcae",), "cpcae"),
        ("cpcae model.condition=none", "cpcae model.condition=none", ("model=cpcae", "model.condition=none"), None),
        ("experiment=ssim_casting", "experiment=ssim_casting", ("experiment=ssim_casting",), None),
        ("unpublished", "unpublished", ("model=unpublished",), None),
        ({"name": "ours", "options": ["model=vae", "a.b=x y"]}, "ours", ("model=vae", "a.b=x y"), None),
        ({"name": "ours", "options": "vae 'a.b=x y'", "paper": "vae"}, "ours", ("model=vae", "a.b=x y"), "vae"),
        ({"name": "variation"}, "variation", ("model=variation",), None),
    ],
)  # fmt: skip
def test_a_method_is_a_name_options_or_a_mapping(entry, label, options, paper):
    (found,) = parse_entries([entry], "model")
    assert (found.label, found.options, found.paper) == (label, options, paper)


def test_a_path_with_blanks_survives_in_a_data_set():
    (found,) = parse_entries("mvtec data.root='/my parts/a,b' data.category=bottle", "data")
    assert found.options == ("data=mvtec", "data.root=/my parts/a,b", "data.category=bottle")


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([], "benchmark.models: expected a list with at least one entry, found []"),
        (["cpcae", ""], "benchmark.models[1]: expected a name or options, found an empty text"),
        ([3], "benchmark.models[0]: expected a name, options or {name: ..., options: [...]}, found 3"),
        ([{"nam": "x"}], "benchmark.models[0]: unknown key 'nam' (choices: name, options, paper)"),
        ([{"options": ["model=vae"]}], "benchmark.models[0]: expected a name, found None"),
        (["vae 'x"], 'benchmark.models[0]: expected options as on a command line, found "vae \'x"'),
        (
            [{"name": "x", "paper": "y"}],
            "benchmark.models[0]: unknown published method 'y' (choices: cpcae, ",
        ),
    ],
)
def test_a_wrong_entry_is_named(entries, text):
    with pytest.raises(InputError) as error:
        parse_entries(entries, "model")
    assert str(error.value).startswith(text)


@pytest.mark.parametrize("seeds", [[], [0, 0], [-1], ["a"], [True], [0.5]])
def test_seeds_are_whole_numbers_and_each_comes_once(seeds):
    with pytest.raises(InputError, match=r"benchmark\.seeds: "):
        parse_seeds(seeds)


def test_common_options_have_a_key():
    with pytest.raises(InputError, match=r"benchmark\.options: expected key=value, found 'fast'"):
        parse_options(["fast"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("benchmark.models=[cpcae,vae scoring=map]", ["cpcae", "vae scoring=map"]),
        (
            'benchmark.models=["a b=c",{name: x, options: [a=1]}]',
            ["a b=c", {"name": "x", "options": ["a=1"]}],
        ),
        ("benchmark.options=[data.crop=[1,2,3,4],data.size=96]", ["data.crop=[1,2,3,4]", "data.size=96"]),
        (
            "benchmark.data=[mvtec data.root='/a b' data.category=c]",
            ["mvtec data.root='/a b' data.category=c"],
        ),
        ("benchmark.options=data.size=96 seed=1", "data.size=96 seed=1"),
        ("benchmark.data=[zipper]", ["zipper"]),
    ],
)
def test_entries_need_no_quotes_of_their_own(typed, meant):
    (argument,) = quote_entries([typed])
    assert OverridesParser.create().parse_override(argument).value() == meant


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)


@hypothesis.settings(deadline=None, max_examples=30)
@given(
    value=st.lists(
        TEXT | st.dictionaries(st.sampled_from(["name", "paper"]), TEXT | st.lists(TEXT)), max_size=4
    )
)
def test_any_value_survives_the_command_line(value):
    argument = as_argument("benchmark.models", value)
    assert quote_entries([argument]) == [argument]
    assert OverridesParser.create().parse_override(argument).value() == value


def test_a_list_that_does_not_close_is_an_error():
    with pytest.raises(InputError, match=r"^benchmark\.models=\[cpcae,a=b: expected a list "):
        quote_entries(["benchmark.models=[cpcae,a=b"])


def test_every_method_has_a_figure_after_the_first_seed_and_its_own_options_win():
    methods = [Method(name, (f"model={name}", "a=method"), None, name, "") for name in "xy"]
    cells = make_cells(methods, [DataSet("d", ("data=d", "a=data"), "d", False)], [0, 1], ["a=common"])
    assert [(one.method, one.seed) for one in cells] == [("x", 0), ("y", 0), ("x", 1), ("y", 1)]
    assert cells[0].arguments == ("a=common", "data=d", "a=data", "model=x", "a=method", "seed=0")


def test_a_folder_belongs_to_arguments():
    places = {cell("good").place, cell("bad").place, cell("good", seed=1).place}
    assert len(places) == 3
    odd = Cell("a/b (ü) ../..", "x y", 0, ())
    assert "/" not in odd.place
    assert odd.place.isascii()


# what is checked before anything runs


def settings(
    models: list[Any], data: list[Any] | None = None, options: list[str] | None = None
) -> dict[str, Any]:
    register_schemas()
    return {"models": models, "data": data or ["zipper"], "seeds": [0], "options": options or []}


def test_the_plan_knows_each_method_and_data_set():
    wanted = [
        "cpcae corruption=mixed",
        {"name": "small", "options": ["model=cpcae", "model.latent_dim=8"]},
        "variation",
    ]
    methods, data, cells = plan(
        settings(wanted, ["zipper data.set=2", "mvtec data.root='/a b' data.category=pill"])
    )
    assert [(method.model, method.latent_dim) for method in methods] == [
        ("cpcae", 32), ("cpcae", 8), ("variation", None),
    ]  # fmt: skip
    assert [method.trains_on for method in methods] == [
        "good pictures with pasted defects and objects", "good pictures", "good pictures, untrained",
    ]  # fmt: skip
    assert [(part.label, part.rendered) for part in data] == [("zipper2", True), ("pill", False)]
    assert len(cells) == 6


def test_data_sets_that_share_a_name_are_told_apart():
    _, data, _ = plan(settings(["variation"], ["zipper", "zipper data.size=96"]))
    assert [part.label for part in data] == ["zipper", "zipper data.size=96"]
    assert [part.name for part in data] == ["zipper1", "zipper1"]


@pytest.mark.parametrize(
    ("models", "data", "text"),
    [
        (["varation"], None, r"method 'varation' on 'zipper1': unknown choice 'model/varation' \(choices: .*variation"),
        (["variation"], ["zippers"], r"data set 'zippers': unknown choice 'data/zippers' \(choices: .*zipper"),
        (["cpcae model.x=1"], None, r"method 'cpcae model\.x=1' on 'zipper1': unknown option 'model\.x'"),
        (["variation"], ["mvtec data.name=a"], r"on 'a': data\.root must be given, for instance data\.root=\.\.\."),
        (["variation", "variation"], None, r"benchmark\.models: 'variation' is listed twice"),
        ([{"name": "a b", "options": ["model=variation"]}, {"name": "a-b", "options": ["model=variation"]}], None,
         "'a-b on zipper1, seed 0' and 'a b on zipper1, seed 0' are the same run"),
    ],
)  # fmt: skip
def test_a_mistake_in_any_entry_comes_first(models, data, text):
    with pytest.raises(InputError, match=text):
        plan(settings(models, data))


# how the runs are run


@pytest.mark.usefixtures("fake")
def test_a_failure_stops_only_its_own_run(tmp_path):
    cells = [cell("bad"), cell("crash"), cell("killed"), cell("good")]
    ends = run(cells, tmp_path)
    assert [ends[one].error for one in cells] == [
        "nothing there", "RuntimeError: a fault of ours", "killed by SIGKILL", "",
    ]  # fmt: skip
    assert [is_done(tmp_path, one) for one in cells] == [False, False, False, True]


@pytest.mark.usefixtures("fake")
def test_a_run_gets_its_arguments_its_folder_its_threads_and_the_shared_outputs(tmp_path):
    folder = tmp_path / "it's a (folder)"
    run([cell()], folder)
    arguments, threads, _ = log_of(folder)[0]
    place = str(cell_folder(folder, cell())).replace("'", "\\'")
    assert arguments == [
        "mode=good", "seed=0", f"outputs={folder / 'outputs'}", "threads=3", f"hydra.run.dir='{place}'",
    ]  # fmt: skip
    assert threads == "3"


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_runs_at_once_than_asked_for(tmp_path, jobs):
    run([cell("slow", seed) for seed in range(4)], tmp_path, jobs=jobs)
    at_once = highest = 0
    for first, _, _ in sorted(log_of(tmp_path), key=lambda entry: entry[2]):
        at_once += -1 if first == "ended" else 1
        highest = max(highest, at_once)
    assert highest == jobs


@pytest.mark.usefixtures("fake")
def test_a_whole_result_is_known_by_its_arguments_and_files(tmp_path):
    run([cell()], tmp_path)
    place = cell_folder(tmp_path, cell())
    assert is_done(tmp_path, cell())
    whole = {path: path.read_bytes() for path in place.iterdir()}
    for name, content in (
        ("metrics.json", b'{"image": '),  # as a full disk leaves it
        ("cell.json", b"{}"),
        ("scores.csv", None),
        ("cell.json", None),
    ):
        (place / name).unlink()
        if content is not None:
            (place / name).write_bytes(content)
        assert not is_done(tmp_path, cell()), name
        for path, before in whole.items():
            path.write_bytes(before)
    assert is_done(tmp_path, cell())


@pytest.mark.usefixtures("fake")
def test_nothing_of_a_broken_run_mixes_with_the_new_one(tmp_path):
    place = cell_folder(tmp_path, cell())
    (place / "plots").mkdir(parents=True)
    (place / "plots" / "old.png").touch()
    run([cell()], tmp_path)
    assert not (place / "plots").exists()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("usable", [True, False])
def test_a_killed_run_goes_on_from_its_checkpoint_or_else_begins_again(tmp_path, usable):
    place = cell_folder(tmp_path, cell())
    for file in ("checkpoints/last.ckpt", ".hydra/overrides.yaml", *(["usable"] if usable else [])):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).touch()
    ends = run([cell()], tmp_path)
    first = [arguments for arguments, *_ in log_of(tmp_path) if arguments != "ended"]
    assert first[0] == [f"resume={place}"]
    assert len(first) == (1 if usable else 2)
    assert not ends[cell()].failed
    assert is_done(tmp_path, cell())
    assert (json.loads((place / "cell.json").read_text())["seconds"] is None) == usable


@pytest.mark.usefixtures("fake")
def test_ctrl_c_ends_the_runs_and_all_that_they_started(tmp_path):
    one = cell("hang")

    def interrupt(_: Cell) -> None:
        raise KeyboardInterrupt

    def helper() -> int:
        return int((cell_folder(tmp_path, one) / "helper.pid").read_text())

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_cells(
            [one, cell("slow")],
            folder=tmp_path,
            outputs=tmp_path,
            jobs=2,
            threads=1,
            started=lambda _: None,
            ended=lambda *_: interrupt(one),
        )
    assert time.monotonic() - begun < 30
    assert gone(helper())
    assert not is_done(tmp_path, one)


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_run_ends_with_the_comparison_that_was_killed(tmp_path):
    parent = (
        "import sys; from pathlib import Path; from anomalib_lite.benchmark import runner, grid;"
        "runner.START = 'import json, sys; sys.path[:] = json.loads(sys.argv.pop(1));'"
        "'from anomalib_lite.benchmark import child; import threading, time, os;'"
        "'threading.Thread(target=child._end_with_parent, daemon=True).start();'"
        "'print(os.getpid(), flush=True); time.sleep(60)';"
        "folder = Path(sys.argv[1]);"
        "runner.run_cells([grid.Cell('m', 'd', 0, ())], folder=folder, outputs=folder, jobs=1, threads=1,"
        "started=lambda c: None, ended=lambda c, e: None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    output = cell_folder(tmp_path, Cell("m", "d", 0, ())) / "output.txt"
    for _ in range(600):
        if output.is_file() and output.read_text().strip():
            break
        time.sleep(0.05)
    pid = int(output.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(pid)


# the command


def command(folder: Path, *more: str) -> list[str]:
    return ["benchmark.models=[variation]", "benchmark.seeds=[0,1]", f"outputs={folder}", "threads=1", *more]


@pytest.mark.usefixtures("fake")
def test_what_is_done_is_not_repeated(tmp_path, capsys):
    assert benchmark_command(command(tmp_path)) == 0
    folder = tmp_path / "benchmark" / "comparison"
    before = log_of(folder)
    assert len(before) == 4  # two runs, start and end of each
    assert benchmark_command(command(tmp_path, "benchmark.models=[variation,nearest_neighbour]")) == 0
    assert len(log_of(folder)) == 8
    assert "4 runs, 2 of them already done" in capsys.readouterr().out
    written = json.loads((folder / "benchmark.json").read_text())
    assert [run["metrics"]["image"]["image_AUROC"] for run in written["runs"]] == [0.75] * 4
    assert {file.name for file in folder.glob("*.*")} >= {"benchmark.html", "table.csv", "table.md"}


@pytest.mark.usefixtures("fake")
def test_a_failed_run_is_listed_and_tried_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "START", FAKE.replace('named.get("mode", "good")', '"bad"'))
    assert benchmark_command(command(tmp_path)) == 1
    folder = tmp_path / "benchmark" / "comparison"
    assert "variation on zipper1, seed 0: nothing there" in (folder / "table.md").read_text()
    assert "<td>nothing there</td>" in (folder / "benchmark.html").read_text()
    assert "variation on zipper1, seed 1: FAILED: nothing there" in capsys.readouterr().out
    monkeypatch.setattr(runner, "START", FAKE)
    assert benchmark_command(command(tmp_path)) == 0
    assert "nothing there" not in (folder / "table.md").read_text()


@pytest.mark.usefixtures("fake")
def test_ctrl_c_says_what_is_kept(tmp_path, monkeypatch, capsys):
    run = runner.run_cells

    def interrupted(cells: list[Cell], *, ended: Callable[[Cell, Ended], None], **others: Any) -> None:
        def first(one: Cell, end: Ended) -> None:
            ended(one, end)
            raise KeyboardInterrupt

        run(cells, ended=first, **others)

    monkeypatch.setattr("anomalib_lite.benchmark.command.run_cells", interrupted)
    assert benchmark_command(command(tmp_path)) == 130
    folder = tmp_path / "benchmark" / "comparison"
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"interrupted; 1 of 2 runs are done and kept in {folder}; the same command goes on from there"
    )
    assert "Not finished: 1 of 2 runs are done, 0 failed." in (folder / "benchmark.html").read_text()


@pytest.mark.usefixtures("fake")
def test_a_second_benchmark_in_the_same_folder_leaves_the_first_alone(tmp_path, capsys):
    folder = tmp_path / "benchmark" / "comparison"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        assert benchmark_command(command(tmp_path)) == 2
    assert "expected to be alone, found another benchmark at work there" in capsys.readouterr().err
    assert not (folder / "runs").exists()


@pytest.mark.usefixtures("fake")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def full(path: Path, content: bytes) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(comparison_tables, "replace_file", full)
    assert benchmark_command(command(tmp_path)) == 2
    folder = tmp_path / "benchmark" / "comparison"
    assert capsys.readouterr().err == f"error: {folder / 'benchmark.json'}: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["benchmark.models=[a=b"], "benchmark.models=[a=b: expected a list"),
        ([], "benchmark.models must be given"),
        (["benchmark.models=[variation]", "benchmark.jobs=0"], "benchmark.jobs must be a whole number of at least 1"),
        (["benchmark.models=[variation]", "threads=0"], "threads must be at least 1, got 0"),
        (["benchmark.models=[varation]"], "method 'varation' on 'zipper1': unknown choice 'model/varation'"),
        (["benchmark.model=[variation]"], "unknown option 'benchmark.model' (choices in benchmark: name, models"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, line):
    assert benchmark_command([*arguments, f"outputs={tmp_path}"]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"error: {line}")
    assert found.count("\n") == 1
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.slow
def test_real_runs_share_their_stages(part, small, tmp_path):
    options = [one for one in small(None, tmp_path) if one.startswith(("data.", "grid.", "embedding"))]
    arguments = [
        "benchmark.models=[variation,nearest_neighbour]",
        f"benchmark.data=[mvtec data.root={part}]",
        f"benchmark.options=[{','.join(options)},report=false]",
        "benchmark.seeds=[0]",
        "benchmark.name=real one",
        f"outputs={tmp_path}",
        "threads=1",
    ]
    assert benchmark_command(arguments) == 0
    folder = tmp_path / "benchmark" / "real one"
    written = json.loads((folder / "benchmark.json").read_text())
    assert [run["state"] for run in written["runs"]] == ["done", "done"]
    assert len(list((tmp_path / ".stages" / "prepared").glob("*/stage.json"))) == 1
    assert "| variation |" in (folder / "table.md").read_text()
