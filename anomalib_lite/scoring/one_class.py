"""Classifiers that see the training rows through their distances: one-class SVM (SVDD) and local outlier factor."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from anomalib_lite.scoring.rows import check_leaving_one_out, query_rows, stored_array, training_rows
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

# libsvm's own 1e-3 stops so early that the order of the rows shows in the scores; this costs no time worth naming
SVM_TOLERANCE = 1e-6


@dataclass(kw_only=True)
class OneClassSVM:
    """How far outside the region that holds most good parts: the negative decision function of a one-class SVM.

    Schölkopf et al. 2001, "Estimating the Support of a High-Dimensional Distribution", with an RBF kernel
    exp(-gamma |x - y|^2). All parts then have the same norm in feature space, so that the support vector data
    description (SVDD; Tax & Duin 2004, C = 1 / (nu N)) has the same solution: its sphere and this plane cut off the
    same parts, and the squared distance from its centre is this score but for a positive factor and a constant.
    0 lies on the boundary. Far from every good part the score levels off at `offset_`.

    Args:
        nu: upper bound on the share of training rows outside, lower bound on that of support vectors; 0 < nu < 1.
        gamma: the kernel's inverse squared width; "scale" is 1 / (D * variance of all training values).

    >>> svm = OneClassSVM(nu=0.5, gamma=1.0).fit(np.array([[0], [0.1], [0.2], [0.3]], dtype=np.float32))
    >>> svm.score(np.array([[0.15], [1], [5]], dtype=np.float32)).round(2)
    array([-0.02,  0.95,  1.93])
    """

    nu: float
    gamma: float | int | str = "scale"  # int: OmegaConf does not take 1 for a float here

    def __post_init__(self) -> None:
        # 1 is left out: with every row at its bound nothing tells where the boundary lies
        if not 0 < self.nu < 1:
            raise InputError(f"classifier.nu must be between 0 and 1 (exclusive), got {self.nu}")
        number = isinstance(self.gamma, (int, float)) and not isinstance(self.gamma, bool)
        if self.gamma != "scale" and not (number and 0 < float(self.gamma) < math.inf):
            raise InputError(f"classifier.gamma must be scale or a number > 0, got {self.gamma!r}")

    def fit(self, embeddings: np.ndarray) -> Self:
        """Learn from embeddings (N, D) float32; raises InputError for fewer than 2, or if one is not finite."""
        self.embeddings_: np.ndarray = training_rows(embeddings, method="one_class_svm", minimum=2)
        sums, squares = self._moments()
        gamma = self._gamma(sums, squares)
        coefficients, offset = self._solve(np.exp(-gamma * _squared_distances(self.embeddings_)))
        return self._learn(coefficients, offset, gamma)

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Raw scores (B,) of embeddings (B, D): `offset_` minus the kernels with the support vectors, weighted."""
        from scipy.spatial.distance import cdist

        rows = query_rows(embeddings, features=self.embeddings_.shape[1])
        scores = np.empty(len(rows))
        for i, row in enumerate(rows):
            squares = cdist(row[None].astype(np.float64), self._support, "sqeuclidean")[0]  # (S,)
            scores[i] = self.offset_ - (self._weights * np.exp(-self.gamma_ * squares)).sum()
        return scores

    def score_train(self) -> np.ndarray:
        """Raw scores (N,), each from a refit without the row: N small solutions on the distances known already.

        Raises InputError for fewer than 3 rows.
        """
        check_leaving_one_out(len(self.embeddings_), minimum=3)
        distances = _squared_distances(self.embeddings_)  # (N, N)
        sums, squares = self._moments()
        scores = np.empty(len(distances))
        for i in range(len(distances)):
            others = np.delete(np.arange(len(distances)), i)
            gamma = self._gamma(sums[others], squares[others])
            kernel = np.exp(-gamma * distances[:, others])  # (N, N - 1)
            coefficients, offset = self._solve(kernel[others])
            scores[i] = offset - (coefficients * kernel[i]).sum()
        return scores

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The training rows, their coefficients (0 where a row is not a support vector), offset and gamma."""
        numbers = {"offset": np.array(self.offset_), "gamma": np.array(self.gamma_)}
        arrays = {"embeddings": self.embeddings_, "coefficients": self.coefficients_, **numbers}
        return arrays, {"name": "one_class_svm", **asdict(self)}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild from `state()`; raises InputError for anything else."""
        try:
            svm = cls(nu=float(settings["nu"]), gamma=settings["gamma"])
            svm.embeddings_ = training_rows(arrays["embeddings"], method="one_class_svm", minimum=2)
            coefficients = stored_array(arrays, "coefficients", shape=(len(svm.embeddings_),))
            offset, gamma = (float(stored_array(arrays, name, shape=())) for name in ("offset", "gamma"))
            if gamma <= 0:
                raise InputError(f"gamma: expected a number > 0, got {gamma}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a one-class SVM: {error}") from error
        return svm._learn(coefficients, offset, gamma)

    def _learn(self, coefficients: np.ndarray, offset: float, gamma: float) -> Self:
        self.coefficients_: np.ndarray = coefficients
        self.offset_, self.gamma_ = offset, gamma
        support = coefficients != 0
        self._weights = coefficients[support]
        self._support = self.embeddings_[support].astype(np.float64)  # cdist would copy them at every call
        return self

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        # per row, so that leaving one out does not read the others again
        centred = self.embeddings_ - self.embeddings_.mean(dtype=np.float64)
        return centred.sum(axis=1), np.square(centred).sum(axis=1)

    def _gamma(self, sums: np.ndarray, squares: np.ndarray) -> float:
        if not isinstance(self.gamma, str):
            return float(self.gamma)
        features = self.embeddings_.shape[1]
        count = len(sums) * features
        variance = squares.sum() / count - (sums.sum() / count) ** 2
        return float(1 / (features * variance)) if variance > 0 else 1.0  # as scikit-learn does

    def _solve(self, kernel: np.ndarray) -> tuple[np.ndarray, float]:
        from sklearn.svm import OneClassSVM as LibSVM

        svm = LibSVM(kernel="precomputed", nu=self.nu, tol=SVM_TOLERANCE).fit(kernel)
        coefficients = np.zeros(len(kernel))
        coefficients[svm.support_] = svm.dual_coef_[0]
        return coefficients, -float(svm.intercept_[0])


