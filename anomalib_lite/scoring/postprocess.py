"""From the error (B, 3, H, W) to the anomaly map (B, 1, H, W) and its mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from anomalib_lite.scoring.anomaly_map import channel_maximum, channel_mean, gaussian_blur, median_blur
from anomalib_lite.types import InputError

CHANNELS = {"maximum": channel_maximum, "mean": channel_mean}


@dataclass(kw_only=True)
class PostProcess:
    """Channel reduction, comparison with what is usual, then blurs, in this order.

    Args:
        channels: how three channels become one.
        relative: divide each pixel by what is usual there: its mean error on validation normals plus the mean of those
            over the picture, so that edges which are never reconstructed well do not look like defects. The map is
            then in units of usual errors instead of intensities.
        median: kernel of the median blur, pixels, odd; 1: none.
        gaussian: standard deviation of the Gaussian blur, pixels of the model's resolution; 0: none.
        tau: the pixel cut on the map; None: learned from validation normals.
    """

    channels: str = "maximum"
    relative: bool = True
    median: int = 1
    gaussian: float = 0.0
    tau: float | None = None

    def __post_init__(self) -> None:
        if self.channels not in CHANNELS:
            raise InputError(
                f"postprocess.channels must be one of {', '.join(CHANNELS)}, got {self.channels}"
            )
        if self.median < 1 or self.median % 2 == 0:
            raise InputError(f"postprocess.median must be odd and positive, got {self.median}")
        if self.gaussian < 0:
            raise InputError(f"postprocess.gaussian must not be negative, got {self.gaussian}")

    def reduce(self, error: Tensor) -> Tensor:
        """One channel (B, 1, H, W) of an error (B, C, H, W).

        >>> import torch
        >>> PostProcess(channels="maximum").reduce(torch.tensor([[[[0.2]], [[0.4]], [[0.6]]]])).item()
        0.6000000238418579
        """
        return CHANNELS[self.channels](error)

    def __call__(self, error: Tensor, usual: Tensor | None) -> Tensor:
        """The anomaly map (B, 1, H, W) of an error (B, C, H, W).

        `usual` (1, 1, H, W) is the mean reduced error of validation normals, None where it is not to be used.

        >>> import torch
        >>> error, usual = torch.full((1, 3, 2, 2), 0.4), torch.full((1, 1, 2, 2), 0.1)
        >>> PostProcess()(error, usual).max().item()
        2.0
        """
        anomaly_map = self.reduce(error)
        if usual is not None:
            anomaly_map = anomaly_map / (usual + usual.mean()).clamp_min(1e-6)
        if self.median > 1:
            anomaly_map = median_blur(anomaly_map, kernel=self.median)
        if self.gaussian > 0:
            anomaly_map = gaussian_blur(anomaly_map, sigma=self.gaussian)
        return anomaly_map
