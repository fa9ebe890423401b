"""Metrics against scikit-learn, torchmetrics and a slow plain version; what is undefined is None."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label as skimage_label
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_auroc

from anomalib_lite.metrics import (
    PixelMetrics,
    area_up_to,
    bootstrap,
    image_metrics,
    per_defect,
    ranking_areas,
)
from anomalib_lite.types import InputError

PICTURES = st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.booleans()), min_size=2, max_size=60)


def columns(pictures: list[tuple[bool, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores, predicted = (np.array(column) for column in zip(*pictures, strict=True))
    return labels, scores * 1000.0 - 3000, predicted  # far outside [0, 1], with ties


@settings(deadline=None, max_examples=60)
@given(PICTURES)
def test_image_metrics_equal_scikit_learn(pictures: list[tuple[bool, int, bool]]) -> None:
    labels, scores, predicted = columns(pictures)
    found = image_metrics(labels, scores, predicted)
    assert found["image_Accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    if predicted.any():
        assert found["image_Precision"] == pytest.approx(sk.precision_score(labels, predicted))
    if labels.any():
        assert found["image_Recall"] == pytest.approx(sk.recall_score(labels, predicted))
        assert found["image_F1Score"] == pytest.approx(sk.f1_score(labels, predicted))
    if not labels.all():
        assert found["false_reject_rate"] == pytest.approx(predicted[~labels].mean())
    if labels.any() and not labels.all():
        precision, recall, _ = sk.precision_recall_curve(labels, scores)
        assert found["image_AUROC"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-6)
        assert found["image_AP"] == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-6)
        assert found["image_AUPR"] == pytest.approx(sk.auc(recall, precision), abs=1e-6)
        assert found["chance_AP"] == pytest.approx(labels.mean())


def test_hand_computed_image_metrics() -> None:
    # from the top: defect 9, good 8, defect 7, good 1; cut between 8 and 9
    found = image_metrics(np.array([1, 0, 1, 0]), np.array([9.0, 8.0, 7.0, 1.0]), np.array([1, 0, 0, 0]))
    assert found == pytest.approx(
        {
            "image_AUROC": 0.75,
            "image_AP": 0.5 * 1 + 0.5 * 2 / 3,
            "image_AUPR": 0.5 * 1 + 0.5 * (1 / 2 + 2 / 3) / 2,
            "chance_AP": 0.5,
            "image_F1Score": 2 / 3,
            "image_Precision": 1.0,
            "image_Recall": 0.5,
            "image_Accuracy": 0.75,
            "false_reject_rate": 0.0,
        }
    )


def test_large_scores_are_not_squashed_into_ties() -> None:
    """torchmetrics puts a sigmoid on scores outside [0, 1]: these would all become 1."""
    many = np.arange(500)
    assert image_metrics(many >= 250, many, None)["image_AUROC"] == 1.0
    labels, scores = np.array([0, 0, 1, 1]), np.array([100.0, 101.0, 102.0, 103.0])
    squashed = binary_auroc(torch.from_numpy(scores), torch.from_numpy(labels))
    assert squashed == 0.5
    assert image_metrics(labels, scores, None)["image_AUROC"] == 1.0
    close = 1e9 + np.array([0.0, 1e-6, 2e-6, 3e-6])  # equal in float32
    assert image_metrics(labels, close, None)["image_AUROC"] == 1.0


@pytest.mark.parametrize(
    ("labels", "predicted", "defined"),
    [
        ([0, 0, 0], [0, 0, 1], {"image_Accuracy": 2 / 3, "false_reject_rate": 1 / 3, "image_Precision": 0.0}),
        ([0, 0, 0], [0, 0, 0], {"image_Accuracy": 1.0, "false_reject_rate": 0.0}),
        (
            [1, 1],
            [1, 0],
            {"image_F1Score": 2 / 3, "image_Precision": 1, "image_Recall": 0.5, "image_Accuracy": 0.5},
        ),
        ([1, 1], [0, 0], {"image_F1Score": 0.0, "image_Recall": 0.0, "image_Accuracy": 0.0}),
        ([1, 1], None, {}),
        ([0, 0], None, {}),
        ([], [], {}),
        ([], None, {}),
    ],
)
def test_undefined_is_none_and_not_zero(
    labels: list, predicted: list | None, defined: dict[str, float]
) -> None:
    scores = np.arange(float(len(labels)))
    flagged = None if predicted is None else np.array(predicted)
    found = image_metrics(np.array(labels), scores, flagged)
    assert len(found) == 9
    assert {name: value for name, value in found.items() if value is not None} == pytest.approx(defined)
    intervals = bootstrap(np.array(labels), scores, flagged, resamples=20, seed=0)
    assert intervals.keys() <= defined.keys()


def test_without_a_threshold_the_areas_remain() -> None:
    found = image_metrics(np.array([0, 1]), np.array([1.0, 2.0]), None)
    assert {name for name, value in found.items() if value is not None} == {
        "image_AUROC",
        "image_AP",
        "image_AUPR",
        "chance_AP",
    }


def test_nan_scores_are_refused() -> None:
    with pytest.raises(InputError, match="a raw score is NaN"):
        image_metrics(np.array([0, 1]), np.array([1.0, math.nan]), None)


def test_per_defect_compares_each_with_all_good_ones() -> None:
    defects = ["good", "hole", "scratch", "good", "hole"]
    scores, predicted = np.array([1.0, 5.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 1, 1])
    found = per_defect(defects, scores, predicted)
    assert list(found) == ["hole", "scratch"]
    assert found["hole"]["image_AUROC"] == 1.0
    assert found["hole"]["image_Recall"] == 1.0
    assert found["scratch"]["image_AUROC"] == 0.5
    assert found["scratch"]["image_Recall"] == 0.0
    assert found["scratch"]["chance_AP"] == pytest.approx(1 / 3)
    assert found["scratch"]["false_reject_rate"] == 0.5
    assert per_defect(["good", "good"], np.array([1.0, 2.0]), None) == {}


# --- bootstrap


@settings(deadline=None, max_examples=40)
@given(PICTURES)
def test_areas_from_counts_equal_the_image_metrics(pictures: list[tuple[bool, int, bool]]) -> None:
    labels, scores, _ = columns(pictures)
    if labels.all() or not labels.any():
        return
    levels = np.arange(10) * 1000.0 - 3000
    counts = [(scores[rows][:, None] == levels).sum(axis=0) for rows in (labels, ~labels)]
    areas = ranking_areas(*(np.stack([count, count]) for count in counts))  # two resamples at once
    found = image_metrics(labels, scores, None)
    for name, area in areas.items():
        assert area == pytest.approx([found[f"image_{name}"]] * 2, abs=1e-6)


def test_bootstrap_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [40, 25])
    scores = np.round(rng.normal(size=65) + labels, 1)
    predicted = scores > 1
    found = bootstrap(labels, scores, predicted, resamples=2000, seed=0)
    values: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(300):
        drawn = np.concatenate([rng.integers(0, 40, 40), rng.integers(40, 65, 25)])
        one = image_metrics(labels[drawn], scores[drawn], predicted[drawn])
        for name in values:
            values[name].append(one[name])
    assert set(found) == set(image_metrics(labels, scores, predicted)) - {"chance_AP"}
    for name, (low, high) in found.items():
        assert (low, high) == pytest.approx(np.percentile(values[name], (2.5, 97.5)), abs=0.035), name
        assert low < image_metrics(labels, scores, predicted)[name] < high


def test_bootstrap_interval_covers_the_truth() -> None:
    """Two normal distributions a standard deviation apart: about 95 of 100 intervals hold AUROC 0.760."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], [60, 60])
    truth = 0.5 * (1 + math.erf(1 / 2))
    hits = 0
    for seed in range(100):
        low, high = bootstrap(labels, rng.normal(size=120) + labels, None, resamples=300, seed=seed)[
            "image_AUROC"
        ]
        hits += low < truth < high
    assert 85 <= hits <= 99


