"""Losses of the autoencoders: pure functions of tensors, each a mean unless it says otherwise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomalib_lite.types import InputError

SSIM_WINDOW = 11  # pixels on a side; what 3.5 standard deviations of the Gaussian need
SSIM_SIGMA = 1.5  # pixels; both as in Wang, Bovik, Sheikh, Simoncelli 2004


def l2(patches: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared difference of two tensors of one shape.

    >>> l2(torch.zeros(2, 3), torch.full((2, 3), 0.5))
    tensor(0.2500)
    """
    return torch.mean((patches - reconstruction) ** 2)


def l1_activity(activations: Tensor) -> Tensor:
    """Mean absolute activation of a hidden layer: what makes an autoencoder sparse.

    >>> l1_activity(torch.tensor([[1.0, -1.0], [4.0, 0.0]]))
    tensor(1.5000)
    """
    return activations.abs().mean()


def ssim_loss(clean: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - mean structural similarity of two (P, C, h, w) in [0, 1]: 0 for equal patches, at most 2.

    The window is Gaussian, 11 x 11 with sigma 1.5, and is centred on every pixel; the border is reflected, so that
    the network has to learn it as well. Rounding in float32 makes up to 0.003 of equal flat patches. Raises
    InputError for patches smaller than the window.
    Sources: Wang, Bovik, Sheikh, Simoncelli 2004; as a loss: Rojas, Morton, Perez, Andrade 2020.

    >>> ssim_loss(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11))
    tensor(0.9999)
    """
    return 1 - _ssim(clean, reconstruction)[0]


def ssim_map(clean: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - structural similarity at every pixel of two (P, C, h, w), of that shape; its mean is `ssim_loss`.

    >>> ssim_map(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11)).shape
    torch.Size([1, 3, 11, 11])
    """
    return 1 - _ssim(clean, reconstruction)[1]


def _ssim(clean: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """The mean similarity and the map (P, C, h, w) that it is the mean of."""
    height, width = clean.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise InputError(
            f"SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, its window, got {height} x {width}"
        )
    # here, not above: all of torchmetrics costs seconds, which predicting with another network need not pay
    from torchmetrics.functional.image import structural_similarity_index_measure

    # a variance is E[x^2] - E[x]^2 here: half precision would leave nothing of that of a smooth surface
    dtype = torch.promote_types(clean.dtype, torch.float32)
    with torch.autocast(clean.device.type, enabled=False):
        found = structural_similarity_index_measure(
            reconstruction.to(dtype),
            clean.to(dtype),
            gaussian_kernel=True,
            sigma=SSIM_SIGMA,
            kernel_size=SSIM_WINDOW,
            data_range=1.0,
            return_full_image=True,
        )
    assert isinstance(found, tuple)  # a tensor only where no map is asked for
    return found


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of N(mean, exp(log_variance)) from N(0, 1) in nats, at least 0, for two (P, ...) of one shape.

    Summed over a patch's latent elements, mean over the patches. Source: Kingma & Welling 2014, appendix B.

    >>> kl_divergence(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.zeros(2, 2))
    tensor(0.5000)
    """
    # exp(v) - 1 - v, but with the digits kept that a posterior close to the prior leaves
    elements = 0.5 * (mean**2 + torch.expm1(log_variance) - log_variance)
    return elements.flatten(1).sum(dim=1).mean()


def gaussian_nll(patches: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Negative log density of `patches` under N(mean, exp(log_variance)), in nats, an element each.

    All are (P, C, h, w), and so is the result, which is not reduced; below 0 where the density is above 1.

    >>> gaussian_nll(torch.zeros(1), torch.ones(1), torch.zeros(1))
    tensor([1.4189])
    """
    return 0.5 * (math.log(2 * math.pi) + log_variance + (patches - mean) ** 2 * torch.exp(-log_variance))
