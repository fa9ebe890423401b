"""EncoderDecoder: a deep convolutional network down to one vector of 500, and back.

Fadaeinejad's network for hazelnuts (METHODS, section 5), built from its published table and the corrections without
which its sizes do not close.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from anomalib_lite.models.blocks import at_least
from anomalib_lite.models.losses import l2
from anomalib_lite.models.network import Loss, Reconstructed
from anomalib_lite.types import InputError


class Layer(NamedTuple):
    """One row of the table."""

    channels_in: int
    channels_out: int
    kernel: int
    stride: int


# As printed: convolutions of the encoder, transposed convolutions of the decoder.
ENCODER = (
    Layer(3, 3, 4, 2),
    Layer(3, 32, 4, 2),
    Layer(32, 32, 4, 2),
    Layer(32, 32, 3, 1),
    Layer(32, 64, 4, 2),
    Layer(64, 64, 3, 1),
    Layer(64, 128, 4, 2),
    Layer(128, 64, 3, 1),
    Layer(64, 32, 3, 1),
    Layer(32, 500, 8, 1),
)
DECODER = (
    Layer(500, 32, 8, 1),
    Layer(32, 64, 3, 1),
    Layer(64, 128, 3, 1),
    Layer(128, 64, 4, 2),
    Layer(64, 64, 3, 1),
    Layer(64, 32, 4, 2),
    Layer(64, 128, 4, 2),
    Layer(128, 64, 3, 1),
    Layer(64, 32, 4, 2),
    Layer(32, 32, 3, 1),
    Layer(32, 32, 4, 2),
    Layer(32, 3, 4, 2),
    Layer(3, 3, 4, 2),
)
# Rows of the decoder that differ from the print. The seventh follows a layer of 32 channels, so it cannot take 64.
# The last two would double the picture a sixth and a seventh time, against five halvings of the encoder.
CORRECTIONS = {6: Layer(32, 128, 4, 2), 11: Layer(32, 3, 3, 1), 12: Layer(3, 3, 3, 1)}
# Not printed: a padding of 1 makes the k4 s2 layers halve (or double) exactly and the k3 s1 layers keep the size;
# without it no picture comes back as large as it was. The k8 layers turn 8 x 8 into 1 x 1 and back.
PADDING = {3: 1, 4: 1, 8: 0}
PATCH_SIZE = 256  # five halvings to 8 x 8
LATENT_DIM = 500
SLOPE, MOMENTUM, EPSILON = 0.01, 0.1, 1e-6  # as published


class EncoderDecoder(nn.Module):
    """Ten convolutions from 256 x 256 to 1 x 1 x latent_dim, thirteen transposed ones back, a sigmoid.

    Each is followed by BatchNorm and a leaky rectifier; the encoding by BatchNorm only, the picture by the sigmoid
    only (what precedes the sigmoid is not published). No bias where BatchNorm follows, which would take it out.

    Args:
        patch_size: height and width of a patch: 256.
        positions: number of patches in the grid; all are treated alike.
        latent_dim: elements in the encoding of one patch, 500 as published.

    Raises:
        InputError: for another patch size, a value out of range, or (in training) a batch of one patch.

    >>> import torch
    >>> network = EncoderDecoder(patch_size=256, positions=1).eval()
    >>> out = network(torch.zeros(1, 3, 256, 256), torch.tensor([0]))
    >>> out.patches.shape, out.latent.shape
    (torch.Size([1, 3, 256, 256]), torch.Size([1, 500]))
    """

    def __init__(self, *, patch_size: int, positions: int, latent_dim: int = LATENT_DIM) -> None:
        super().__init__()
        at_least("positions", positions, 1)
        at_least("latent_dim", latent_dim, 1)
        if patch_size != PATCH_SIZE:
            raise InputError(
                f"patch size must be {PATCH_SIZE} for encoder_decoder (its five halvings have to end at the 8 x 8 of "
                f"its last kernel), got {patch_size}"
            )
        self.settings: dict[str, Any] = {
            "patch_size": patch_size,
            "positions": positions,
            "latent_dim": latent_dim,
        }
        encoder = [*ENCODER[:-1], ENCODER[-1]._replace(channels_out=latent_dim)]
        decoder = [CORRECTIONS.get(row, layer) for row, layer in enumerate(DECODER)]
        decoder[0] = decoder[0]._replace(channels_in=latent_dim)
        self.encoder = nn.Sequential(*(_block(nn.Conv2d, layer) for layer in encoder[:-1]))
        self.encoder.append(nn.Sequential(_convolution(nn.Conv2d, encoder[-1]), _batch_norm(latent_dim)))
        self.decoder = nn.Sequential(*(_block(nn.ConvTranspose2d, layer) for layer in decoder[:-1]))
        self.decoder.append(
            nn.Sequential(_convolution(nn.ConvTranspose2d, decoder[-1], bias=True), nn.Sigmoid())
        )

    def forward(self, patches: Tensor, index: Tensor) -> Reconstructed:
        """Reconstruct patches (P, 3, 256, 256), in [0, 1]; `index` (P,) is not looked at."""
        if self.training and len(patches) < 2:
            raise InputError(
                "model.batch_size must leave at least 2 patches in every training batch for encoder_decoder "
                "(BatchNorm over an encoding of 1 x 1), got 1"
            )
        encoding = self.encoder(patches)  # (P, latent_dim, 1, 1)
        return Reconstructed(self.decoder(encoding), encoding.flatten(1))

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        """L2 reconstruction."""
        reconstruction = l2(clean, self(patches, index).patches)
        return Loss(reconstruction, reconstruction)


Convolution = type[nn.Conv2d] | type[nn.ConvTranspose2d]


def _block(kind: Convolution, layer: Layer) -> nn.Sequential:
    return nn.Sequential(_convolution(kind, layer), _batch_norm(layer.channels_out), nn.LeakyReLU(SLOPE))


def _convolution(kind: Convolution, layer: Layer, *, bias: bool = False) -> nn.Conv2d | nn.ConvTranspose2d:
    return kind(*layer, padding=PADDING[layer.kernel], bias=bias)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=MOMENTUM, eps=EPSILON)
