"""An export of a detector: judges photographs as its bundle does, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import cv2
import faiss
import numpy as np

from anomalib_lite.bundle import GRAPHS, PARITY, part_of, read_export
from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.data.carrying import carry
from anomalib_lite.data.preparation import LEVELS, Preparation
from anomalib_lite.data.resize_array import resize_array
from anomalib_lite.inspector import judge, not_aligned
from anomalib_lite.runtime.engines import ENGINES, Engine
from anomalib_lite.scoring.classifiers import OneClassClassifier, classifier_from_state
from anomalib_lite.scoring.pixel_mask import MaskRule
from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.scoring.threshold import Threshold, threshold_from_state
from anomalib_lite.types import Alignment, InputError, Prediction


def is_export(folder: Path) -> bool:
    """Whether a folder looks like an export's, not like a bundle's."""
    return any((folder / names[0]).exists() for names in GRAPHS.values())


class Exported:
    """Registration, the graph, classifier and threshold; an `Inspector`.

    Args:
        preparation: fitted; registers, crops and resizes photographs.
        engine: runs the graph.
        scaler, classifier: of the embedding; None where the graph gives the raw score.
        threshold: fitted.
        tau: the pixel cut; None without one.
        rule: what of the pixels above the cut is in the mask.
        mm_per_pixel: of the photograph; None: unknown.
        on_not_aligned: whether a photograph that could not be aligned is rejected unseen or scored all the same.
        calibration: what calibration has seen; None in older bundles.
        card: where it comes from.
    """

    def __init__(
        self,
        *,
        preparation: Preparation,
        engine: Engine,
        scaler: Scaler | None,
        classifier: OneClassClassifier | None,
        threshold: Threshold,
        tau: float | None,
        rule: MaskRule,
        mm_per_pixel: float | None,
        on_not_aligned: Literal["reject", "score"],
        calibration: CalibrationRecord | None,
        card: dict[str, Any],
    ) -> None:
        if on_not_aligned not in ("reject", "score"):
            raise InputError(f"on_not_aligned must be reject or score, got {on_not_aligned!r}")
        self.preparation, self.engine = preparation, engine
        self.scaler, self.classifier, self.threshold = scaler, classifier, threshold
        self.tau_, self.rule, self.mm_per_pixel = tau, rule, mm_per_pixel
        self.on_not_aligned: Literal["reject", "score"] = on_not_aligned
        self.calibration, self.card = calibration, card

    @property
    def raw_cut(self) -> float | None:
        """The raw score above which a part is rejected; None without a cut."""
        return self.threshold.raw_cut

    @classmethod
    def load(cls, folder: Path, *, threads: int) -> Self:
        """The export that `exporting.export` wrote.

        Raises:
            InputError: for anything but a whole export of this format, and where the library that runs it is missing.
        """
        formats = [name for name, files in GRAPHS.items() if (folder / files[0]).exists()]
        if len(formats) != 1:
            raise InputError(
                f"{folder}: expected an export (model.onnx, or model.xml and model.bin), "
                f"found {' and '.join(formats) or 'neither'}"
            )
        arrays, settings, files = read_export(folder, (*GRAPHS[formats[0]], PARITY))
        try:
            return cls.from_content(arrays, settings, files, threads=threads)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from None
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"{folder}: expected an export's settings, found {type(error).__name__}: {error!s:.200}"
            ) from None

    @classmethod
    def from_content(
        cls,
        arrays: dict[str, np.ndarray],
        settings: dict[str, Any],
        files: dict[str, bytes],
        *,
        threads: int,
    ) -> Self:
        """From what a folder holds; errors of any sort where the settings are not an export's."""
        if settings["format"] not in ENGINES:
            raise InputError(f"format must be one of {', '.join(ENGINES)}, got {settings['format']!r:.40}")
        cv2.setNumThreads(threads)
        faiss.omp_set_num_threads(threads)

        def state(part: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            return part_of(arrays, part), settings["parts"][part]

        preparation = Preparation.from_state(*state("preparation"), resize=resize_array)
        embeds = "embedding" in settings["outputs"]
        record = settings["calibration"]
        exported = cls(
            preparation=preparation,
            engine=ENGINES[settings["format"]](files, settings["outputs"], threads=threads),
            scaler=Scaler.from_state(*state("scaler")) if embeds else None,
            classifier=classifier_from_state(*state("classifier")) if embeds else None,
            threshold=threshold_from_state(settings["threshold"]),
            tau=None if settings["tau"] is None else float(settings["tau"]),
            # exports from before there was a peak_share have none
            rule=MaskRule(peak_share=settings.get("peak_share", 0.0), minimum_area=settings["minimum_area"]),
            mm_per_pixel=None if settings["mm_per_pixel"] is None else float(settings["mm_per_pixel"]),
            on_not_aligned=settings["on_not_aligned"],
            calibration=None if record is None else CalibrationRecord.from_state(record),
            card=dict(settings["card"]),
        )
        exported._try()
        return exported

    def _try(self) -> None:
        """A black picture: what does not fit together is known before the first part."""
        try:
            self._score(np.zeros((3, *self.preparation.size_), np.uint16))
        except InputError:
            raise
        except Exception as error:  # of either library
            raise InputError(
                f"its parts do not fit together: {str(error).partition(chr(10))[0]:.200}"
            ) from None

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        """Judge a photograph (H0, W0, 3) float32 in [0, 1]."""
        picture, alignment = self.preparation(photograph)
        if not alignment.accepted and self.on_not_aligned == "reject":
            return not_aligned(path, alignment)
        raw_score, anomaly_map, error = self._score(picture)
        return judge(
            path=path,
            alignment=alignment,
            raw_score=raw_score,
            anomaly_map=anomaly_map,
            error=error,
            threshold=self.threshold,
            tau=self.tau_,
            rule=self.rule,
        )

    def _score(self, picture: np.ndarray) -> tuple[float, np.ndarray | None, float | None]:
        """Raw score, map (H, W) and mean error of a registered picture (3, H, W) uint16."""
        found = self.engine(picture[None].astype(np.float32) / np.float32(LEVELS))
        anomaly_map, error = found.get("anomaly_map"), found.get("error")
        if self.scaler is None or self.classifier is None:
            raw_score = float(found["raw_score"][0])
        else:
            raw_score = float(self.classifier.score(self.scaler.transform(found["embedding"][:1]))[0])
        if not np.isfinite(raw_score):
            raise InputError(f"expected a finite score from the graph, got {raw_score}")
        if anomaly_map is not None and anomaly_map.shape != (1, *self.preparation.size_):
            raise InputError(
                f"expected a map of {self.preparation.size_} from the graph, got {anomaly_map.shape}"
            )
        return (
            raw_score,
            None if anomaly_map is None else anomaly_map[0],
            None if error is None else float(error[0]),
        )

    def carry(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A registered picture's map (H, W) and mask, None without a pixel cut, in the photograph's pixels `size`."""
        return carry(self.preparation, anomaly_map, alignment, size, tau=self.tau_, rule=self.rule)
