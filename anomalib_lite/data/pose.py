"""Find where a reference lies in a picture of the same size, to a fraction of a pixel."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from anomalib_lite.data.affine import (
    angle,
    compose,
    invert,
    quarter_turns,
    rotation,
    scaling,
    translation,
    warp,
)

MOTIONS = {"euclidean": cv2.MOTION_EUCLIDEAN, "affine": cv2.MOTION_AFFINE}
ANGLES = {  # degrees at which each method looks for the part before it refines the best of them
    "phase": np.zeros(1),
    "ecc": np.arange(-20.0, 21.0, 4.0),
    "features": np.arange(0.0, 360.0, 6.0),
}
COARSE_SIDE = 48  # pixels that the short side keeps in the coarse search
DISTINCT = 25.0  # degrees between starts that are refined separately: symmetric parts have several
STARTS = 6
NEAR = 0.1  # of correlation: what is worse than the best coarse pose by more is not refined
SAME = 0.02  # of the long side: starts that end so close to one another found the same pose
LEVELS = ((4, 30, 1e-4), (2, 20, 1e-5), (1, 50, 1e-6))  # downsizing, most iterations, smallest gain of each
MOST_TURN = 30.0  # degrees: `ecc` looks 20 to each side, and what ends farther ran away
MOST_STRETCH = 0.2  # an affine motion that scales the part by more fits something else
LEAST_VISIBLE = 0.5  # share of the reference's view
ECC_BLUR = 5  # pixels of the Gaussian filter that ECC applies: less noise, smoother gradients
SMALLEST_CONTRAST = 1e-4  # standard deviation of grey values in [0, 1] below which there is nothing to align


class Pose(NamedTuple):
    """Where the reference lies in a picture of its size."""

    matrix: np.ndarray  # (2, 3): reference pixel -> picture pixel
    quality: float  # correlation of the reference with the visible part of the aligned picture
    visible: float  # share of the reference's view that lies inside the picture

    def implausible(self, method: str) -> str:
        """Why `method` cannot have found the part here, or nothing.

        >>> Pose(rotation(50, (9, 9)), 0.9, 0.8).implausible("ecc")
        'turned by 50 degrees, expected at most 30'
        """
        stretch = np.linalg.svd(self.matrix[:, :2], compute_uv=False)
        if abs(stretch - 1).max() > MOST_STRETCH:
            return (
                f"stretched {stretch.max():.2f} x {stretch.min():.2f} times, expected 1 within {MOST_STRETCH}"
            )
        if method == "ecc" and abs(angle(self.matrix)) > MOST_TURN:
            return f"turned by {angle(self.matrix):.0f} degrees, expected at most {MOST_TURN:.0f}"
        if self.visible < LEAST_VISIBLE:
            return (
                f"{self.visible:.0%} of the part's view lie in the photograph, expected {LEAST_VISIBLE:.0%}"
            )
        return ""


def shrink(picture: np.ndarray, factor: int) -> np.ndarray:
    """Mean of every `factor` x `factor` block; what does not fill a block at the right and bottom is dropped.

    >>> shrink(np.arange(10, dtype=np.float32).reshape(2, 5), 2).tolist()
    [[3.0, 5.0]]
    """
    if factor == 1:
        return picture
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    blocks = np.ascontiguousarray(picture[: height * factor, : width * factor])
    return cv2.resize(blocks, (width, height), interpolation=cv2.INTER_AREA)


def smooth(picture: np.ndarray) -> np.ndarray:
    """The picture without what interpolation could change: Gaussian blur of one pixel.

    >>> float(smooth(np.ones((9, 9), np.float32)).min())
    1.0
    """
    return cv2.GaussianBlur(picture, (0, 0), 1.0)


def detail_of(smoothed: np.ndarray) -> np.ndarray:
    """A picture (h, w) less what a Gaussian blur of four pixels leaves of it.

    >>> float(abs(detail_of(np.ones((9, 9), np.float32))).max()) < 1e-6
    True
    """
    return smoothed - cv2.GaussianBlur(smoothed, (0, 0), 4.0)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation of two arrays of one shape; 0 if one of them is constant.

    >>> round(correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 7])), 4)
    0.9934
    """
    first = first - first.mean(dtype=np.float64)
    second = second - second.mean(dtype=np.float64)
    norm = math.sqrt(float((first * first).sum(dtype=np.float64) * (second * second).sum(dtype=np.float64)))
    return float((first * second).sum(dtype=np.float64)) / norm if norm > 0 else 0.0


