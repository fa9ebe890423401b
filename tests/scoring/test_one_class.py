"""One-class SVM and local outlier factor against scikit-learn, SVDD's own dual, and numbers by hand."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM as Reference

from anomalib_lite.scoring.one_class import LOF, SVM_TOLERANCE, OneClassSVM
from anomalib_lite.types import InputError


def normal(count: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 2, size=(count, features)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(2, 60),
    features=st.integers(1, 80),
    nu=st.floats(0.01, 0.99),
    gamma=st.sampled_from(["scale", 0.03, 1]),
)
def test_svm_equals_scikit_learn(count: int, features: int, nu: float, gamma: float | str) -> None:
    train, test = normal(count, features, 1), normal(20, features, 2)
    reference = Reference(kernel="rbf", nu=nu, gamma=gamma, tol=SVM_TOLERANCE).fit(train.astype(np.float64))
    expected = -reference.decision_function(np.concatenate([test, train]).astype(np.float64))
    scores = OneClassSVM(nu=nu, gamma=gamma).fit(train).score(np.concatenate([test, train]))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=2e-6 * nu * count)


def test_svm_is_close_to_scikit_learn_as_it_comes() -> None:
    train, test = normal(60, 300, 1), normal(20, 300, 2)
    expected = -Reference(nu=0.1).fit(train.astype(np.float64)).decision_function(test.astype(np.float64))
    np.testing.assert_allclose(OneClassSVM(nu=0.1).fit(train).score(test), expected, atol=2e-3)


def test_svm_by_hand() -> None:
    """Two rows at kernel 1/e share the weight nu * 2 alike, and both lie on the boundary."""
    svm = OneClassSVM(nu=0.5, gamma=0.25).fit(np.array([[0], [2]], dtype=np.float32))
    scores = svm.score(np.array([[0], [2], [1], [400]], dtype=np.float32))
    offset = 0.5 * (1 + np.exp(-1))
    np.testing.assert_allclose(scores, [0, 0, offset - np.exp(-0.25), offset], atol=1e-6)
    # with one row left the boundary is that row: nu (1 - kernel)
    three = OneClassSVM(nu=0.5, gamma=0.25).fit(np.array([[0], [0], [2]], dtype=np.float32))
    np.testing.assert_allclose(three.score_train()[2], 1 - np.exp(-1), atol=1e-6)


def test_svm_is_the_support_vector_data_description() -> None:
    """Its dual (Tax & Duin 2004), solved by another solver: squared distance from the centre of the sphere."""
    train, test, nu, gamma = normal(12, 3, 3), normal(40, 3, 4), 0.3, 0.05
    kernel = np.exp(-gamma * cdist(train, train, "sqeuclidean"))
    bound = 1 / (nu * len(train))
    solution = minimize(
        lambda alpha: alpha @ kernel @ alpha - alpha @ np.diag(kernel),
        np.full(12, 1 / 12),
        jac=lambda alpha: 2 * kernel @ alpha - np.diag(kernel),
        bounds=[(0, bound)] * 12,
        constraints={"type": "eq", "fun": lambda alpha: alpha.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert solution.success
    to_test = np.exp(-gamma * cdist(test, train, "sqeuclidean"))
    from_centre = 1 - 2 * to_test @ solution.x + solution.x @ kernel @ solution.x
    at_rows = 1 - 2 * kernel @ solution.x + solution.x @ kernel @ solution.x
    on_sphere = (solution.x > 1e-6) & (solution.x < bound - 1e-6)
    expected = (from_centre - at_rows[on_sphere].mean()) / 2 * nu * len(train)
    np.testing.assert_allclose(OneClassSVM(nu=nu, gamma=gamma).fit(train).score(test), expected, atol=1e-4)


@pytest.mark.parametrize("nu", [0.05, 0.3, 0.8])
def test_nu_bounds_the_rows_outside_and_those_that_support(nu: float) -> None:
    train = normal(100, 4, 5)
    svm = OneClassSVM(nu=nu, gamma=0.05).fit(train)
    outside = (svm.score(train) > 1e-4).mean()
    assert outside <= nu <= (svm.coefficients_ != 0).mean()
    assert outside > nu - 0.1


def test_svm_scores_need_the_support_vectors_only() -> None:
    train, test = normal(100, 2, 6), normal(20, 2, 7)
    svm = OneClassSVM(nu=0.05, gamma=0.01).fit(train)
    arrays, values = svm.state()
    support = arrays["coefficients"] != 0
    assert 0 < support.sum() < 30
    fewer = {**arrays, "embeddings": train[support], "coefficients": arrays["coefficients"][support]}
    assert np.array_equal(OneClassSVM.from_state(fewer, values).score(test), svm.score(test))


def test_scale_follows_the_variance_of_all_values() -> None:
    train = normal(30, 8, 7)
    assert OneClassSVM(nu=0.5).fit(train).gamma_ == pytest.approx(1 / (8 * train.astype(float).var()))
    assert OneClassSVM(nu=0.5).fit(np.zeros((4, 8))).gamma_ == 1.0


@settings(deadline=None, max_examples=25)
@given(count=st.integers(2, 60), features=st.integers(1, 80), neighbours=st.integers(1, 30))
def test_lof_equals_scikit_learn(count: int, features: int, neighbours: int) -> None:
    train, test = normal(count, features, 8), normal(20, features, 9)
    reference = LocalOutlierFactor(n_neighbors=min(neighbours, count - 1), novelty=True, algorithm="kd_tree")
    expected = -reference.fit(train.astype(np.float64)).score_samples(test.astype(np.float64))
    np.testing.assert_allclose(LOF(n_neighbors=neighbours).fit(train).score(test), expected, rtol=1e-6)


def test_lof_by_hand() -> None:
    """Rows at 0, 1, 3, one neighbour: 0 and 1 reach each other at 1, 3 reaches 1 at 2; a query at 5 reaches 3 at 2."""
    lof = LOF(n_neighbors=1).fit(np.array([[0], [1], [3]], dtype=np.float32))
    np.testing.assert_allclose(lof.score(np.array([[5], [7], [1]], dtype=np.float32)), [1, 2, 1], rtol=1e-6)
    # without 3 the others have density 1, and it lies 2 from the nearest
    np.testing.assert_allclose(lof.score_train()[2], 2, rtol=1e-6)


def test_lof_judges_by_the_near_group() -> None:
    """A distance of 1 is much beside a dense group and nothing beside a loose one; k-NN sees no difference."""
    rng = np.random.default_rng(10)
    dense, loose = rng.normal(0, 0.01, (30, 2)), rng.normal(50, 3, (30, 2))
    lof = LOF(n_neighbors=10).fit(np.concatenate([dense, loose]))
    beside_dense, beside_loose = lof.score(np.array([[1.0, 0], [51.0, 50]]))
    assert beside_dense > 20
    assert 0.8 < beside_loose < 1.3


def test_lof_of_duplicates_is_finite() -> None:
    train = np.repeat(normal(2, 5, 11), 10, axis=0)
    lof = LOF(n_neighbors=4).fit(train)
    assert np.isfinite(lof.score(normal(5, 5, 12))).all()
    assert lof.score(train[:1]).tolist() == [1.0]


def test_too_many_neighbours_are_all_but_one_and_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    train, test = normal(15, 6, 13), normal(5, 6, 14)
    with caplog.at_level(logging.WARNING):
        lof = LOF(n_neighbors=20).fit(train)
    assert "classifier.n_neighbors=20, but 15 training embeddings: using 14" in caplog.text
    caplog.clear()
    assert np.array_equal(lof.score(test), LOF(n_neighbors=14).fit(train).score(test))
    assert "using" not in caplog.text


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: OneClassSVM(nu=0), r"classifier.nu must be between 0 and 1 \(exclusive\), got 0"),
        (lambda: OneClassSVM(nu=1.0), r"classifier.nu must be between 0 and 1 \(exclusive\), got 1.0"),
        (lambda: OneClassSVM(nu=float("nan")), "classifier.nu must be between 0 and 1"),
        (
            lambda: OneClassSVM(nu=0.1, gamma="auto"),
            "classifier.gamma must be scale or a number > 0, got 'auto'",
        ),
        (lambda: OneClassSVM(nu=0.1, gamma=0), "classifier.gamma must be scale or a number > 0, got 0"),
        (lambda: OneClassSVM(nu=0.1, gamma=True), "classifier.gamma must be scale or a number > 0, got True"),
        (lambda: OneClassSVM(nu=0.1, gamma=float("inf")), "classifier.gamma must be .*, got inf"),
        (lambda: LOF(n_neighbors=0), "classifier.n_neighbors must be at least 1, got 0"),
        (lambda: OneClassSVM(nu=0.1).fit(np.ones((1, 3))), "one_class_svm needs at least 2 .* got 1"),
        (lambda: LOF(n_neighbors=1).fit(np.ones((1, 3))), "lof needs at least 2 training embeddings, got 1"),
        (
            lambda: OneClassSVM(nu=0.1).fit(np.ones((2, 3))).score_train(),
            "leaving one out needs at least 3 .* 2",
        ),
        (
            lambda: LOF(n_neighbors=1).fit(np.ones((2, 3))).score_train(),
            "leaving one out needs at least 3 .* 2",
        ),
        (lambda: OneClassSVM(nu=0.1).fit(np.ones((2, 3))).score(np.ones((1, 2))), "of 3 features, got 2"),
        (lambda: LOF(n_neighbors=1).fit(np.ones((2, 3))).score(np.ones((1, 2))), "of 3 features, got 2"),
        (lambda: OneClassSVM(nu=0.1).fit(np.full((2, 3), np.nan)), "expected finite embeddings"),
        (
            lambda: OneClassSVM.from_state(
                {
                    "embeddings": np.ones((2, 1)),
                    "coefficients": np.ones(2),
                    "offset": np.array(1.0),
                    "gamma": np.array(0.0),
                },
                {"nu": 0.5, "gamma": "scale"},
            ),
            "not the state of a one-class SVM: gamma: expected a number > 0, got 0.0",
        ),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
