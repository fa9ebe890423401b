"""The sentences at the top of the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalib_lite.report.verdict import guarantee, proportion_interval, tally, verdict
from anomalib_lite.types import RunRecord

MakeRecord = Callable[..., RunRecord]


def plain(sentences: list[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_found_missed_and_rejected_are_counted(make_record: MakeRecord) -> None:
    # 3 of 4 and 1 of 5 by hand; the intervals are those of R's prop.test(3, 4, correct=FALSE) and (1, 5)
    assert plain(verdict(make_record())) == [
        "Of 4 defective parts 3 were found (75.0 %, 95 % interval 30.1–95.4 %) and 1 was missed.",
        "Of 5 good parts 1 was rejected (20.0 %, 95 % interval 3.6–62.4 %).",
        "1 part could not be aligned and got no score: listed below, counted nowhere above.",
    ]


def test_no_false_rejects_among_few_parts_prove_little(make_record: MakeRecord) -> None:
    record = make_record()
    record.scores = [row for row in record.scores if row["label"] == 0 and row["pred_label"] == 0]
    record.metrics["intervals"]["false_reject_rate"] = [0.0, 0.0]  # what a bootstrap makes of it
    # R: prop.test(0, 4, correct=FALSE)
    assert plain(verdict(record))[0] == "Of 4 good parts 0 were rejected (0.0 %, 95 % interval 0.0–49.0 %)."


def test_without_a_threshold_nothing_was_decided(make_record: MakeRecord) -> None:
    sentences = plain(verdict(make_record(cut=None)))
    assert sentences[0] == "No threshold was set: parts were scored, but none was accepted or rejected."
    assert sentences[1] == (
        "A defective part scores higher than a good one in 95.1 % of pairs (95 % interval 81.2–99.1 %); "
        "guessing would give 50 %."
    )


def test_one_class_says_what_it_cannot_tell(make_record: MakeRecord) -> None:
    only_good = " ".join(verdict(make_record(defective=False)))
    only_defective = " ".join(verdict(make_record(good=False)))
    assert "no defective parts in the test" in only_good
    assert "were found" not in only_good
    assert "no good parts in the test" in only_defective


def test_nothing_tested(make_record: MakeRecord) -> None:
    assert verdict(make_record(good=False, defective=False)) == [
        "Nothing was tested: there are no test pictures."
    ]


def test_all_unaligned(make_record: MakeRecord) -> None:
    record = make_record()
    for row in record.scores:
        row |= {"raw_score": None, "pred_label": None}
    assert verdict(record)[0] == "No part could be judged."
    assert tally(record.scores).unscored == 10


def test_an_oracle_and_a_moved_cut_are_named() -> None:
    sentences = guarantee({"threshold": {"oracle": True, "value": 0.4, "guarantee": "none."}})
    assert sentences[0] == "Guarantee: none."
    assert "moved by hand to a normalised score of 0.4" in sentences[1]
    assert "oracle" in sentences[2]
    assert guarantee({"threshold": None}) == []


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 20, 0.0, 0.1611), (4, 55, 0.0286, 0.1726), (139, 148, 0.8884, 0.9677), (20, 20, 0.8389, 1.0)],
)
def test_proportion_interval_against_published_values(
    count: int, total: int, low: float, high: float
) -> None:
    assert proportion_interval(count, total) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportion_interval_holds_the_proportion(drawn: tuple[int, int]) -> None:
    count, total = drawn
    low, high = proportion_interval(count, total)
    assert 0 <= low <= count / total + 1e-12
    assert count / total - 1e-12 <= high <= 1
