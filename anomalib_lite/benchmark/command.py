"""`benchmark.py`: checks the whole grid first, then runs what is missing and writes the tables after every run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from anomalib_lite.benchmark.arguments import quote_entries
from anomalib_lite.benchmark.grid import (
    Cell,
    DataSet,
    Entry,
    Method,
    cell_folder,
    check_unique,
    make_cells,
    parse_entries,
    parse_options,
    parse_seeds,
)
from anomalib_lite.benchmark.runner import Ended, is_done, run_cells
from anomalib_lite.console import (
    USAGE_ERROR,
    ExitCode,
    another_hydra,
    config_folder,
    explain,
    main,
    quote_raw,
)
from anomalib_lite.report.comparison import ComparisonPage
from anomalib_lite.report.comparison_results import Comparison, Outcome, read_outcome
from anomalib_lite.report.comparison_tables import write_tables
from anomalib_lite.schema import register_schemas
from anomalib_lite.types import InputError

PASTED = {
    "none": "",
    "defects": " with pasted defects",
    "objects": " with pasted objects",
    "mixed": " with pasted defects and objects",
}


def benchmark_command(arguments: Sequence[str] | None = None) -> int:
    """`anomalib-lite-benchmark`: returns the exit code, 0 if every run succeeded, 1 if one failed."""
    register_schemas()
    try:
        readable = quote_entries(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    return main("benchmark", benchmark, readable)


def benchmark(cfg: DictConfig) -> ExitCode:
    """Methods x data sets x seeds into one table; what is already there is not repeated.

    Raises:
        InputError: for a mistake in any entry, before anything runs, and where another benchmark is at work.
        KeyboardInterrupt: after Ctrl-C; its text says what is kept.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    settings: Any = OmegaConf.to_container(cfg.benchmark, resolve=True, throw_on_missing=True)
    jobs, threads = _shares(settings["jobs"], cfg.threads)
    with another_hydra():
        methods, data, cells = plan(settings)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"{folder}: expected to be alone, found another benchmark at work there; "
            "wait for it, or give this one a folder of its own with benchmark.name=..."
        ) from None
    with lock:
        comparison = Comparison(
            name=str(settings["name"]),
            command=_command(),
            methods=methods,
            data=data,
            seeds=parse_seeds(settings["seeds"]),
            jobs=jobs,
            threads=threads,
            outcomes={cell: _outcome(folder, cell) for cell in cells},
        )
        return _run(comparison, folder, Path(cfg.outputs).absolute())


def plan(settings: dict[str, Any]) -> tuple[list[Method], list[DataSet], list[Cell]]:
    """The whole grid of `benchmark`, every cell of which composes.

    Raises:
        InputError: for the first entry that doesn't.
    """
    options = parse_options(settings["options"])
    models, sets = parse_entries(settings["models"], "model"), parse_entries(settings["data"], "data")
    seeds = parse_seeds(settings["seeds"])
    data = [_data_set(part, _compose(f"data set '{part.label}'", [*options, *part.options])) for part in sets]
    data = list(_told_apart(data, sets))
    check_unique([part.label for part in data], "benchmark.data")
    check_unique([model.label for model in models], "benchmark.models")
    methods: dict[str, Method] = {}
    for part in data:
        for model in models:
            place = f"method '{model.label}' on '{part.label}'"
            cfg = _compose(place, [*options, *part.options, *model.options], complete=True)
            methods.setdefault(model.label, _method(model, cfg))
    cells = make_cells(list(methods.values()), data, seeds, options)
    same = {cell.place: cell for cell in reversed(cells)}
    if twice := next((cell for cell in cells if same[cell.place] is not cell), None):
        raise InputError(f"benchmark: '{twice}' and '{same[twice.place]}' are the same run; leave one out")
    return list(methods.values()), data, cells


def _compose(place: str, arguments: list[str], *, complete: bool = False) -> DictConfig:
    """The config of a run; `complete` where every mandatory value must be there."""
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = hydra.compose("train", [quote_raw(argument) for argument in arguments])
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{place}: {explain(error, 'train', arguments)}") from None
    if complete and (missing := next(_missing(OmegaConf.to_container(cfg, resolve=False)), None)):
        raise InputError(f"{place}: {missing} must be given, for instance {missing}=...")
    return cfg


