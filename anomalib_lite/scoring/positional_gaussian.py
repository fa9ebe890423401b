"""One Gaussian for each position of registered parts: how far a feature lies from what good parts show there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from anomalib_lite.types import InputError

EIGENVALUE_FLOOR = (
    0.01  # of the mean one: what never varied on good parts is noise, or would outweigh everything
)
SCALE_FLOOR = (
    0.05  # of the variance of all positions: an empty background varies by less than a defect-free edge
)
PRIOR_PICTURES = (
    50  # so many does the shrinkage's target count: a fifth of the covariance with 200 training pictures
)
BLOCK = 48  # columns of a factor at a time: of each, only the rows down to the diagonal are read
CHUNK = 64  # positions at a time: all of them in double precision would fill the memory


class Moments:
    """Running sums of features at P positions, for means and covariances in one pass over any number of pictures.

    Sums are of the differences from the first picture, so that single precision suffices (Chan, Golub & LeVeque 1983).
    Memory: P C (C + 2) numbers of 4 bytes.

    >>> moments = Moments()
    >>> moments.add(torch.tensor([[[1.0]], [[3.0]]]))  # two pictures, one position, one channel
    >>> moments.mean, moments.covariance(slice(None))
    (tensor([[2.]]), tensor([[[1.]]], dtype=torch.float64))
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: Tensor) -> None:
        """Features (n, P, C) of n pictures."""
        if self.count == 0:
            self.first = features[0].clone()
            positions, channels = self.first.shape
            self.sum = torch.zeros((positions, channels), device=features.device)
            self.products = torch.zeros((positions, channels, channels), device=features.device)
        difference = (features - self.first).transpose(0, 1)  # (P, n, C)
        self.sum += difference.sum(dim=1)
        self.products.baddbmm_(difference.transpose(1, 2), difference)
        self.count += len(features)

    @property
    def mean(self) -> Tensor:
        """(P, C)."""
        return self.first + self.sum / self.count

    def covariance(self, positions: slice) -> Tensor:
        """Maximum-likelihood covariances (p, C, C) float64 of some positions."""
        mean = self.sum[positions].double() / self.count
        return self.products[positions].double() / self.count - mean[:, :, None] * mean[:, None, :]


