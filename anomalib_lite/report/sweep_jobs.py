"""The jobs of a sweep as their folders tell: what was asked, how it ended, and which of them is best."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

STATES = ("done", "running", "interrupted", "failed")
VALIDATION_FIGURES = ("validation_AUROC", "validation_Recall")
TEST_FIGURES = (
    "image_AUROC",
    "image_AP",
    "image_F1Score",
    "image_Precision",
    "image_Recall",
    "pixel_AUROC",
    "pixel_F1Score",
)
CUT_KEYS = ("threshold", "postprocess.tau")  # they move a cut, and no score
Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a sweep; what is unknown is None or empty."""

    folder: str  # its name inside the sweep's folder
    state: str  # one of STATES
    swept: Mapping[str, str] = field(default_factory=dict)  # key -> value, as on the command line
    value: float | None = None  # validation_AUROC, by which a job is chosen; of a finished job only
    error: str = ""
    seconds: float | None = None
    training_seconds: float | None = None  # of its network, also where that was reused
    started: str = ""
    host: str = ""
    pid: int = 0
    reused: tuple[str, ...] = ()
    command: str = ""
    figures: Mapping[str, float] = field(
        default_factory=dict
    )  # the finite ones of metrics.json, of a finished job
    metrics: Mapping[str, Any] = field(default_factory=dict)  # what the study of encoding sizes reads
    has_report: bool = False
    has_cuts: bool = False  # a study of cuts, of a finished job

    @property
    def overrides(self) -> list[str]:
        """What was asked of it."""
        return [f"{key}={value}" for key, value in self.swept.items()]

    @property
    def name(self) -> str:
        """The same in one line."""
        return ", ".join(self.overrides) or self.folder


# of the sweep that this process wrote about last: a page at every job's end must not read all jobs again
_known: dict[Path, dict[str, tuple[Signature, Job]]] = {}


def read_jobs(folder: Path) -> list[Job]:
    """The jobs in a sweep's folder, the best first, then those without a result; a damaged file is a job's error."""
    known = _known.get(folder, {})
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        names = []
    found: dict[str, tuple[Signature, Job]] = {}
    for name in names:
        # plain text: with hundreds of jobs the making of Path objects shows
        signature = _signature(f"{folder}/{name}/status.json"), _signature(f"{folder}/{name}/metrics.json")
        if signature[0] is None:
            continue
        before = known.get(name)
        found[name] = before if before and before[0] == signature else (signature, read_job(folder / name))
    _known.clear()
    # a file system's passing trouble must not stay: what failed is read again
    _known[folder] = {name: pair for name, pair in found.items() if pair[1].state != "failed"}
    return sorted((_now(job) for _, job in found.values()), key=_rank)


def read_job(folder: Path) -> Job:
    """One job from its status.json and metrics.json; never raises for what stands in them."""
    try:
        status = _read(folder / "status.json")
    except (OSError, ValueError) as error:
        return Job(folder.name, "failed", error=f"status.json can't be read: {_line(error)}")
    overrides = status.get("overrides")
    reused = status.get("reused")
    pid = status.get("pid")
    job = Job(
        folder.name,
        _text(status.get("state")),
        swept=swept_values(overrides if isinstance(overrides, list) else []),
        error=_line(status.get("error")),
        seconds=finite(status.get("seconds")),
        started=_text(status.get("started")),
        host=_text(status.get("host")),
        pid=pid if isinstance(pid, int) else 0,
        reused=tuple(map(_text, reused)) if isinstance(reused, list) else (),
        command=_text(status.get("command")),
        has_report=(folder / "report.html").is_file(),
    )
    if job.state not in STATES:
        return replace(job, state="failed", error=f"status.json: unknown state {job.state!r}")
    if job.state != "done":  # figures that lie there are of an earlier try
        return job
    try:
        metrics = _read(folder / "metrics.json")
    except FileNotFoundError:
        metrics = {}
    except (OSError, ValueError) as error:
        text = f"metrics.json can't be read: {_line(error)}; without this folder the job runs again"
        return replace(job, state="failed", error=text)
    image, pixel, training = (_mapping(metrics.get(name)) for name in ("image", "pixel", "training"))
    values = {name: metrics.get(name) for name in VALIDATION_FIGURES}
    values |= {name: (image | pixel).get(name) for name in TEST_FIGURES}
    figures = {name: value for name, given in values.items() if (value := finite(given)) is not None}
    return replace(
        job,
        value=finite(status.get("value")),
        training_seconds=finite(training.get("seconds")),
        figures=figures,
        metrics=_encoding_metrics(metrics),
        has_cuts=(folder / "cuts.html").is_file(),
    )


