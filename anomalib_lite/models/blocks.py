"""Convolutional blocks that the autoencoders are built from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from anomalib_lite.types import InputError

SLOPE = 0.2  # of the leaky rectifiers


def at_least(key: str, value: float, least: float) -> None:
    """Raise InputError if the setting `model.<key>` is below `least`, or a fraction where that is 1: a count.

    >>> at_least("depth", 0, 1)
    Traceback (most recent call last):
    anomalib_lite.types.InputError: model.depth must be at least 1, got 0
    """
    if not isinstance(value, int if least == 1 else int | float) or value < least:
        whole = " and whole" if isinstance(value, float) and value >= least else ""
        raise InputError(f"model.{key} must be at least {least}{whole}, got {value}")


def check_widths(key: str, widths: Sequence[int]) -> None:
    """Raise InputError if the setting `model.<key>` is not one positive number of channels or more.

    >>> check_widths("widths", [16, 0])
    Traceback (most recent call last):
    anomalib_lite.types.InputError: model.widths must be numbers of at least 1, one or more, got [16, 0]
    """
    several = isinstance(widths, Sequence) and not isinstance(widths, str)
    if not several or not widths or not all(isinstance(width, int) and width >= 1 for width in widths):
        found = list(widths) if several else widths
        raise InputError(f"model.{key} must be numbers of at least 1, one or more, got {found}")


def halved(patch_size: int, halvings: int, setting: str) -> int:
    """Side of the map that `halvings` strided convolutions make of a patch of `patch_size` pixels.

    Raises InputError, naming the `setting` that asks for the halvings, if it is no whole number.

    >>> halved(192, 4, "model.depth=4")
    12
    """
    if patch_size < 1 or patch_size % 2**halvings:
        raise InputError(
            f"patch size must be a multiple of {2**halvings} for {halvings} strided convolutions ({setting}), "
            f"got {patch_size}"
        )
    return patch_size // 2**halvings


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