def _missing(node: Any, place: str = "") -> Iterator[str]:
    """Every key without a value."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{place}.{key}" if place else str(key))
    elif node == "???":
        yield place


def _data_set(entry: Entry, cfg: DictConfig) -> DataSet:
    data = cfg.data
    known = not OmegaConf.is_missing(data, "name") and data.name is not None
    name = str(data.name) if known else entry.label
    drawn = bool(data.rendered) and data.root is None
    return DataSet(entry.label if entry.named else name, entry.options, name=name, rendered=drawn)


def _told_apart(data: Sequence[DataSet], entries: Sequence[Entry]) -> Iterator[DataSet]:
    """The same data sets; those that would share a title get all that was typed as theirs."""
    labels = [part.label for part in data]
    for part, entry in zip(data, entries, strict=True):
        label = entry.label if labels.count(part.label) > 1 else part.label
        yield DataSet(label, part.options, name=part.name, rendered=part.rendered)


def _method(entry: Entry, cfg: DictConfig) -> Method:
    model = cfg.model
    learns = (
        f"good pictures{PASTED[str(cfg.corruption.family)]}" if model.trains else "good pictures, untrained"
    )
    size = OmegaConf.select(cfg, "model.latent_dim")
    return Method(
        label=entry.label,
        options=entry.options,
        paper=entry.paper,
        model=str(model.name),
        trains_on=learns,
        latent_dim=size if isinstance(size, int) else None,
    )


def _shares(jobs: Any, threads: int | None) -> tuple[int, int]:
    """How many runs at once, and the threads of each."""
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise InputError(f"benchmark.jobs must be a whole number of at least 1, got {jobs}")
    if threads is None:
        available = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
        threads = max(1, available // jobs)
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    return jobs, threads


def _command() -> str:
    return " ".join(["anomalib-lite-benchmark", *HydraConfig.get().overrides.task])


def _outcome(folder: Path, cell: Cell) -> Outcome:
    place = cell_folder(folder, cell)
    return read_outcome(place) if is_done(folder, cell) else Outcome("waiting", place)


def _run(comparison: Comparison, folder: Path, outputs: Path) -> ExitCode:
    """Run the cells that have no result, and write the tables and the page after each."""
    outcomes, page = comparison.outcomes, ComparisonPage()
    todo = [cell for cell, outcome in outcomes.items() if outcome.state != "done"]
    kept = len(outcomes) - len(todo)
    print(f"{len(outcomes)} runs, {kept} of them already done, {comparison.jobs} at once; results: {folder}")
    bar = tqdm(total=len(outcomes), initial=kept, desc="comparing", unit="run", disable=None)
    running: list[str] = []

    def write() -> None:
        write_tables(comparison, folder)
        page.write(comparison, folder)

    def started(cell: Cell) -> None:
        running.append(str(cell))
        bar.set_postfix_str("; ".join(running))

    def ended(cell: Cell, end: Ended) -> None:
        place = cell_folder(folder, cell)
        outcomes[cell] = Outcome("failed", place, error=end.error) if end.failed else read_outcome(place)
        running.remove(str(cell))
        bar.update()
        bar.set_postfix_str("; ".join(running))
        tqdm.write(f"{cell}: {f'FAILED: {end.error}' if end.failed else f'{end.seconds:.0f} s'}")
        write()

    write()  # a folder that can't be written is no news for after the first run
    try:
        with bar:
            run_cells(
                todo,
                folder=folder,
                outputs=outputs,
                jobs=comparison.jobs,
                threads=comparison.threads,
                started=started,
                ended=ended,
            )
    except KeyboardInterrupt:
        done = sum(outcome.state == "done" for outcome in outcomes.values())
        raise KeyboardInterrupt(
            f"{done} of {len(outcomes)} runs are done and kept in {folder}; the same command goes on from there"
        ) from None
    print("\n" + (folder / "table.md").read_text(), end="")
    print(f"\ncomparison: {folder / 'benchmark.html'}")
    return ExitCode(1 if any(outcome.state == "failed" for outcome in outcomes.values()) else 0)
