"""From a picture and its reconstruction to an anomaly map: pure functions on (B, C, H, W) tensors.

Maps are not negative, and higher is more anomalous.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_lite.types import InputError

STRIP_BYTES = 2**19  # of windows that the median holds at once: they stay in the processor's cache


def absolute_error(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Absolute difference (B, C, H, W) of two pictures of that shape, 0..1 for pictures in [0, 1].

    >>> absolute_error(torch.full((1, 3, 2, 2), 0.25), torch.ones(1, 3, 2, 2)).max()
    tensor(0.7500)
    """
    if image.shape != reconstruction.shape:
        raise InputError(
            f"reconstruction must have the image's shape {_shape(image)}, got {_shape(reconstruction)}"
        )
    return (image - reconstruction).abs()


def channel_maximum(error: Tensor) -> Tensor:
    """Largest error of any channel, (B, C, H, W) -> (B, 1, H, W): a defect of one colour counts in full.

    >>> channel_maximum(torch.tensor([0.1, 0.4, 0.1]).view(1, 3, 1, 1))
    tensor([[[[0.4000]]]])
    """
    return error.amax(dim=1, keepdim=True)


def channel_mean(error: Tensor) -> Tensor:
    """Mean error of the channels, (B, C, H, W) -> (B, 1, H, W): averages the sensor's noise away.

    >>> channel_mean(torch.tensor([0.1, 0.4, 0.1]).view(1, 3, 1, 1))
    tensor([[[[0.2000]]]])
    """
    return error.mean(dim=1, keepdim=True)


def relative_to_usual(anomaly_map: Tensor, *, usual: Tensor | None) -> Tensor:
    """The map (B, 1, H, W) in units of what is usual at a place plus its mean over the picture; None: as it is.

    `usual` (1, 1, H, W) is the mean map of normals; its mean keeps a place that is always right from counting
    without bound.

    >>> relative_to_usual(torch.full((1, 1, 2, 2), 0.4), usual=torch.full((1, 1, 2, 2), 0.1)).max()
    tensor(2.)
    """
    return anomaly_map if usual is None else anomaly_map / (usual + usual.mean()).clamp_min(1e-6)


def remove_predicted(anomaly_map: Tensor, *, predicted_error: Tensor | None, above: float | None) -> Tensor:
    """0 where the network predicts an error `above` this many intensities: there it errs on good parts too.

    `predicted_error` has the map's shape (B, 1, H, W), in intensities whatever the map's unit. With `above`
    None the map stays as it is. Raises InputError where a prediction is needed and there is none.
    Source: the conveyor-belt autoencoder's post-processing (Mandich).

    >>> predicted = torch.tensor([0.1, 0.3]).view(1, 1, 1, 2)
    >>> remove_predicted(torch.ones(1, 1, 1, 2), predicted_error=predicted, above=0.2)
    tensor([[[[1., 0.]]]])
    """
    if above is None:
        return anomaly_map
    if predicted_error is None:
        raise InputError(
            "postprocess.predicted_error needs a network that predicts its error (cae), this one does not; "
            "null turns it off"
        )
    if predicted_error.shape != anomaly_map.shape:
        raise InputError(
            f"predicted error must have the map's shape {_shape(anomaly_map)}, got {_shape(predicted_error)}"
        )
    return anomaly_map.masked_fill(predicted_error > above, 0.0)


