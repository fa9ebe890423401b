"""Brings the features of an embedding to a comparable scale."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from anomalib_lite.types import InputError

MODES = ("standard", "none")


@dataclass(kw_only=True)
class Scaler:
    """Subtracts the mean and divides by the standard deviation of the training embeddings.

    A feature that hardly varies among good parts would, divided by almost nothing, outweigh all others with
    its noise. So no standard deviation counts as smaller than `floor` times the average one: 0 is plain
    standardisation (constant features excepted), 1 enlarges no feature relative to the average, and ever
    larger floors approach no scaling at all. The average, not the median: over half of the features behind a
    ReLU may be dead.

    >>> embeddings = np.array([[0, 5], [4, 5]], dtype=np.float32)
    >>> Scaler(mode="standard", floor=0.1).fit(embeddings).transform(embeddings)
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """

    mode: str = "standard"
    floor: float = 0.1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"scaler.mode must be one of {' '.join(MODES)}, got {self.mode!r}")
        if not (np.isfinite(self.floor) and self.floor >= 0):
            raise InputError(f"scaler.floor must be a number >= 0, got {self.floor}")

    def fit(self, embeddings: np.ndarray) -> Self:
        """Learn `mean_` and `scale_` (D,) from embeddings (N, D); raises InputError if one is not finite."""
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or len(embeddings) == 0:
            raise InputError(f"expected embeddings of shape (n, features), n > 0, got {embeddings.shape}")
        if not np.isfinite(embeddings).all():
            raise InputError("expected finite embeddings, got NaN or infinity")
        self.mean_, self.scale_ = self._learn(embeddings)
        return self

    def _learn(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = embeddings.shape[1]
        if self.mode == "none":
            return np.zeros(features, dtype=np.float32), np.ones(features, dtype=np.float32)
        mean = embeddings.mean(axis=0, dtype=np.float64)
        # float64: in float32 a constant feature of 1000 gets a deviation from rounding alone; row by row, since
        # numpy's own would copy all embeddings twice
        squares = np.zeros(features)
        for row in embeddings:
            squares += (row - mean) ** 2
        deviation = np.sqrt(squares / len(embeddings))
        scale = np.maximum(deviation, self.floor * deviation.mean()).astype(np.float32)
        scale[scale == 0] = 1
        return mean.astype(np.float32), scale

    def transform(self, embeddings: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Scaled embeddings (B, D) float32, into `out` if given (it may be the same array).

        Raises InputError for another number of features.
        """
        embeddings = np.asarray(embeddings, dtype=np.float32)
        if embeddings.shape[1:] != self.mean_.shape:
            raise InputError(
                f"expected embeddings of {len(self.mean_)} features, got shape {embeddings.shape}"
            )
        scaled = np.subtract(embeddings, self.mean_, out=out)
        return np.divide(scaled, self.scale_, out=scaled)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Learned arrays and JSON settings; `from_state` reads them."""
        return {"mean": self.mean_, "scale": self.scale_}, asdict(self)

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Rebuild from `state()`; raises InputError for anything else."""
        try:
            scaler = cls(mode=settings["mode"], floor=float(settings["floor"]))
            mean, scale = arrays["mean"], arrays["scale"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a scaler: {error}") from error
        if mean.ndim != 1 or mean.shape != scale.shape or not (scale > 0).all():
            raise InputError(
                f"not the state of a scaler: mean {mean.shape}, scale {scale.shape}, all > 0 expected"
            )
        scaler.mean_, scaler.scale_ = mean, scale
        return scaler
