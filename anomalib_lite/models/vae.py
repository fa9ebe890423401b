"""VAE: the CPCAE with a distribution for an encoding, and a probability for every pixel.

Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014; score: An & Cho, "Variational Autoencoder based
Anomaly Detection using Reconstruction Probability", SNU Data Mining Center, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomalib_lite.models.blocks import SLOPE, at_least, check_widths, down, halved, up
from anomalib_lite.models.condition import Condition
from anomalib_lite.models.losses import gaussian_nll, kl_divergence, l2
from anomalib_lite.models.network import Loss, Reconstructed
from anomalib_lite.types import InputError

LOWEST_LOG_VARIANCE = 2 * math.log(1 / 255)  # no pixel is known better than to one grey level
HIGHEST_LOG_VARIANCE = 2 * math.log(1 / 2)  # nothing that lies in [0, 1] spreads wider


class VAE(nn.Module):
    """Strided convolutions to a normal distribution over the latent space and back, told the patch's place.

    Training decodes a sample of the distribution, evaluation its mean. The condition is concatenated twice, as in
    the CPCAE: with the flattened feature map, and with the latent vector.

    `kl_weight` fixes the decoder's noise. With one standard deviation s for all D = C * h * w elements, the
    negative evidence bound of a patch is sum (x - r)^2 / (2 s^2) + KL + constant; times 2 s^2 / D it is

        mean squared error + kl_weight * KL / D,    kl_weight = 2 s^2

    so that 0.002 stands for s = 0.032 (8 grey levels), and reconstruction and KL keep their balance for any patch
    size. The best weight is twice the mean squared error that is reached (Rybkin, Daniilidis, Levine 2021).

    A second head gives the decoder's log variance of every element, for `improbability`. It sees mean and features
    detached, hence learns nothing but its own weights: the mean is exactly that of a network without it (Stirn et
    al., "Faithful Heteroscedastic Regression with Neural Networks", AISTATS 2023).

    Args:
        patch_size: height and width of a patch; a multiple of 2 ** len(widths).
        widths: channels of each strided convolution.
        dense: units of the dense layer between the convolutions and the latent layer.
        latent_dim: elements in the encoding of one patch.
        condition: `index` (index / number of patches), `one_hot`, or `none`.
        positions: number of patches in the grid, N.
        kl_weight: see above.
        kl_warmup: share of the training, 0..1, over which the weight grows linearly from 0.
        normalise: BatchNorm after each convolution.

    Raises:
        InputError: for a patch size that does not halve evenly, an unknown condition, or a value out of range.

    >>> network = VAE(patch_size=32, widths=(8, 16), dense=32, latent_dim=4, condition="index", positions=9,
    ...     kl_weight=0.002, kl_warmup=0.2).eval()
    >>> network(torch.zeros(5, 3, 32, 32), torch.tensor([0, 1, 2, 3, 8])).latent.shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        *,
        patch_size: int,
        widths: Sequence[int],
        dense: int,
        latent_dim: int,
        condition: Literal["index", "one_hot", "none"],
        positions: int,
        kl_weight: float,
        kl_warmup: float,
        normalise: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.conditions = Condition(condition, positions)
        check_widths("widths", widths)
        at_least("dense", dense, 1)
        at_least("latent_dim", latent_dim, 1)
        at_least("kl_weight", kl_weight, 0)
        if not 0 <= kl_warmup <= 1:
            raise InputError(f"model.kl_warmup must be a share of the training, 0..1, got {kl_warmup}")
        side = halved(patch_size, len(widths), f"model.widths={list(widths)}")
        self.settings: dict[str, Any] = {
            "patch_size": patch_size,
            "widths": list(widths),
            "dense": dense,
            "latent_dim": latent_dim,
            "condition": condition,
            "positions": positions,
            "kl_weight": kl_weight,
            "kl_warmup": kl_warmup,
            "normalise": normalise,
            "channels": channels,
        }
        self.kl_weight, self.kl_warmup = kl_weight, kl_warmup
        steps = list(zip([channels, *widths], widths, strict=False))
        self.encoder = nn.Sequential(*(down(i, o, normalise=normalise) for i, o in steps))
        flat = widths[-1] * side * side
        self.to_latent = nn.Sequential(
            nn.Linear(flat + self.conditions.width, dense),
            nn.LeakyReLU(SLOPE),
            nn.Linear(dense, 2 * latent_dim),
        )
        self.from_latent = nn.Sequential(
            nn.Linear(latent_dim + self.conditions.width, dense),
            nn.LeakyReLU(SLOPE),
            nn.Linear(dense, flat),
            nn.LeakyReLU(SLOPE),
        )
        self.unflatten = nn.Unflatten(1, (widths[-1], side, side))
        self.decoder = nn.Sequential(*(up(o, i, normalise=normalise) for i, o in reversed(steps[1:])))
        self.to_mean = nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1)
        # a rectifier more than the mean has: a spread is large at edges of either sign
        self.to_variance = nn.Sequential(
            nn.Conv2d(widths[0], widths[0], 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1),
        )

    def encode(self, patches: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (P, latent_dim), of the encodings of patches (P, C, h, w)."""
        features = self.encoder(patches).flatten(1)
        mean, log_variance = self.to_latent(torch.cat([features, self.conditions(index)], dim=1)).chunk(
            2, dim=1
        )
        return mean, log_variance

    def decode(self, latent: Tensor, index: Tensor) -> Tensor:
        """Features (P, widths[0], h/2, w/2) from latent vectors (P, latent_dim); two heads read them."""
        features = self.from_latent(torch.cat([latent, self.conditions(index)], dim=1))
        return self.decoder(self.unflatten(features))

    def log_variance(self, features: Tensor) -> Tensor:
        """The decoder's log variance (P, C, h, w), between LOWEST_ and HIGHEST_LOG_VARIANCE; teaches nothing else."""
        share = torch.sigmoid(self.to_variance(features.detach()))
        return LOWEST_LOG_VARIANCE + (HIGHEST_LOG_VARIANCE - LOWEST_LOG_VARIANCE) * share

    def forward(self, patches: Tensor, index: Tensor) -> Reconstructed:
        """Reconstruct patches (P, C, h, w) whose places in the grid are `index` (P,) int64; `latent` is the mean."""
        mean, log_variance = self.encode(patches, index)
        return Reconstructed(self.to_mean(self.decode(self._draw(mean, log_variance), index)), mean)

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        """L2 reconstruction + kl_weight x KL / number of elements + the likelihood that trains the variance."""
        mean, log_variance = self.encode(patches, index)
        features = self.decode(self._draw(mean, log_variance), index)
        reconstructed = self.to_mean(features)
        reconstruction = l2(clean, reconstructed)
        warm = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        kl = kl_divergence(mean, log_variance) / clean[0].numel()
        likelihood = gaussian_nll(clean, reconstructed.detach(), self.log_variance(features)).mean()
        return Loss(reconstruction + warm * self.kl_weight * kl + likelihood, reconstruction)

    @torch.no_grad()
    def improbability(self, patches: Tensor, index: Tensor, *, noise: Tensor) -> Tensor:
        """How improbable each element (P, C, h, w) of the patches is: the mean over S encodings of each patch.

        The encodings are mean + standard deviation * `noise`, whose rows (S, latent_dim) are drawn from N(0, 1): one
        noise for all patches, so that a patch's value does not depend on its batch. It is the negative log
        likelihood, in nats, above that of the most certain pixel possible: never below 0. Source: An & Cho 2015,
        algorithm 4, kept an element each instead of summed.

        Raises:
            ValueError: for noise of another shape, or none.
        """
        latent_dim = self.settings["latent_dim"]
        if noise.ndim != 2 or noise.shape[1] != latent_dim or not len(noise):
            raise ValueError(f"noise must be (samples, {latent_dim}), got {tuple(noise.shape)}")
        mean, log_variance = self.encode(patches, index)
        deviation = torch.exp(0.5 * log_variance)
        total = torch.zeros_like(patches)
        for sample in noise:  # one at a time: all S reconstructions at once may not fit
            features = self.decode(mean + deviation * sample, index)
            total += gaussian_nll(patches, self.to_mean(features), self.log_variance(features))
        zero = total.new_zeros(())
        best = gaussian_nll(zero, zero, zero + LOWEST_LOG_VARIANCE)
        return (total / len(noise) - best).clamp(min=0)  # clamp: rounding

    def _draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        if not self.training:
            return mean
        # from torch's own generator, as dropout would be
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
