"""What every network of an autoencoder promises, so that one LightningModule trains and applies them all."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Reconstructed(NamedTuple):
    """What a network gives for P patches."""

    patches: Tensor  # (P, C, h, w); a linear output is not clamped
    latent: Tensor  # (P, L), the encoding, flat
    predicted_error: Tensor | None = None  # (P, 1, h, w) >= 0: where the network knows that it errs


class Loss(NamedTuple):
    """What one batch costs."""

    total: Tensor  # minimised
    reconstruction: (
        Tensor  # watched by early stopping and drawn as the curve: the same whatever the other weights
    )


class Network(Protocol):
    """An `nn.Module` with its loss.

    `settings` are the constructor's arguments, plain JSON values: a bundle rebuilds the network from them.
    """

    settings: dict[str, Any]

    def __call__(self, patches: Tensor, index: Tensor) -> Reconstructed:
        """Reconstruct patches (P, C, h, w) in [0, 1] whose places in the grid are `index` (P,) int64."""

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        """Cost of giving back `clean` (P, C, h, w) from `patches`, which are the same unless they were corrupted.

        `progress` is the share of the training that is done, 0..1, for terms that are phased in.
        """
