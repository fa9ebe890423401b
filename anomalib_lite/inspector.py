"""What a photograph is judged to be, in its own pixels; the same for a detector and for an export without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np

from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.scoring.defects import find_defects
from anomalib_lite.scoring.pixel_mask import MaskRule
from anomalib_lite.scoring.threshold import Threshold
from anomalib_lite.types import Alignment, Prediction

OUTLINE = (255, 0, 255)  # magenta: neither in the colour map nor usual in a photograph
OUTLINE_SHARE = 600  # the long side of a photograph, in widths of the outline

Verdict = Literal["good", "defective", "rejected", "unjudged"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Inspector(Protocol):
    """What judges photographs: a Detector, or an export that runs without torch."""

    card: dict[str, Any]  # where it comes from
    calibration: CalibrationRecord | None  # None in bundles from before it was kept
    threshold: Threshold  # fitted
    on_not_aligned: Literal["reject", "score"]  # of a photograph that could not be aligned

    @property
    def tau_(self) -> float | None:
        """The pixel cut; None without one."""

    @property
    def raw_cut(self) -> float | None:
        """The raw score above which a part is rejected; None without a cut."""

    @property
    def mm_per_pixel(self) -> float | None:
        """The photograph's scale; None: unknown."""

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        """Judge a photograph (H0, W0, 3) float32 in [0, 1]."""

    def carry(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A registered picture's map and its mask, None without a pixel cut, in the photograph's pixels `size`."""


@dataclass(frozen=True, slots=True)
class Localised:
    """An anomaly map in the photograph's own pixels."""

    anomaly_map: np.ndarray  # (H0, W0) float32
    mask: np.ndarray  # (H0, W0) bool, above the cut, as the mask's rule has it
    cut: float  # above 0, for drawing


@dataclass(frozen=True, slots=True)
class Examined:
    """All that is said of one photograph.

    `defects` are the regions above the pixel cut, as `Defect` states them. The image cut and the pixel cut are two
    rules: a part judged good may have such regions, and a defective one none. The list is empty as well where nothing
    could be looked for: a rejected part, a method that does not localise, no pixel cut.
    """

    prediction: Prediction
    localised: Localised | None = None
    defects: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """`rejected` was not judged (not aligned, or not readable), `unjudged` by a detector without a threshold."""
        if self.prediction.rejected:
            return "rejected"
        verdicts: dict[int | None, Verdict] = {0: "good", 1: "defective", None: "unjudged"}
        return verdicts[self.prediction.pred_label]


def load_inspector(folder: Path, *, threads: int) -> Inspector:
    """The detector of a bundle, or what an export runs; nothing of torch is imported for the latter.

    Raises InputError for anything but a whole one of either.
    """
    from anomalib_lite.runtime.exported import Exported, is_export

    if is_export(folder):
        return Exported.load(folder, threads=threads)
    from anomalib_lite.detector import Detector

    return Detector.load(folder)


def judge(
    *,
    path: Path,
    alignment: Alignment,
    raw_score: float,
    anomaly_map: np.ndarray | None,
    error: float | None,
    threshold: Threshold,
    tau: float | None,
    rule: MaskRule,
) -> Prediction:
    """The verdict on a picture of which raw score and map (H, W) are known."""
    raw = np.array([raw_score])
    score, label = threshold.normalise(raw), threshold.label(raw)
    mask = None
    if anomaly_map is not None and tau is not None:
        mask = rule(anomaly_map, tau)
    return Prediction(
        path=path,
        raw_score=raw_score,
        pred_score=None if score is None else float(score[0]),
        pred_label=None if label is None else int(label[0]),
        anomaly_map=anomaly_map,
        pred_mask=mask,
        alignment=alignment,
        error=error,
    )


def not_aligned(path: Path, alignment: Alignment) -> Prediction:
    """The rejection of a part that registration could not place: no score, no map, the reason."""
    reason = f"not aligned: {alignment.reason}"
    return Prediction(path, float("nan"), None, None, None, None, alignment, rejected=reason)


def examine(inspector: Inspector, photograph: np.ndarray, path: Path) -> Examined:
    """Judge a photograph (H0, W0, 3) float32 in [0, 1] and find its defects in its own pixels."""
    prediction = inspector.predict(photograph, path)
    if prediction.anomaly_map is None:
        return Examined(prediction)
    size = (photograph.shape[0], photograph.shape[1])
    carried, mask = inspector.carry(prediction.anomaly_map, prediction.alignment, size)
    tau = inspector.tau_
    if mask is None or tau is None:
        return Examined(prediction, Localised(carried, np.zeros(size, bool), float(carried.max()) or 1.0))
    found = find_defects(carried, mask, mm_per_pixel=inspector.mm_per_pixel)
    localised = Localised(carried, mask, max(tau, float(np.finfo(np.float32).tiny)))
    return Examined(prediction, localised, [asdict(defect) for defect in found])


def unreadable(path: Path, reason: str) -> Examined:
    """The rejection of a photograph that could not be read."""
    alignment = Alignment(np.eye(2, 3), quality=0.0, accepted=False, reason="not readable")
    return Examined(Prediction(path, float("nan"), None, None, None, None, alignment, rejected=reason))


def annotate(photograph: np.ndarray, examined: Examined) -> np.ndarray:
    """The photograph (H, W, 3) in [0, 1] under its map, defects outlined; uint8 (H, W, 3)."""
    if examined.localised is None:
        return np.rint(photograph * 255).astype(np.uint8)
    localised = examined.localised
    return outlined(overlay(photograph, localised.anomaly_map, localised.cut), localised.mask)


def overlay(photograph: np.ndarray, anomaly_map: np.ndarray, cut: float) -> np.ndarray:
    """The photograph (H, W, 3) in [0, 1] under a blue-to-red map (H, W) that is half-way at `cut`; uint8 (H, W, 3).

    >>> overlay(np.zeros((4, 4, 3), np.float32), np.ones((4, 4), np.float32), cut=1.0).shape
    (4, 4, 3)
    """
    level = (anomaly_map * np.float32(1 / (2 * cut))).clip(0, 1)
    colours = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_JET)
    coloured = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    weight = np.multiply(level, 0.6, dtype=np.float32)  # good regions stay as photographed
    # OpenCV's blend: in numpy, a frame of a camera takes five times as long
    return cv2.blendLinear(cv2.convertScaleAbs(photograph, alpha=255), coloured, 1 - weight, weight)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of a picture (H, W, 3) uint8 with a line around each region of a mask (H, W), just outside of it.

    >>> outlined(np.zeros((3, 5, 3), np.uint8), np.eye(3, 5, 1, dtype=bool))[0].tolist()
    [[255, 0, 255], [0, 0, 0], [255, 0, 255], [255, 0, 255], [0, 0, 0]]
    """
    width = max(1, round(max(mask.shape) / OUTLINE_SHARE))
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    ring = cv2.dilate(mask.astype(np.uint8), square).astype(bool) & ~mask
    drawn = picture.copy()
    drawn[ring] = OUTLINE
    return drawn
