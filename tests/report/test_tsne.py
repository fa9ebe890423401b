"""t-SNE: neighbours stay neighbours, the same input gives the same picture, small sets are no error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from anomalib_lite.report.tsne import FEWEST_POINTS, draw_tsne, principal_components, project, subsample


def two_groups(count: int, size: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(2 * count, size))
    vectors[count:] += 30
    return vectors


def test_groups_stay_apart_and_two_runs_agree() -> None:
    vectors = two_groups(20, 10)
    first, second = project(vectors), project(vectors)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert ((distances.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()


def test_principal_components_against_scikit_learn() -> None:
    vectors = np.random.default_rng(1).normal(size=(12, 40))
    expected = PCA(8, svd_solver="full").fit_transform(vectors)
    np.testing.assert_allclose(np.abs(principal_components(vectors)[:, :8]), np.abs(expected), atol=1e-9)


@pytest.mark.parametrize("vectors", [np.ones((20, 3)), two_groups(2, 3), np.zeros((0, 3))])
def test_nothing_to_show(vectors: np.ndarray) -> None:
    assert project(vectors) is None
    assert draw_tsne({"a": vectors}, ["good"] * len(vectors)) is None


@pytest.mark.parametrize(("count", "size"), [(FEWEST_POINTS, 1), (7, 2), (14, 70)])
def test_any_size(count: int, size: int) -> None:
    points = project(np.random.default_rng(2).normal(size=(count, size)).astype(np.float32))
    assert points is not None
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()


@given(st.lists(st.sampled_from(["good", "hole", "crack"])), st.integers(1, 50))
def test_subsample_is_sorted_unique_and_bounded(defects: list[str], count: int) -> None:
    rows = subsample(defects, count)
    assert len(rows) == min(count, len(defects))
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_subsample_keeps_the_share_of_each_type() -> None:
    rows = subsample(["good"] * 900 + ["hole"] * 300, count=400)
    assert (rows < 900).sum() == pytest.approx(300, abs=1)


def test_one_panel_when_the_other_space_has_no_variation() -> None:
    assert (
        draw_tsne({"flat": np.ones((12, 3)), "maps": two_groups(6, 4)}, ["good"] * 6 + ["$_$"] * 6)
        is not None
    )
