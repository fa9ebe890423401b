"""sweep.csv and sweep.html: the jobs of a sweep, which of them to choose, and what each setting does."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Template
from markupsafe import Markup

from anomalib_lite import __version__
from anomalib_lite.report.encoding import EncodingStudy, encoding_study
from anomalib_lite.report.environment import page_environment
from anomalib_lite.report.figures import percent
from anomalib_lite.report.files import replace_file
from anomalib_lite.report.sweep_curves import curves, is_seed
from anomalib_lite.report.sweep_jobs import (
    CUT_KEYS,
    STATES,
    TEST_FIGURES,
    VALIDATION_FIGURES,
    Job,
    best_job,
    read_jobs,
    swept_keys,
)
from anomalib_lite.report.sweep_plots import draw_curve, draw_encoding, draw_parallel

PAGE, TABLE, CURVES = "sweep.html", "sweep.csv", "curves.png"
MOST_NAMED = 3  # settings that a sentence names


def write_sweep(folder: Path) -> None:
    """Write `sweep.csv` and `sweep.html` into a sweep's folder from its job folders, whatever state they are in.

    Cheap enough for the end of every job; two processes may do it at once, and each file is always a whole one.
    """
    jobs = read_jobs(folder)
    keys = swept_keys(jobs)
    # backslashreplace: a setting that is not UTF-8 must not cost the page
    replace_file(folder / TABLE, as_csv(jobs, keys).encode("utf-8", errors="backslashreplace"))
    page = make_page(jobs, keys, name=folder.resolve().name)
    replace_file(folder / PAGE, page.encode("utf-8", errors="backslashreplace"))


def write_curves(folder: Path) -> Path | None:
    """Draw the study of encoding sizes to `curves.png`, once at a sweep's end; None with fewer than two sizes."""
    from anomalib_lite.report.encoding_plot import draw_study  # matplotlib: not at the end of every job

    study = _study(read_jobs(folder))
    return None if study is None else draw_study(study, folder / CURVES)


def as_csv(jobs: Sequence[Job], keys: Sequence[str]) -> str:
    """A row for each job, the best first, with all digits; what is unknown is empty."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    test = [f"test_{name}" for name in TEST_FIGURES]
    cost = ["training_seconds", "seconds", "reused"]
    about = ["error", "started", "host", "folder", "command"]
    writer.writerow(["state", *keys, "value", *VALIDATION_FIGURES, *test, *cost, *about])
    for job in jobs:
        figures = [job.figures.get(name) for name in VALIDATION_FIGURES + TEST_FIGURES]
        spent = [job.training_seconds, job.seconds, " ".join(job.reused)]
        settings = [job.swept.get(key) for key in keys]
        told = [job.error, job.started, job.host, job.folder, job.command]
        writer.writerow([job.state, *settings, job.value, *figures, *spent, *told])
    return table.getvalue()


def make_page(jobs: Sequence[Job], keys: Sequence[str], *, name: str) -> str:
    """The page's HTML, which needs nothing but itself."""
    best, tied = best_job(jobs)
    study = _study(jobs)
    template, _, script, script_hash = _templates()
    return template.render(
        name=name,
        version=__version__,
        script=script,
        script_hash=script_hash,
        counts=[(state, sum(job.state == state for job in jobs)) for state in STATES],
        jobs=jobs,
        keys=keys,
        rows=_rows(jobs, keys),
        best=best,
        tie=_tie(best, tied),
        report_of=next((job for job in tied if job.has_report and not (best and best.has_report)), None),
        luck=_luck(best, jobs, keys),
        parallel=draw_parallel(jobs, keys, best),
        curves=[(curve, draw_curve(curve)) for curve in curves(jobs, keys)],
        study=study,
        encoding=None if study is None else draw_encoding(study),
        failed=[job for job in jobs if job.state == "failed"],
        test_figures=TEST_FIGURES,
        written=datetime.now().astimezone().isoformat(timespec="seconds"),
        unfinished=any(job.state in ("running", "interrupted") for job in jobs),
        spent=sum(job.seconds or 0 for job in jobs),
    )


