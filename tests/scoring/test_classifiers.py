"""k-NN against scikit-learn; and what every classifier promises: batches, leaving one out, states, mistakes."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.neighbors import NearestNeighbors

from anomalib_lite.scoring import classifiers
from anomalib_lite.scoring.classifiers import (
    CLASSIFIERS,
    KNN,
    LOF,
    Mahalanobis,
    OneClassClassifier,
    OneClassSVM,
    PCAResidual,
    classifier_from_state,
)
from anomalib_lite.types import InputError

MAKE = {
    "knn": lambda: KNN(k=3),
    "one_class_svm": lambda: OneClassSVM(nu=0.2),
    "mahalanobis": lambda: Mahalanobis(),
    "pca_residual": lambda: PCAResidual(variance=0.9),
    "lof": lambda: LOF(n_neighbors=4),
}
every_classifier = pytest.mark.parametrize("name", CLASSIFIERS)


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


@every_classifier
@pytest.mark.parametrize("features", [5, 64, 6144])
def test_a_score_does_not_depend_on_its_batch(name: str, features: int) -> None:
    train = clustered(60, features, 3)
    test = np.concatenate([clustered(20, features, 4), train[:20] + np.float32(1e-3), train[20:40]])
    classifier = MAKE[name]().fit(train)
    whole = classifier.score(test)
    assert (whole.dtype, whole.shape) == (np.float64, (60,))
    assert len(np.unique(whole[:20])) == 20
    for size in (1, 7, 32):
        parts = [classifier.score(test[i : i + size]) for i in range(0, len(test), size)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(classifier.score(test[::-1]), whole[::-1])
    none = classifier.score(test[:0])
    assert (none.dtype, none.shape) == (np.float64, (0,))


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


def refitted(name: str, train: np.ndarray) -> list[float]:
    """Every row scored by a classifier that was fitted to the others."""
    rows = range(len(train))
    return [MAKE[name]().fit(np.delete(train, i, axis=0)).score(train[i : i + 1])[0] for i in rows]


@every_classifier
@pytest.mark.parametrize(("count", "features"), [(25, 48), (25, 300), (40, 6), (3, 7), (12, 1)])
def test_leaving_one_out_equals_refitting_without_it(name: str, count: int, features: int) -> None:
    train = clustered(count, features, 6)
    if count > 20:
        train[3] = train[11]
    scores, expected = MAKE[name]().fit(train).score_train(), refitted(name, train)
    if name in ("knn", "lof"):
        assert np.array_equal(scores, expected)
    else:
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-8)


@every_classifier
def test_further_out_is_more_anomalous(name: str) -> None:
    train = clustered(30, 12, 9)
    direction = np.random.default_rng(10).normal(size=12)
    steps = train.mean(axis=0) + np.linspace(0.5, 3, 6)[:, None] * direction
    assert (np.diff(MAKE[name]().fit(train).score(steps)) > 0).all()


@pytest.mark.parametrize("module", ["rows", "one_class", "subspace", "classifiers"])
def test_start_up_does_not_import_scikit_learn(module: str) -> None:
    source = Path(classifiers.__file__).with_name(f"{module}.py").read_text()
    at_start_up = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {ast.unparse(node).split()[1].partition(".")[0] for node in at_start_up}
    assert "numpy" in names
    assert not names & {"sklearn", "scipy"}


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


def reloaded(classifier: OneClassClassifier) -> OneClassClassifier:
    """As a bundle does it: safetensors and JSON."""
    arrays, values = classifier.state()
    return classifier_from_state(load(save(arrays)), json.loads(json.dumps(values)))


@every_classifier
@pytest.mark.parametrize("features", [6, 300])
def test_state_gives_the_same_scores(name: str, features: int) -> None:
    classifier, test = MAKE[name]().fit(clustered(20, features, 7)), clustered(9, features, 8)
    again = reloaded(classifier)
    assert type(again) is CLASSIFIERS[name]
    assert np.array_equal(again.score(test), classifier.score(test))
    assert np.array_equal(again.score_train(), classifier.score_train())
    assert again.state()[1] == classifier.state()[1]


def test_states_hold_the_settings() -> None:
    rows = clustered(6, 4, 7)
    settings = [
        KNN(k=3, distance="kth").fit(rows).state()[1],
        OneClassSVM(nu=0.5, gamma=2).fit(rows).state()[1],
        Mahalanobis().fit(rows).state()[1],
        PCAResidual(variance=0.5).fit(rows).state()[1],
        LOF(n_neighbors=2).fit(rows).state()[1],
    ]
    assert settings == [
        {"name": "knn", "k": 3, "distance": "kth", "weighted": False},
        {"name": "one_class_svm", "nu": 0.5, "gamma": 2},
        {"name": "mahalanobis"},
        {"name": "pca_residual", "variance": 0.5},
        {"name": "lof", "n_neighbors": 2},
    ]


@every_classifier
def test_damaged_states_are_refused(name: str) -> None:
    arrays, values = MAKE[name]().fit(clustered(8, 5, 7)).state()
    for key, array in arrays.items():
        for damaged in (np.full(array.shape, np.nan), array[..., None], array[None]):
            with pytest.raises(InputError, match="not the state of a"):
                classifier_from_state({**arrays, key: damaged}, values)
        with pytest.raises(InputError, match="not the state of a"):
            classifier_from_state({other: arrays[other] for other in arrays if other != key}, values)
    for key in values.keys() - {"name", "distance", "weighted"}:
        for wrong in ({}, {key: "many"}, {key: -1}, {key: None}):
            with pytest.raises(InputError, match="not the state of a"):
                classifier_from_state(arrays, {k: v for k, v in values.items() if k != key} | wrong)


def test_scores_and_bundles_from_before_the_choices_stay_as_they_were() -> None:
    train, test = clustered(20, 300, 11), clustered(9, 300, 12)
    distances = [np.sqrt(np.square(train.astype(np.float64) - row).sum(axis=1)) for row in test]
    expected = [np.sort(row)[:3].mean() for row in distances]
    assert KNN(k=3).fit(train).score(test).tolist() == expected
    old = classifier_from_state({"embeddings": train}, {"name": "knn", "k": 3})
    assert old.score(test).tolist() == expected
    assert old.state()[1] == {"name": "knn", "k": 3, "distance": "mean", "weighted": False}


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 40), features=st.integers(1, 70), k=st.integers(1, 20))
def test_kth_and_weighted_equal_their_formulas(count: int, features: int, k: int) -> None:
    train, test = clustered(count, features, 13), clustered(10, features, 14)
    reference = NearestNeighbors(n_neighbors=min(k, count), algorithm="kd_tree").fit(train.astype(np.float64))
    distances = reference.kneighbors(test.astype(np.float64))[0]
    kth = KNN(k=k, distance="kth").fit(train).score(test)
    np.testing.assert_allclose(kth, distances[:, -1], rtol=1e-6)
    weighted = KNN(k=k, weighted=True).fit(train).score(test)
    expected = np.average(distances, axis=1, weights=1 / distances)
    np.testing.assert_allclose(weighted, expected, rtol=1e-6)


def test_weighted_by_hand_and_at_distance_zero() -> None:
    knn = KNN(k=2, weighted=True).fit(np.array([[0], [4], [4], [100]], dtype=np.float32))
    scores = knn.score(np.array([[1], [0], [4], [4 + 2**-20]], dtype=np.float32))
    np.testing.assert_allclose(scores, [2 / (1 / 1 + 1 / 3), 0, 0, 2**-20], rtol=1e-12)
    assert knn.score_train().tolist() == [4.0, 0.0, 0.0, 96.0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: KNN(k=0), "classifier.k must be at least 1, got 0"),
        (lambda: KNN(k=1, distance="max"), "classifier.distance must be one of mean, kth, got max"),
        (lambda: KNN(k=1, weighted="no"), "classifier.weighted must be true or false, got 'no'"),
        (
            lambda: KNN(k=1, distance="kth", weighted=True),
            "classifier.weighted=true needs classifier.distance=mean, got kth",
        ),
        (lambda: KNN(k=1).fit(np.zeros((3, 0))), r"shape \(n, features\), got \(3, 0\)"),
        (lambda: KNN(k=1).fit(np.zeros((0, 4))), "at least 1 training embedding, got 0"),
        (lambda: KNN(k=1).fit(np.zeros(4)), r"shape \(n, features\), got \(4,\)"),
        (lambda: KNN(k=1).fit(np.full((2, 2), np.nan)), "expected finite embeddings"),
        (lambda: KNN(k=1).fit(np.ones((2, 2))).score(np.full((1, 2), np.inf)), "expected finite embeddings"),
        (lambda: KNN(k=1).fit(np.ones((2, 2))).score(np.ones((1, 3))), "embeddings of 2 features, got 3"),
        (lambda: KNN(k=1).fit(np.ones((1, 2))).score_train(), "at least 2 training embeddings, got 1"),
        (
            lambda: classifier_from_state({}, {"name": "os.system"}),
            r"unknown classifier 'os.system' \(known: knn one_class_svm mahalanobis pca_residual lof\)",
        ),
        (lambda: classifier_from_state({}, {"name": "knn", "k": 1}), "not the state of a k-NN"),
        (lambda: classifier_from_state({"embeddings": np.ones((1, 1))}, {"name": "knn"}), "not the state"),
        (lambda: classifier_from_state({}, {"name": "knn", "k": "many"}), "not the state"),
        (
            lambda: classifier_from_state(
                {"embeddings": np.ones((1, 1))}, {"name": "knn", "k": 1, "distance": "p"}
            ),
            "not the state of a k-NN classifier: classifier.distance must be one of mean, kth, got p",
        ),
    ],
)
def test_mistakes_are_named(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
