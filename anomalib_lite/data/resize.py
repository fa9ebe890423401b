"""The one antialiased resize used in training, prediction and exports."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_lite.data.resize_array import axis_weights


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) to (B, C, *size), antialiased bilinear; the same tensor if nothing changes.

    >>> import torch
    >>> resize(torch.ones(1, 3, 8, 6), (4, 3)).shape
    torch.Size([1, 3, 4, 3])
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if torch.compiler.is_exporting():
        return _in_plain_operations(image, size)
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def _in_plain_operations(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The same by matrix products: what runs exported graphs leaves the antialiasing out, or does it otherwise."""
    height, width = image.shape[-2:]
    if size[0] < height:
        image = torch.matmul(torch.from_numpy(axis_weights(height, size[0])), image)
    if size[1] < width:
        image = torch.matmul(image, torch.from_numpy(axis_weights(width, size[1]).T.copy()))
    if tuple(image.shape[-2:]) != tuple(size):  # nothing to antialias where it is enlarged
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    return image
