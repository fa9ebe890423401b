"""How little a reconstruction resembles its picture, as one number: pure functions and a table of them.

Every one takes a picture and its reconstruction, both (1, 3, H, W) in [0, 1], and is higher the less alike they are;
0 for equal ones, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anomalib_lite.models.losses import ssim_loss, ssim_map
from anomalib_lite.types import InputError

if TYPE_CHECKING:
    from imagehash import ImageHash

HASH_SIZE = 8  # cells on a side of a hash, which so has the usual 64 bits


def l1(picture: Tensor, reconstruction: Tensor) -> float:
    """Mean absolute difference, 0..1.

    >>> l1(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5))
    0.5
    """
    return (picture - reconstruction).abs().mean().item()


def l2(picture: Tensor, reconstruction: Tensor) -> float:
    """Mean squared difference, 0..1.

    >>> l2(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5))
    0.25
    """
    return (picture - reconstruction).square().mean().item()


def ssim(picture: Tensor, reconstruction: Tensor) -> float:
    """1 - mean structural similarity, 0..2, of pictures of at least 11 x 11 pixels (InputError below that).

    As in training: `ssim_loss` names the window and the source.

    >>> round(ssim(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11)), 4)
    0.9999
    """
    return ssim_loss(picture, reconstruction).item()


def ssim_lowest(picture: Tensor, reconstruction: Tensor) -> float:
    """1 - the lowest local structural similarity (channel mean), 0..2: where the picture is least alike.

    For thin defects on a rough surface, whose texture alone decides the mean. Window and errors as `ssim`.

    >>> picture = torch.full((1, 3, 32, 32), 0.5)
    >>> scratched = picture.clone(); scratched[..., 16, 4:28] = 0
    >>> ssim_lowest(picture, scratched) > 4 * ssim(picture, scratched)
    True
    """
    return ssim_map(picture, reconstruction).mean(dim=1).max().item()


def average_hash(picture: Tensor, reconstruction: Tensor) -> float:
    """Share of differing bits, 0..1, of the average hash: is a cell of 8 x 8 brighter than their mean?

    >>> left = torch.zeros(1, 3, 16, 16); left[..., :8] = 1
    >>> average_hash(left, left), average_hash(left, 1 - left)
    (0.0, 1.0)
    """
    import imagehash

    return _differing(imagehash.average_hash, picture, reconstruction)


def difference_hash(picture: Tensor, reconstruction: Tensor) -> float:
    """Share of differing bits, 0..1, of the difference hash: is a cell brighter than its left neighbour?

    >>> ramp = torch.linspace(0, 1, 18).expand(1, 3, 16, 18)
    >>> difference_hash(ramp, ramp), difference_hash(ramp, 1 - ramp)
    (0.0, 1.0)
    """
    import imagehash

    return _differing(imagehash.dhash, picture, reconstruction)


def perceptual_hash(picture: Tensor, reconstruction: Tensor) -> float:
    """Share of differing bits, 0..1, of the perceptual hash: is a low frequency's cosine above the median?

    It keeps no contrast: of a surface without structure it compares the noise, and gives about 0.5.

    >>> picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> perceptual_hash(picture, picture), perceptual_hash(picture, 1 - picture) > 0.9
    (0.0, True)
    """
    import imagehash

    return _differing(imagehash.phash, picture, reconstruction)


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "l1": l1,
    "l2": l2,
    "ssim": ssim,
    "ssim_lowest": ssim_lowest,
    "average_hash": average_hash,
    "difference_hash": difference_hash,
    "perceptual_hash": perceptual_hash,
}


@dataclass(kw_only=True)
class Similarity:
    """One of SIMILARITIES by its name; raises InputError for any other.

    >>> Similarity(name="l1")(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
    1.0
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in SIMILARITIES:
            raise InputError(f"similarity.name must be one of {', '.join(SIMILARITIES)}, got {self.name}")

    def __call__(self, picture: Tensor, reconstruction: Tensor) -> float:
        """How little two (1, 3, H, W) in [0, 1] are alike, higher is more anomalous.

        Raises InputError for other shapes, and for values that are not finite: a hash would hide those.
        """
        if picture.ndim != 4 or picture.shape[:2] != (1, 3):
            raise InputError(f"similarity: the picture must be (1, 3, H, W), got {tuple(picture.shape)}")
        if reconstruction.shape != picture.shape:
            raise InputError(
                f"similarity: the reconstruction must have the picture's shape {tuple(picture.shape)}, "
                f"got {tuple(reconstruction.shape)}"
            )
        for place, tensor in (("picture", picture), ("reconstruction", reconstruction)):
            if not torch.isfinite(tensor).all():
                raise InputError(f"similarity: expected a finite {place}, got NaN or infinity")
        return SIMILARITIES[self.name](picture, reconstruction)


def _differing(hash_function: Callable[..., ImageHash], picture: Tensor, reconstruction: Tensor) -> float:
    one, other = (hash_function(_photograph(x), hash_size=HASH_SIZE) for x in (picture, reconstruction))
    return int(one - other) / HASH_SIZE**2  # the number of bits that differ


def _photograph(picture: Tensor) -> Image.Image:
    # a linear output may leave [0, 1], and a byte would wrap around there
    levels = picture[0].clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy()))  # (H, W, 3)