class PoseSearch:
    """Looks for one reference: coarse search over angles, then ECC maximisation from coarse to fine.

    Each angle's shift comes from phase correlation; `features` adds a start from SIFT keypoints and RANSAC.
    Among starts that a symmetric part makes alike, the one whose fine detail agrees best wins.
    Source of ECC: Evangelidis & Psarakis, PAMI 2008.

    >>> reference = np.zeros((64, 64), np.float32)
    >>> reference[20:40, 15:45] = 1
    >>> pose = PoseSearch(reference, method="phase", motion="euclidean").find(np.roll(reference, 5, axis=1))
    >>> pose.matrix.round(2).tolist()
    [[1.0, 0.0, 5.0], [0.0, 1.0, 0.0]]
    """

    def __init__(self, reference: np.ndarray, *, method: str, motion: str) -> None:
        self.reference = reference  # (h, w) float32
        self.motion = cv2.MOTION_TRANSLATION if method == "phase" else MOTIONS[motion]
        self.levels = [
            level for level in LEVELS if level[0] == 1 or min(reference.shape) >= COARSE_SIDE * level[0]
        ]
        self.coarse = shrink(reference, self.levels[0][0])
        self.window = cv2.createHanningWindow(self.coarse.shape[::-1], cv2.CV_32F)
        turns = [rotation(degrees, self.coarse.shape) for degrees in ANGLES[method]]
        self.turned = [(turn, warp(self.coarse, invert(turn), self.coarse.shape)) for turn in turns]
        self.keypoints = Keypoints(reference) if method == "features" else None
        self.smoothed = smooth(reference)
        self.detail = detail_of(self.smoothed)

    def find(self, picture: np.ndarray) -> Pose | None:
        """The reference's pose in a float32 picture of its size; None if nothing converges."""
        if picture.std() < SMALLEST_CONTRAST:
            return None
        starts = self._starts(shrink(picture, self.levels[0][0]))
        start = self.keypoints.match(picture) if self.keypoints else None
        if start is not None:
            starts.append(start)
        found = [
            self._refine(picture, matrix, self.levels[1:]) for matrix in self._candidates(picture, starts)
        ]
        poses = [self._judge(picture, matrix) for matrix in found if matrix is not None]
        return max(poses, key=lambda judged: judged[0])[1] if poses else None

    def _candidates(self, picture: np.ndarray, starts: list[np.ndarray]) -> list[np.ndarray]:
        """Where the starts lead at the coarsest level: different poses that are about as good as the best."""
        candidates: list[tuple[float, np.ndarray]] = []
        view = smooth(picture)
        for start in starts:
            matrix = self._refine(picture, start, self.levels[:1])
            if matrix is not None and all(self._distance(matrix, other) > SAME for _, other in candidates):
                score = correlation(self.reference, warp(view, matrix, view.shape))
                candidates.append((score, matrix))
        best = max((score for score, _ in candidates), default=0.0)
        return [matrix for score, matrix in candidates if score >= best - NEAR]

    def _distance(self, first: np.ndarray, second: np.ndarray) -> float:
        """The farthest that a corner of the reference lies apart under two affines, over its long side."""
        height, width = self.reference.shape
        corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
        return float(np.abs((first - second) @ corners).max() / max(height, width))

    def _starts(self, coarse: np.ndarray) -> list[np.ndarray]:
        """Affines of the best distinct angles, at full resolution."""
        scored = []
        for turn, turned in self.turned:
            # copies: OpenCV 5.0 multiplies the window into its arguments
            shift, _ = cv2.phaseCorrelate(turned.copy(), coarse.copy(), self.window)
            matrix = compose(translation(*shift), turn)
            scored.append((correlation(self.coarse, warp(coarse, matrix, self.coarse.shape)), matrix))
        scored.sort(key=lambda entry: -entry[0])
        chosen: list[np.ndarray] = []
        for _, matrix in scored:
            if all(abs(angle(compose(invert(other), matrix))) >= DISTINCT for other in chosen):
                chosen.append(matrix)
        factor = self.levels[0][0]
        up = scaling(factor, factor)
        return [compose(compose(up, matrix), invert(up)) for matrix in chosen[:STARTS]]

    def _refine(
        self, picture: np.ndarray, matrix: np.ndarray, levels: list[tuple[int, int, float]]
    ) -> np.ndarray | None:
        # OpenCV takes the angle from its sine: beyond 90 degrees it needs a reference that is turned already
        turn, turned = quarter_turns(self.reference, -round(angle(matrix) / 90))
        matrix, everywhere = compose(matrix, turn), np.ones_like(picture, np.uint8)
        for factor, iterations, gain in levels:
            up = scaling(factor, factor)
            start = compose(compose(invert(up), matrix), up).astype(np.float32)
            criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, iterations, gain)
            pair = shrink(turned, factor), shrink(picture, factor)
            mask = everywhere[: pair[1].shape[0], : pair[1].shape[1]].copy()
            try:
                _, end = cv2.findTransformECC(*pair, start, self.motion, criteria, mask, ECC_BLUR)
            except cv2.error:  # "the algorithm stopped before its convergence": no overlap or no gradient
                return None
            matrix = compose(compose(up, end.astype(np.float64)), invert(up))
        return compose(matrix, invert(turn)) if np.isfinite(matrix).all() else None

    def _judge(self, picture: np.ndarray, matrix: np.ndarray) -> tuple[float, Pose]:
        """The agreement of fine detail, by which poses compete, and the pose."""
        size = self.reference.shape
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(np.ones(size, np.uint8), matrix, size[::-1], flags=flags) > 0
        if not seen.any():
            return -1.0, Pose(matrix, 0.0, 0.0)
        aligned = smooth(warp(picture, matrix, size))
        quality = correlation(self.smoothed[seen], aligned[seen])
        return correlation(self.detail[seen], detail_of(aligned)[seen]), Pose(
            matrix, quality, float(seen.mean())
        )