@dataclass
class PositionalGaussian:
    """Mahalanobis distance at each position, in units of what good parts show: about 1 for one of them.

    Features are whitened by the covariance that all positions share, then each position's own covariance is shrunk
    towards a multiple of the identity, the less the more pictures there are. So one picture works (all positions
    alike), and hundreds give a covariance to each.

    Source: PaDiM (Defard et al., ICPR 2021) for the Gaussian at each position; Ledoit & Wolf 2004 for the shrinkage's
    target. Not for its share: the one that estimates covariances best (also that of Chen et al. 2010) shrinks far more
    than tells defects best.

    Args:
        mean: (P, C), of the features.
        whitening: (C, C), shared.
        factors: (P, C (C + 1) / 2) half precision: the lower triangles of the inverse Cholesky factors, row by row.
    """

    mean: Tensor
    whitening: Tensor
    factors: Tensor

    def __post_init__(self) -> None:
        positions, channels = self.mean.shape
        rows, columns = _triangle(channels, self.factors.device)
        # transposed: a row vector times such matrices takes a third of the time of a matrix times a column
        transposed = torch.zeros((positions, channels, channels), device=self.factors.device)
        transposed[:, columns, rows] = self.factors.float()
        ends = [*range(BLOCK, channels, BLOCK), channels]
        self.blocks = [
            transposed[:, :end, start:end].contiguous() for start, end in zip([0, *ends], ends, strict=False)
        ]

    @classmethod
    def from_moments(cls, moments: Moments) -> Self:
        """Learn from the sums of one picture or more.

        All directions are kept: those of least variance tell defects as well as others.
        """
        whitening = _whitening(_shared_covariance(moments))
        rows, columns = _triangle(len(whitening), whitening.device)
        identity = torch.eye(len(whitening), dtype=torch.float64, device=whitening.device)
        factors = torch.empty((len(moments.sum), len(rows)), dtype=torch.float16, device=whitening.device)
        for start in range(0, len(factors), CHUNK):
            some = slice(start, start + CHUNK)
            covariance = whitening.T @ moments.covariance(some) @ whitening  # (p, C, C)
            lower = torch.linalg.cholesky(shrunk(covariance, moments.count))
            inverse = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
            factors[some] = inverse[:, rows, columns].half()
        return cls(moments.mean, whitening.float(), factors)

    def __call__(self, features: Tensor) -> Tensor:
        """Distances (B, P) of features (B, P, C): the root of the mean over C whitened, decorrelated dimensions."""
        whitened = (features - self.mean) @ self.whitening  # (B, P, C)
        # one picture at a time: products of a batch give other bits
        return torch.stack([self._distance(one) for one in whitened])

    def _distance(self, whitened: Tensor) -> Tensor:
        """(P,) of a picture's whitened features (P, C)."""
        total = torch.zeros(len(whitened), device=whitened.device)
        for block in self.blocks:  # (P, end, at most BLOCK)
            total += torch.bmm(whitened[:, None, : block.shape[1]], block)[:, 0].square().sum(dim=1)
        return (total / whitened.shape[1]).sqrt()

    def to(self, device: torch.device) -> Self:
        """Move everything to a device."""
        for name in ("mean", "whitening", "factors"):
            setattr(self, name, getattr(self, name).to(device))
        self.blocks = [block.to(device) for block in self.blocks]
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Means and whitening in single precision, factors in half."""
        return {name: getattr(self, name).cpu().numpy() for name in ("mean", "whitening", "factors")}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray]) -> Self:
        """As `state` gives them.

        Raises:
            InputError: for arrays that do not fit together.
        """
        mean, whitening, factors = (arrays[name] for name in ("mean", "whitening", "factors"))
        positions, channels = mean.shape if mean.ndim == 2 else (0, 0)
        expected = (channels, channels), (positions, channels * (channels + 1) // 2)
        if (whitening.shape, factors.shape) != expected:
            found = ", ".join(str(array.shape) for array in (mean, whitening, factors))
            raise InputError(f"bundle: mean, whitening and factors do not fit together, got {found}")
        return cls(*(torch.from_numpy(array) for array in (mean, whitening, factors)))


def shrunk(covariance: Tensor, count: int) -> Tensor:
    """Covariances (P, C, C) of `count` pictures, shrunk towards a multiple of the identity.

    The multiple is the position's mean variance, to which the shared one (1, once whitened) counts as one picture
    more; together with PRIOR_PICTURES of it, the pictures give the covariance: of a single one, none of its own.

    >>> shrunk(torch.zeros(1, 2, 2, dtype=torch.float64), 1)[0]
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    share = PRIOR_PICTURES / (PRIOR_PICTURES + count - 1)
    variance = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)  # (P,)
    result = (1 - share) * covariance
    result.diagonal(dim1=1, dim2=2).add_(share * (variance + 1 / count).clamp_min(SCALE_FLOOR)[:, None])
    return result


def _shared_covariance(moments: Moments) -> Tensor:
    """Mean covariance (C, C) float64 of all positions; of a single picture, what differs between its positions."""
    if moments.count == 1:
        return torch.cov(moments.mean.double().T, correction=0).reshape(2 * moments.mean.shape[1:])
    total = torch.zeros(())
    for start in range(0, len(moments.sum), CHUNK):
        total = total + moments.covariance(slice(start, start + CHUNK)).sum(dim=0)
    return total / len(moments.sum)


def _whitening(covariance: Tensor) -> Tensor:
    """(C, C): after it, the covariance is (nearly) the identity."""
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    # where nothing varied at all (equal pictures), differences count as they are
    deviation = deviation.clamp_min(0.01 * float(deviation.mean()) or 1.0)
    values, vectors = torch.linalg.eigh(covariance / deviation[:, None] / deviation)
    floored = values.clamp_min(0) + EIGENVALUE_FLOOR * max(float(values.mean()), EIGENVALUE_FLOOR)
    return vectors * floored.rsqrt() / deviation[:, None]


def _triangle(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of a lower triangle, row by row."""
    rows, columns = torch.tril_indices(channels, channels, device=device)
    return rows, columns
