"""Which registration method, if any, makes the training pictures agree better with one another."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from anomalib_lite.data.affine import translation, warp
from anomalib_lite.data.pose import ANGLES, PoseSearch, correlation

FEWEST = 5  # training pictures from which a choice can be made
MOST = 32  # training pictures on which every method is tried


class Trial(NamedTuple):
    """What aligning the training pictures by one method did to them."""

    method: str
    accepted: float  # share of the pictures for which a plausible pose was found
    unexplained: float  # median of (1 - correlation with the mean of the others), after over before
    improved: float  # share of the pictures that agree better with the others

    @property
    def convincing(self) -> bool:
        """Whether nearly all were aligned, nearly all improved, and by more than a trifle."""
        return self.accepted >= 0.95 and self.improved >= 0.9 and self.unexplained <= 0.9

    def __str__(self) -> str:
        if self.accepted < 0.95:
            return f"{self.method} aligns {self.accepted:.0%} of the training pictures"
        return (
            f"{self.method} leaves {self.unexplained:.0%} of their differences ({self.improved:.0%} improve)"
        )


def choose_method(
    reference: np.ndarray, views: list[np.ndarray], *, motion: str, min_quality: float
) -> tuple[str, str]:
    """The simplest convincing method, or "none", and the reasons in words.

    A method is judged by how well each picture agrees with the mean of the *others*, which had no part in
    aligning it: agreement with the reference improves even for textures that have nothing in common.

    >>> choose_method(np.zeros((64, 64)), [], motion="euclidean", min_quality=0.5)
    ('none', 'none: 0 training pictures beside the reference are too few to choose by')
    """
    if len(views) < FEWEST:
        return "none", f"none: {len(views)} training pictures beside the reference are too few to choose by"
    views = [
        views[index] for index in np.linspace(0, len(views) - 1, min(MOST, len(views))).round().astype(int)
    ]
    trials = [
        try_method(reference, views, method=method, motion=motion, min_quality=min_quality)
        for method in ANGLES
    ]
    kept: Trial | None = None
    for trial in trials:  # the simplest first: a more flexible one has to be clearly better
        if trial.convincing and (kept is None or trial.unexplained <= 0.8 * kept.unexplained):
            kept = trial
    method = "none" if kept is None else kept.method
    return method, f"{method} chosen: " + "; ".join(map(str, trials))


def try_method(
    reference: np.ndarray, views: list[np.ndarray], *, method: str, motion: str, min_quality: float
) -> Trial:
    """Align the views (h, w) to the reference of their size and compare how they agree before and after."""
    search = PoseSearch(reference, method=method, motion=motion)
    poses = [search.find(view) for view in views]
    found = [
        (view, pose)
        for view, pose in zip(views, poses, strict=True)
        if pose is not None and pose.quality >= min_quality and not pose.implausible(method)
    ]
    accepted = len(found) / len(views)
    if len(found) < FEWEST:
        return Trial(method, accepted, 1.0, 0.0)
    # before is interpolated too: its blur alone would make pictures agree better
    before = agreement([warp(view, translation(0.5, 0.5), reference.shape) for view, _ in found])
    after = agreement([warp(view, pose.matrix, reference.shape) for view, pose in found])
    unexplained = (1 - after) / np.maximum(1 - before, 1e-9)
    return Trial(method, accepted, float(np.median(unexplained)), float((after > before).mean()))


def agreement(views: list[np.ndarray]) -> np.ndarray:
    """Correlation of each view with the mean of the others, without the border that aligning may have filled.

    >>> ramp = np.tile(np.arange(40, dtype=np.float32), (40, 1))
    >>> agreement([ramp, 2 * ramp, -ramp]).round(3).tolist()
    [1.0, 0.0, -1.0]
    """
    height, width = views[0].shape
    inner = np.s_[height // 20 : height - height // 20, width // 20 : width - width // 20]
    stack = np.stack([cv2.GaussianBlur(view, (0, 0), 1.5)[inner] for view in views]).astype(np.float64)
    total = stack.sum(axis=0)
    return np.array([correlation(view, (total - view) / (len(stack) - 1)) for view in stack])


def most_typical(views: list[np.ndarray]) -> int:
    """The index of the view that correlates best with the others in the median.

    >>> triangle = np.tri(32, dtype=np.float32)
    >>> most_typical([np.eye(32, dtype=np.float32), triangle, triangle])
    1
    """
    width, height = (max(1, side // 4) for side in views[0].shape[::-1])
    small = np.stack(
        [cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA).ravel() for view in views]
    )
    small = small - small.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(small, axis=1, keepdims=True)
    small = np.divide(small, norms, out=np.zeros_like(small), where=norms > 0)
    return int(np.median(small @ small.T, axis=1).argmax())