def swept_values(overrides: Iterable[Any]) -> dict[str, str]:
    """Hydra's overrides as key and value.

    >>> swept_values(["model.latent_dim=16", "+data.note='a=b'", "~logger"])
    {'model.latent_dim': '16', 'data.note': "'a=b'", '~logger': ''}
    """
    pairs = (_text(override).partition("=") for override in overrides)
    return {key.lstrip("+"): value for key, _, value in pairs}


def swept_keys(jobs: Iterable[Job]) -> list[str]:
    """Every key that a job sets, in the order of the command line."""
    return list(dict.fromkeys(key for job in sorted(jobs, key=lambda job: job.folder) for key in job.swept))


def best_job(jobs: Sequence[Job]) -> tuple[Job | None, list[Job]]:
    """The job to choose, and all those that share its value.

    Among equals: the one nearest to the cut that its rule fitted, since no cut changes `value`; then the one that finds
    the most drawn defects; then the one with the lowest settings.
    """
    done = [job for job in jobs if job.state == "done" and job.value is not None]
    highest = max((job.value for job in done if job.value is not None), default=None)
    tied = [job for job in done if job.value == highest]
    return min(tied, key=_preference, default=None), tied


def as_number(text: str | None) -> float | None:
    """The finite number that a setting is, None for any other setting.

    >>> as_number("1e-3"), as_number("null"), as_number("nan"), as_number(None)
    (0.001, None, None, None)
    """
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def natural(text: str | None) -> tuple[int, float, str]:
    """A key for sorting settings: numbers by size, then texts.

    >>> sorted(["b", "16", "8", "a"], key=natural)
    ['8', '16', 'a', 'b']
    """
    value = as_number(text)
    return (1, 0.0, text or "") if value is None else (0, value, "")


def finite(value: Any) -> float | None:
    """The finite number in a value from a JSON file, None for anything else.

    >>> finite(1), finite(float("nan")), finite([1]), finite("1"), finite(True), finite(10**400)
    (1.0, None, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _preference(job: Job) -> tuple[Any, ...]:
    cut = as_number(job.swept.get("threshold.value"))
    settings = [natural(value) for _, value in sorted(job.swept.items())]
    recall = job.figures.get("validation_Recall", 0.0)
    return 0.0 if cut is None else abs(cut - 0.5), -recall, settings, job.folder


def _rank(job: Job) -> tuple[Any, ...]:
    return STATES.index(job.state), -math.inf if job.value is None else -job.value, *_preference(job)


def _now(job: Job) -> Job:
    """The same job, interrupted if the process that ran it is gone."""
    if job.state != "running" or job.host != socket.gethostname() or job.pid < 1:
        return job
    try:
        os.kill(job.pid, 0)  # signal 0 asks and disturbs nobody
    except (ProcessLookupError, OverflowError):
        return replace(job, state="interrupted")
    except PermissionError:
        pass  # another user's, and alive
    return job


def _signature(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    return content


def _encoding_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What concerns the encoding, with nothing in it that is no number."""
    elements = metrics.get("encoding_elements")
    sources = {
        source: {name: finite(value) for name, value in _mapping(figures).items()}
        for source, figures in _mapping(metrics.get("reconstruction")).items()
    }
    if not sources or finite(elements) is None:
        return {}
    return {"encoding_elements": elements, "reconstruction": sources}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _line(value: Any) -> str:
    return " ".join(_text(value).split())
