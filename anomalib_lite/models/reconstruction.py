"""What every patch autoencoder shares: the way from a picture to its error, and the training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.resize import resize
from anomalib_lite.models.cpcae import CPCAE
from anomalib_lite.models.losses import l1_activity, l2
from anomalib_lite.scoring.anomaly_map import absolute_error
from anomalib_lite.types import InputError

NETWORKS = {"cpcae": CPCAE}  # a bundle names its network; nothing else can be built from one


class Mapped(NamedTuple):
    """What a model makes of full-size pictures (B, 3, H, W)."""

    error: Tensor  # (B, 3, H, W) >= 0, at full size: what the embedding looks at
    low_error: (
        Tensor  # (B, 3, h, w) >= 0, at the model's own resolution: no blame for detail that it never saw
    )
    reconstruction: Tensor | None = None  # (B, 3, H, W) in [0, 1]
    latent: Tensor | None = None  # (B, L)


class PatchAutoencoder(nn.Module):
    """Downsizes a picture, reconstructs its patches, and compares at full size (VISAPP 2022, figure 2).

    Args:
        network: takes patches (P, 3, p, p) and their indices (P,), returns a `Reconstructed`.
        grid: the patches of one picture.
        downsize: (h, w) of the picture that the network sees.
    """

    name = "autoencoder"

    def __init__(self, *, network: nn.Module, grid: PatchGrid, downsize: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.grid, self.downsize = network, grid, downsize

    def learn(self, train_normals: Iterable[Tensor]) -> Self:
        """Nothing: the network was trained by Lightning."""
        return self

    @torch.inference_mode()
    def map(self, image: Tensor) -> Mapped:
        """Errors |image - reconstruction|, reconstruction and latent vectors of pictures (B, 3, H, W)."""
        small = resize(image, self.downsize)  # (B, 3, h, w)
        patches = self.grid.extract(small)  # (B, N, 3, p, p)
        batch, count = patches.shape[:2]
        index = torch.arange(count, device=image.device).repeat(batch)
        out = self.network(patches.flatten(0, 1), index)  # (B*N, 3, p, p)
        combined = self.grid.combine(out.patches.unflatten(0, (batch, count)), self.downsize).clamp(0, 1)
        reconstruction = resize(combined, (image.shape[-2], image.shape[-1]))
        error, low_error = absolute_error(image, reconstruction), absolute_error(small, combined)
        return Mapped(error, low_error, reconstruction, out.latent.reshape(batch, -1))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and settings that a bundle keeps."""
        names: dict[type[nn.Module], str] = {network: name for name, network in NETWORKS.items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.network.state_dict().items()}
        return arrays, {
            "network": names[type(self.network)],
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
        network = NETWORKS[settings["network"]](**settings["network_settings"])
        try:
            network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        except RuntimeError as error:
            raise InputError(
                f"bundle: its tensors do not fit the network: {' '.join(str(error).split())}"
            ) from None
        height, width = settings["downsize"]
        return cls(
            network=network.eval(), grid=PatchGrid(**settings["grid"]), downsize=(height, width)
        ).eval()


class Reconstruction(LightningModule):
    """Trains a patch autoencoder: L2 reconstruction + activity_weight x L1 of the latent layer.

    Args:
        autoencoder: the network with its grid.
        optimizer: builds the optimiser from parameters and `lr`.
        learning_rate: peak of the schedule.
        activity_weight: lambda of the sparsity term.
    """

    def __init__(
        self,
        *,
        autoencoder: PatchAutoencoder,
        optimizer: Callable[..., torch.optim.Optimizer],
        learning_rate: float,
        activity_weight: float,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.optimizer, self.learning_rate, self.activity_weight = optimizer, learning_rate, activity_weight

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Loss of patches (P, 3, p, p) and their indices (P,)."""
        patches, index = batch
        out = self.autoencoder.network(patches, index)
        reconstruction = l2(patches, out.patches)
        self.log("train_loss", reconstruction.detach(), on_step=False, on_epoch=True, batch_size=len(patches))
        return reconstruction + self.activity_weight * l1_activity(out.latent)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """L2 reconstruction error of patches of validation normals."""
        patches, index = batch
        out = self.autoencoder.network(patches, index)
        self.log("val_loss", l2(patches, out.patches), prog_bar=True, batch_size=len(patches))

    def test_step(self, batch: Any, batch_index: int) -> Any:
        """Error maps of full-size pictures; the FeatureEmbedding callback goes on from there."""
        return self.autoencoder.map(batch.image)

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
