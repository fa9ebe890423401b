"""Scales, curves and drawings of the sweep's page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anomalib_lite.report.sweep_curves import curves, matters
from anomalib_lite.report.sweep_jobs import Job, best_job, read_jobs, swept_keys
from anomalib_lite.report.sweep_plots import draw_curve, draw_parallel
from anomalib_lite.report.sweep_scales import (
    NOT_SET,
    Scale,
    marks_of_numbers,
    marks_of_settings,
    round_marks,
    scale_of,
)

finite = st.floats(-1e6, 1e6, allow_nan=False)


def job(value: float | None, swept: Mapping[str, Any], **figures: float) -> Job:
    settings = {key: str(setting) for key, setting in swept.items()}
    name = ",".join(f"{key}={setting}" for key, setting in settings.items())
    return Job(name, "done", swept=settings, value=value, figures=figures)


def test_a_scale_spreads_evenly() -> None:
    assert scale_of([8, 16, 32, 64, 128]) == Scale(8, 128, logarithmic=True)
    assert scale_of([0.02, 0.2, 0.4, 0.6, 0.8, 0.98]) == Scale(0.02, 0.98)
    assert scale_of([0, 1, 1000]) == Scale(0, 1000)  # zero has no logarithm
    assert scale_of([1e-5, 1e-2]).logarithmic
    assert not scale_of([0.4, 0.6]).logarithmic


@given(st.lists(finite, min_size=1, max_size=12))
@example([2.0, 1.1125369292536007e-308])  # whose ratio is infinite
def test_every_number_lies_on_its_axis(values: list[float]) -> None:
    scale, labels = marks_of_numbers(values)
    assert all(-1e-9 <= scale.share(value) <= 1 + 1e-9 for value in values)
    assert all(-1e-6 <= share <= 1 + 1e-6 for share, _ in labels)


@given(finite, finite)
@example(0.0, 5e-324)  # a fifth of which is 0
def test_round_marks_lie_inside(one: float, other: float) -> None:
    low, high = sorted((one, other))
    marks = round_marks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= mark <= high + slack for mark in marks)
    assert len(marks) <= 7


def test_words_among_numbers_lie_below_them() -> None:
    places = marks_of_settings(["null", "0.4", "0.6", None]).places
    assert places == {"null": 0.0, NOT_SET: 0.13, "0.4": 0.26, "0.6": 1.0}
    assert marks_of_settings(["vae", "cpcae", "cae"]).places == {"vae": 0.0, "cpcae": 0.5, "cae": 1.0}
    assert marks_of_settings(["1", "1.0"]).places == {"1.0": 0.0, "1": 1.0}  # two spellings, one number


def test_many_numbers_get_round_labels() -> None:
    labels = [text for _, text in marks_of_settings([f"{1e-5 * 1.4**step}" for step in range(20)]).labels]
    assert labels == ["1e-5", "0.0001", "0.001"]
    assert [text for _, text in marks_of_numbers([step / 20 for step in range(21)])[1]] == [
        "0", "0.2", "0.4", "0.6", "0.8", "1"
    ]  # fmt: skip


def test_a_cut_matters_to_recall_and_not_to_the_value() -> None:
    jobs = [
        job(
            0.8 + size / 1000, {"size": size, "threshold.value": cut}, validation_Recall=1 - cut - size / 1000
        )
        for size in (16, 32)
        for cut in (0.4, 0.5, 0.6)
    ]
    keys = ["size", "threshold.value"]
    assert matters(jobs, "size", keys, lambda one: one.value)
    assert not matters(jobs, "threshold.value", keys, lambda one: one.value)
    by_size, by_cut = curves(jobs, keys)
    assert by_size.title == "validation AUROC"
    (line,) = by_size.lines  # the cut deserves no lines of its own here
    assert [(point.x, point.mean, point.jobs) for point in line.points] == [
        (16.0, pytest.approx(0.816), 3),
        (32.0, pytest.approx(0.832), 3),
    ]
    assert by_cut.title == "validation recall"
    assert "does not depend on it" in by_cut.note
    assert [line.label for line in by_cut.lines] == ["size=16", "size=32"]
    assert [point.mean for point in by_cut.lines[0].points] == pytest.approx([0.584, 0.484, 0.384])


def test_the_pixel_cut_is_shown_with_the_tests_figure_marked_as_not_choosing() -> None:
    jobs = [
        job(
            0.8,
            {"size": size, "postprocess.tau": tau},
            validation_Recall=0.5 + size / 100,
            pixel_F1Score=tau / 2,
        )
        for size in (16, 32)
        for tau in (0.2, 0.4)
    ]
    _, by_cut = curves(jobs, ["size", "postprocess.tau"])
    assert by_cut.title == "test pixel F1"
    assert "not used to choose" in by_cut.note
    (line,) = by_cut.lines  # the size changes nothing of it
    assert [(point.x, point.mean) for point in line.points] == [(0.2, 0.1), (0.4, 0.2)]
    bare = [job(0.8, {"postprocess.tau": tau}, validation_Recall=0.5) for tau in (0.2, 0.4)]
    (flat,) = curves(bare, ["postprocess.tau"])
    assert (flat.title, flat.note) == ("validation AUROC", "Validation AUROC does not depend on it.")


def test_seeds_are_averaged_with_their_range() -> None:
    jobs = [job(value, {"size": 8, "seed": seed}) for seed, value in enumerate((0.5, 0.6, 0.7))]
    jobs += [job(0.9, {"size": 16, "seed": 0})]
    (curve,) = curves(jobs, ["size", "seed"])
    (line,) = curve.lines
    first = line.points[0]
    assert (first.mean, first.low, first.high, first.jobs) == (pytest.approx(0.6), 0.5, 0.7, 3)
    assert draw_curve(curve).count('class="error"') == 1


def test_too_many_combinations_are_dots() -> None:
    jobs = [job(0.5 + 0.01 * a + 0.001 * b, {"a": a, "b": b}) for a in range(3) for b in range(9)]
    by_a, by_b = curves(jobs, ["a", "b"])
    assert not by_a.connected
    assert len(by_a.lines[0].points) == 27
    assert "polyline" not in draw_curve(by_a)
    assert by_b.connected
    assert len(by_b.lines) == 3


def test_no_curve_without_two_numbers_with_results() -> None:
    jobs = [job(0.5, {"a": 1, "m": "vae"}), job(None, {"a": 2, "m": "cae"}), job(0.6, {"a": 1, "m": "cae"})]
    assert curves(jobs, ["a", "m"]) == []


def test_parallel_lines_go_through_their_settings_and_results() -> None:
    jobs = [
        job(0.9, {"model": "vae", "size": 16}, image_AUROC=0.7),
        job(0.8, {"model": "cae", "size": 64}, image_AUROC=0.75),
        job(0.7, {"model": "cae", "size": 32}),  # without a test
        Job("x", "failed", swept={"model": "gan", "size": "8"}),
    ]
    drawing = draw_parallel(jobs, ["model", "size"], jobs[0])
    ElementTree.fromstring(drawing)
    lines = re.findall(r'<a class="line (\w+)" href="#job-(\d)".*?<polyline points="([^"]*)"/></a>', drawing)
    assert [(kind, number) for kind, number, _ in lines] == [("v0", "2"), ("v2", "1"), ("best", "0")]
    heights = {number: [float(p.split(",")[1]) for p in points.split()] for _, number, points in lines}
    assert heights["0"] == [340, 340, 56, 340]  # vae below cae, smallest size, best value, lower test figure
    assert heights["1"] == [56, 56, 198, 56]
    assert heights["2"] == [56, 198, 340]
    assert "gan" not in drawing
    assert "%, test: does not" in drawing


def test_settings_that_all_jobs_share_get_no_axis() -> None:
    jobs = [job(0.9, {"a": 1, "b": 1}), job(0.8, {"a": 1, "b": 2})]
    assert draw_parallel(jobs, ["a", "b"], jobs[0]).count('class="swept"') == 1
    assert draw_parallel(jobs, ["a"], jobs[0]) == ""
    assert draw_parallel(jobs[:1], ["b"], jobs[0]) == ""


def test_drawings_are_well_formed_whatever_a_name_holds() -> None:
    evil = "<b>\"'&]]>" * 40
    jobs = [job(0.5 + n / 10, {evil: f"{evil}{n}", "n": n, "m": evil if n else "x"}) for n in range(3)]
    ElementTree.fromstring(draw_parallel(jobs, swept_keys(jobs), jobs[2]))
    for curve in curves(jobs, swept_keys(jobs)):
        ElementTree.fromstring(draw_curve(curve))
    assert [curve.key for curve in curves(jobs, swept_keys(jobs))] == ["n"]


def test_the_best_of_no_results() -> None:
    assert best_job([]) == (None, [])
    assert best_job([job(None, {"a": 1}), Job("x", "failed", value=None)]) == (None, [])


def test_a_missing_folder_has_no_jobs(tmp_path: Any) -> None:
    assert read_jobs(tmp_path / "nowhere") == []
