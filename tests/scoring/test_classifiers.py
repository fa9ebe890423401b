"""k-NN against scikit-learn, the same bits in every batch, and leaving a training row out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from anomalib_lite.scoring.classifiers import KNN, classifier_from_state
from anomalib_lite.types import InputError


def clustered(count: int, features: int, seed: int) -> np.ndarray:
    """Embeddings far from the origin and close together, where |x|^2 + |y|^2 - 2xy loses every digit."""
    rng = np.random.default_rng(seed)
    return (100 + rng.normal(size=(count, features))).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 40), queries=st.integers(1, 50), features=st.integers(1, 70), k=st.integers(1, 20)
)
def test_scores_equal_scikit_learn(count: int, queries: int, features: int, k: int) -> None:
    train, test = clustered(count, features, 1), clustered(queries, features, 2)
    # its brute force computes |x|^2 + |y|^2 - 2xy: compare with its tree, which subtracts first
    reference = NearestNeighbors(n_neighbors=min(k, count), algorithm="kd_tree").fit(train.astype(np.float64))
    expected = reference.kneighbors(test.astype(np.float64))[0].mean(axis=1)
    np.testing.assert_allclose(KNN(k=k).fit(train).score(test), expected, rtol=1e-6)


@pytest.mark.parametrize("features", [64, 6144])
def test_a_score_does_not_depend_on_its_batch(features: int) -> None:
    train = clustered(60, features, 3)
    test = np.concatenate([clustered(20, features, 4), train[:20] + np.float32(1e-3), train[20:40]])
    knn = KNN(k=3).fit(train)
    whole = knn.score(test)
    for size in (1, 7, 32):
        parts = [knn.score(test[i : i + size]) for i in range(0, len(test), size)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(knn.score(test[::-1]), whole[::-1])


def test_near_duplicates_get_their_small_distance() -> None:
    """The batch form of the search gives 0 or hundreds here."""
    train = clustered(60, 6144, 5)
    test = train.copy()
    test[:, 0] += np.float32(0.001)
    expected = np.abs(test[:, 0].astype(np.float64) - train[:, 0])
    np.testing.assert_allclose(KNN(k=1).fit(train).score(test), expected, rtol=1e-12)


def test_hand_computed_scores() -> None:
    knn = KNN(k=2).fit(np.array([[0, 0], [3, 4], [6, 8]], dtype=np.float32))
    scores = knn.score(np.array([[0, 0], [3, 4], [0, 5]], dtype=np.float32))
    np.testing.assert_allclose(scores, [2.5, 2.5, (np.sqrt(10) + 5) / 2], rtol=1e-12)
    assert scores.dtype == np.float64
    assert knn.score_train().tolist() == [7.5, 5.0, 7.5]


def test_leaving_one_out_equals_refitting_without_it() -> None:
    train = clustered(25, 48, 6)
    train[3] = train[11]
    refitted = [KNN(k=4).fit(np.delete(train, i, axis=0)).score(train[i : i + 1])[0] for i in range(25)]
    assert np.array_equal(KNN(k=4).fit(train).score_train(), refitted)


def test_duplicates_are_neighbours_but_the_row_itself_is_not() -> None:
    train = np.array([[0.0], [0.0], [0.0], [0.0], [8.0]], dtype=np.float32)
    assert KNN(k=1).fit(train).score_train().tolist() == [0.0, 0.0, 0.0, 0.0, 8.0]
    assert KNN(k=4).fit(train).score_train().tolist() == [2.0, 2.0, 2.0, 2.0, 8.0]


def test_too_large_k_uses_all_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    train = np.array([[0.0], [2.0], [7.0]], dtype=np.float32)
    with caplog.at_level(logging.WARNING):
        knn = KNN(k=15).fit(train)
    assert "classifier.k=15, but 3 training embeddings: using all" in caplog.text
    assert knn.score(np.zeros((1, 1), dtype=np.float32)).tolist() == [3.0]
    assert knn.score_train().tolist() == [4.5, 3.5, 6.0]


def test_state_gives_the_same_scores() -> None:
    knn = KNN(k=3).fit(clustered(20, 32, 7))
    arrays, values = knn.state()
    test = clustered(9, 32, 8)
    assert np.array_equal(classifier_from_state(arrays, values).score(test), knn.score(test))
    assert values == {"name": "knn", "k": 3}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: KNN(k=0), "classifier.k must be at least 1, got 0"),
        (lambda: KNN(k=1).fit(np.zeros((0, 4))), "at least 1 training embedding, got 0"),
        (lambda: KNN(k=1).fit(np.zeros(4)), r"shape \(n, features\), got \(4,\)"),
        (lambda: KNN(k=1).fit(np.full((2, 2), np.nan)), "expected finite embeddings"),
        (lambda: KNN(k=1).fit(np.ones((2, 2))).score(np.full((1, 2), np.inf)), "expected finite embeddings"),
        (lambda: KNN(k=1).fit(np.ones((2, 2))).score(np.ones((1, 3))), "embeddings of 2 features, got 3"),
        (lambda: KNN(k=1).fit(np.ones((1, 2))).score_train(), "at least 2 training embeddings, got 1"),
        (
            lambda: classifier_from_state({}, {"name": "os.system"}),
            r"unknown classifier 'os.system' \(known: knn\)",
        ),
        (lambda: classifier_from_state({}, {"name": "knn", "k": 1}), "not the state of a k-NN"),
        (lambda: classifier_from_state({"embeddings": np.ones((1, 1))}, {"name": "knn"}), "not the state"),
        (lambda: classifier_from_state({}, {"name": "knn", "k": "many"}), "not the state"),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
