"""Register > crop > downsize: the same object in training, prediction and the bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np

from anomalib_lite.data.affine import compose, invert, scaling, translation
from anomalib_lite.data.part import Box, part_box
from anomalib_lite.data.pose import shrink
from anomalib_lite.data.registration import Registration
from anomalib_lite.data.resize_array import fit_long_side
from anomalib_lite.types import Alignment, InputError

SAMPLE = 32  # training photographs in which the part is looked for
LEVELS = 65535  # pictures are kept as uint16
FINDING_SIDE = 256  # pixels of the long side at which it is looked for


def checked_crop(crop: Sequence[int]) -> Box:
    """The crop as x, y, width, height; raises InputError unless it is four whole numbers that make a box.

    >>> checked_crop([0, 10, 200, 100])
    (0, 10, 200, 100)
    """
    values = list(crop)
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not (len(values) == 4 and whole and min(values[:2]) >= 0 and min(values[2:]) >= 1):
        raise InputError(f"data.crop: expected [x, y, width, height] in whole pixels, got {values}")
    x, y, width, height = values
    return x, y, width, height


Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]  # a picture (H, W, C), and (h, w)


def resize_with_torch(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture (H, W, C) float32 to (*size, C) as everything else in training is.

    >>> resize_with_torch(np.ones((8, 6, 3), np.float32), (4, 3)).shape
    (4, 3, 3)
    """
    import torch  # here alone: an export prepares its pictures without

    from anomalib_lite.data.resize import resize

    planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
    return resize(planes, size)[0].numpy().transpose(1, 2, 0)


