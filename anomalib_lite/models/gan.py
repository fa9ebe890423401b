"""GAN: an adversarial autoencoder of patches after GANomaly, scored by its reconstruction.

Akcay, Atapour-Abarghouei, Breckon, "GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training", ACCV 2018,
doi 10.1007/978-3-030-20893-6_39; Saeedi & Giusti, VISAPP 2022, name it as a next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from anomalib_lite.models.blocks import SLOPE, at_least, check_widths, down, halved, up
from anomalib_lite.models.condition import Condition
from anomalib_lite.models.losses import l2
from anomalib_lite.models.network import Loss, Reconstructed


class GAN(nn.Module):
    """Encoder, decoder and second encoder of GANomaly, told the patch's place, against a discriminator that is not.

    The generator minimises

        contextual_weight * mean |x - G(x)| + encoding_weight * mean (E(x) - E'(G(x)))^2
            + adversarial_weight * mean (f(x) - f(G(x)))^2

    where E is the encoder, G(x) the decoded E(x), E' the second encoder, and f the discriminator's last feature map,
    averaged over the batch (feature matching, Salimans et al. 2016). The discriminator minimises the binary
    cross-entropy of telling x from G(x). Both learn in one step, by one optimiser, neither through the other's loss.

    What is GANomaly's here is the training. Its own score, the distance of the two encodings, says how odd a patch is
    but not where; `scoring=map` compares pixels instead, so that its published figures are no promise for this
    network. E' and the discriminator only teach, and are not run in prediction. Other differences: patches and their
    condition; dense layers round the latent vector, and a linear output, as in the CPCAE; no BatchNorm in the
    discriminator, whose statistics the generator's pass would disturb; the two learn at once, not in turns; and
    pictures in [0, 1], in which |x - G(x)| is half of what it is in the published [-1, 1].

    Args:
        patch_size: height and width of a patch; a multiple of 2 ** len(widths).
        widths: channels of each strided convolution, of the encoders and of the discriminator.
        dense: units of the dense layer between the convolutions and the latent layer.
        latent_dim: elements in the encoding of one patch.
        condition: `index` (index / number of patches), `one_hot`, or `none`.
        positions: number of patches in the grid, N.
        contextual_weight: of the L1 distance of the patches; published: 50.
        encoding_weight: of the L2 distance of the encodings; published: 1.
        adversarial_weight: of the feature matching; published: 1.
        normalise: BatchNorm after each convolution of the generator.

    Raises:
        InputError: for a patch size that does not halve evenly, an unknown condition, or a value out of range.

    >>> network = GAN(patch_size=32, widths=(8, 16), dense=32, latent_dim=4, condition="index", positions=9,
    ...     contextual_weight=50, encoding_weight=1, adversarial_weight=1)
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
        contextual_weight: float,
        encoding_weight: float,
        adversarial_weight: float,
        normalise: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.conditions = Condition(condition, positions)
        check_widths("widths", widths)
        at_least("dense", dense, 1)
        at_least("latent_dim", latent_dim, 1)
        at_least("contextual_weight", contextual_weight, 0)
        at_least("encoding_weight", encoding_weight, 0)
        at_least("adversarial_weight", adversarial_weight, 0)
        side = halved(patch_size, len(widths), f"model.widths={list(widths)}")
        self.settings: dict[str, Any] = {
            "patch_size": patch_size,
            "widths": list(widths),
            "dense": dense,
            "latent_dim": latent_dim,
            "condition": condition,
            "positions": positions,
            "contextual_weight": contextual_weight,
            "encoding_weight": encoding_weight,
            "adversarial_weight": adversarial_weight,
            "normalise": normalise,
            "channels": channels,
        }
        self.contextual_weight, self.encoding_weight = contextual_weight, encoding_weight
        self.adversarial_weight = adversarial_weight
        steps = list(zip([channels, *widths], widths, strict=False))
        flat = widths[-1] * side * side

        def encoder() -> Encoder:
            convolutions = nn.Sequential(*(down(i, o, normalise=normalise) for i, o in steps))
            return Encoder(convolutions, _dense(flat + self.conditions.width, dense, latent_dim))

        self.encoder = encoder()
        self.from_latent = nn.Sequential(
            *_dense(latent_dim + self.conditions.width, dense, flat), nn.LeakyReLU(SLOPE)
        )
        self.unflatten = nn.Unflatten(1, (widths[-1], side, side))
        self.decoder = nn.Sequential(
            *(up(o, i, normalise=normalise) for i, o in reversed(steps[1:])),
            nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1),
        )
        self.second_encoder = encoder()
        self.discriminator = Discriminator(
            nn.Sequential(*(down(i, o, normalise=False) for i, o in steps)), nn.Linear(flat, 1)
        )

    def decode(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Patches (P, C, h, w) from latent vectors (P, latent_dim) and condition vectors (P, width)."""
        return self.decoder(self.unflatten(self.from_latent(torch.cat([latent, condition], dim=1))))

    def forward(self, patches: Tensor, index: Tensor) -> Reconstructed:
        """Reconstruct patches (P, C, h, w) whose places in the grid are `index` (P,) int64; `latent` is the first."""
        condition = self.conditions(index)
        latent = self.encoder(patches, condition)
        return Reconstructed(self.decode(latent, condition), latent)

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        """The generator's loss + the discriminator's; each reaches its own parameters alone, see above."""
        out = self(patches, index)
        encoded_again = self.second_encoder(out.patches, self.conditions(index))
        real, real_logits = self.discriminator(clean)
        _, fake_logits = self.discriminator(out.patches.detach())
        # the same weights as constants: the generator looks through the discriminator without teaching it
        constants = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        fake, _ = functional_call(self.discriminator, constants, (out.patches,))
        generator = (
            self.contextual_weight * F.l1_loss(out.patches, clean)
            + self.encoding_weight * l2(out.latent, encoded_again)
            + self.adversarial_weight * l2(real.detach().mean(dim=0), fake.mean(dim=0))
        )
        discriminator = adversary_loss(real_logits, fake_logits)
        return Loss(generator + discriminator, l2(clean, out.patches))


class Encoder(nn.Module):
    """Convolutions, then dense layers that are told the patch's place."""

    def __init__(self, convolutions: nn.Module, to_latent: nn.Module) -> None:
        super().__init__()
        self.convolutions, self.to_latent = convolutions, to_latent

    def forward(self, patches: Tensor, condition: Tensor) -> Tensor:
        """Latent vectors (P, L) of patches (P, C, h, w) with condition vectors (P, width)."""
        return self.to_latent(torch.cat([self.convolutions(patches).flatten(1), condition], dim=1))


class Discriminator(nn.Module):
    """Tells photographed patches from generated ones."""

    def __init__(self, features: nn.Module, to_logit: nn.Module) -> None:
        super().__init__()
        self.features, self.to_logit = features, to_logit

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map (P, F, s, s) and logit (P, 1), above 0 for photographed, of patches (P, C, h, w)."""
        features = self.features(patches)
        return features, self.to_logit(features.flatten(1))


def adversary_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy in nats of calling the first (P, 1) photographed and the second generated; their mean.

    >>> adversary_loss(torch.zeros(2, 1), torch.zeros(2, 1))  # a guess: ln 2
    tensor(0.6931)
    """
    real = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
    fake = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
    return (real + fake) / 2


def _dense(elements_in: int, hidden: int, elements_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(elements_in, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, elements_out))
