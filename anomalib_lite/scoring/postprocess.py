"""From the error (B, C, H, W) to the anomaly map (B, 1, H, W) and its mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from anomalib_lite.scoring.anomaly_map import (
    channel_maximum,
    channel_mean,
    gaussian_blur,
    grey_opening,
    mask_border,
    median_blur,
    relative_to_usual,
    remove_predicted,
)
from anomalib_lite.scoring.pixel_mask import MaskRule
from anomalib_lite.types import InputError

TAU_FROM = ("normals", "normal_peaks", "drawn_defects")
CHANNELS = {"maximum": channel_maximum, "mean": channel_mean}


@dataclass(kw_only=True)
class PostProcess:
    """What becomes of the error, in the order of these settings; pixels are those of the model's resolution.

    Args:
        channels: how three channels become one.
        relative: divide each pixel by what is usual there: its mean error on validation normals plus the mean of those
            over the picture, so that edges which are never reconstructed well do not look like defects. The map is
            then in units of usual errors instead of intensities.
        predicted_error: pixels are removed (0) where the network predicts an error of more intensities than this, even
            on a good part; conservative means high. None: none. Needs a network that predicts its error (`cae`).
        border: so many outer pixels are removed (0).
        median: kernel of the median blur, odd; 1: none.
        gaussian: standard deviation of the Gaussian blur; 0: none.
        opening: side of the square of the grey opening, odd: what is narrower is removed; 1: none.
        tau: the pixel cut on the map: the mask is what lies above. None: learned, see tau_from.
        tau_from: `normals` (one pixel in 1000 of validation normals lies above), `normal_peaks` (one validation normal
            in ten has a pixel above) or `drawn_defects` (the best F1 score on defects drawn onto them).
        peak_share, minimum_area: of the mask's regions, see `MaskRule`.
        mm_per_pixel: of the photograph, for the area of defects; None: unknown.
    """

    channels: str = "maximum"
    relative: bool = True
    predicted_error: float | None = None
    border: int = 0
    median: int = 1
    gaussian: float = 0.0
    opening: int = 1
    tau: float | None = None
    tau_from: str = "normals"
    peak_share: float = 0.0
    minimum_area: int = 0
    mm_per_pixel: float | None = None

    def __post_init__(self) -> None:
        if self.channels not in CHANNELS:
            raise InputError(
                f"postprocess.channels must be one of {', '.join(CHANNELS)}, got {self.channels}"
            )
        _check("tau_from", self.tau_from in TAU_FROM, f"one of {', '.join(TAU_FROM)}", self.tau_from)
        for key, kernel in (("median", self.median), ("opening", self.opening)):
            _check(
                key, isinstance(kernel, int) and kernel >= 1 and kernel % 2 == 1, "odd and positive", kernel
            )
        border = self.border
        _check("border", isinstance(border, int) and border >= 0, "a whole number, 0 or more", border)
        _ = self.mask_rule  # checks its own
        _check("gaussian", 0 <= self.gaussian < math.inf, "0 or more pixels", self.gaussian)
        for key, cut in (("predicted_error", self.predicted_error), ("tau", self.tau)):
            _check(key, cut is None or 0 <= cut < math.inf, "0 or more, or null", cut)
        scale = self.mm_per_pixel
        _check("mm_per_pixel", scale is None or 0 < scale < 1e9, "more than 0 and below 1e9, or null", scale)

    def reduce(self, error: Tensor) -> Tensor:
        """One channel (B, 1, H, W) of an error (B, C, H, W).

        >>> import torch
        >>> PostProcess(channels="maximum").reduce(torch.tensor([[[[0.2]], [[0.4]], [[0.6]]]])).item()
        0.6000000238418579
        """
        return CHANNELS[self.channels](error)

    def __call__(self, error: Tensor, usual: Tensor | None, predicted_error: Tensor | None = None) -> Tensor:
        """The anomaly map (B, 1, H, W) of an error (B, C, H, W).

        `usual` (1, 1, H, W) is the mean reduced error of validation normals, None where it is not to be used;
        `predicted_error` (B, 1, H, W) is what the network thinks it gets wrong, None where it does not say. Raises
        InputError for a setting that needs what is not given or reaches further than the map.

        >>> import torch
        >>> error, usual = torch.full((1, 3, 2, 2), 0.4), torch.full((1, 1, 2, 2), 0.1)
        >>> PostProcess()(error, usual).max().item()
        2.0
        """
        # removed before the blurs, so that they do not spread what is to be removed
        steps: tuple[Callable[[Tensor], Tensor], ...] = (
            self.reduce,
            partial(relative_to_usual, usual=usual),
            partial(remove_predicted, predicted_error=predicted_error, above=self.predicted_error),
            partial(mask_border, width=self.border),
            partial(median_blur, kernel=self.median),
            partial(gaussian_blur, sigma=self.gaussian),
            partial(grey_opening, kernel=self.opening),
        )
        anomaly_map = error
        for step in steps:
            anomaly_map = step(anomaly_map)
        return anomaly_map

    @property
    def mask_rule(self) -> MaskRule:
        """What of a map on the registered picture is in its mask."""
        return MaskRule(peak_share=self.peak_share, minimum_area=self.minimum_area)


def _check(key: str, holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise InputError(f"postprocess.{key} must be {expected}, got {found}")
