"""What every patch autoencoder shares: the way from a picture to its error, and the training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from anomalib_lite.data.augmentation import Augmentation
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.resize import resize
from anomalib_lite.models.cae import CAE
from anomalib_lite.models.cpcae import CPCAE
from anomalib_lite.models.dilated import Dilated
from anomalib_lite.models.encoder_decoder import EncoderDecoder
from anomalib_lite.models.gan import GAN
from anomalib_lite.models.network import Loss
from anomalib_lite.models.vae import VAE
from anomalib_lite.scoring.anomaly_map import absolute_error
from anomalib_lite.types import InputError

# a bundle names its network; nothing else can be built from one
NETWORKS: dict[str, Any] = {
    "cpcae": CPCAE,
    "vae": VAE,
    "cae": CAE,
    "dilated": Dilated,
    "encoder_decoder": EncoderDecoder,
    "gan": GAN,
}
NOISE_SEED = 0  # of the latent samples: a score must not depend on chance
TRAINING, VALIDATION = 0, 1  # streams of random numbers


class Mapped(NamedTuple):
    """What a model makes of full-size pictures (B, 3, H, W)."""

    error: Tensor  # (B, 3, H, W) >= 0, at full size: what the embedding looks at
    low_error: (
        Tensor  # (B, 3, h, w) >= 0, at the model's own resolution: no blame for detail that it never saw
    )
    reconstruction: Tensor | None = None  # (B, 3, H, W) in [0, 1]
    latent: Tensor | None = None  # (B, L)
    low_image: Tensor | None = None  # (B, 3, h, w), what the model saw
    low_reconstruction: Tensor | None = None  # (B, 3, h, w) in [0, 1]
    predicted_error: Tensor | None = None  # (B, 1, h, w) >= 0, where the network knows that it errs


class PatchAutoencoder(nn.Module):
    """Downsizes a picture, reconstructs its patches, and compares at full size (VISAPP 2022, figure 2).

    Args:
        network: one of NETWORKS, see `models.network.Network`.
        grid: the patches of one picture.
        downsize: (h, w) of the picture that the network sees.
    """

    name = "autoencoder"

    def __init__(self, *, network: Any, grid: PatchGrid, downsize: tuple[int, int]) -> None:
        super().__init__()
        self.network: Any = network  # a Network, and an nn.Module
        self.grid, self.downsize = grid, downsize
        self.samples = (
            0  # of the latent, for the reconstruction probability; 0: the error is |image - reconstruction|
        )

    @property
    def network_name(self) -> str:
        """The network's name in NETWORKS."""
        return next(name for name, network in NETWORKS.items() if type(self.network) is network)

    def use_probability(self, samples: int) -> None:
        """From now on `low_error` is the improbability of each pixel instead of its difference (An & Cho 2015).

        Raises:
            InputError: for a network that gives no probability.
        """
        if not isinstance(self.network, VAE):
            raise InputError(
                f"scoring=reconstruction_probability needs a network with a probability (vae), "
                f"got {self.network_name}"
            )
        self.samples = samples
        generator = torch.Generator().manual_seed(NOISE_SEED)  # on the processor: the same on every device
        self._noise = torch.randn((samples, self.network.settings["latent_dim"]), generator=generator)

    @torch.inference_mode()
    def predicts_error(self) -> bool:
        """Whether the network says where it expects to err."""
        training = self.network.training
        self.network.eval()  # a look must not change the statistics of a BatchNorm
        patch = torch.zeros((1, 3, self.grid.size, self.grid.size))
        out = self.network(patch, torch.zeros(1, dtype=torch.int64))
        self.network.train(training)
        return out.predicted_error is not None

    def learn(self, train_normals: Iterable[Tensor]) -> Self:
        """Nothing: the network was trained by Lightning."""
        return self

    def map(self, image: Tensor) -> Mapped:
        """Errors |image - reconstruction|, reconstruction and latent vectors of pictures (B, 3, H, W)."""
        return self.compare(image, self.reconstruct(image))

    @torch.inference_mode()
    def reconstruct(self, image: Tensor) -> dict[str, Tensor]:
        """All that the network makes of pictures (B, 3, H, W), at its own resolution; `compare` goes on from there.

        `reconstruction` (B, 3, h, w) in [0, 1] and `latent` (B, L); `predicted_error` (B, 1, h, w) and `improbability`
        (B, 3, h, w) of networks that give them.
        """
        patches = self.grid.extract(resize(image, self.downsize))  # (B, N, 3, p, p)
        batch, count = patches.shape[:2]
        index = torch.arange(count, device=image.device).repeat(batch)
        patches = patches.flatten(0, 1)  # (B*N, 3, p, p)

        def combine(of_patches: Tensor) -> Tensor:
            return self.grid.combine(of_patches.unflatten(0, (batch, count)), self.downsize)

        out = self.network(patches, index)
        found = {
            "reconstruction": combine(out.patches).clamp(0, 1),
            "latent": out.latent.reshape(batch, -1),
        }
        if out.predicted_error is not None:
            found["predicted_error"] = combine(out.predicted_error)
        if self.samples:
            found["improbability"] = combine(self._improbability(patches, index))
        return found

    @torch.inference_mode()
    def compare(self, image: Tensor, found: dict[str, Tensor]) -> Mapped:
        """The errors of pictures (B, 3, H, W), from what `reconstruct` has found in them."""
        small, combined = resize(image, self.downsize), found["reconstruction"]  # (B, 3, h, w)
        reconstruction = resize(combined, (image.shape[-2], image.shape[-1]))
        return Mapped(
            error=absolute_error(image, reconstruction),
            low_error=found["improbability"] if self.samples else absolute_error(small, combined),
            reconstruction=reconstruction,
            latent=found["latent"],
            low_image=small,
            low_reconstruction=combined,
            predicted_error=found.get("predicted_error"),
        )

    def _improbability(self, patches: Tensor, index: Tensor) -> Tensor:
        assert isinstance(self.network, VAE)
        return self.network.improbability(patches, index, noise=self._noise.to(patches.device))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and settings that a bundle keeps."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.network.state_dict().items()}
        return arrays, {
            "network": self.network_name,
            "network_settings": self.network.settings,
            "grid": {"size": self.grid.size, "stride": self.grid.stride},
            "downsize": list(self.downsize),
        }

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """The autoencoder that `state` describes.

        Raises:
            InputError: for a network that is not in the table, or tensors that do not fit it.
        """
        if settings["network"] not in NETWORKS:
            raise InputError(
                f"bundle: network must be one of {', '.join(NETWORKS)}, got {settings['network']!r}"
            )
        with torch.device("meta"):  # takes no memory: settings may ask for any
            network = NETWORKS[settings["network"]](**settings["network_settings"])
        try:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            network.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"bundle: its tensors do not fit the network: {reason:.300}") from None
        grid, (height, width) = PatchGrid(**settings["grid"]), settings["downsize"]
        if grid.size != network.settings["patch_size"] or network.settings.get("channels", 3) != 3:
            raise InputError(
                f"bundle: the network must take patches of {grid.size} pixels and 3 channels, "
                f"got {network.settings['patch_size']} and {network.settings.get('channels', 3)}"
            )
        grid.count((height, width))  # an InputError here, not at the first part
        return cls(network=network.eval(), grid=grid, downsize=(height, width)).eval()