@dataclass(kw_only=True)
class LOF:
    """Local outlier factor: how much sparser the good parts lie around an embedding than around its neighbours.

    Breunig et al. 2000, "LOF: Identifying Density-Based Local Outliers", scikit-learn's for novelties: about 1 among
    good parts, more outside. Where good parts come in groups of different spread, it compares with the near group.
    With `n_neighbors` training rows or fewer, all but one are used (and a warning says so).

    >>> lof = LOF(n_neighbors=2).fit(np.array([[0], [1], [2], [3]], dtype=np.float32))
    >>> lof.score(np.array([[1.5], [9]], dtype=np.float32)).round(2)
    array([0.67, 4.33])
    """

    n_neighbors: int

    def __post_init__(self) -> None:
        if self.n_neighbors < 1:
            raise InputError(f"classifier.n_neighbors must be at least 1, got {self.n_neighbors}")

    def fit(self, embeddings: np.ndarray) -> Self:
        """Learn from embeddings (N, D) float32; raises InputError for fewer than 2, or if one is not finite."""
        self.embeddings_: np.ndarray = training_rows(embeddings, method="lof", minimum=2)
        count = len(self.embeddings_)
        if count <= self.n_neighbors:
            log.warning(
                "classifier.n_neighbors=%d, but %d training embeddings: using %d",
                self.n_neighbors,
                count,
                count - 1,
            )
        self._rows = self.embeddings_.astype(np.float64)  # cdist would copy them at every call
        self._lof = self._factors(np.sqrt(_squared_distances(self.embeddings_)))
        return self

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Local outlier factors (B,) of embeddings (B, D)."""
        from scipy.spatial.distance import cdist

        rows = query_rows(embeddings, features=self.embeddings_.shape[1])
        scores = np.empty(len(rows))
        for i, row in enumerate(rows):
            squares = cdist(row[None].astype(np.float64), self._rows, "sqeuclidean")  # (1, N)
            scores[i] = -self._lof.score_samples(np.sqrt(squares))[0]
        return scores

    def score_train(self) -> np.ndarray:
        """Local outlier factors (N,), each from a refit without the row on the distances known already.

        scikit-learn's own for training rows would still count the row among its neighbours' neighbours.
        Raises InputError for fewer than 3 rows.
        """
        check_leaving_one_out(len(self.embeddings_), minimum=3)
        distances = np.sqrt(_squared_distances(self.embeddings_))  # (N, N)
        scores = np.empty(len(distances))
        for i in range(len(distances)):
            others = np.delete(np.arange(len(distances)), i)
            rest = self._factors(distances[np.ix_(others, others)])
            scores[i] = -rest.score_samples(distances[i, others][None])[0]
        return scores

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The training rows; the densities are computed again from them on load."""
        return {"embeddings": self.embeddings_}, {"name": "lof", **asdict(self)}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild from `state()`; raises InputError for anything else."""
        try:
            return cls(n_neighbors=int(settings["n_neighbors"])).fit(arrays["embeddings"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a local outlier factor: {error}") from error

    def _factors(self, distances: np.ndarray) -> Any:
        from sklearn.neighbors import LocalOutlierFactor

        # precomputed: scikit-learn's own brute force is |x|^2 + |y|^2 - 2xy, see KNN
        neighbours = min(self.n_neighbors, len(distances) - 1)
        return LocalOutlierFactor(n_neighbors=neighbours, metric="precomputed", novelty=True).fit(distances)


def _squared_distances(rows: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, N) float64: each pair alone, subtracting first, so that equal rows give 0."""
    from scipy.spatial.distance import cdist

    rows = rows.astype(np.float64)
    return cdist(rows, rows, "sqeuclidean")
