"""Which pictures are shown, in which order and in which colours."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_lite.report.gallery import Scale, arrange, choose_examples, common_scale, jpeg, montage, panels
from anomalib_lite.types import Example


def row(defect: str, score: float | None, decision: int | None) -> dict[str, Any]:
    return {"defect": defect, "label": int(defect != "good"), "raw_score": score, "pred_label": decision}


def example(defect: str = "hole", score: float = 1.0, decision: int | None = 1, **pictures: Any) -> Example:
    return Example(
        name=f"{score}",
        defect=defect,
        raw_score=score,
        pred_score=None,
        pred_label=decision,
        image=pictures.pop("image", np.full((30, 40, 3), 100, np.uint8)),
        reconstruction=pictures.pop("reconstruction", None),
        anomaly_map=pictures.pop("anomaly_map", None),
        pred_mask=pictures.pop("pred_mask", None),
        true_mask=pictures.pop("true_mask", None),
    )


def test_wrong_decisions_are_chosen_first_and_every_type_is_seen() -> None:
    rows = [row("hole", score, int(score > 5)) for score in range(1, 11)]  # 0-4 are missed
    rows += [row("crack", 20.0 + i, 1) for i in range(30)]
    rows += [row("good", score, int(score > 5)) for score in range(1, 8)]  # 45 and 46 are false rejects
    rows += [row("good", None, None)]
    chosen = choose_examples(rows, limit=12)
    assert chosen[:4] == [0, 1, 2, 3]
    assert chosen[4:6] == [46, 45]
    assert [rows[i]["defect"] for i in chosen[6:]] == ["crack", "crack", "hole", "hole", "good", "good"]
    assert chosen[6:8] == [10, 39]  # the lowest and the highest score


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["good", "hole", "crack"]),
            st.none() | st.floats(-5, 5),
            st.sampled_from([0, 1, None]),
        )
    ),
    st.integers(1, 30),
)
def test_a_choice_is_unique_bounded_and_scored(
    drawn: list[tuple[str, float | None, int | None]], limit: int
) -> None:
    rows = [row(*values) for values in drawn]
    chosen = choose_examples(rows, limit)
    assert len(chosen) == len(set(chosen)) <= limit
    assert all(rows[i]["raw_score"] is not None for i in chosen)
    assert chosen or all(score is None for _, score, _ in drawn)


def test_groups_start_with_what_went_wrong() -> None:
    examples = [
        example("good", 1.0, 0),
        example("good", 6.0, 1),
        example("good", 7.0, 1),
        example("hole", 8.0, 1),
        example("hole", 2.0, 0),
        example("crack", 1.5, 0),
        example("crack", 9.0, 1),
    ]
    assert [(group.title, [shown.raw_score for shown in group.examples]) for group in arrange(examples)] == [
        ("Missed: defective, but accepted", [1.5, 2.0]),
        ("False rejects: good, but rejected", [7.0, 6.0]),
        ("Defective: crack", [9.0]),
        ("Defective: hole", [8.0]),
        ("Good", [1.0]),
    ]


def test_without_a_threshold_there_are_no_wrong_decisions() -> None:
    titles = [group.title for group in arrange([example("good", 1.0, None), example("hole", 2.0, None)])]
    assert titles == ["Defective: hole", "Good"]


def test_the_scale_is_common_and_changes_colour_at_the_cut() -> None:
    maps = [np.full((30, 40), value, np.float32) for value in (0.1, 0.5, 4.0)]
    scale = common_scale([example(anomaly_map=anomaly_map) for anomaly_map in maps], 0.5)
    assert scale == Scale(top=4.0, cut=0.5)
    pictures = [
        panels(example(anomaly_map=anomaly_map), scale)[2].picture for anomaly_map in (*maps, maps[1] + 0.01)
    ]
    below, at_cut, strongest, above = (
        picture[20, 20].astype(int) for picture in pictures if picture is not None
    )
    assert below[2] > below[0]  # blue
    assert above[0] > above[2]  # red
    assert strongest[0] > strongest[2]
    assert strongest.sum() < above.sum()  # darker, the stronger
    assert at_cut[2] > at_cut[0]  # the mask holds what is above the cut


@pytest.mark.parametrize(
    ("maps", "cut"), [([], None), ([np.zeros((8, 8), np.float32)], None), ([], 0.2), ([], 0.0)]
)
def test_a_scale_exists_for_empty_maps(maps: list[np.ndarray], cut: float | None) -> None:
    scale = common_scale([example(anomaly_map=anomaly_map) for anomaly_map in maps], cut)
    assert np.isfinite(scale.place(np.array([0.0, 1.0]))).all()
    assert scale.place(np.array([0.0])) == 0


def test_masks_are_marked_where_they_are_even_if_thin() -> None:
    mask = np.zeros((600, 800), bool)
    mask[300, :] = True  # one pixel high: 0.4 of a pixel in the small picture
    shown = panels(example(image=np.full((600, 800, 3), 100, np.uint8), true_mask=mask), Scale(1.0, None))
    truth = shown[4].picture
    assert truth is not None
    assert truth.shape == (240, 320, 3)
    green = truth[..., 1].astype(int) - truth[..., 0] > 60
    assert set(np.flatnonzero(green.any(axis=1))) == {120}
    assert green[120].all()


def test_absent_pictures_say_why() -> None:
    shown = panels(example("hole"), Scale(1.0, None))
    assert [panel.title for panel in shown] == [
        "Input",
        "Reconstruction",
        "Anomaly map",
        "Predicted mask",
        "Ground truth",
    ]
    assert [panel.absence for panel in shown if panel.picture is None] == [
        "this method has none",
        "this method has none",
        "no pixel cut",
        "no mask was given",
    ]
    assert panels(example("good"), Scale(1.0, None))[4].absence == "good part: nothing to mark"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_any_picture_size_is_shown_at_its_own_shape(height: int, width: int) -> None:
    shown = panels(
        example(
            image=np.zeros((height, width, 3), np.uint8), anomaly_map=np.zeros((height, width), np.float32)
        ),
        Scale(1.0, 0.5),
    )
    for panel in (shown[0], shown[2]):
        assert panel.picture is not None
        assert max(panel.picture.shape) == min(320, max(height, width, 3))


def test_jpeg_keeps_the_picture() -> None:
    picture = np.full((16, 16, 3), (200, 40, 40), np.uint8)
    back = np.array(Image.open(io.BytesIO(jpeg(picture))))
    assert np.abs(back.astype(int) - picture).max() <= 3


def test_montage_holds_all_rows_below_their_titles() -> None:
    rows = [("\udcff\n" * 200, panels(example(), Scale(1.0, None)))] * 3
    sheet = np.array(Image.open(io.BytesIO(montage(rows))))
    assert sheet.shape == (8 + 26 + 3 * (26 + 30 + 8), 5 * 48 + 8, 3)
    for i in range(3):
        top = 8 + 26 + i * 64 + 26
        assert (sheet[top : top + 30, 8:48] == 100).all()
    assert montage(rows) == montage(rows)
