"""Classifiers that describe the training rows by the directions in which they vary: Mahalanobis and PCA residual.

With N rows of D features, N far below D, everything happens in the span of the centred rows: no D x D matrix.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from anomalib_lite.scoring.rows import check_leaving_one_out, query_rows, stored_array, training_rows
from anomalib_lite.types import InputError

# two rows, or rows all at one distance from their mean, get no shrinkage by the formula, and a singular covariance
MIN_SHRINKAGE = 1e-6


@dataclass(kw_only=True)
class Mahalanobis:
    """Distance from the mean of good parts in units of how much they vary in that direction.

    sqrt((x - mean)^T C^-1 (x - mean)) with the covariance C shrunk towards a multiple of the identity by Ledoit & Wolf
    2004, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices"; on features of pretrained networks:
    Rippel et al. 2020, "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection".
    Outside the span of the training rows C is isotropic, which is used exactly: memory is N x D.

    >>> rows = np.array([[-4, 0], [4, 0], [0, -1], [0, 1]], dtype=np.float32)
    >>> Mahalanobis().fit(rows).score(np.array([[0, 0], [4, 0], [0, 4]], dtype=np.float32)).round(2)
    array([0.  , 1.65, 2.46])
    """

    def fit(self, embeddings: np.ndarray) -> Self:
        """Learn from embeddings (N, D) float32; raises InputError for fewer than 2 or all equal ones, or not finite."""
        return self._learn(*_span(training_rows(embeddings, method="mahalanobis", minimum=2)))

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Mahalanobis distances (B,) of embeddings (B, D)."""
        rows = query_rows(embeddings, features=len(self.mean_))
        return np.array([self._distance(row - self.mean_) for row in rows], dtype=np.float64)

    def score_train(self) -> np.ndarray:
        """Mahalanobis distances (N,), each as if refitted without the row, shrinkage included; exact in O(N^2 r).

        Without row x (relative to the mean of all) the scatter matrix lacks N/(N - 1) x x^T: by Sherman and Morrison
        that needs no new inverse. Raises InputError for fewer than 3 rows, or if all rows but one are equal.
        """
        count = len(self.coordinates_)
        check_leaving_one_out(count, minimum=3)
        ratio = count / (count - 1)
        scatter = np.square(self.coordinates_).sum(axis=0)  # (r,)
        gram = self.coordinates_ @ self.coordinates_.T  # (N, N)
        norms = np.diag(gram)
        # [i, j]: squared distance of row j from the mean of all but row i
        distances = norms + 2 * gram / (count - 1) + (norms / (count - 1) ** 2)[:, None]
        np.fill_diagonal(distances, 0)
        total = distances.sum(axis=1)
        if (total <= np.finfo(float).eps * count * norms.sum()).any():
            raise InputError("mahalanobis needs training embeddings that differ, got all equal but one")
        shrinkage, variance = _ledoit_wolf(
            count=count - 1,
            features=len(self.mean_),
            total=total,
            fourth=np.square(distances).sum(axis=1),
            scatter=np.square(scatter).sum()
            - 2 * ratio * np.square(self.coordinates_) @ scatter
            + np.square(ratio * norms),
        )
        weight = (1 - shrinkage) / (count - 1)  # (N,)
        variances = weight[:, None] * scatter + (shrinkage * variance)[:, None]  # (N, r)
        quadratic = (np.square(self.coordinates_) / variances).sum(axis=1)
        return ratio * np.sqrt(quadratic / (1 - weight * ratio * quadratic))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Mean (D,), the r directions (r, D) that the N rows span, and the rows (N, r) in them."""
        arrays = {"mean": self.mean_, "components": self.components_, "coordinates": self.coordinates_}
        return arrays, {"name": "mahalanobis"}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild from `state()`; raises InputError for anything else."""
        try:
            mean, components = _stored_directions(arrays)
            coordinates = stored_array(arrays, "coordinates", shape=(None, len(components)))
            return cls()._learn(mean, components, coordinates)
        except (TypeError, ValueError) as error:
            raise InputError(f"not the state of a Mahalanobis classifier: {error}") from error

    def _learn(self, mean: np.ndarray, components: np.ndarray, coordinates: np.ndarray) -> Self:
        if len(components) == 0:
            raise InputError("mahalanobis needs training embeddings that differ, got all equal")
        self.mean_, self.components_, self.coordinates_ = mean, components, coordinates
        squares = np.square(coordinates)
        scatter = squares.sum(axis=0)  # (r,)
        shrinkage, variance = _ledoit_wolf(
            count=len(coordinates),
            features=len(mean),
            total=scatter.sum(),
            fourth=np.square(squares.sum(axis=1)).sum(),
            scatter=np.square(scatter).sum(),
        )
        self.shrinkage_ = float(shrinkage)
        self._outside = self.shrinkage_ * float(
            variance
        )  # variance in every direction that no training row takes
        self._variances = (1 - self.shrinkage_) * scatter / len(coordinates) + self._outside  # (r,)
        return self

    def _distance(self, row: np.ndarray) -> float:
        along = self.components_ @ row  # (r,)
        rest = row - along @ self.components_
        return float(np.sqrt((along**2 / self._variances).sum() + (rest**2).sum() / self._outside))


