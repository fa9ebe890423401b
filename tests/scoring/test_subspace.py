"""Mahalanobis against the inverse of scikit-learn's covariance, PCA residual against its PCA, and what is singular."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from anomalib_lite.scoring.subspace import MIN_SHRINKAGE, Mahalanobis, PCAResidual
from anomalib_lite.types import InputError


def correlated(count: int, features: int, seed: int) -> np.ndarray:
    """Embeddings far from the origin whose features go together in a few directions."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(4, features))
    noise = 0.2 * rng.normal(size=(count, features))
    return (50 + rng.normal(size=(count, 4)) @ directions + noise).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(count=st.integers(3, 60), features=st.integers(1, 80))
def test_mahalanobis_equals_the_direct_inverse(count: int, features: int) -> None:
    train, test = correlated(count, features, 1), correlated(15, features, 2) + np.float32(0.5)
    reference = LedoitWolf(store_precision=False).fit(train.astype(np.float64))
    inverse = np.linalg.inv(reference.covariance_)
    difference = np.concatenate([test, train]).astype(np.float64) - reference.location_
    expected = np.sqrt(np.einsum("bi,ij,bj->b", difference, inverse, difference))
    mahalanobis = Mahalanobis().fit(train)
    if features > 1:
        assert mahalanobis.shrinkage_ == pytest.approx(reference.shrinkage_, rel=1e-6)
    np.testing.assert_allclose(mahalanobis.score(np.concatenate([test, train])), expected, rtol=1e-6)


def test_mahalanobis_by_hand() -> None:
    """Covariance diag(8, 0.5), mean variance 4.25, shrinkage (128.5 - 64.25) / 4 / (64.25 - 2 * 4.25^2)."""
    mahalanobis = Mahalanobis().fit(np.array([[-4, 0], [4, 0], [0, -1], [0, 1]], dtype=np.float32))
    shrinkage = 16.0625 / 28.125
    assert mahalanobis.shrinkage_ == pytest.approx(shrinkage, rel=1e-12)
    variances = (1 - shrinkage) * np.array([8, 0.5]) + shrinkage * 4.25
    scores = mahalanobis.score(np.array([[4, 0], [0, 4], [3, 1], [0, 0]], dtype=np.float32))
    expected = np.sqrt([16 / variances[0], 16 / variances[1], 9 / variances[0] + 1 / variances[1], 0])
    np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-15)


def test_mahalanobis_with_few_rows_of_many_features() -> None:
    """15 rows of 6144 features: the equality with the inverse, by Woodbury's identity instead of 6144 x 6144."""
    train, test = correlated(15, 6144, 3), correlated(5, 6144, 4)
    mahalanobis = Mahalanobis().fit(train)
    assert mahalanobis.components_.shape == (14, 6144)
    rows = train.astype(np.float64) - train.mean(axis=0, dtype=np.float64)
    rest = mahalanobis.shrinkage_ * np.square(rows).sum() / rows.size
    weight = (1 - mahalanobis.shrinkage_) / 15
    difference = test.astype(np.float64) - train.mean(axis=0, dtype=np.float64)
    along = difference @ rows.T
    core = np.linalg.inv(np.eye(15) * rest / weight + rows @ rows.T)
    expected = np.sqrt((np.square(difference).sum(axis=1) - ((along @ core) * along).sum(axis=1)) / rest)
    np.testing.assert_allclose(mahalanobis.score(test), expected, rtol=1e-9)


