"""Augmentation for training: patches rotated, mirrored, made brighter or darker, and noisy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from anomalib_lite.types import InputError


@dataclass(kw_only=True)
class Augmentation:
    """Random changes of patches, drawn for each patch anew; all zero and false changes nothing.

    Where parts are registered, rotation and flips would show the network poses that it will never meet. Raises
    InputError for a setting out of range.

    >>> augmentation = Augmentation(rotation=10, flips=True, noise=0.02, brightness=0.1)
    >>> patches = torch.rand(4, 3, 16, 16)
    >>> first, again = (augmentation(patches, torch.Generator().manual_seed(0)) for _ in range(2))
    >>> torch.equal(first, again), first.shape
    (True, torch.Size([4, 3, 16, 16]))
    """

    rotation: float = 0.0  # at most so many degrees, either way
    flips: bool = False  # left and right, up and down
    noise: float = 0.0  # standard deviation, values in [0, 1]
    brightness: float = 0.0  # share by which it may rise or fall

    def __post_init__(self) -> None:
        for name, highest in (("rotation", 180), ("noise", 1), ("brightness", 1)):
            if not 0 <= getattr(self, name) <= highest:
                raise InputError(f"augmentation.{name} must be in [0, {highest}], got {getattr(self, name)}")

    @property
    def active(self) -> bool:
        """Whether anything changes."""
        return bool(self.rotation or self.flips or self.noise or self.brightness)

    def __call__(self, patches: Tensor, generator: torch.Generator) -> Tensor:
        """Change patches (P, C, h, w) in [0, 1]; they stay in [0, 1]."""
        count, device = len(patches), generator.device

        def uniform(limit: float) -> Tensor:
            return (2 * torch.rand(count, generator=generator, device=device) - 1) * limit

        if self.rotation and count:
            angles = uniform(self.rotation).tolist()
            patches = torch.stack(
                [_rotated(patch, angle) for patch, angle in zip(patches, angles, strict=True)]
            )
        if self.flips:
            for flip in (functional.horizontal_flip, functional.vertical_flip):
                flipped = uniform(1.0).to(patches.device) > 0
                patches = torch.where(flipped[:, None, None, None], flip(patches), patches)
        if self.brightness and count:
            factors = (1 + uniform(self.brightness)).tolist()
            patches = torch.stack(
                [
                    functional.adjust_brightness(patch, factor)
                    for patch, factor in zip(patches, factors, strict=True)
                ]
            )
        if self.noise:
            # not functional.gaussian_noise, which draws from the global generator
            noise = torch.randn(patches.shape, generator=generator, device=device, dtype=patches.dtype)
            patches = (patches + self.noise * noise.to(patches.device)).clamp(0, 1)
        return patches


def _rotated(patch: Tensor, angle: float) -> Tensor:
    """(C, h, w) turned about its centre; what comes in at the corners is mirrored."""
    height, width = patch.shape[-2:]
    turn = math.radians(angle)
    cosine, sine = abs(math.cos(turn)), abs(math.sin(turn))
    missing = [
        (cosine * width + sine * height - width) / 2 + 1,
        (sine * width + cosine * height - height) / 2 + 1,
    ]
    # mirroring reaches no further than the patch does
    pad = [
        min(max(math.ceil(side), 0), size - 1) for side, size in zip(missing, (width, height), strict=True)
    ]
    padded = functional.pad(patch, pad, padding_mode="reflect")
    turned = functional.rotate(padded, angle, interpolation=InterpolationMode.BILINEAR)
    return turned[..., pad[1] : pad[1] + height, pad[0] : pad[0] + width]
