"""The one antialiased resize used in training, prediction and exports."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) to (B, C, *size), antialiased bilinear; the same tensor if nothing changes.

    >>> import torch
    >>> resize(torch.ones(1, 3, 8, 6), (4, 3)).shape
    torch.Size([1, 3, 4, 3])
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def fit_long_side(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """The (height, width) with `size`'s aspect whose longer side is `long_side` pixels; None: as it is.

    Smaller pictures are enlarged, so that a part fills the same view whatever the camera.

    >>> fit_long_side((1200, 1600), 512)
    (384, 512)
    >>> fit_long_side((30, 40), 80)
    (60, 80)
    """
    height, width = size
    if long_side is None:
        return height, width
    scale = long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
