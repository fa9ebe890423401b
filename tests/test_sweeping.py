"""A sweep as Hydra runs it: folders, keys, statuses, what is checked before, what is left out, what survives."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from anomalib_lite.console import config_folder, main, quote_raw, unquote_raw
from anomalib_lite.data.images import write_png
from anomalib_lite.schema import register_schemas
from anomalib_lite.sweeping import devices
from anomalib_lite.sweeping.folders import job_folder_name
from anomalib_lite.sweeping.job import JobFailed, is_full_disk, run_job
from anomalib_lite.sweeping.key import job_key
from anomalib_lite.types import InputError

CUTS = "threshold.value=0.2,0.4,0.6"
Status = dict[str, Any]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def sweep(part: Path, outputs: Path) -> Callable[..., int]:
    """A multirun of a job that trains nothing, in this process."""

    def run(job: Callable[[DictConfig], float], *arguments: str, root: Path = part) -> int:
        register_schemas()
        general = [
            "data=mvtec",
            "data.name=part",
            "data.size=64",
            "data.downsize=32",
            "grid.size=16",
            "grid.stride=8",
        ]
        fixed = [*general, f"data.root={root}", f"outputs={outputs}", "model=variation"]
        mode = [] if any(argument.startswith("sweep=") for argument in arguments) else ["-m"]
        return main("train", lambda cfg: run_job(cfg, job), [*mode, *fixed, *arguments])

    return run


def value(cfg: DictConfig) -> float:
    return float(cfg.threshold.value or 0.5)


def folders(outputs: Path, name: str = "variation-part") -> list[Path]:
    return sorted(path.parent for path in (outputs / "sweeps" / name).glob("*/status.json"))


def statuses(outputs: Path, name: str = "variation-part") -> list[Status]:
    return [json.loads((folder / "status.json").read_text()) for folder in folders(outputs, name)]


@given(st.lists(st.text(min_size=1).map(lambda text: f"data.root={text}"), max_size=4), st.randoms())
def test_a_folders_name_is_safe_and_knows_no_order(overrides: list[str], rng: Any) -> None:
    name = job_folder_name(overrides)
    assert len(name) <= 110
    assert not set(name) & set("/\\'\"*? \n$&<>:;|")
    shuffled = [
        *overrides,
        "threads=3",
        "outputs=elsewhere",
        "logger=csv",
        "~logger",
        "hydra.x=1",
        "report=true",
    ]
    rng.shuffle(shuffled)
    assert job_folder_name(shuffled) == name


def test_what_was_asked_for_tells_folders_apart() -> None:
    asked = [
        "seed=1",
        "seed=11",
        "seed=1,",
        "seed='1'",
        "model=a/b",
        "model=a_b",
        f"data.root={'x' * 300}",
        "",
    ]
    assert len({job_folder_name([override]) for override in asked}) == len(asked)
    same_sweep = {job_folder_name(["seed=1", f"data={data}"], fixed=["data"]) for data in ("belt", "fabric")}
    assert len(same_sweep) == 2
    assert {name.partition("-")[0] for name in same_sweep} == {"seed=1"}


@given(st.text(min_size=1).filter(lambda text: text[0] not in "'\"" and text != "null"))
def test_a_quoted_path_is_what_was_typed(text: str) -> None:
    assert unquote_raw(quote_raw(f"source={text}")) == f"source={text}"


def test_every_job_leaves_its_status_and_the_same_command_runs_nothing(
    sweep: Callable[..., int], outputs: Path, part: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[float] = []

    def job(cfg: DictConfig) -> float:
        runs.append(cfg.threshold.value)
        assert statuses(outputs)[-1]["state"] == "running"
        return value(cfg)

    assert sweep(job, CUTS) == 0
    first = statuses(outputs)
    assert [status["state"] for status in first] == ["done"] * 3
    assert [status["value"] for status in first] == [0.2, 0.4, 0.6]
    assert [status["overrides"] for status in first] == [
        [f"threshold.value={cut}"] for cut in (0.2, 0.4, 0.6)
    ]
    assert first[0]["pid"] == os.getpid()
    assert first[0]["error"] is None
    assert f"data.root={part} " in first[0]["command"]
    assert first[0]["command"].endswith("threshold.value=0.2")
    page = (outputs / "sweeps" / "variation-part" / "sweep.html").read_text()
    assert "threshold.value" in page

    assert sweep(job, "threshold.value=0.2,0.4,0.6,0.8", "threads=1", "logger=tensorboard") == 0
    assert runs == [0.2, 0.4, 0.6, 0.8]
    assert "3 of 4 jobs are done already" in capsys.readouterr().out
    assert statuses(outputs)[:3] == first


def test_a_changed_photograph_is_another_job(
    sweep: Callable[..., int], outputs: Path, part: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(part, tmp_path / "set")
    assert sweep(value, CUTS, root=root) == 0
    before = statuses(outputs)
    (folders(outputs)[0] / "checkpoints").mkdir()
    write_png(root / "test" / "good" / "000.png", np.zeros((48, 64, 3), np.uint8))
    there: list[int] = []

    def job(cfg: DictConfig) -> float:
        there.append(len(statuses(outputs)))
        return value(cfg)

    assert sweep(job, CUTS, root=root) == 0
    assert there == [1, 2, 3]  # no result of the other photograph beside the new ones
    after = statuses(outputs)
    assert len(after) == 3  # in the same folders
    assert not {status["key"] for status in before} & {status["key"] for status in after}
    assert not (folders(outputs)[0] / "checkpoints").exists()  # nothing goes on from the other photograph's


def test_equal_jobs_run_once(
    sweep: Callable[..., int], outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(value, "threshold.value=0.2,0.20,2e-1") == 0
    assert len(statuses(outputs)) == 1
    assert "2 of 3 jobs are the same as another one" in capsys.readouterr().out


def test_a_sweep_over_models_has_one_folder(sweep: Callable[..., int], outputs: Path) -> None:
    assert sweep(value, "model=variation,nearest_neighbour") == 0
    assert [path.name for path in (outputs / "sweeps").iterdir()] == ["variation-part"]
    assert [status["overrides"] for status in statuses(outputs)] == [
        ["model=nearest_neighbour"],
        ["model=variation"],
    ]


def test_a_failed_job_spares_the_others(
    sweep: Callable[..., int], outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = True

    def job(cfg: DictConfig) -> float:
        if broken and cfg.threshold.value == 0.2:
            raise InputError("a.png: expected a picture")
        if broken and cfg.threshold.value == 0.4:
            raise ZeroDivisionError("ours")
        return value(cfg)

    assert sweep(job, CUTS) == 2
    error = capsys.readouterr().err.splitlines()
    page = outputs / "sweeps" / "variation-part" / "sweep.html"
    assert error == [
        "error: 2 of 3 jobs have failed, first threshold.value=0.2: a.png: expected a picture; "
        f"all of them are in {page}"
    ]
    assert [status["state"] for status in statuses(outputs)] == ["failed", "failed", "done"]
    assert [status["error"] for status in statuses(outputs)][:2] == [
        "a.png: expected a picture",
        "ZeroDivisionError: ours",
    ]
    logs = [(folder / "console.log").read_text() for folder in folders(outputs)]
    assert ["Traceback" in log for log in logs] == [False, True, False]  # a bug's alone
    broken = False
    assert sweep(job, CUTS) == 0
    assert [status["state"] for status in statuses(outputs)] == ["done"] * 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["threshold.value=0.1,0.2,0.3,7"], "job 3 of 4 (threshold.value=7): threshold.value"),
        (
            ["data.size=64,48,0"],
            "job 2 of 3 (data.size=0): data.size: expected at least 1 pixel or null, got 0",
        ),
        (["grid.stride=8,16,999"], "job 2 of 3 (grid.stride=999): stride must be in (0, size="),
        (
            ["seed=1,2", "classifier=knn,nkk"],
            "job 1 of 4 (seed=1 classifier=nkk): unknown choice 'classifier/nkk'",
        ),
        (
            ["seed=1,2", "model.latent_dim=8,16"],
            "job 0 of 4 (seed=1 model.latent_dim=8): unknown option 'model.latent_dim' "
            "(choices in model: name, trains, batch_size, steps_per_epoch, baseline)",
        ),
        (
            ["seed=1,2", "model.latent_dim=8"],
            "unknown option 'model.latent_dim' (choices in model: name, trains, batch_size, steps_per_epoch, baseline)",
        ),
        (["model.batch_size="], "model.batch_size=: expected a value, or several to sweep over, found none"),
        (["seed=range(5,5)"], "seed=range(5,5): expected a value, or several to sweep over, found none"),
        (["seed=choice()"], "empty choice is not legal"),
        (["seed=interval(0,9)"], "seed=interval(0,9): expected single values"),
    ],
)
def test_a_mistake_in_any_job_is_found_before_the_first_one_starts(
    arguments: list[str],
    expected: str,
    sweep: Callable[..., int],
    outputs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def job(cfg: DictConfig) -> float:
        raise AssertionError("a job has run")

    assert sweep(job, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not folders(outputs)


def test_a_full_disk_stops_the_sweep_which_goes_on_later(
    sweep: Callable[..., int], outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, runs = True, []

    def job(cfg: DictConfig) -> float:
        runs.append(cfg.threshold.value)
        if full and cfg.threshold.value == 0.4:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                raise InputError("cannot write stage network: No space left on device") from None
        return value(cfg)

    assert sweep(job, CUTS) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: the sweep has stopped, the same command goes on: "
        "cannot write stage network: No space left on device"
    ]
    assert [status["state"] for status in statuses(outputs)] == ["done", "failed"]
    full = False
    assert sweep(job, CUTS) == 0
    assert runs == [0.2, 0.4, 0.4, 0.6]


def test_a_page_that_cannot_be_made_fails_no_job(
    sweep: Callable[..., int],
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(folder: Path) -> None:
        raise KeyError("value")

    monkeypatch.setattr("anomalib_lite.report.sweep.write_sweep", broken)
    assert sweep(value, CUTS) == 0
    assert [status["state"] for status in statuses(outputs)] == ["done"] * 3
    assert "the sweep's page could not be written: 'value'" in capsys.readouterr().out


def test_an_interrupted_job_and_a_damaged_status_run_again(sweep: Callable[..., int], outputs: Path) -> None:
    def interrupted(cfg: DictConfig) -> float:
        if cfg.threshold.value == 0.4:
            raise KeyboardInterrupt
        return value(cfg)

    assert sweep(interrupted, CUTS) == 130
    assert [status["state"] for status in statuses(outputs)] == ["done", "running"]
    (folders(outputs)[0] / "status.json").write_text('{"state": "done", "ke')
    runs: list[float] = []
    assert sweep(lambda cfg: runs.append(cfg.threshold.value) or value(cfg), CUTS) == 0
    assert runs == [0.2, 0.4, 0.6]


def key(*overrides: str, root: Path) -> str:
    register_schemas()
    fixed = [
        "data=mvtec",
        "data.name=part",
        f"data.root={root}",
        "model=variation",
        "trainer.accelerator=cpu",
    ]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return job_key(compose("train", [*fixed, *overrides]))


def test_what_changes_results_changes_the_key(part: Path) -> None:
    plain = key(root=part)
    same = [
        "outputs=x",
        "threads=1",
        "cache=false",
        "report=true",
        "sweep_name=x",
        "logger=tensorboard",
        "~logger",
    ]
    assert {
        key(override, root=part) for override in [*same, "trainer.devices=[3]", "sweep=encoding_size"]
    } == {plain}
    other = ["seed=1", "threshold.value=0.4", "postprocess.tau=0.1", "data.size=48", "classifier=lof"]
    other += ["trainer.devices=2", "scoring=embedding", "cuts=true", "data.source.seed=1"]
    assert len({plain, *(key(override, root=part) for override in other)}) == len(other) + 1


def test_a_sweep_file_needs_no_m_and_can_be_run_alone(sweep: Callable[..., int], outputs: Path) -> None:
    seen: list[Any] = []
    assert sweep(lambda cfg: seen.append(cfg.cuts) or 0.5, "sweep=threshold") == 0
    assert seen == [True]
    [status] = statuses(outputs, "threshold-variation-part")
    assert status["overrides"] == []
    assert "sweep=threshold" in status["command"]
    assert status["command"].endswith("hydra.mode=RUN")


def test_a_patch_overlaps_by_half_at_every_size(sweep: Callable[..., int], outputs: Path) -> None:
    sizes: list[tuple[int, int]] = []
    arguments = ["data.downsize=120", "data.size=256", "sweep=patch_size", "grid.size=16,48"]
    # the general settings fix the stride
    assert sweep(lambda cfg: sizes.append((cfg.grid.size, cfg.grid.stride)) or 0.5, *arguments) == 0
    assert sizes == [(16, 8), (48, 8)]


def test_a_study_goes_on_and_counts_all_its_trials(
    sweep: Callable[..., int], outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    arguments = ["hydra/sweeper=study", "threshold.value=interval(0.1,0.9)"]
    seen: list[float] = []

    def job(cfg: DictConfig) -> float:
        seen.append(cfg.threshold.value)
        if len(seen) == 2:
            raise InputError("one bad trial")
        if len(seen) == 4:
            raise KeyboardInterrupt
        return 1 - abs(cfg.threshold.value - 0.3)

    assert sweep(job, *arguments, "hydra.sweeper.n_trials=5") == 130
    assert sweep(job, *arguments, "hydra.sweeper.n_trials=5") == 0
    assert seen[4] == seen[3]  # the one that was cut short
    assert len(set(seen)) == len(seen) - 1
    states = [status["state"] for status in statuses(outputs)]
    assert (states.count("done"), states.count("failed")) == (5, 1)
    again = len(seen)
    assert sweep(job, *arguments, "hydra.sweeper.n_trials=5") == 0
    assert len(seen) == again
    assert sweep(job, "hydra/sweeper=study", "hydra.sweeper.n_trials=1") == 2
    assert "expected settings to choose from" in capsys.readouterr().err


@pytest.mark.slow  # two processes that import torch
@pytest.mark.parametrize(
    ("argument", "module", "extra"),
    [
        ("hydra/sweeper=study", "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper", "optuna"),
        ("hydra/launcher=joblib", "hydra_plugins.hydra_joblib_launcher.joblib_launcher", "joblib"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(
    argument: str,
    module: str,
    extra: str,
    sweep: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    known = Plugins.instance().class_name_to_class
    monkeypatch.setattr(
        Plugins.instance(),
        "class_name_to_class",
        {name: plugin for name, plugin in known.items() if not name.startswith(module)},
    )
    assert sweep(value, argument, CUTS) == 2
    assert capsys.readouterr().err == (
        f"error: {argument}: expected its plugin, found none; pip install 'anomalib-lite[{extra}]'\n"
    )


def test_joblib_runs_jobs_side_by_side(
    sweep: Callable[..., int], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def job(cfg: DictConfig) -> float:
        if cfg.threshold.value == 0.4:
            raise InputError("a.png: expected a picture")
        return float(os.environ["OMP_NUM_THREADS"])

    assert sweep(job, CUTS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == 2
    found = statuses(outputs)
    assert [status["state"] for status in found] == ["done", "failed", "done"]
    assert found[0]["value"] == max(joblib.cpu_count() // 2, 1)
    assert os.getpid() not in {status["pid"] for status in found}


@pytest.mark.parametrize(
    ("process", "count", "settings", "expected"),
    [
        ("LokyProcess-1", 4, [], [0]),
        ("LokyProcess-6", 4, [], [1]),
        ("LokyProcess-1:3", 4, [], [2]),
        ("MainProcess", 4, [], 1),
        ("LokyProcess-3", 1, [], 1),
        ("LokyProcess-3", 4, ["trainer.devices=2"], 2),
        ("LokyProcess-3", 4, ["trainer.accelerator=cpu"], 1),
    ],
)
def test_a_gpu_of_its_own(
    process: str, count: int, settings: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", settings)
    used: list[int] = []
    monkeypatch.setattr(devices.multiprocessing.current_process(), "name", process)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(devices.torch.cuda, "set_device", used.append)
    devices.use_own_device(cfg)
    assert cfg.trainer.devices == expected
    assert used == (expected if isinstance(expected, list) else [])


def test_a_full_disk_is_known_behind_other_exceptions() -> None:
    full = OSError(errno.EDQUOT, "quota")
    wrapped = InputError("cannot write")
    wrapped.__context__ = full
    assert is_full_disk(wrapped)
    assert not is_full_disk(JobFailed("full"))
    assert not is_full_disk(OSError(errno.EACCES, "no"))