# the row of every job as it was last written, and for which keys: most of them stay as they are
_written: dict[str, tuple[Job, Sequence[str], Markup]] = {}


def _rows(jobs: Sequence[Job], keys: Sequence[str]) -> list[Markup]:
    """The cells of every job's row."""
    template = _templates()[1]
    rows = {}
    for job in jobs:
        known = _written.get(job.folder)
        if known is None or known[0] is not job or known[1] != keys:
            known = job, keys, Markup(template.render(job=job, keys=keys, test_figures=TEST_FIGURES))
        rows[job.folder] = known
    _written.clear()
    _written.update(rows)
    return [row for _, _, row in rows.values()]


@cache
def _templates() -> tuple[Template, Template, Markup, str]:
    """The page, a row of it, its script, and the script's hash, by which a browser runs this one and no other."""
    environment = page_environment()
    environment.filters |= {"link": link, "folder_link": folder_link, "duration": duration, "figure": _figure}
    script = files("anomalib_lite.report").joinpath("templates/sweep.js").read_text("utf-8")
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page, row = (environment.get_template(f"{name}.html.j2") for name in ("sweep", "sweep_row"))
    return page, row, Markup(script), known


def link(job: Job) -> str:
    """Where to read more of a job, relative to the page.

    >>> link(Job("a b#1", "done", has_report=True)), link(Job("a", "failed"))
    ('a%20b%231/report.html', 'a/')
    """
    return folder_link(job) + ("report.html" if job.has_report else "")


def folder_link(job: Job) -> str:
    """A job's folder, relative to the page."""
    return quote(os.fsencode(job.folder)) + "/"


def duration(seconds: float | None) -> str:
    """Seconds as a reader says them.

    >>> duration(0.213), duration(75.0), duration(7260.0), duration(None)
    ('0.2 s', '1:15 min', '2:01 h', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _study(jobs: Sequence[Job]) -> EncodingStudy | None:
    return encoding_study(
        [{"overrides": job.overrides, "metrics": job.metrics} for job in jobs if job.metrics]
    )


def _luck(best: Job | None, jobs: Sequence[Job], keys: Sequence[str]) -> str:
    """What the best job's settings reach with its and with other seeds; empty where no seed is swept."""
    settings = [key for key in keys if not is_seed(key)]
    if best is None or len(settings) == len(keys):
        return ""
    alike = [job for job in jobs if all(job.swept.get(key) == best.swept.get(key) for key in settings)]
    values = [job.value for job in alike if job.value is not None]
    if len(values) < 2:
        return "A seed is swept, and the best job may be a lucky one: its settings have a result for one seed alone."
    mean = percent(sum(values) / len(values))
    return f"The best of several seeds is a lucky one: over {len(values)} seeds these settings reach {mean} on average."


def _tie(best: Job | None, tied: Sequence[Job]) -> list[str]:
    """What a reader must know where several jobs share the highest value."""
    if best is None or len(tied) < 2:
        return []
    keys = [key for key in swept_keys(tied) if len({job.swept.get(key) for job in tied}) > 1]
    named = ", ".join(keys[:MOST_NAMED]) + (" and others" if len(keys) > MOST_NAMED else "")
    text = f"{len(tied)} jobs share this value" + (f"; they differ in {named}." if keys else ".")
    steps = []  # as best_job goes
    if "threshold.value" in keys:
        steps.append("the one nearest to the cut that its rule fitted (0.5)")
    if len({job.figures.get("validation_Recall") for job in tied}) > 1:
        steps.append("the one that finds the most drawn defects")
    taken = f"Taken is {', then '.join([*steps, 'the one with the lowest settings'])}."
    if keys and all(key.startswith(CUT_KEYS) for key in keys):
        return [
            f"{text} That moves a cut, on which validation AUROC does not depend. {taken} "
            "sweep=threshold compares cuts."
        ]
    return [f"{text} {taken}"]
