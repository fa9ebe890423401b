"""The plots of a sweep's page as SVG inside it: text in the page's own font and colours, without matplotlib's price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from anomalib_lite.report.encoding import EncodingStudy, Estimate
from anomalib_lite.report.sweep_curves import Curve, Point
from anomalib_lite.report.sweep_jobs import Job
from anomalib_lite.report.sweep_scales import (
    NOT_SET,
    Scale,
    marks_of_numbers,
    marks_of_settings,
    round_marks,
)

CLASSES = 5  # of lines by their value, from pale to strong
WIDTH, HEIGHT = 480, 300  # of a small plot
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 44  # its margins
COLUMN = 128  # between the axes of parallel coordinates
LABEL = 17  # characters that have room beside an axis


@dataclass(frozen=True, slots=True)
class Axis:
    """One upright axis of the parallel coordinates."""

    title: str
    note: str  # below the title
    kind: str  # swept, validation or test
    labels: Sequence[tuple[float, str]]  # share of the axis -> text
    places: Mapping[str, float]  # folder of a job -> share of the axis


def draw_parallel(jobs: Sequence[Job], keys: Sequence[str], best: Job | None) -> Markup:
    """A line for each finished job through its settings and its results; empty with fewer than two jobs to show."""
    shown = [job for job in jobs if job.value is not None]
    axes = [axis for key in keys if (axis := _setting_axis(shown, key))]
    if len(shown) < 2 or not axes:
        return Markup("")
    axes.append(_result_axis("validation AUROC", "%, chooses", "validation", shown, lambda job: job.value))
    tested = _result_axis(
        "image AUROC", "%, test: does not", "test", shown, lambda job: job.figures.get("image_AUROC")
    )
    axes += [tested] if tested.places else []
    width = max(COLUMN * len(axes) + 80, 1000)
    step = (width - 210) / (len(axes) - 1)
    across = [130 + step * number for number in range(len(axes))]
    top, bottom = 56, 340
    parts = [_upright(axis, x, top, bottom) for axis, x in zip(axes, across, strict=True)]
    values = [job.value for job in shown if job.value is not None]
    colours = Scale(min(values), max(values))
    for number, job in reversed(list(enumerate(jobs))):  # the best on top
        if job.value is None:
            continue
        points = [
            f"{x:.0f},{bottom - axis.places[job.folder] * (bottom - top):.1f}"
            for axis, x in zip(axes, across, strict=True)
            if job.folder in axis.places
        ]
        strength = min(CLASSES - 1, int(CLASSES * colours.share(job.value)))
        kind = "best" if job is best else f"v{strength}"
        line = " ".join(points)
        parts.append(
            f'<a class="line {kind}" href="#job-{number}" data-job="{number}"><title>{_tooltip(job)}</title>'
            f'<polyline class="hit" points="{line}"/><polyline points="{line}"/></a>'
        )
    # after the lines, or nobody could read them
    room = int(step / 7.5)
    parts += [_labels(axis, x, top, bottom, room) for axis, x in zip(axes, across, strict=True)]
    return _svg(width, bottom + 14, "parallel", "Settings and results of every finished job", parts)


def draw_curve(curve: Curve) -> Markup:
    """One result against one swept number, a line for each combination of the other settings."""
    points = [point for line in curve.lines for point in line.points]
    scale, labels = marks_of_numbers([point.x for point in points])
    ends = _widened([end for point in points for end in (point.low, point.high)])
    frame = _Frame(scale, ends)
    parts = [*frame.grid(labels, round_marks(ends.low, ends.high), lambda value: f"{100 * value:g}")]
    for number, line in enumerate(curve.lines):
        parts.append(f'<g class="s{number % 8}{" dashed" if number >= 8 else ""}">')
        if curve.connected and len(line.points) > 1:
            path = " ".join(f"{frame.x(point.x):.1f},{frame.y(point.mean):.1f}" for point in line.points)
            parts.append(f'<polyline class="series" points="{path}"/>')
        parts += [_dot(frame, point, line.label) for point in line.points]
        parts.append("</g>")
    parts += [_below(curve.key)]
    return _svg(WIDTH, HEIGHT, "curve", f"{curve.title} against {curve.key}", parts)


def draw_encoding(study: EncodingStudy) -> tuple[Markup, Markup]:
    """The errors and their ratio against the encoding's size, with standard errors and both recommended sizes."""
    sizes = [point.elements for point in study.points]
    scale, labels = marks_of_numbers([float(size) for size in sizes])
    total, near, ratio = ([getattr(p, name) for p in study.points] for name in ("total", "vicinity", "ratio"))
    tested = [
        (size, found)
        for size, point in zip(sizes, study.points, strict=True)
        if (found := (point.test or {}).get("ratio"))
    ]
    errors = _Frame(scale, _widened([end for found in [*total, *near] for end in _ends(found)] + [0.0]))
    ratios = _Frame(
        scale, _widened([end for found in [*ratio, *(found for _, found in tested)] for end in _ends(found)])
    )
    left = [
        *errors.grid(labels, round_marks(errors.high.low, errors.high.high), lambda value: f"{value:g}"),
        *_estimates(errors, list(zip(sizes, total, strict=True)), "s0"),
        *_estimates(errors, list(zip(sizes, near, strict=True)), "s1"),
        _below("elements in the encoding of one patch"),
    ]
    marks = {study.recommended_small: "mark dashed", study.recommended: "mark"}
    right = [
        *ratios.grid(labels, round_marks(ratios.high.low, ratios.high.high), lambda value: f"{value:g}"),
        *(
            f'<path class="{kind}" d="M{ratios.x(size):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            for size, kind in marks.items()
        ),
        *_estimates(ratios, tested, "test"),
        *_estimates(ratios, list(zip(sizes, ratio, strict=True)), "s2"),
        _below("elements in the encoding of one patch"),
    ]
    return (
        _svg(WIDTH, HEIGHT, "curve", "Reconstruction errors against the encoding's size", left),
        _svg(WIDTH, HEIGHT, "curve", "Ratio of the errors against the encoding's size", right),
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """The field of a small plot."""

    wide: Scale
    high: Scale

    def x(self, value: float) -> float:
        return LEFT + 12 + self.wide.share(value) * (WIDTH - LEFT - RIGHT - 24)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.high.share(value) * (HEIGHT - BOTTOM - TOP)

    def grid(
        self, across: Sequence[tuple[float, str]], up: Sequence[float], text: Callable[[float], str]
    ) -> Iterable[str]:
        for value in up:
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="end" x="{LEFT - 8}" y="{y + 4:.1f}">{escape(text(value))}</text>'
        floor = HEIGHT - BOTTOM
        yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
        for share, label in across:
            x = LEFT + 12 + share * (WIDTH - LEFT - RIGHT - 24)
            yield f'<text class="middle" x="{x:.1f}" y="{floor + 17}">{escape(label)}</text>'


def _setting_axis(jobs: Sequence[Job], key: str) -> Axis | None:
    """None for a key that has one value in all jobs."""
    settings = {job.folder: job.swept.get(key) for job in jobs}
    if len(set(settings.values())) < 2:
        return None
    marks = marks_of_settings(settings.values())
    places = {folder: marks.places[NOT_SET if text is None else text] for folder, text in settings.items()}
    return Axis(key, "", "swept", marks.labels, places)


def _result_axis(
    title: str, note: str, kind: str, jobs: Sequence[Job], result: Callable[[Job], float | None]
) -> Axis:
    found = {job.folder: value for job in jobs if (value := result(job)) is not None}
    if not found:
        return Axis(title, note, kind, (), {})
    scale = Scale(min(found.values()), max(found.values()))
    labels = [(scale.share(value), f"{100 * value:g}") for value in round_marks(scale.low, scale.high)]
    if not scale.high > scale.low:
        labels = [(0.5, f"{100 * scale.low:.4g}")]
    return Axis(title, note, kind, labels, {folder: scale.share(value) for folder, value in found.items()})


def _upright(axis: Axis, x: float, top: int, bottom: int) -> str:
    marks = [bottom - share * (bottom - top) for share, _ in axis.labels]
    path = "".join([f"M{x:.0f} {top}V{bottom}", *(f"M{x - 4:.0f} {y:.1f}h4" for y in marks)])
    return f'<g class="{axis.kind}"><path class="axis" d="{path}"/></g>'


def _labels(axis: Axis, x: float, top: int, bottom: int, room: int) -> str:
    parts = [f'<text class="middle title" x="{x:.0f}" y="18">{_short(axis.title, room)}</text>']
    if axis.note:
        parts.append(f'<text class="middle" x="{x:.0f}" y="36">{escape(axis.note)}</text>')
    for share, label in axis.labels:
        y = bottom - share * (bottom - top) + 4
        parts.append(f'<text class="end halo" x="{x - 8:.0f}" y="{y:.1f}">{_short(label, LABEL)}</text>')
    return "".join(parts)


def _dot(frame: _Frame, point: Point, label: str) -> str:
    x, low, high = frame.x(point.x), frame.y(point.low), frame.y(point.high)
    whisker = f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    count = f", mean of {point.jobs} jobs" if point.jobs > 1 else ""
    text = f"{point.x:g}: {100 * point.mean:.2f} %{count}{'; ' if label else ''}{label}"
    return (
        f"{whisker if point.high > point.low else ''}"
        f'<circle cx="{x:.1f}" cy="{frame.y(point.mean):.1f}" r="3.5"><title>{escape(text)}</title></circle>'
    )


def _estimates(frame: _Frame, found: Sequence[tuple[int, Estimate]], kind: str) -> list[str]:
    path = " ".join(f"{frame.x(size):.1f},{frame.y(estimate.mean):.1f}" for size, estimate in found)
    parts = [f'<g class="{kind}">', f'<polyline class="series" points="{path}"/>']
    for size, estimate in found:
        low, high = _ends(estimate)
        parts.append(_dot(frame, Point(size, estimate.mean, low, high, 1), ""))
    return [*parts, "</g>"]


def _ends(estimate: Estimate) -> tuple[float, float]:
    error = estimate.error or 0.0
    return estimate.mean - error, estimate.mean + error


def _widened(values: Sequence[float]) -> Scale:
    """A little air above and below, also around a single value."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return Scale(low - air if low else low, high + air)


def _tooltip(job: Job) -> Markup:
    test = job.figures.get("image_AUROC")
    results = f"validation AUROC {100 * (job.value or 0):.2f} %"
    if test is not None:
        results += f", test image AUROC {100 * test:.2f} %"
    return escape(f"{job.name}: {results}")


def _below(text: str) -> str:
    x = (LEFT + WIDTH - RIGHT) / 2
    return f'<text class="middle title" x="{x:.0f}" y="{HEIGHT - 6}">{_short(text, 56)}</text>'


def _short(text: str, room: int) -> str:
    """Text that fits, the whole of it shown when pointed at."""
    if len(text) <= room:
        return str(escape(text))
    return f"{escape(text[: room - 1])}…<title>{escape(text)}</title>"


def _svg(width: int, height: int, kind: str, label: str, parts: Iterable[str]) -> Markup:
    head = f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")
