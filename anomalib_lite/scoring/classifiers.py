"""One-class classifiers: how far an embedding lies from those of good parts."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import faiss
import numpy as np

from anomalib_lite.scoring.one_class import LOF, OneClassSVM
from anomalib_lite.scoring.rows import check_leaving_one_out, query_rows, training_rows
from anomalib_lite.scoring.subspace import Mahalanobis, PCAResidual
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

DISTANCES = ("mean", "kth")


class OneClassClassifier(Protocol):
    """What the detector asks of a classifier; scores are float64, higher is more anomalous.

    The score of an embedding must not depend on the others that are scored with it.
    """

    def fit(self, embeddings: np.ndarray) -> Self:
        """Learn from the embeddings (N, D) float32 of good parts."""

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Raw scores (B,) of embeddings (B, D) float32."""

    def score_train(self) -> np.ndarray:
        """Raw scores (N,) of the training rows, each as if it had been left out."""

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Learned arrays and JSON settings; `classifier_from_state` reads them."""

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild a fitted classifier; raises InputError if the state is not one of this class."""


@dataclass(kw_only=True)
class KNN:
    """Euclidean distance to the `k` nearest good parts, searched exactly with FAISS.

    With fewer than `k` of them all are used (and a warning says so). FAISS takes its number of OpenMP threads
    from torch once that is imported: `torch.set_num_threads` and `OMP_NUM_THREADS` bound both.

    Args:
        k: number of neighbours.
        distance: `mean` of the k distances (Angiulli & Pizzuti 2002), or `kth`, the largest (Ramaswamy et al. 2000).
        weighted: the mean weighs neighbour i with w_i = 1 / d_i (Dudani 1976; scikit-learn's weights="distance"), so
            that near ones count for more: sum(w_i d_i) / sum(w_i) = k / sum(1 / d_i), the harmonic mean. Where a
            distance is 0 the score is its limit, 0.

    >>> rows = np.array([[0, 0], [3, 4], [6, 8]], dtype=np.float32)
    >>> knn = KNN(k=2).fit(rows)
    >>> knn.score(np.zeros((1, 2), dtype=np.float32)), knn.score_train()
    (array([2.5]), array([7.5, 5. , 7.5]))
    >>> KNN(k=2, distance="kth").fit(rows).score_train(), KNN(k=2, weighted=True).fit(rows).score_train().round(2)
    (array([10.,  5., 10.]), array([6.67, 5.  , 6.67]))
    """

    k: int
    distance: str = "mean"
    weighted: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"classifier.k must be at least 1, got {self.k}")
        if self.distance not in DISTANCES:
            raise InputError(
                f"classifier.distance must be one of {', '.join(DISTANCES)}, got {self.distance}"
            )
        if not isinstance(self.weighted, bool):
            raise InputError(f"classifier.weighted must be true or false, got {self.weighted!r}")
        if self.weighted and self.distance != "mean":
            raise InputError(f"classifier.weighted=true needs classifier.distance=mean, got {self.distance}")

    def fit(self, embeddings: np.ndarray) -> Self:
        """Keep the embeddings (N, D) float32; raises InputError if there are none or one is not finite."""
        embeddings = training_rows(embeddings, method="k-NN", minimum=1)
        if len(embeddings) < self.k:
            log.warning("classifier.k=%d, but %d training embeddings: using all", self.k, len(embeddings))
        self.embeddings_: np.ndarray = embeddings
        return self

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Raw scores (B,) of embeddings (B, D): the distance to their nearest training rows."""
        k = min(self.k, len(self.embeddings_))
        rows = query_rows(embeddings, features=self.embeddings_.shape[1])
        return np.array(
            [self._reduce(self._distances(row, self._nearest(row, k))) for row in rows], np.float64
        )

    def score_train(self) -> np.ndarray:
        """Raw scores (N,): the distance of every training row to its nearest others; a duplicate is an other.

        Raises InputError if there is one row only.
        """
        count = len(self.embeddings_)
        check_leaving_one_out(count, minimum=2)
        k = min(self.k, count - 1)
        scores = np.empty(count)
        for i, row in enumerate(self.embeddings_):
            nearest = self._nearest(row, k + 1)
            # among many duplicates the row itself may not be one of them: cut to k in any case
            scores[i] = self._reduce(self._distances(row, nearest[nearest != i][:k]))
        return scores

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The training embeddings; no native index, which would be code to deserialise."""
        return {"embeddings": self.embeddings_}, {"name": "knn", **asdict(self)}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild from `state()`; raises InputError for anything else."""
        # bundles from before there was a choice hold the plain mean
        choices = {"distance": settings.get("distance", "mean"), "weighted": settings.get("weighted", False)}
        try:
            return cls(k=int(settings["k"]), **choices).fit(arrays["embeddings"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a k-NN classifier: {error}") from error

    def _nearest(self, row: np.ndarray, k: int) -> np.ndarray:
        # one row at a time: for a batch FAISS may compute |x|^2 + |y|^2 - 2xy, which gives other bits than
        # one query does and, for near-duplicates, nothing but rounding errors
        return faiss.knn(row[None], self.embeddings_, k)[1][0]

    def _distances(self, row: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        # again in float64: FAISS sums thousands of squares in float32, in an order that the processor decides
        difference = self.embeddings_[neighbours].astype(np.float64) - row
        return np.sqrt(np.square(difference).sum(axis=1))

    def _reduce(self, distances: np.ndarray) -> float:
        if self.distance == "kth":
            return distances.max()
        if not self.weighted:
            return distances.mean()
        return len(distances) / (1 / distances).sum() if distances.all() else 0.0


CLASSIFIERS: dict[str, type[OneClassClassifier]] = {
    "knn": KNN,
    "one_class_svm": OneClassSVM,
    "mahalanobis": Mahalanobis,
    "pca_residual": PCAResidual,
    "lof": LOF,
}


def classifier_from_state(arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> OneClassClassifier:
    """Rebuild a fitted classifier from what its `state()` returned; raises InputError for an unknown name.

    >>> knn = KNN(k=1).fit(np.ones((2, 3), dtype=np.float32))
    >>> classifier_from_state(*knn.state()).score(np.ones((1, 3), dtype=np.float32))
    array([0.])
    """
    name = settings.get("name")
    if name not in CLASSIFIERS:
        raise InputError(f"unknown classifier {name!r} (known: {' '.join(CLASSIFIERS)})")
    return CLASSIFIERS[name].from_state(arrays, settings)