class Keypoints:
    """SIFT keypoints of a reference and the rigid motion under which most of them are found again.

    Source: Lowe, IJCV 2004.
    """

    def __init__(self, reference: np.ndarray) -> None:
        self.points, self.descriptors = self._detect(reference)

    @staticmethod
    def _detect(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        # a low threshold: a part's edges are few and its surface is plain
        sift = cv2.SIFT.create(nfeatures=1000, contrastThreshold=0.01)
        grey = ((picture - picture.min()) * (255 / np.ptp(picture))).astype(np.uint8)
        keypoints, descriptors = sift.detectAndCompute(grey, np.full_like(grey, 255))
        return np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2), descriptors

    def match(self, picture: np.ndarray) -> np.ndarray | None:
        """Reference pixel -> picture pixel, without scale; None with too few matches."""
        points, descriptors = self._detect(picture)
        if descriptors is None or self.descriptors is None:
            return None
        matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(self.descriptors, descriptors)
        here = self.points[[match.queryIdx for match in matches]]
        there = points[[match.trainIdx for match in matches]]
        if len(matches) < 3:
            return None
        cv2.setRNGSeed(0)  # RANSAC draws: the same picture must give the same pose
        matrix, inliers = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=3.0, maxIters=5000)
        if matrix is None:
            return None
        turn = rotation(angle(matrix), (1, 1))
        kept = inliers.ravel() > 0
        turn[:, 2] = there[kept].mean(axis=0) - turn[:, :2] @ here[kept].mean(axis=0)
        return turn
