"""Losses of the autoencoders: pure functions of tensors, each the mean over what it is given."""

from __future__ import annotations

import torch
from torch import Tensor


def l2(patches: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared difference of two tensors of one shape.

    >>> l2(torch.zeros(2, 3), torch.full((2, 3), 0.5))
    tensor(0.2500)
    """
    return torch.mean((patches - reconstruction) ** 2)


def l1_activity(activations: Tensor) -> Tensor:
    """Mean absolute activation of a hidden layer: what makes an autoencoder sparse.

    >>> l1_activity(torch.tensor([[1.0, -1.0], [4.0, 0.0]]))
    tensor(1.5000)
    """
    return activations.abs().mean()
