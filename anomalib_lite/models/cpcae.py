"""CPCAE: a convolutional autoencoder of patches that is told which patch it looks at.

Saeedi & Giusti, "Anomaly Detection for Industrial Inspection using Convolutional Autoencoder and Deep
Feature-based One-class Classification", VISAPP 2022, doi 10.5220/0010780200003124, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomalib_lite.models.blocks import SLOPE, at_least, check_widths, down, halved, up
from anomalib_lite.models.condition import Condition
from anomalib_lite.models.losses import l1_activity, l2
from anomalib_lite.models.network import Loss, Reconstructed


class CPCAE(nn.Module):
    """Strided convolutions to a dense bottleneck and back, conditioned on the patch's index.

    The encoder is a convolution for each of `widths`, a dense layer, and the latent layer; the decoder mirrors it.

    The condition is concatenated twice: with the flattened feature map before the dense layers, and with the
    latent vector at the decoder's input. The bottleneck is dense because a purely convolutional one copies
    defects through.

    Args:
        patch_size: height and width of a patch; a multiple of 2 ** len(widths).
        widths: channels of each strided convolution.
        dense: units of the dense layer between the convolutions and the latent layer.
        latent_dim: elements in the encoding of one patch.
        condition: `index` (index / number of patches, as published), `one_hot`, or `none`.
        positions: number of patches in the grid, N.
        activity_weight: lambda of the L1 term on the encoding.
        normalise: BatchNorm after each convolution.

    Raises:
        InputError: for a patch size that does not halve evenly or an unknown condition.

    >>> network = CPCAE(patch_size=32, widths=(8, 16), dense=32, latent_dim=4, condition="index", positions=9)
    >>> network(torch.zeros(5, 3, 32, 32), torch.tensor([0, 1, 2, 3, 8])).patches.shape
    torch.Size([5, 3, 32, 32])
    """

    def __init__(
        self,
        *,
        patch_size: int,
        widths: Sequence[int],
        dense: int,
        latent_dim: int,
        condition: Literal["index", "one_hot", "none"],
        positions: int,
        activity_weight: float = 0.0,
        normalise: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.conditions = Condition(condition, positions)
        check_widths("widths", widths)
        at_least("dense", dense, 1)
        at_least("latent_dim", latent_dim, 1)
        side = halved(patch_size, len(widths), f"model.widths={list(widths)}")
        self.settings: dict[str, Any] = {
            "patch_size": patch_size,
            "widths": list(widths),
            "dense": dense,
            "latent_dim": latent_dim,
            "condition": condition,
            "positions": positions,
            "activity_weight": activity_weight,
            "normalise": normalise,
            "channels": channels,
        }
        self.activity_weight = activity_weight
        steps = list(zip([channels, *widths], widths, strict=False))
        self.encoder = nn.Sequential(*(down(i, o, normalise=normalise) for i, o in steps))
        flat = widths[-1] * side * side
        self.to_latent = nn.Sequential(
            nn.Linear(flat + self.conditions.width, dense), nn.LeakyReLU(SLOPE), nn.Linear(dense, latent_dim)
        )
        self.from_latent = nn.Sequential(
            nn.Linear(latent_dim + self.conditions.width, dense),
            nn.LeakyReLU(SLOPE),
            nn.Linear(dense, flat),
            nn.LeakyReLU(SLOPE),
        )
        self.unflatten = nn.Unflatten(1, (widths[-1], side, side))
        self.decoder = nn.Sequential(
            *(up(o, i, normalise=normalise) for i, o in reversed(steps[1:])),
            nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1),
        )

    def encode(self, patches: Tensor, index: Tensor) -> Tensor:
        """Latent vectors (P, latent_dim) of patches (P, C, h, w)."""
        features = self.encoder(patches).flatten(1)
        return self.to_latent(torch.cat([features, self.conditions(index)], dim=1))

    def decode(self, latent: Tensor, index: Tensor) -> Tensor:
        """Patches (P, C, h, w) from latent vectors (P, latent_dim)."""
        features = self.from_latent(torch.cat([latent, self.conditions(index)], dim=1))
        return self.decoder(self.unflatten(features))

    def forward(self, patches: Tensor, index: Tensor) -> Reconstructed:
        """Reconstruct patches (P, C, h, w) whose places in the grid are `index` (P,) int64."""
        latent = self.encode(patches, index)
        return Reconstructed(self.decode(latent, index), latent)

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        """L2 reconstruction + activity_weight x L1 of the latent layer."""
        out = self(patches, index)
        reconstruction = l2(clean, out.patches)
        return Loss(reconstruction + self.activity_weight * l1_activity(out.latent), reconstruction)
