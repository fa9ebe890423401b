"""What is compared: methods, data sets and seeds, and the runs they make together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anomalib_lite import __version__
from anomalib_lite.published import PUBLISHED
from anomalib_lite.stages import digest
from anomalib_lite.types import InputError

ENTRY_KEYS = ("name", "options", "paper")


@dataclass(frozen=True, slots=True)
class Entry:
    """A method or a data set as the user listed it."""

    label: str  # as shown in tables
    options: tuple[str, ...]  # of the command line of a run, unquoted: `data.root=my parts`
    named: bool = False  # the label is the user's own
    paper: str | None = None  # the key of its published figures


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the comparison."""

    label: str
    options: tuple[str, ...]
    paper: str | None  # the key of its published figures in `PUBLISHED`
    model: str  # the name of the model's config
    trains_on: str  # what it learns from, in words
    latent_dim: int | None = None  # size of the encoding, where it has one


@dataclass(frozen=True, slots=True)
class DataSet:
    """One table of the comparison."""

    label: str
    options: tuple[str, ...]
    name: str  # `data.name`, under which published figures are found
    rendered: bool  # drawn by a program, not photographed


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a method on a data set with a seed."""

    method: str
    data: str
    seed: int
    arguments: tuple[str, ...]  # all that determines its result

    @property
    def place(self) -> str:
        """The name of its folder, which no cell with other arguments or of another version has.

        >>> Cell("vae scoring=map", "zipper1", 0, ("model=vae",)).place.rpartition("-")[0]
        'vae-scoring-map-zipper1-0'
        """
        own = digest({"arguments": self.arguments, "version": __version__})
        return f"{_slug(self.method)}-{_slug(self.data)}-{self.seed}-{own[:10]}"

    def __str__(self) -> str:
        return f"{self.method} on {self.data}, seed {self.seed}"


def parse_entries(entries: Any, group: Literal["model", "data"]) -> list[Entry]:
    """The methods or data sets of `benchmark.models` or `benchmark.data`, a list or a single entry.

    Raises:
        InputError: for an empty list, an entry of another form, and unknown keys or published figures.

    >>> parse_entries(["cpcae", "vae scoring=map"], "model")[1].options
    ('model=vae', 'scoring=map')
    """
    place = "benchmark.models" if group == "model" else "benchmark.data"
    listed = [entries] if isinstance(entries, str | Mapping) else entries
    if not isinstance(listed, Sequence) or not listed:
        raise InputError(f"{place}: expected a list with at least one entry, found {listed!r}")
    return [_entry(entry, group, f"{place}[{number}]") for number, entry in enumerate(listed)]


def _entry(entry: Any, group: str, place: str) -> Entry:
    if isinstance(entry, str):
        words = _split(entry, place)
        if not words:
            raise InputError(f"{place}: expected a name or options, found an empty text")
        # a name alone is the published method; with options it may be an ablation
        paper = entry if group == "model" and len(words) == 1 and entry in PUBLISHED else None
        return Entry(" ".join(words), _options(words, group), paper=paper)
    if not isinstance(entry, Mapping):
        raise InputError(
            f"{place}: expected a name, options or {{name: ..., options: [...]}}, found {entry!r}"
        )
    if unknown := [str(key) for key in entry if key not in ENTRY_KEYS]:
        raise InputError(f"{place}: unknown key '{unknown[0]}' (choices: {', '.join(ENTRY_KEYS)})")
    name, options, paper = entry.get("name"), entry.get("options", ()), entry.get("paper")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{place}: expected a name, found {name!r}")
    if paper is not None and paper not in PUBLISHED:
        raise InputError(f"{place}: unknown published method '{paper}' (choices: {', '.join(PUBLISHED)})")
    # in a list every option is whole as it is; a text is split as the shell would
    words = _split(options, place) if isinstance(options, str) else [str(option) for option in options or ()]
    return Entry(name, _options(words or [name], group), named=True, paper=paper)


def _options(words: Sequence[str], group: str) -> tuple[str, ...]:
    first = words[0] if "=" in words[0] else f"{group}={words[0]}"
    return (first, *words[1:])


def _split(text: str, place: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"{place}: expected options as on a command line, found {text!r} ({error})"
        ) from None


def parse_options(options: Any) -> list[str]:
    """The options of every run, `benchmark.options`: a list, or a text split as the shell would.

    >>> parse_options("data.size=96 'data.root=my parts'")
    ['data.size=96', 'data.root=my parts']
    """
    words = _split(options, "benchmark.options") if isinstance(options, str) else list(options or ())
    for word in words:
        if not isinstance(word, str) or "=" not in word:
            raise InputError(f"benchmark.options: expected key=value, found {word!r}")
    return words


def parse_seeds(seeds: Any) -> list[int]:
    """The seeds of `benchmark.seeds`, each once.

    >>> parse_seeds([0, 1]), parse_seeds(3)
    ([0, 1], [3])
    """
    listed = [seeds] if isinstance(seeds, int) else list(seeds or ())
    if not listed:
        raise InputError("benchmark.seeds: expected at least one seed, found none")
    for seed in listed:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise InputError(f"benchmark.seeds: expected whole numbers from 0 to 2**32 - 1, found {seed!r}")
    if repeated := {seed for seed in listed if listed.count(seed) > 1}:
        raise InputError(f"benchmark.seeds: {min(repeated)} is listed twice")
    return listed


def check_unique(labels: Sequence[str], place: str) -> None:
    """Raise InputError where two rows or two tables would have the same title."""
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"{place}: '{label}' is listed twice; give one of them a name of its own")


def make_cells(
    methods: Sequence[Method], data: Sequence[DataSet], seeds: Sequence[int], options: Sequence[str]
) -> list[Cell]:
    """Every run, seed by seed: after the first seed every method has a figure on every data set.

    A method's own options come last, so that they win over the data set's, and these over the common ones.
    """
    return [
        Cell(
            method=method.label,
            data=part.label,
            seed=seed,
            arguments=(*options, *part.options, *method.options, f"seed={seed}"),
        )
        for seed in seeds
        for part in data
        for method in methods
    ]


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Where a cell's run goes, below the folder of the comparison."""
    return folder / "runs" / cell.place


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-")[:40] or "unnamed"
