"""The same work without the framework, as one would write it by hand for one purpose."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import timm
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from anomalib_lite.data.datamodule import InspectionData
from anomalib_lite.data.resize import resize
from anomalib_lite.scoring.embedding import Weights


class Loop:
    """A training loop in plain PyTorch: same network, optimiser, schedule and loss, all patches in memory."""

    def __init__(self, network: Any, data: InspectionData, cfg: DictConfig) -> None:
        self.network, self.batch, self.steps = network, data.batch_size, data.steps_per_epoch
        rate = cfg.model.learning_rate
        self.optimizer = instantiate(cfg.model.optimizer)(network.parameters(), lr=rate)
        steps = self.steps * cfg.trainer.max_epochs
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=rate, total_steps=steps, pct_start=0.05, cycle_momentum=False
        )
        self.patches, self.index = preloaded(data, "train")
        self.validation = preloaded(data, "validation")

    def epoch(self) -> float:
        """Train for an epoch and validate; the seconds that it took."""
        start = time.perf_counter()
        self.network.train()
        for rows in torch.randint(len(self.patches), (self.steps, self.batch)):
            patches = self.patches[rows]
            self.optimizer.zero_grad()
            self.network.loss(patches, self.index[rows], patches, progress=1.0).total.backward()
            self.optimizer.step()
            self.schedule.step()
        self.network.eval()
        with torch.no_grad():
            for patches, index in zip(*(part.split(self.batch) for part in self.validation), strict=True):
                self.network.loss(patches, index, patches, progress=1.0)
        return time.perf_counter() - start


class InTurns(Callback):
    """Lets a bare loop train for an epoch between two epochs of the Trainer, and times both."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.start = loop, 0.0
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here to the next such moment is an epoch: validation, logging and checkpoints included."""
        if trainer.current_epoch > 1:  # the first epoch warms up
            self.ours.append(time.perf_counter() - self.start)
        torch.use_deterministic_algorithms(False)  # the Trainer asked for them, a bare loop would not
        seconds = self.loop.epoch()
        torch.use_deterministic_algorithms(True)
        if trainer.current_epoch > 0:
            self.theirs.append(seconds)
        self.start = time.perf_counter()


def preloaded(data: InspectionData, role: Literal["train", "validation"]) -> tuple[Tensor, Tensor]:
    """Every patch (P, 3, p, p) of a role's pictures, and the indices (P,)."""
    images = torch.cat([resize(image, data.downsize) for image in data.of_role(role).images()])
    patches = data.grid.extract(images)  # (n, N, 3, p, p)
    return patches.flatten(0, 1), torch.arange(patches.shape[1]).repeat(len(images))


def embedder(
    weights: Weights, *, dtype: torch.dtype, memory_format: torch.memory_format
) -> Callable[[Tensor], Tensor]:
    """timm's network and the cascade pooling: pictures (B, 3, H, W) to embeddings (B, 3C)."""
    trunk: Any = timm.create_model(weights.backbone, pretrained=False, num_classes=0).eval()
    trunk.load_state_dict(weights.state, strict=False)
    trunk.to(dtype).to(memory_format=memory_format)
    config: Any = trunk.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))

    @torch.inference_mode()
    def embed(picture: Tensor) -> Tensor:
        x = ((picture - mean) / std).to(dtype).contiguous(memory_format=memory_format)
        x = trunk.forward_features(x).float()
        maxima, means = F.max_pool2d(x, 3, stride=2), F.avg_pool2d(x, 3, stride=2)
        pooled = x.amax((2, 3)), maxima.mean((2, 3)), means.amax((2, 3))
        return torch.cat([F.normalize(block) for block in pooled], dim=1)

    return embed
