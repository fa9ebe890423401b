"""CAE: the fully convolutional autoencoder of a conveyor belt, which also says where it expects to err.

Mandich's anomaly detector for capsules on a belt (METHODS, section 2). Published are the encoding, 20 x 12 x 12,
the way to choose it, and the head that predicts the error; the layers in between are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from anomalib_lite.models.blocks import at_least, check_widths, down, halved, up
from anomalib_lite.models.losses import l2
from anomalib_lite.models.network import Loss, Reconstructed
from anomalib_lite.types import InputError

FIRST_WIDTH, WIDEST = 16, 128  # channels of the strided convolutions, where none are given


class CAE(nn.Module):
    """Strided convolutions to an encoding that is still a small picture, and back.

    A patch of 192 pixels has an encoding of 20 x 12 x 12 by default. One element of it sees 46 pixels at depth 4, in
    general 3 * 2 ** depth - 2: a larger patch is encoded by parts, and there is nothing that could be told its place.

    The predicted error is |one filter over the reconstruction|. The absolute value, where a rectifier is usual, lets
    one linear filter answer to edges of both signs, and cannot die.

    Args:
        patch_size: height and width of a patch; a multiple of 2 ** depth.
        positions: number of patches in the grid; all are treated alike.
        depth: number of strided convolutions, each of which halves height and width.
        filters: channels of the encoding.
        widths: channels of the strided convolutions before the encoding, depth - 1 of them; None doubles them from
            16 to at most 128.
        error_kernel: height and width of the filter that predicts the error, odd.
        normalise: BatchNorm after each convolution.

    Raises:
        InputError: for a patch size that does not halve evenly, or a value out of range.

    >>> import torch
    >>> network = CAE(patch_size=192, positions=1).eval()
    >>> out = network(torch.zeros(1, 3, 192, 192), torch.tensor([0]))
    >>> out.latent.shape, 20 * 12 * 12, out.predicted_error.shape
    (torch.Size([1, 2880]), 2880, torch.Size([1, 1, 192, 192]))
    """

    def __init__(
        self,
        *,
        patch_size: int,
        positions: int,
        depth: int = 4,
        filters: int = 20,
        widths: Sequence[int] | None = None,
        error_kernel: int = 7,
        normalise: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        at_least("positions", positions, 1)
        at_least("depth", depth, 1)
        at_least("filters", filters, 1)
        if error_kernel < 1 or error_kernel % 2 == 0:
            raise InputError(f"model.error_kernel must be odd and at least 1, got {error_kernel}")
        if widths is None:
            widths = [min(FIRST_WIDTH * 2**step, WIDEST) for step in range(depth - 1)]
        if len(widths) != depth - 1:
            raise InputError(
                f"model.widths must be {depth - 1} numbers, one less than model.depth, got {list(widths)}"
            )
        check_widths("widths", [*widths, filters])
        halved(patch_size, depth, f"model.depth={depth}")
        self.settings: dict[str, Any] = {
            "patch_size": patch_size,
            "positions": positions,
            "depth": depth,
            "filters": filters,
            "widths": list(widths),
            "error_kernel": error_kernel,
            "normalise": normalise,
            "channels": channels,
        }
        first, last = ([*widths, filters])[0], ([channels, *widths])[-1]
        steps = list(zip([channels, *widths], widths, strict=False))
        # the encoding is linear, so that a rectifier does not halve what its few channels can say
        self.encoder = nn.Sequential(
            *(down(i, o, normalise=normalise) for i, o in steps),
            nn.Conv2d(last, filters, 4, stride=2, padding=1),
        )
        outward = [filters, *reversed(widths)]
        self.decoder = nn.Sequential(
            *(up(i, o, normalise=normalise) for i, o in pairwise(outward)),
            nn.ConvTranspose2d(first, channels, 4, stride=2, padding=1),
        )
        # replicate: zero padding would be an edge all around the picture
        self.to_error = nn.Conv2d(
            channels, 1, error_kernel, padding=error_kernel // 2, padding_mode="replicate"
        )

    def forward(self, patches: Tensor, index: Tensor) -> Reconstructed:
        """Reconstruct patches (P, C, h, w); `index` (P,) is not looked at."""
        encoding = self.encoder(patches)  # (P, filters, h / 2**depth, w / 2**depth)
        reconstruction = self.decoder(encoding)
        # detached: the head describes the reconstruction and must not make it easier to describe
        predicted_error = self.to_error(reconstruction.detach()).abs()  # (P, 1, h, w)
        return Reconstructed(reconstruction, encoding.flatten(1), predicted_error)

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        """L2 reconstruction + L2 of the predicted against the actual error |clean - reconstruction|, channel mean."""
        out = self(patches, index)
        reconstruction = l2(clean, out.patches)
        error = (clean - out.patches.detach()).abs().mean(dim=1, keepdim=True)  # (P, 1, h, w)
        return Loss(reconstruction + l2(error, out.predicted_error), reconstruction)