class Reconstruction(LightningModule):
    """Trains a patch autoencoder by its network's own loss.

    Args:
        autoencoder: the network with its grid.
        optimizer: builds the optimiser from parameters and `lr`.
        learning_rate: peak of the schedule.
        corruption: pasted onto patches that the network has to give back clean.
        augmentation: of the training patches.
        seed: of both: what happens to a batch depends on (seed, step) alone, so that a resumed run repeats it.
    """

    def __init__(
        self,
        *,
        autoencoder: PatchAutoencoder,
        optimizer: Callable[..., torch.optim.Optimizer],
        learning_rate: float,
        corruption: Corruption,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.corruption, self.augmentation, self.seed = corruption, augmentation, seed

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Loss of patches (P, 3, p, p) and their indices (P,)."""
        patches, index = batch
        # the network may draw samples, each process its own
        of_process = (self.global_rank,) if self.global_rank else ()
        generator = torch.manual_seed(hash_seed(self.seed, self.global_step, *of_process))
        if self.augmentation.active:
            patches = self.augmentation(patches.cpu(), generator).to(self.device)
        loss = self._loss(patches, index, [self.seed, TRAINING, self.global_step, *of_process])
        self.log(
            "train_loss",
            loss.reconstruction.detach(),
            on_step=False,
            on_epoch=True,
            batch_size=len(patches),
            sync_dist=True,
        )
        return loss.total

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Reconstruction loss of patches of validation normals, the same ones corrupted alike in every epoch."""
        patches, index = batch
        loss = self._loss(patches, index, [self.seed, VALIDATION, batch_index])
        self.log("val_loss", loss.reconstruction, prog_bar=True, batch_size=len(patches))

    def _loss(self, clean: Tensor, index: Tensor, key: list[int]) -> Loss:
        patches = clean
        if self.corruption.active:
            rng = np.random.default_rng(key)
            patches = corrupt(clean, self.corruption, rng).to(self.device)
        progress = self.global_step / max(1, int(self.trainer.estimated_stepping_batches))
        return self.autoencoder.network.loss(patches, index, clean, progress=progress)

    def configure_optimizers(self) -> Any:
        """The optimiser under a short warm-up and a cosine decay over all training steps."""
        optimizer = self.optimizer(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        if steps < 3:
            return optimizer  # nothing to warm up and decay over
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.learning_rate,
            total_steps=steps,
            pct_start=max(0.05, 2 / steps),  # a warm-up of no whole step would divide by zero
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Testing(LightningModule):
    """Gives the error maps of test pictures; the FeatureEmbedding callback goes on from there.

    Args:
        autoencoder: trained; Lightning moves it to the device.
        map: of the detector that shares it.
    """

    def __init__(self, autoencoder: PatchAutoencoder, map: Callable[[Tensor], Mapped]) -> None:
        super().__init__()
        self.autoencoder, self.map = autoencoder, map

    def test_step(self, batch: Any, batch_index: int) -> Any:
        """Errors of full-size pictures."""
        return self.map(batch.image)


def corrupt(patches: Tensor, corruption: Corruption, rng: np.random.Generator) -> Tensor:
    """Patches (P, 3, h, w) with something pasted onto each."""
    pictures = patches.permute(0, 2, 3, 1).cpu().numpy()  # (P, h, w, 3)
    corrupted = np.stack([corruption(picture, rng).image for picture in pictures])
    return torch.from_numpy(corrupted).permute(0, 3, 1, 2)


def hash_seed(*parts: int) -> int:
    """One seed for torch from several numbers.

    >>> hash_seed(0, 1) == hash_seed(0, 1) != hash_seed(1, 0)
    True
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