@dataclass(kw_only=True)
class PCAResidual:
    """Distance to the principal subspace in which good parts vary: what of an embedding they cannot explain.

    The Q statistic of Jackson & Mudholkar 1979, "Control Procedures for Residuals Associated with Principal Component
    Analysis" (its root); on deep features: Ndiour et al. 2020, "Out-of-Distribution Detection with Subspace Techniques
    and Probabilistic Modeling of Features", feature reconstruction error.

    Args:
        variance: share of the training variance that the subspace keeps, by the fewest components; 0 < variance < 1.

    >>> rows = np.array([[-2, 0], [2, 0], [0, -0.1], [0, 0.1]], dtype=np.float32)
    >>> PCAResidual(variance=0.97).fit(rows).score(np.array([[9, 0], [9, 3]], dtype=np.float32))
    array([0., 3.])
    """

    variance: float

    def __post_init__(self) -> None:
        if not 0 < self.variance < 1:
            raise InputError(f"classifier.variance must be between 0 and 1 (exclusive), got {self.variance}")

    def fit(self, embeddings: np.ndarray) -> Self:
        """Learn from embeddings (N, D) float32; raises InputError for fewer than 2, or if one is not finite."""
        mean, components, coordinates = _span(training_rows(embeddings, method="pca_residual", minimum=2))
        kept = self._kept(np.square(coordinates).sum(axis=0))
        self.mean_, self.components_, self.coordinates_ = mean, components[:kept], coordinates
        return self

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Distances (B,) of embeddings (B, D) to the subspace, in the embedding's units."""
        rows = query_rows(embeddings, features=len(self.mean_))
        return np.array([self._distance(row - self.mean_) for row in rows], dtype=np.float64)

    def score_train(self) -> np.ndarray:
        """Distances (N,), each to the subspace of the others: N eigendecompositions (r, r), r < N.

        Without row x (relative to the mean of all) the scatter matrix lacks N/(N - 1) x x^T, and x lies N/(N - 1) as
        far from the mean of the others. Raises InputError for fewer than 3 rows.
        """
        count, rank = self.coordinates_.shape
        check_leaving_one_out(count, minimum=3)
        ratio = count / (count - 1)
        scatter = np.diag(np.square(self.coordinates_).sum(axis=0))
        noise = np.finfo(float).eps * rank * np.trace(scatter)
        scores = np.empty(count)
        for i, row in enumerate(self.coordinates_):
            squares, directions = np.linalg.eigh(scatter - ratio * np.outer(row, row))
            squares = np.where(squares > noise, squares, 0)[::-1]  # largest first
            rest = (ratio * row @ directions[:, ::-1])[self._kept(squares) :]
            scores[i] = np.sqrt(np.square(rest).sum())
        return scores

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Mean (D,), the kept components (q, D), and the training rows (N, r) in all the directions they span."""
        arrays = {"mean": self.mean_, "components": self.components_, "coordinates": self.coordinates_}
        return arrays, {"name": "pca_residual", **asdict(self)}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild from `state()`; raises InputError for anything else."""
        try:
            residual = cls(variance=float(settings["variance"]))
            residual.mean_, residual.components_ = _stored_directions(arrays)
            residual.coordinates_ = stored_array(arrays, "coordinates", shape=(None, None))
            kept, rank = len(residual.components_), residual.coordinates_.shape[1]
            if kept > rank:
                raise InputError(f"components: expected at most {rank}, got {kept}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a PCA residual: {error}") from error
        return residual

    def _kept(self, squares: np.ndarray) -> int:
        """The fewest of the squares (r,), largest first, that sum to more than the share to keep."""
        shares = np.cumsum(squares)
        if len(shares) == 0 or shares[-1] == 0:
            return 0
        return int(np.searchsorted(shares / shares[-1], self.variance, side="right")) + 1

    def _distance(self, row: np.ndarray) -> float:
        rest = row - (self.components_ @ row) @ self.components_
        return float(np.sqrt((rest**2).sum()))


def _span(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,), orthonormal directions (r, D) of the centred rows (N, D), most variance first, and the rows (N, r)."""
    mean = rows.mean(axis=0, dtype=np.float64)
    left, singular, directions = np.linalg.svd(rows - mean, full_matrices=False)
    # relative to the rows themselves: what is left of equal ones after centring is rounding, however large
    noise = np.finfo(float).eps * max(rows.shape) * np.linalg.norm(rows.astype(np.float64))
    rank = int((singular > noise).sum())
    # contiguous, as a saved array comes back: in another layout BLAS gives other bits
    coordinates = np.ascontiguousarray(left[:, :rank] * singular[:rank])
    return mean, np.ascontiguousarray(directions[:rank]), coordinates


def _ledoit_wolf(
    *,
    count: int,
    features: int,
    total: float | np.ndarray,
    fourth: float | np.ndarray,
    scatter: float | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Shrinkage and mean variance from sums over centred rows x: of |x|^2, of |x|^4, and the squared norm of sum x x^T.

    The covariance is (1 - shrinkage) sum x x^T / count + shrinkage * mean variance * identity. As scikit-learn's, which
    visits all pairs of features: 40 million of 6144, once more for every row left out.
    """
    variance = np.asarray(total) / (count * features)
    spread = scatter / count**2 - features * variance**2  # of the covariance's eigenvalues
    noise = (fourth / count - scatter / count**2) / count  # what of it is chance
    # no spread at all: every shrinkage gives the same matrix
    shrinkage = np.where(spread > 0, noise / np.where(spread > 0, spread, 1), 1)
    return np.clip(shrinkage, MIN_SHRINKAGE, 1), variance


def _stored_directions(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    mean = stored_array(arrays, "mean", shape=(None,))
    return mean, stored_array(arrays, "components", shape=(None, len(mean)))