def test_mahalanobis_of_two_rows_is_not_singular() -> None:
    """Ledoit and Wolf's formula gives no shrinkage here, and so no inverse: the smallest one steps in."""
    mahalanobis = Mahalanobis().fit(np.array([[-1, 0, 0], [1, 0, 0]], dtype=np.float32))
    assert mahalanobis.shrinkage_ == MIN_SHRINKAGE
    along, across = mahalanobis.score(np.array([[2, 0, 0], [0, 2, 0]], dtype=np.float32))
    assert along == pytest.approx(2, rel=1e-5)
    assert across == pytest.approx(2 / np.sqrt(MIN_SHRINKAGE / 3), rel=1e-5)
    three = Mahalanobis().fit(np.array([[-1, 0], [1, 0], [0, 2]], dtype=np.float32))
    np.testing.assert_allclose(three.score_train()[2], 2 / np.sqrt(MIN_SHRINKAGE / 2), rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(count=st.integers(2, 60), features=st.integers(2, 80), variance=st.floats(0.05, 0.99))
def test_pca_residual_equals_scikit_learn(count: int, features: int, variance: float) -> None:
    train, test = correlated(count, features, 5), correlated(15, features, 6)
    pca = PCA(n_components=variance, svd_solver="full").fit(train.astype(np.float64))
    rows = np.concatenate([test, train]).astype(np.float64)
    expected = np.linalg.norm(rows - pca.inverse_transform(pca.transform(rows)), axis=1)
    residual = PCAResidual(variance=variance).fit(train)
    assert residual.components_.shape == pca.components_.shape
    np.testing.assert_allclose(residual.score(np.concatenate([test, train])), expected, rtol=1e-7, atol=1e-9)


def test_pca_residual_by_hand() -> None:
    """Variances in ratio 400 : 1, then three equal directions of which a share of 0.5 needs two."""
    flat = PCAResidual(variance=0.97).fit(np.array([[-2, 0], [2, 0], [0, -0.1], [0, 0.1]], dtype=np.float32))
    np.testing.assert_allclose(flat.score(np.array([[9, 0], [9, 3], [0, -4]])), [0, 3, 4], atol=1e-12)
    assert len(flat.components_) == 1
    cube = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    assert [len(PCAResidual(variance=share).fit(cube).components_) for share in (0.3, 0.5, 0.7)] == [1, 2, 3]
    # without (0, 2) the others lie on a line, and it lies 2 from that
    line = PCAResidual(variance=0.9).fit(np.array([[-1, 0], [1, 0], [3, 0], [0, 2]], dtype=np.float32))
    assert line.score_train()[3] == pytest.approx(2, rel=1e-12)


def test_equal_rows_leave_the_distance_from_them() -> None:
    same = np.full((4, 3), 1000.1, dtype=np.float32)
    residual = PCAResidual(variance=0.9).fit(same)
    assert residual.components_.shape == (0, 3)
    np.testing.assert_allclose(residual.score(same[:1] + np.float32([[3, 4, 0]])), [5], rtol=1e-4)
    np.testing.assert_allclose(residual.score_train(), 0, atol=1e-9)
    again = PCAResidual.from_state(*residual.state())
    assert np.array_equal(again.score(same * 2), residual.score(same * 2))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: PCAResidual(variance=1),
            r"classifier.variance must be between 0 and 1 \(exclusive\), got 1",
        ),
        (lambda: PCAResidual(variance=0.0), "classifier.variance must be between 0 and 1"),
        (lambda: PCAResidual(variance=float("nan")), "classifier.variance must be between 0 and 1"),
        (
            lambda: Mahalanobis().fit(np.ones((1, 3))),
            "mahalanobis needs at least 2 training embeddings, got 1",
        ),
        (lambda: PCAResidual(variance=0.9).fit(np.ones((1, 3))), "pca_residual needs at least 2 .* got 1"),
        (lambda: Mahalanobis().fit(np.full((5, 3), 0.1)), "embeddings that differ, got all equal"),
        (
            lambda: Mahalanobis().fit(np.array([[1.1, 7], [1.1, 7], [5, 5]])).score_train(),
            "embeddings that differ, got all equal but one",
        ),
        (lambda: Mahalanobis().fit(np.eye(2)).score_train(), "leaving one out needs at least 3 .* got 2"),
        (lambda: PCAResidual(variance=0.9).fit(np.eye(2)).score_train(), "leaving one out needs at least 3"),
        (lambda: Mahalanobis().fit(np.eye(3)).score(np.ones((1, 2))), "of 3 features, got 2"),
        (lambda: PCAResidual(variance=0.9).fit(np.eye(3)).score(np.ones((1, 2))), "of 3 features, got 2"),
        (lambda: Mahalanobis().fit(np.full((2, 3), np.inf)), "expected finite embeddings"),
        (
            lambda: Mahalanobis.from_state(
                {"mean": np.ones(3), "components": np.ones((1, 2)), "coordinates": np.ones((4, 1))}, {}
            ),
            r"not the state of a Mahalanobis classifier: components: expected shape \(any, 3\), got \(1, 2\)",
        ),
        (
            lambda: PCAResidual.from_state(
                {"mean": np.ones(3), "components": np.ones((2, 3)), "coordinates": np.ones((4, 1))},
                {"variance": 0.9},
            ),
            "not the state of a PCA residual: components: expected at most 1, got 2",
        ),
        (
            lambda: PCAResidual.from_state({"mean": np.ones(3)}, {"variance": 0.9}),
            "not the state of a PCA residual: components is missing",
        ),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
