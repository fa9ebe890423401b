"""How an autoencoder errs near anomalies and over the whole picture: by these a size of its encoding is chosen."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_lite.models.reconstruction import Mapped, PatchAutoencoder

# pixels of the network's picture: about as far as a defect leaks into what is reconstructed beside it
MARGIN = 2


class ReconstructionError:
    """Takes pictures with an anomaly one by one and holds three numbers of each.

    All are of the picture as the network sees it, (h, w), the squared error averaged over its channels:

    - total: the mean over the whole picture, the anomaly included;
    - vicinity: the mean over the anomaly's vicinity, see `vicinity`;
    - ratio: vicinity / total of the same picture: 1 where the anomaly is reconstructed like all the rest, and
      high where the network gives back what is normal and nothing else.

    Each is averaged over pictures, its standard error is that over pictures; several drawn copies of one part
    count as several. The study (Mandich, an autoencoder on a conveyor belt) takes the size of the encoding
    with the highest ratio, not the one with the lowest error: an encoding that is large enough copies anything.

    Args:
        source: where the anomalies come from. A size may be chosen by "drawn defects" on validation normals; what
            "masks" of test pictures say may only be shown.

    >>> picture = torch.zeros(1, 3, 16, 16)
    >>> picture[..., 8, 8] = 0.5
    >>> mapped = Mapped(picture, picture, low_image=picture, low_reconstruction=torch.zeros(1, 3, 16, 16))
    >>> found = ReconstructionError("masks")
    >>> found.add(mapped, picture[0, 0].numpy() > 0)
    >>> found.figures()["ratio"], 16 * 16 / (1 + 2 * MARGIN) ** 2
    (10.24, 10.24)
    """

    def __init__(self, source: Literal["drawn defects", "masks"]) -> None:
        self.source = source
        self._totals: list[float] = []
        self._vicinities: list[float] = []

    def add(self, mapped: Mapped, mask: np.ndarray) -> None:
        """One picture, and where its anomaly lies: bool (H, W) on the registered picture.

        A picture without an anomaly has no vicinity, and a model that doesn't reconstruct has no error: neither counts.
        """
        if mapped.low_image is None or mapped.low_reconstruction is None or not mask.any():
            return
        # float64: the figures of two sizes of the encoding may differ little
        squared = (mapped.low_image.double() - mapped.low_reconstruction.double()).square().mean(dim=1)
        assert len(squared) == 1  # one picture (1, h, w): a mean over two would hide which one erred
        near = vicinity(mask, (squared.shape[-2], squared.shape[-1])).to(squared.device)
        self._totals.append(float(squared.mean()))
        self._vicinities.append(float(squared[0][near].mean()))

    def figures(self) -> dict[str, Any] | None:
        """Means and standard errors, the number of pictures and their source; None without a picture.

        A standard error is None for one picture; the ratio leaves out pictures without any error, and is None where
        none is left.
        """
        if not self._totals:
            return None
        pairs = zip(self._vicinities, self._totals, strict=True)
        ratios = [near / total for near, total in pairs if total > 0]
        found: dict[str, Any] = {}
        for name, values in (("total", self._totals), ("vicinity", self._vicinities), ("ratio", ratios)):
            found[name], found[f"{name}_se"] = mean_and_error(values)
        return found | {"count": len(self._totals), "from": self.source}


def vicinity(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Where the network's picture, `size` (h, w), shows an anomaly or lies at most MARGIN pixels beside it.

    `mask` is bool (H, W); every pixel (h, w) that it touches counts, so that a thin defect doesn't vanish. The margin
    is square: corners count. Returns bool (h, w).

    >>> mask = np.zeros((80, 80), bool)
    >>> mask[40, 40] = True
    >>> vicinity(mask, (20, 20)).sum()
    tensor(25)
    """
    touched = F.adaptive_max_pool2d(torch.from_numpy(mask.astype(np.float32))[None, None], size)
    return F.max_pool2d(touched, 2 * MARGIN + 1, stride=1, padding=MARGIN)[0, 0] > 0


def mean_and_error(values: list[float]) -> tuple[float | None, float | None]:
    """Mean of n numbers and its standard error; None where there are too few for it.

    >>> mean_and_error([1.0, 3.0]), mean_and_error([2.0]), mean_and_error([])
    ((2.0, 1.0), (2.0, None), (None, None))
    """
    if not values:
        return None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), error


@torch.inference_mode()
def encoding_elements(autoencoder: PatchAutoencoder) -> int:
    """The number of elements in the encoding of one patch.

    The network is asked, for a convolutional one's encoding grows with the patch.

    >>> from anomalib_lite.data.patches import PatchGrid
    >>> from anomalib_lite.models.cae import CAE
    >>> network = CAE(patch_size=32, positions=1, depth=3, filters=20, widths=[4, 8])
    >>> encoding_elements(PatchAutoencoder(network=network, grid=PatchGrid(size=32, stride=32), downsize=(32, 32)))
    320
    """
    network, size = autoencoder.network, autoencoder.grid.size
    training = network.training
    network.eval()  # a look must not change the statistics of a BatchNorm, nor draw from a generator
    device = next(network.parameters()).device
    patch = torch.zeros((1, 3, size, size), device=device)
    latent: Tensor = network(patch, torch.zeros(1, dtype=torch.int64, device=device)).latent
    network.train(training)
    return latent.shape[1]
