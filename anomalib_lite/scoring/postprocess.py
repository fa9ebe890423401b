"""From the error (B, 3, H, W) to the anomaly map (B, 1, H, W) and its mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from anomalib_lite.scoring.anomaly_map import channel_maximum, channel_mean, gaussian_blur, median_blur
from anomalib_lite.types import InputError

CHANNELS = {"maximum": channel_maximum, "mean": channel_mean}


@dataclass(kw_only=True)
class PostProcess:
    """Channel reduction, then blurs, in this order.

    Args:
        channels: how three channels become one.
        median: kernel of the median blur, pixels, odd; 1: none.
        gaussian: standard deviation of the Gaussian blur, pixels; 0: none.
        tau: the pixel cut on the map, in intensities 0..1; None: learned from validation normals.
    """

    channels: str = "maximum"
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

    def __call__(self, error: Tensor) -> Tensor:
        """The anomaly map (B, 1, H, W) of an error (B, C, H, W).

        >>> import torch
        >>> PostProcess(channels="mean")(torch.tensor([[[[0.2]], [[0.4]], [[0.6]]]])).item()
        0.4000000059604645
        """
        anomaly_map = CHANNELS[self.channels](error)
        if self.median > 1:
            anomaly_map = median_blur(anomaly_map, kernel=self.median)
        if self.gaussian > 0:
            anomaly_map = gaussian_blur(anomaly_map, sigma=self.gaussian)
        return anomaly_map
