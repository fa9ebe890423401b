"""One-class classifiers: how far an embedding lies from those of good parts."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import faiss
import numpy as np

from anomalib_lite.types import InputError

log = logging.getLogger(__name__)


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
    """Mean Euclidean distance to the `k` nearest good parts, searched exactly with FAISS.

    With fewer than `k` of them all are used (and a warning says so). FAISS takes its number of OpenMP threads
    from torch once that is imported: `torch.set_num_threads` and `OMP_NUM_THREADS` bound both.

    >>> knn = KNN(k=2).fit(np.array([[0, 0], [3, 4], [6, 8]], dtype=np.float32))
    >>> knn.score(np.zeros((1, 2), dtype=np.float32)), knn.score_train()
    (array([2.5]), array([7.5, 5. , 7.5]))
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"classifier.k must be at least 1, got {self.k}")

    def fit(self, embeddings: np.ndarray) -> Self:
        """Keep the embeddings (N, D) float32; raises InputError if there are none or one is not finite."""
        embeddings = _rows(embeddings)
        if len(embeddings) == 0:
            raise InputError("k-NN needs at least 1 training embedding, got 0")
        if len(embeddings) < self.k:
            log.warning("classifier.k=%d, but %d training embeddings: using all", self.k, len(embeddings))
        self.embeddings_: np.ndarray = embeddings
        return self

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Mean distance (B,) of embeddings (B, D) to their nearest training rows."""
        k = min(self.k, len(self.embeddings_))
        rows = self._queries(embeddings)
        return np.array([self._distances(row, self._nearest(row, k)).mean() for row in rows])

    def score_train(self) -> np.ndarray:
        """Mean distance (N,) of every training row to its nearest others; a duplicate is an other.

        Raises InputError if there is one row only.
        """
        count = len(self.embeddings_)
        if count < 2:
            raise InputError(f"leaving one out needs at least 2 training embeddings, got {count}")
        k = min(self.k, count - 1)
        scores = np.empty(count)
        for i, row in enumerate(self.embeddings_):
            nearest = self._nearest(row, k + 1)
            # among many duplicates the row itself may not be one of them: cut to k in any case
            scores[i] = self._distances(row, nearest[nearest != i][:k]).mean()
        return scores

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The training embeddings; no native index, which would be code to deserialise."""
        return {"embeddings": self.embeddings_}, {"name": "knn", **asdict(self)}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild from `state()`; raises InputError for anything else."""
        try:
            return cls(k=int(settings["k"])).fit(arrays["embeddings"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a k-NN classifier: {error}") from error

    def _queries(self, embeddings: np.ndarray) -> np.ndarray:
        embeddings = _rows(embeddings)
        found, expected = embeddings.shape[1], self.embeddings_.shape[1]
        if found != expected:
            raise InputError(f"expected embeddings of {expected} features, got {found}")
        return embeddings

    def _nearest(self, row: np.ndarray, k: int) -> np.ndarray:
        # one row at a time: for a batch FAISS may compute |x|^2 + |y|^2 - 2xy, which gives other bits than
        # one query does and, for near-duplicates, nothing but rounding errors
        return faiss.knn(row[None], self.embeddings_, k)[1][0]

    def _distances(self, row: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        # again in float64: FAISS sums thousands of squares in float32, in an order that the processor decides
        difference = self.embeddings_[neighbours].astype(np.float64) - row
        return np.sqrt(np.square(difference).sum(axis=1))


CLASSIFIERS: dict[str, type[OneClassClassifier]] = {"knn": KNN}


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


def _rows(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2:
        raise InputError(f"expected embeddings of shape (n, features), got {embeddings.shape}")
    if not np.isfinite(embeddings).all():
        raise InputError("expected finite embeddings, got NaN or infinity")
    return embeddings
