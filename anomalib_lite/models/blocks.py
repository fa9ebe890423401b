"""Convolutional blocks that the autoencoders are built from."""

from __future__ import annotations

from torch import nn

SLOPE = 0.2  # of the leaky rectifiers


def down(channels_in: int, channels_out: int, *, normalise: bool) -> nn.Sequential:
    """Strided convolution that halves height and width: (P, Cin, h, w) -> (P, Cout, h/2, w/2).

    >>> import torch
    >>> down(3, 8, normalise=False)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 8, 16, 16])
    """
    return _block(nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1, bias=not normalise), normalise)


def up(channels_in: int, channels_out: int, *, normalise: bool) -> nn.Sequential:
    """Transposed strided convolution that doubles height and width: (P, Cin, h, w) -> (P, Cout, 2h, 2w).

    >>> import torch
    >>> up(8, 3, normalise=True)(torch.zeros(2, 8, 16, 16)).shape
    torch.Size([2, 3, 32, 32])
    """
    return _block(
        nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=not normalise), normalise
    )


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d, normalise: bool) -> nn.Sequential:
    layers: list[nn.Module] = [convolution]
    if normalise:
        layers.append(nn.BatchNorm2d(convolution.out_channels))
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE))