def test_bootstrap_is_deterministic_and_chunks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    labels, scores = np.repeat([0, 1], 50), rng.normal(size=100)
    whole = bootstrap(labels, scores, None, seed=1)
    assert bootstrap(labels, scores, None, seed=1) == whole
    monkeypatch.setattr("anomalib_lite.metrics.BOOTSTRAP_CELLS", 1000)
    for name, interval in bootstrap(labels, scores, None, seed=1).items():
        assert interval == pytest.approx(whole[name], abs=0.02)


# --- pixels


def plain_aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """The overlap of every region at every distinct score, one threshold at a time."""
    scores, truth = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    points = [(0.0, 0.0)]
    for cut in np.unique(scores)[::-1]:
        overlaps = []
        for anomaly_map, mask in zip(maps, masks, strict=True):
            regions = skimage_label(mask, connectivity=2)
            overlaps += [(anomaly_map[regions == i] >= cut).mean() for i in range(1, regions.max() + 1)]
        points.append(((scores[~truth] >= cut).mean(), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > limit:
            y_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            return (area + (limit - x0) * (y0 + y_limit) / 2) / limit
        area += (x1 - x0) * (y0 + y1) / 2
    raise AssertionError("the false-positive rate ends at 1")


def maps_with_blobs(
    count: int, size: tuple[int, int], seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    masks = [ndimage.gaussian_filter(rng.normal(size=size), 2) > 0.15 for _ in range(count)]
    masks[0][:] = False  # a good part among them
    smooth = [ndimage.gaussian_filter(mask.astype(float), 1) for mask in masks]
    maps = [(0.3 * s + rng.gamma(2, 0.1, size)).astype(np.float32) for s in smooth]
    return maps, masks


def next_bin(value: float) -> np.float32:
    return ((np.float32(value).view(np.uint32) // 2048 + 1) * np.uint32(2048)).view(np.float32)


def counted(
    maps: list[np.ndarray], masks: list[np.ndarray], tau: float | None = None
) -> dict[str, float | None]:
    pixels = PixelMetrics()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.update(anomaly_map, mask)
    return pixels.compute(tau=tau)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_pixel_metrics_equal_scikit_learn(seed: int, scale: float) -> None:
    maps, masks = maps_with_blobs(4, (90, 113), seed)
    maps = [(m * scale).astype(np.float32) for m in maps]
    scores, truth = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    tau = 0.4 * scale
    found = counted(maps, masks, tau=tau)
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    assert found["pixel_AUROC"] == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-5)
    assert found["pixel_AP"] == pytest.approx(sk.average_precision_score(truth, scores), abs=1e-4)
    assert found["pixel_AUPR"] == pytest.approx(sk.auc(recall, precision), abs=1e-4)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert f1.max() - 5e-4 < found["pixel_F1Score_oracle"] <= f1.max() + 1e-9  # the best of fewer cuts
    edge = next_bin(tau)  # a cut takes effect at the upper edge of its bin
    assert 0 < edge / tau - 1 <= 2**-12
    assert found["pixel_F1Score"] == pytest.approx(sk.f1_score(truth, scores >= edge), abs=1e-12)
    unit = torch.from_numpy(scores / scores.max())
    assert found["pixel_AUROC"] == pytest.approx(
        binary_auroc(unit, torch.from_numpy(truth).long()).item(), abs=1e-4
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_aupro_equals_the_slow_plain_version(seed: int) -> None:
    maps, masks = maps_with_blobs(3, (24, 31), seed)
    maps = [np.round(m, 2).astype(np.float32) for m in maps]  # few cuts for the slow one, and ties
    found = counted(maps, masks)
    assert found["pixel_AUPRO"] == pytest.approx(plain_aupro(maps, masks, 0.3), abs=1e-9)
    assert found["pixel_AUPRO_0.05"] == pytest.approx(plain_aupro(maps, masks, 0.05), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(2, 12), st.integers(1, 6))
def test_aupro_of_any_map_is_within_0_and_1(seed: int, height: int, width: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    anomaly_map = rng.integers(0, levels, (height, width)).astype(np.float32)
    mask = rng.random((height, width)) < 0.4
    found = counted([anomaly_map], [mask])
    if mask.all() or not mask.any():
        assert set(found.values()) == {None}
        return
    for name, limit in (("pixel_AUPRO", 0.3), ("pixel_AUPRO_0.05", 0.05)):
        assert 0 <= found[name] <= 1
        assert found[name] == pytest.approx(plain_aupro([anomaly_map], [mask], limit), abs=1e-9)
    perfect = counted([mask.astype(np.float32)], [mask])
    for name in ("pixel_AUPRO", "pixel_AUPRO_0.05", "pixel_AUROC"):
        assert 1 - 1e-12 < perfect[name] <= 1


def test_hand_computed_overlap_weighs_regions_equally() -> None:
    """A region of 4 pixels is found, one of 1 pixel is not: half, though 4 of 5 pixels are found."""
    mask = np.zeros((5, 20), dtype=bool)
    mask[1:3, 1:3] = True
    mask[4, 18] = True
    anomaly_map = np.full((5, 20), 0.1, dtype=np.float32)
    anomaly_map[1:3, 1:3] = 0.9
    anomaly_map[4, 18] = 0.0
    found = counted([anomaly_map], [mask])
    # (0, 0.5) to (1, 0.5), where every normal pixel is a false positive, and only then to (1, 1)
    assert found["pixel_AUPRO"] == pytest.approx(0.5)
    assert found["pixel_AUROC"] == pytest.approx(0.8)
    assert found["pixel_F1Score_oracle"] == pytest.approx(8 / 9)


def test_diagonal_neighbours_are_one_region() -> None:
    pixels = PixelMetrics()
    pixels.update(np.ones((4, 4), np.float32), np.eye(4, dtype=bool))
    assert pixels.regions == 1


def test_a_constant_map_is_worth_its_chance() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[:2] = True
    found = counted([np.ones((10, 10), np.float32)], [mask], tau=2.0)
    assert found["pixel_AUROC"] == pytest.approx(0.5)
    assert found["pixel_AP"] == pytest.approx(0.2)
    assert found["pixel_AUPRO"] == pytest.approx(0.15)  # the diagonal up to 0.3
    assert found["pixel_F1Score"] == 0.0


def test_what_was_counted_is_the_same_after_saving() -> None:
    maps, masks = maps_with_blobs(3, (40, 50), 7)
    for flagged in (False, True):
        pixels = PixelMetrics()
        for anomaly_map, mask in zip(maps, masks, strict=True):
            pixels.update(anomaly_map, mask, flagged=anomaly_map > 0.35 if flagged else None)
        again = PixelMetrics.from_state(pixels.state())
        for tau in (None, 0.2, 0.35):
            assert again.compute(tau=tau) == pixels.compute(tau=tau)
        assert again.curve(20) == pixels.curve(20)


def test_predicted_masks_count_instead_of_the_cut() -> None:
    pixels, mask = PixelMetrics(), np.array([[True, True, False, False]])
    pixels.update(np.ones((1, 4), np.float32), mask, flagged=np.array([[True, False, True, False]]))
    pixels.update(np.ones((1, 4), np.float32), mask, flagged=np.array([[True, False, False, False]]))
    found = pixels.compute(tau=0.5)
    assert (found["pixel_Precision"], found["pixel_Recall"]) == (2 / 3, 1 / 2)


def test_undefined_pixel_metrics_are_none() -> None:
    ones = np.ones((3, 3), np.float32)
    for mask in (np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)):
        assert set(counted([ones], [mask], tau=0.5).values()) == {None}
    assert set(PixelMetrics().compute(tau=0.5).values()) == {None}
    half = np.array([[True, False]])
    assert [k for k, v in counted([ones[:1, :2]], [half]).items() if v is None] == [
        "pixel_F1Score",
        "pixel_Precision",
        "pixel_Recall",
    ]


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
def test_maps_that_cannot_be_ordered_are_refused(value: float) -> None:
    anomaly_map = np.full((3, 3), value, np.float32)
    with pytest.raises(InputError, match="finite numbers >= 0"):
        PixelMetrics().update(anomaly_map, np.zeros((3, 3), dtype=bool))


def test_extreme_floats_are_counted_in_order() -> None:
    tiny, largest = np.float32(1e-45), np.finfo(np.float32).max
    anomaly_map = np.array([[-0.0, tiny, 1e-30, 1.0, largest]], np.float32)
    found = counted([anomaly_map], [np.array([[False, False, False, True, True]])])
    assert found["pixel_AUROC"] == 1.0


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"map and mask of one \(H, W\), got \(3, 4\) and \(4, 3\)"):
        PixelMetrics().update(np.ones((3, 4), np.float32), np.ones((4, 3), dtype=bool))


def test_area_up_to_a_limit_between_and_on_points() -> None:
    x, y = np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.4, 0.8, 1.0])
    assert area_up_to(x, y, 0.25) == pytest.approx((0.4 + 0.6) / 2)
    assert area_up_to(x, y, 0.5) == pytest.approx(0.6)
    assert area_up_to(x, y, 0.75) == pytest.approx((0.5 * 0.6 + 0.25 * 0.85) / 0.75)
