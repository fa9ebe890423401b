"""The papers' figures are as printed, and what follows from them is computed."""

from __future__ import annotations

import pytest

from anomalib_lite.console import config_folder
from anomalib_lite.published import GROUPS, MVTEC, PUBLISHED, ZIPPER, Figure, f1, misprinted_means


@pytest.mark.parametrize(
    ("method", "auroc", "precision"),
    [
        ("cpcae", 91.09, 96.35),
        ("ae_l2", 76.87, 90.64),
        ("deep_feature", 84.58, 93.21),
        ("nearest_neighbour", 73.21, 87.60),
        ("variation", 63.50, 82.66),
    ],
)
def test_means_of_the_columns_are_those_computed_by_hand(method, auroc, precision):
    assert PUBLISHED[method].mean(MVTEC, "image_AUROC") == pytest.approx(auroc, abs=0.011)
    assert PUBLISHED[method].mean(MVTEC, "image_AP") == pytest.approx(precision, abs=0.011)


def test_a_mean_needs_every_data_set():
    assert PUBLISHED["vae"].mean([*MVTEC, "zipper1"], "image_AUROC") is None
    assert PUBLISHED["vae"].mean([], "image_AUROC") is None


def test_misprinted_means_are_the_rivals_alone():
    found = misprinted_means()
    assert {title for title, *_ in found} == {
        "AE (L2)", "deep feature", "nearest neighbour", "variation", "VAE", "GANomaly", "AnoGAN", "GeoTrans",
    }  # fmt: skip
    assert {group for _, group, *_ in found} == {"MVTec AD, 8 categories"}


def test_both_groups_are_whole_where_both_are_printed():
    for method in ("cpcae", "ae_l2", "deep_feature", "nearest_neighbour", "variation"):
        assert tuple(PUBLISHED[method].figures) == (*MVTEC, *ZIPPER)
        assert set(PUBLISHED[method].printed_means) == set(GROUPS)


def test_a_range_and_a_figure_read_as_printed():
    assert str(PUBLISHED["dilated"].figure("casting", "image_Accuracy")) == "86–90"
    assert str(Figure(100.0, 100.0)) == "100.00"
    assert PUBLISHED["dilated"].figure("bottle", "image_Accuracy") is None


def test_two_printed_f1_scores_do_not_follow_from_recall_and_precision():
    printed = PUBLISHED["encoder_decoder"].figures["hazelnut"]
    off = [
        defect
        for defect in ("print", "crack", "cut", "hole")
        if abs(
            f1(printed[f"{defect}/pixel_Recall"].low, printed[f"{defect}/pixel_Precision"].low)
            - printed[f"{defect}/pixel_F1Score"].low
        )
        > 1.5
    ]
    assert off == ["cut", "hole"]


def test_our_baselines_are_known_by_their_config_names():
    models = {file.stem for file in (config_folder() / "model").glob("*.yaml")}
    assert {"cpcae", "ae_l2", "deep_feature", "nearest_neighbour", "variation"} <= models & PUBLISHED.keys()