class Preparation:
    """Turns photographs of any size into registered pictures, and maps on those back to photograph pixels.

    `crop` is in reference pixels: "auto" finds the part, None keeps the reference's whole view. `size` is the
    long side of the registered picture; None, or more than there is, keeps the resolution.

    >>> photographs = [np.full((30, 40, 3), value, np.float32) for value in (0.2, 0.4)]
    >>> registration = Registration(method="none")
    >>> preparation = Preparation(registration=registration, crop=(10, 0, 20, 30), size=15)
    >>> picture, alignment = preparation.fit(photographs, [Path("a.png"), Path("b.png")])(photographs[0])
    >>> picture.shape, int(picture[0, 0, 0]), alignment.accepted
    ((3, 15, 10), 13107, True)
    """

    def __init__(
        self, *, registration: Registration, crop: Literal["auto"] | Sequence[int] | None, size: int | None
    ) -> None:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise InputError(f"data.size: expected at least 1 pixel or null, got {size}")
        self.registration = registration
        self.crop = crop if crop is None or isinstance(crop, str) else checked_crop(crop)
        if isinstance(self.crop, str) and self.crop != "auto":
            raise InputError(f"data.crop: expected auto, null or [x, y, width, height], got {crop!r}")
        self.size = size
        self.resize: Resize = resize_with_torch

    def settings(self) -> dict[str, Any]:
        """What determines, with the training photographs, how pictures are prepared; JSON-able."""
        crop = list(self.crop) if isinstance(self.crop, tuple) else self.crop
        return {"registration": self.registration.settings(), "crop": crop, "size": self.size}

    def fit(self, photographs: Sequence[np.ndarray], paths: Sequence[Path]) -> Self:
        """Learn registration, crop and picture size from photographs (H, W, 3) of good parts.

        Raises InputError if the crop does not fit into the reference photograph, or as `Registration.fit`.
        """
        if len(photographs) != len(paths):
            raise InputError(f"preparation: expected a path for each of {len(photographs)} photographs")
        self.registration.fit(photographs)
        index = self.registration.reference_index_
        self.reference_path_ = self.registration.reference if index is None else paths[index]
        self.crop_ = self._fit_crop(photographs)
        self.size_ = fit_long_side((self.crop_[3], self.crop_[2]), self.size)  # (H, W)
        return self

    def __call__(self, photograph: np.ndarray) -> tuple[np.ndarray, Alignment]:
        """Registered picture, uint16 (3, H, W), of a photograph (H0, W0, 3), and where the part was found.

        A part that is not accepted is prepared all the same, as well as it could be found.
        """
        alignment = self.registration.align(photograph)
        cropped = self._cropped(photograph, alignment)
        picture = np.ascontiguousarray(self.resize(cropped, self.size_).transpose(2, 0, 1))
        return np.rint(picture.clip(0, 1) * np.float32(LEVELS)).astype(np.uint16), alignment

    def view_matrix(self, alignment: Alignment) -> np.ndarray:
        """The affine (2, 3) from pixels (x, y, 1) of the registered picture to pixels of the photograph."""
        x, y, width, height = self.crop_
        resized = scaling(width / self.size_[1], height / self.size_[0])
        return compose(alignment.matrix, compose(translation(x, y), resized))

    def to_photograph(
        self, anomaly_map: np.ndarray, alignment: Alignment, photograph_size: tuple[int, int]
    ) -> np.ndarray:
        """Carry a map (H, W) back to photograph pixels: float32 (H0, W0), 0 outside the registered view."""
        matrix, size = self.view_matrix(alignment), photograph_size[::-1]
        values = anomaly_map.astype(np.float32)
        # replicate: a blend with 0 would fade the outermost half pixel of the view
        carried = cv2.warpAffine(values, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        inside = cv2.warpAffine(np.ones(values.shape, np.float32), matrix, size, flags=cv2.INTER_NEAREST)
        return carried * inside

    def mask_to_registered(self, mask: np.ndarray, alignment: Alignment) -> np.ndarray:
        """Carry a mask (H0, W0) to the registered picture: bool (H, W), True where it covers half a pixel."""
        cropped = self._cropped(mask.astype(np.float32)[..., None], alignment)
        return self.resize(cropped, self.size_)[..., 0] >= 0.5

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and JSON-able settings from which `from_state` makes one that prepares alike to the bit."""
        arrays, registration = self.registration.state()
        settings = {"registration": registration, "crop": list(self.crop_), "size": list(self.size_)}
        return arrays, settings

    @classmethod
    def from_state(
        cls, arrays: dict[str, np.ndarray], settings: dict[str, Any], *, resize: Resize = resize_with_torch
    ) -> Self:
        """The preparation that `state` described; raises InputError if it could not have come from there."""
        try:
            registration = Registration.from_state(arrays, settings["registration"])
            crop = checked_crop(settings["crop"])
            height, width = (int(side) for side in settings["size"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"preparation state: {error}") from error
        preparation = cls(registration=registration, crop=crop, size=max(height, width))
        preparation.resize = resize
        preparation.crop_ = preparation._inside_view(crop)
        preparation.size_ = fit_long_side((crop[3], crop[2]), preparation.size)
        if preparation.size_ != (height, width):
            raise InputError(f"preparation state: impossible size {height} x {width} for crop {list(crop)}")
        return preparation

    def _fit_crop(self, photographs: Sequence[np.ndarray]) -> Box:
        height, width = self.registration.size_
        view: Box = (0, 0, width, height)
        if self.crop is None:
            return view
        if not isinstance(self.crop, str):
            return self._inside_view(self.crop)
        self.crop_ = view
        factor = -(-max(height, width) // FINDING_SIDE)
        box = part_box([shrink(picture, factor) for picture in self._registered_views(photographs)])
        return view if box is None else tuple(side * factor for side in box)

    def _registered_views(self, photographs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Up to 32 photographs, evenly spaced and aligned: (H, W, 3) at the reference's size."""
        last = len(photographs) - 1
        for index in np.unique(np.linspace(0, last, SAMPLE).round().astype(int)).tolist():
            photograph = photographs[index]
            alignment = self.registration.align(photograph)
            if alignment.accepted:
                yield self._cropped(photograph, alignment)

    def _inside_view(self, crop: Box) -> Box:
        x, y, width, height = crop
        view_height, view_width = self.registration.size_
        if x + width > view_width or y + height > view_height:
            raise InputError(
                f"data.crop: expected a box inside the reference's {view_width} x {view_height} pixels, "
                f"got {list(crop)}"
            )
        return crop

    def _cropped(self, picture: np.ndarray, alignment: Alignment) -> np.ndarray:
        """The crop (height, width, C) out of a photograph or mask (H0, W0, C), in one interpolation."""
        x, y, width, height = self.crop_
        view_height, view_width = self.registration.size_
        enlarged = scaling(picture.shape[1] / view_width, picture.shape[0] / view_height)
        if picture.shape[:2] != (view_height, view_width):
            # antialiased first: a warp that shrinks would alias
            picture = np.ascontiguousarray(self.resize(picture, (view_height, view_width)))
        if self.registration.method_ == "none":
            return picture[y : y + height, x : x + width]
        matrix = compose(invert(enlarged), compose(alignment.matrix, translation(x, y)))
        flags, border = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, cv2.BORDER_REFLECT_101
        # reflect: beyond its border the photograph goes on as it does before it
        cropped = cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=border)
        return cropped.reshape(height, width, -1)  # OpenCV drops a single channel
