"""Dilated: a denoising autoencoder with dilated convolutions that takes defects out of a picture.

Rojas, Morton, Perez, Andrade 2020, for cracks and castings (METHODS, section 3). Published are the dilated
convolutions, the SSIM loss, and the training from pictures with pasted defects to clean ones; no table of layers
is, so these are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from anomalib_lite.models.blocks import SLOPE, at_least, check_widths, down, halved, up
from anomalib_lite.models.losses import ssim_loss
from anomalib_lite.models.network import Loss, Reconstructed
from anomalib_lite.types import InputError


class Dilated(nn.Module):
    """Strided convolutions, dilated ones on the small map, a narrow encoding, and back to a picture in [0, 1].

    To repair a place one has to see around it: every 3 x 3 convolution of dilation d widens the view of an element of
    the encoding by 2 * d map pixels, without a loss of resolution. With n strided convolutions it sees

        3 * 2 ** n - 2 + 2 ** (n + 1) * sum(dilations)

    pixels, 262 by default. There is no way around the encoding, no skip connection nor full-resolution layer, for a
    defect could be copied through it.

    Args:
        patch_size: height and width of a patch; a multiple of 2 ** len(widths).
        positions: number of patches in the grid; all are treated alike.
        widths: channels of each strided convolution; the dilated ones keep the last.
        dilations: one 3 x 3 convolution each.
        filters: channels of the encoding.
        normalise: BatchNorm after each convolution.

    Raises:
        InputError: for a patch size that does not halve evenly, a value out of range, or a dilation that reaches
            beyond the map from everywhere.

    >>> import torch
    >>> network = Dilated(patch_size=128, positions=1).eval()
    >>> network(torch.zeros(2, 3, 128, 128), torch.tensor([0, 0])).latent.shape, 16 * 16 * 16
    (torch.Size([2, 4096]), 4096)
    """

    def __init__(
        self,
        *,
        patch_size: int,
        positions: int,
        widths: Sequence[int] = (16, 32, 64),
        dilations: Sequence[int] = (1, 2, 4, 8),
        filters: int = 16,
        normalise: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        at_least("positions", positions, 1)
        at_least("filters", filters, 1)
        check_widths("widths", widths)
        check_widths("dilations", dilations)
        side = halved(patch_size, len(widths), f"model.widths={list(widths)}")
        if max(dilations) >= side:
            raise InputError(
                f"model.dilations must be below {side}, the side of the map of a patch of {patch_size} pixels after "
                f"{len(widths)} strided convolutions, got {max(dilations)}: it would see nothing but padding"
            )
        self.settings: dict[str, Any] = {
            "patch_size": patch_size,
            "positions": positions,
            "widths": list(widths),
            "dilations": list(dilations),
            "filters": filters,
            "normalise": normalise,
            "channels": channels,
        }
        steps = list(zip([channels, *widths], widths, strict=False))
        self.encoder = nn.Sequential(
            *(down(i, o, normalise=normalise) for i, o in steps),
            *(_flat(widths[-1], widths[-1], kernel=3, dilation=d, normalise=normalise) for d in dilations),
            nn.Conv2d(widths[-1], filters, 1),
        )
        outward = [*reversed(widths)]
        self.decoder = nn.Sequential(
            _flat(filters, widths[-1], kernel=1, normalise=normalise),
            *(up(i, o, normalise=normalise) for i, o in pairwise(outward)),
            nn.ConvTranspose2d(outward[-1], channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, patches: Tensor, index: Tensor) -> Reconstructed:
        """Reconstruct patches (P, C, h, w) without their defects, in [0, 1]; `index` (P,) is not looked at."""
        encoding = self.encoder(patches)  # (P, filters, h / 2**n, w / 2**n)
        return Reconstructed(self.decoder(encoding), encoding.flatten(1))

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        """1 - SSIM of the reconstruction of (corrupted) `patches` with `clean`."""
        similarity = ssim_loss(clean, self(patches, index).patches)
        return Loss(similarity, similarity)


def _flat(
    channels_in: int, channels_out: int, *, kernel: int, dilation: int = 1, normalise: bool
) -> nn.Sequential:
    """Convolution that keeps the map's size: (P, Cin, h, w) -> (P, Cout, h, w)."""
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, bias=not normalise)
    ]
    if normalise:
        layers.append(nn.BatchNorm2d(channels_out))
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE))
