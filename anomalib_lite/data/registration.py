"""Align a part to the reference, and say how well that went."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np

from anomalib_lite.data.affine import compose, invert, scaling, warp
from anomalib_lite.data.images import MAX_PIXELS, read_image
from anomalib_lite.data.method_choice import FEWEST, choose_method, most_typical
from anomalib_lite.data.pose import ANGLES, MOTIONS, SMALLEST_CONTRAST, Pose, PoseSearch, shrink
from anomalib_lite.types import Alignment, InputError

METHODS = ("none", *ANGLES)
WORKING_SIDE = (
    400  # pixels of the long side at which poses are found: half a pixel of 1600 is an eighth there
)
SAMPLE = 64  # training photographs from which reference, method and cut are learned
SMALLEST_SIDE = 16  # pixels of a view's short side below which nothing can be aligned
ASPECT = 0.03  # relative difference in width / height up to which a photograph shows the same view
SLACK = 20.0  # a part may leave so many times the unexplained share of a typical training part


def working_factor(size: tuple[int, int]) -> int:
    """The whole number by which a photograph of `size` (height, width) is shrunk before its pose is sought.

    A whole number keeps pixels square, so that a rotation stays a rotation.

    >>> working_factor((1200, 1600)), working_factor((300, 300))
    (4, 1)
    """
    return -(-max(size) // WORKING_SIDE)


def grey(photograph: np.ndarray, factor: int) -> np.ndarray:
    """Grey view (H // factor, W // factor) float32 of a photograph (H, W, 3).

    >>> grey(np.ones((9, 6, 3), np.float32), 3).shape
    (3, 2)
    """
    return cv2.cvtColor(shrink(photograph, factor), cv2.COLOR_RGB2GRAY)


class Registration:
    """Finds the rigid (or affine) motion from a reference photograph to another one.

    `phase` finds shifts, `ecc` also rotations up to 20 degrees, `features` any rotation. `auto` keeps the
    first of them that makes the training photographs agree better with one another, not merely with the
    reference, unless a later one is clearly better still; otherwise `none`. `min_quality` is the lowest
    correlation that is ever accepted: at 0.5 the reference explains a quarter of the picture's variance.

    The most typical photograph, or the one at the path `reference`, sets the frame.

    >>> photograph = np.zeros((60, 80, 3), np.float32)
    >>> photograph[20:40, 30:60] = 1
    >>> registration = Registration(method="phase").fit([photograph])
    >>> registration.align(np.roll(photograph, (4, -2), axis=(0, 1))).matrix.round(2).tolist()
    [[1.0, 0.0, -2.0], [0.0, 1.0, 4.0]]
    """

    def __init__(
        self,
        *,
        method: str,
        motion: str = "euclidean",
        reference: Path | None = None,
        min_quality: float = 0.5,
    ) -> None:
        if method not in ("auto", *METHODS):
            raise InputError(f"registration: expected one of {', '.join(('auto', *METHODS))}, got {method!r}")
        if motion not in MOTIONS:
            raise InputError(f"registration motion: expected one of {', '.join(MOTIONS)}, got {motion!r}")
        if not 0 < min_quality < 1:
            raise InputError(f"registration min_quality: expected between 0 and 1, got {min_quality}")
        self.method = method
        self.motion = motion
        self.reference = reference
        self.min_quality = min_quality

    def settings(self) -> dict[str, Any]:
        """What determines, with the training photographs, what is fitted; JSON-able."""
        reference = None
        if self.reference is not None:
            read_image(self.reference)  # its InputError names the file
            reference = hashlib.sha256(self.reference.read_bytes()).hexdigest()
        return {
            "method": self.method,
            "motion": self.motion,
            "reference": reference,
            "min_quality": self.min_quality,
        }

    def fit(self, photographs: Sequence[np.ndarray]) -> Self:
        """Choose reference, method and quality cut from at most 64 photographs (H, W, 3) of good parts.

        Raises InputError without photographs, for a given reference of another size than theirs, and, where a
        method was asked for, for a reference without contrast.
        """
        if not len(photographs):
            raise InputError("registration: expected training photographs, found none")
        views = self._views(photographs)
        self.reference_index_: int | None = None
        if self.reference is None:
            self.reference_index_ = list(views)[most_typical(list(views.values()))]
            self.reference_ = views.pop(self.reference_index_)
        else:
            self.reference_ = self._given_view(self.reference)
        others = list(views.values())
        self._settle_method(others)
        self._prepare_search()
        self._average(others)
        self._fit_cut(others)
        return self

    def align(self, photograph: np.ndarray) -> Alignment:
        """Where the reference's view lies in a photograph (H, W, 3); its size may differ, its aspect not."""
        height, width = photograph.shape[:2]
        enlarged = scaling(width / self.size_[1], height / self.size_[0])
        if self._other_aspect(photograph):
            expected = f"the aspect of the reference's {self.size_[1]} x {self.size_[0]} pixels"
            return Alignment(enlarged, 0.0, False, f"expected {expected}, found {width} x {height}")
        if self.search_ is None:
            return Alignment(enlarged)
        pose = self.search_.find(self._view(photograph))
        if pose is None:
            return Alignment(
                enlarged, 0.0, False, "no pose found: the part cannot be told from its surroundings"
            )
        shrunk = invert(scaling(self.factor_, self.factor_))
        matrix = compose(enlarged, compose(invert(shrunk), compose(pose.matrix, shrunk)))
        reason = pose.implausible(self.method_)
        if not reason and pose.quality < self.cut_:
            reason = f"correlation with the reference {pose.quality:.3f}, expected at least {self.cut_:.3f}"
        return Alignment(matrix, min(pose.quality, 1.0), not reason, reason)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and JSON-able settings from which `from_state` makes an equal object."""
        settings = {
            "method": self.method_,
            "motion": self.motion,
            "min_quality": self.min_quality,
            "cut": self.cut_,
            "size": list(self.size_),
            "factor": self.factor_,
            "decision": self.decision_,
        }
        return {"reference": self.reference_}, settings

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """The registration that `state` described; raises InputError if it could not have come from there."""
        try:
            registration = cls(
                method=settings["method"],
                motion=settings["motion"],
                min_quality=float(settings["min_quality"]),
            )
            registration.method_ = str(settings["method"])
            registration.cut_ = float(settings["cut"])
            registration.size_ = (int(settings["size"][0]), int(settings["size"][1]))
            registration.factor_ = int(settings["factor"])
            registration.decision_ = str(settings["decision"])
            registration.reference_ = np.ascontiguousarray(arrays["reference"])
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise InputError(f"registration state: {error}") from error
        registration._check_state()
        registration._prepare_search()
        return registration

    def _check_state(self) -> None:
        height, width = self.size_
        view, factor = self.reference_, self.factor_
        if self.method_ not in METHODS:
            raise InputError(
                f"registration state: expected one of {', '.join(METHODS)}, got {self.method_!r}"
            )
        if not (
            height > 0 and width > 0 and height * width <= MAX_PIXELS and factor == working_factor(self.size_)
        ):
            raise InputError(f"registration state: impossible size {self.size_} with factor {factor}")
        if view.dtype != np.float32 or view.shape != (height // factor, width // factor):
            raise InputError(f"registration state: impossible reference {view.dtype} {view.shape}")
        if not (np.isfinite(view).all() and np.isfinite(self.cut_)):
            raise InputError("registration state: expected finite numbers")
        if self.method_ != "none" and self._unusable():
            raise InputError(
                f"registration state: {self.method_} needs a part to align to, {self._unusable()}"
            )

    def _views(self, photographs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Grey views by index of up to 64 evenly spaced photographs, those of the most frequent size."""
        chosen = np.unique(np.linspace(0, len(photographs) - 1, SAMPLE).round().astype(int)).tolist()
        views = {}
        for index in chosen:  # read once: the sequence may decode a file at every access
            photograph = photographs[index]
            size = photograph.shape[:2]
            views[index] = (size, grey(photograph, working_factor(size)))
        self.size_ = Counter(size for size, _ in views.values()).most_common(1)[0][0]
        self.factor_ = working_factor(self.size_)
        return {index: view for index, (size, view) in views.items() if size == self.size_}

    def _given_view(self, path: Path) -> np.ndarray:
        photograph = read_image(path)
        if photograph.shape[:2] != self.size_:
            raise InputError(
                f"{path}: expected a reference of {self.size_[1]} x {self.size_[0]} pixels, as the training "
                f"photographs, found {photograph.shape[1]} x {photograph.shape[0]}"
            )
        return grey(photograph, self.factor_)

    def _unusable(self) -> str:
        """Why nothing can be aligned to the reference, or nothing."""
        if min(self.reference_.shape) < SMALLEST_SIDE:
            return f"the reference has {self.size_[1]} x {self.size_[0]} pixels"
        return "the reference is blank" if self.reference_.std() < SMALLEST_CONTRAST else ""

    def _settle_method(self, views: list[np.ndarray]) -> None:
        unusable = self._unusable()
        if self.method == "auto" and unusable:
            self.method_, self.decision_ = "none", f"none: {unusable}"
        elif self.method == "auto":
            self.method_, self.decision_ = choose_method(
                self.reference_, views, motion=self.motion, min_quality=self.min_quality
            )
        elif self.method != "none" and unusable:
            raise InputError(f"registration {self.method}: expected a part to align to, but {unusable}")
        else:
            self.method_, self.decision_ = self.method, f"{self.method}: as asked"

    def _prepare_search(self) -> None:
        self.search_: PoseSearch | None = None
        if self.method_ != "none":
            self.search_ = PoseSearch(self.reference_, method=self.method_, motion=self.motion)

    def _average(self, views: list[np.ndarray]) -> None:
        """Look for the mean of the aligned training views from now on: it has no specks of its own."""
        aligned = [
            warp(view, pose.matrix, view.shape)
            for view, pose in self._poses(views)
            if pose.quality >= self.min_quality
        ]
        if len(aligned) >= FEWEST:
            total = np.sum([self.reference_, *aligned], axis=0, dtype=np.float64)
            self.reference_ = np.asarray(total / (len(aligned) + 1), np.float32)
            self._prepare_search()

    def _fit_cut(self, views: list[np.ndarray]) -> None:
        """The median bears that up to half of the training pictures are misaligned."""
        qualities = [pose.quality for _, pose in self._poses(views)]
        self.cut_ = self.min_quality
        if qualities:
            self.cut_ = max(self.min_quality, 1 - SLACK * (1 - float(np.median(qualities))))

    def _poses(self, views: list[np.ndarray]) -> list[tuple[np.ndarray, Pose]]:
        """The views in which a plausible pose is found, and it."""
        if self.search_ is None:
            return []
        found = [(view, self.search_.find(view)) for view in views]
        return [
            (view, pose) for view, pose in found if pose is not None and not pose.implausible(self.method_)
        ]

    def _view(self, photograph: np.ndarray) -> np.ndarray:
        """Grey at the working resolution, after resizing to the reference's size where that differs."""
        if photograph.shape[:2] != self.size_:
            shrinks = photograph.shape[0] > self.size_[0]
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            photograph = cv2.resize(photograph, self.size_[::-1], interpolation=interpolation)
        return grey(photograph, self.factor_)

    def _other_aspect(self, photograph: np.ndarray) -> bool:
        height, width = photograph.shape[:2]
        return abs(width * self.size_[0] / (height * self.size_[1]) - 1) > ASPECT