def median_blur(anomaly_map: Tensor, *, kernel: int) -> Tensor:
    """Median of the `kernel` x `kernel` pixels (odd) around each one: removes specks, keeps edges; 1: as it is.

    Computed on the processor, for OpenCV's median takes float maps up to 5 x 5 only.

    >>> speck = torch.zeros(1, 1, 5, 5); speck[..., 2, 2] = 1
    >>> median_blur(speck, kernel=3).max()
    tensor(0.)
    """
    _check_kernel(kernel, "postprocess.median")
    if kernel == 1:
        return anomaly_map
    if torch.compiler.is_exporting():
        return _median_of_shifted(_pad(anomaly_map, kernel // 2, "postprocess.median"), kernel)
    padded = _pad(anomaly_map, kernel // 2, "postprocess.median").cpu().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    result = np.empty(anomaly_map.shape, dtype=padded.dtype)
    batch, channels, height, width = result.shape
    rows = max(1, STRIP_BYTES // (batch * channels * width * kernel**2 * padded.itemsize))
    for top in range(0, height, rows):  # a strip at a time: all windows together are kernel**2 maps
        strip = windows[:, :, top : top + rows].reshape(batch, channels, -1, width, kernel**2)
        result[:, :, top : top + rows] = np.partition(strip, kernel**2 // 2)[..., kernel**2 // 2]
    return torch.from_numpy(result).to(anomaly_map.device)


def _median_of_shifted(padded: Tensor, kernel: int) -> Tensor:
    """The same in operations that an exported graph knows: half of the `kernel` ** 2 shifted maps are sorted out."""
    height, width = padded.shape[-2] - kernel + 1, padded.shape[-1] - kernel + 1
    shifted = [padded[..., y : y + height, x : x + width] for y in range(kernel) for x in range(kernel)]
    return torch.stack(shifted, dim=-1).topk(kernel**2 // 2 + 1, dim=-1).values[..., -1]


def gaussian_blur(anomaly_map: Tensor, *, sigma: float) -> Tensor:
    """Gaussian smoothing of every channel; `sigma` in pixels, the kernel ends at 4 sigma; 0: as it is.

    >>> gaussian_blur(torch.ones(1, 1, 9, 9), sigma=1.0).sum().round()
    tensor(81.)
    """
    if not 0 <= sigma < float("inf"):
        raise InputError(f"postprocess.gaussian must be 0 or more pixels, got {sigma}")
    if sigma == 0:
        return anomaly_map
    radius = int(4 * sigma + 0.5)
    padded = _pad(anomaly_map, radius, "postprocess.gaussian")  # first: it refuses a kernel of any size
    position = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (position / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(anomaly_map)
    planes = padded.flatten(0, 1).unsqueeze(1)  # (B*C, 1, H + 2r, W + 2r)
    planes = F.conv2d(planes, kernel.view(1, 1, -1, 1))
    planes = F.conv2d(planes, kernel.view(1, 1, 1, -1))
    return planes.view_as(anomaly_map)


def grey_opening(anomaly_map: Tensor, *, kernel: int) -> Tensor:
    """Removes what is bright but narrower than a square of `kernel` pixels (odd), and keeps the rest; 1: as it is.

    Minimum, then maximum over the square; what lies beyond the border does not count. Never above the map.

    >>> line = torch.zeros(1, 1, 5, 5); line[..., 2, :] = 1
    >>> grey_opening(line, kernel=3).max()
    tensor(0.)
    """
    _check_kernel(kernel, "postprocess.opening")
    if kernel == 1:
        return anomaly_map
    _check_reach(anomaly_map, kernel // 2, "postprocess.opening")
    return _square_maximum(-_square_maximum(-anomaly_map, kernel), kernel)


def mask_border(anomaly_map: Tensor, *, width: int) -> Tensor:
    """A copy whose outer `width` pixels are 0: there a registered picture may show no part.

    >>> mask_border(torch.ones(1, 1, 4, 4), width=1).sum()
    tensor(4.)
    """
    shortest = min(anomaly_map.shape[-2:])
    if not 0 <= 2 * width < shortest:
        raise InputError(
            f"postprocess.border must be 0 or more and leave some of the {shortest} pixels, got {width}"
        )
    height, breadth = anomaly_map.shape[-2:]
    masked = torch.zeros_like(anomaly_map)
    inner = (..., slice(width, height - width), slice(width, breadth - width))
    masked[inner] = anomaly_map[inner]
    return masked


def mean_square(anomaly_map: Tensor) -> Tensor:
    """Mean of the squared map, (B, C, H, W) -> (B,): the L2 score of a whole picture.

    >>> mean_square(torch.tensor([0.0, 2.0]).view(1, 1, 1, 2))
    tensor([2.])
    """
    return anomaly_map.square().flatten(1).mean(dim=1)


def top_mean(anomaly_map: np.ndarray, *, share: float) -> float:
    """Mean of the largest values of a map (H, W): of a `share` of its pixels, at least one.

    >>> top_mean(np.array([[0.0, 1.0], [2.0, 4.0]]), share=0.5)
    3.0
    """
    values = anomaly_map.ravel()
    count = top_count(values.size, share)
    return float(np.partition(values, values.size - count)[values.size - count :].mean(dtype=np.float64))


def top_count(pixels: int, share: float) -> int:
    """How many of so many pixels a share is, at least one."""
    return max(1, round(share * pixels))


def _pad(anomaly_map: Tensor, radius: int, name: str) -> Tensor:
    """Reflect the map at its border: zero padding would darken it."""
    _check_reach(anomaly_map, radius, name)
    return F.pad(anomaly_map, (radius,) * 4, mode="reflect")


def _square_maximum(anomaly_map: Tensor, kernel: int) -> Tensor:
    columns = F.max_pool2d(
        anomaly_map, (kernel, 1), stride=1, padding=(kernel // 2, 0)
    )  # pads with -infinity
    return F.max_pool2d(columns, (1, kernel), stride=1, padding=(0, kernel // 2))


def _check_kernel(kernel: int, name: str) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"{name} must be odd and positive, got {kernel}")


def _check_reach(anomaly_map: Tensor, radius: int, name: str) -> None:
    if anomaly_map.ndim != 4:
        raise InputError(f"expected a map of shape (B, C, H, W), got {_shape(anomaly_map)}")
    height, width = anomaly_map.shape[-2:]
    if radius >= min(height, width):
        raise InputError(f"{name} reaches {radius} pixels, too far for a map of {height} x {width}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
