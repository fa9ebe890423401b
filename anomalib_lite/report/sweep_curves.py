"""Which result to plot against a swept number, and which of the other settings deserve a line of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from anomalib_lite.report.sweep_jobs import CUT_KEYS, Job, as_number, natural

MOST_LINES = 8  # above it lines can't be told apart: jobs are dots then
MOST_CONNECTED = 20  # distinct numbers; a sampler's many values make no line

VALUE = "validation AUROC"
PIXEL_CUT = "postprocess.tau"

Result = Callable[[Job], float | None]


@dataclass(frozen=True, slots=True)
class Point:
    """The jobs at one place of a line."""

    x: float
    mean: float
    low: float
    high: float
    jobs: int


@dataclass(frozen=True, slots=True)
class Line:
    """The jobs that share their other settings."""

    label: str
    points: tuple[Point, ...]  # by rising x


@dataclass(frozen=True, slots=True)
class Curve:
    """One result against one swept key."""

    key: str
    title: str  # of the result
    note: str  # what a reader must know of it
    lines: tuple[Line, ...]
    connected: bool


def curves(jobs: Sequence[Job], keys: Sequence[str]) -> list[Curve]:
    """A curve for each key with two numbers or more, over the finished jobs; a seed is averaged, not plotted."""
    done = [job for job in jobs if job.value is not None]
    found = []
    for key in keys:
        numbers = [job for job in done if as_number(job.swept.get(key)) is not None]
        if is_seed(key) or len({as_number(job.swept[key]) for job in numbers}) < 2:
            continue
        found.append(_curve(numbers, key, keys))
    return found


def is_seed(key: str) -> bool:
    """Whether a key repeats a job instead of changing what it does.

    >>> is_seed("seed"), is_seed("trainer.seed"), is_seed("model.seeds")
    (True, True, False)
    """
    return key.rpartition(".")[2] == "seed"


def matters(jobs: Iterable[Job], key: str, keys: Sequence[str], result: Result) -> bool:
    """Whether jobs that are alike in all else differ in a result by this key; True where no two are alike.

    What is known needs no comparison: no cut changes a job's value, and the pixel cut no picture's verdict.
    """
    if (result is _value and key.startswith(CUT_KEYS)) or (result is _recall and key == PIXEL_CUT):
        return False
    others = [other for other in keys if other != key]
    alike: dict[tuple[str | None, ...], dict[str | None, float | None]] = {}
    for job in jobs:
        alike.setdefault(tuple(job.swept.get(other) for other in others), {})[job.swept.get(key)] = result(
            job
        )
    compared = [set(results.values()) for results in alike.values() if len(results) > 1]
    return not compared or any(len(results) > 1 for results in compared)


def _curve(jobs: Sequence[Job], key: str, keys: Sequence[str]) -> Curve:
    title, note, result = _told(jobs, key, keys)
    jobs = [job for job in jobs if result(job) is not None]
    others = [
        other for other in keys if other != key and not is_seed(other) and matters(jobs, other, keys, result)
    ]
    groups: dict[tuple[str | None, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.swept.get(other) for other in others), []).append(job)
    varied = [place for place in range(len(others)) if len({settings[place] for settings in groups}) > 1]
    if len(groups) > MOST_LINES:
        points = [
            _point(value, [job], result) for job in jobs if (value := as_number(job.swept[key])) is not None
        ]
        return Curve(key, title, note, (Line("", tuple(points)),), connected=False)
    lines = tuple(
        Line(
            ", ".join(
                f"{others[place]}={settings[place]}" for place in varied if settings[place] is not None
            ),
            _points(members, key, result),
        )
        for settings, members in sorted(groups.items(), key=lambda pair: [natural(text) for text in pair[0]])
    )
    connected = len({point.x for line in lines for point in line.points}) <= MOST_CONNECTED
    return Curve(key, title, note, lines, connected)


def _told(jobs: Sequence[Job], key: str, keys: Sequence[str]) -> tuple[str, str, Result]:
    """The result to plot against a key: the job's value, or else what tells more of a key that moves a cut."""
    independent = "Validation AUROC does not depend on it."
    if matters(jobs, key, keys, _value):
        return VALUE, "", _value
    if key == PIXEL_CUT:
        if any(_pixel_f1(job) is not None for job in jobs):
            note = "No figure of the validation depends on it. From the test: shown, not used to choose."
            return "test pixel F1", note, _pixel_f1
    elif any(_recall(job) is not None for job in jobs):
        more = "the drawn defects that are found, more of them where more good parts are rejected too."
        return "validation recall", f"{independent} Instead: {more}", _recall
    return VALUE, independent, _value


def _points(jobs: Sequence[Job], key: str, result: Result) -> tuple[Point, ...]:
    at: dict[float, list[Job]] = {}
    for job in jobs:
        value = as_number(job.swept[key])
        if value is not None:
            at.setdefault(value, []).append(job)
    return tuple(_point(value, at[value], result) for value in sorted(at))


def _point(x: float, jobs: Sequence[Job], result: Result) -> Point:
    values = [value for job in jobs if (value := result(job)) is not None]
    return Point(x, sum(values) / len(values), min(values), max(values), len(values))


def _value(job: Job) -> float | None:
    return job.value


def _recall(job: Job) -> float | None:
    return job.figures.get("validation_Recall")


def _pixel_f1(job: Job) -> float | None:
    return job.figures.get("pixel_F1Score")
