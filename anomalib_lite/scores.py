"""What a fitted chain says of held-out and test pictures before any cut is made: all that a threshold needs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.numpy

from anomalib_lite.metrics import PixelMetrics
from anomalib_lite.stages import taking_over

ARRAYS, FACTS = "scores.safetensors", "scores.json"


@dataclass(kw_only=True)
class Scores:
    """Raw scores and counted pixels; no map.

    Args:
        validation: (V,) of validation normals.
        calibration: (C,) of calibration normals.
        drawn: (D,) of validation normals without and with drawn defects.
        drawn_labels: (D,) 1 with a defect.
        test: (T,) of the test pictures, NaN where a part could not be aligned.
        tau: the pixel cut that was learned, or given; None: the chain does not localise.
        pixels: of test pictures, at original resolution; None without masks.
        drawn_pixels: of drawn defects, on the registered picture; None where the chain does not localise.
        embeddings: (T', D) of the aligned test pictures, scaled; None where there are none.
        latents: (T', L) of the aligned test pictures; None where there are none.
        ms_per_image: median time of a test picture, from registered picture to raw score.
        losses: of every epoch.
        training_seconds: None: it was resumed, or there was none.
        facts: about the run that computed them, see `record.gather_facts`.
        extra: more entries of metrics.json that no cut changes.
    """

    validation: np.ndarray
    calibration: np.ndarray
    drawn: np.ndarray
    drawn_labels: np.ndarray
    test: np.ndarray
    tau: float | None
    pixels: PixelMetrics | None
    drawn_pixels: PixelMetrics | None
    embeddings: np.ndarray | None
    latents: np.ndarray | None
    ms_per_image: float
    losses: list[dict[str, float]]
    training_seconds: float | None
    facts: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write them into a folder."""
        arrays, facts = {}, {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                arrays[name] = np.ascontiguousarray(value)
            elif isinstance(value, PixelMetrics):
                arrays |= {f"{name}.{part}": array for part, array in value.state().items()}
            else:
                facts[name] = value
        (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
        (folder / FACTS).write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote; raises InputError for anything else.

        >>> from tempfile import TemporaryDirectory
        >>> none = dict.fromkeys(("tau", "pixels", "drawn_pixels", "embeddings", "latents", "training_seconds"))
        >>> some = dict.fromkeys(("validation", "calibration", "drawn", "drawn_labels", "test"), np.arange(2.0))
        >>> with TemporaryDirectory() as folder:
        ...     Scores(**none, **some, ms_per_image=1.5, losses=[]).save(Path(folder))
        ...     Scores.load(Path(folder)).test
        array([0., 1.])
        """
        with taking_over(folder):
            arrays = safetensors.numpy.load((folder / ARRAYS).read_bytes())
            found: dict[str, Any] = dict(json.loads((folder / FACTS).read_text()))
            for name in ("pixels", "drawn_pixels"):
                parts = {
                    key.partition(".")[2]: arrays.pop(key)
                    for key in list(arrays)
                    if key.startswith(f"{name}.")
                }
                if parts:
                    found[name] = PixelMetrics.from_state(parts)
            return cls(**(found | arrays))
