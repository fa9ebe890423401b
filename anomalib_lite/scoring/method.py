"""Which way leads from an error map to a score."""

from __future__ import annotations

from dataclasses import dataclass

from anomalib_lite.scoring.embedding import POOLINGS
from anomalib_lite.types import InputError

METHODS = ("embedding", "map", "similarity", "reconstruction_probability")
MOST_SAMPLES = 10_000  # each is a reconstruction of the whole picture
REDUCTIONS = ("mean_square", "maximum", "top_mean")


@dataclass(kw_only=True)
class Scoring:
    """How an error map becomes a raw score.

    Args:
        method: `embedding` (deep features of the map, then the classifier), `map` (see `reduction`),
            `similarity` (of picture and reconstruction, as the network saw them) or `reconstruction_probability`.
        pooling: of the deep features, `cascade` or `max`.
        contrast: stretch the map so that an ordinary part's largest error just fills the range of the network's
            input: errors of any part then look alike to it.
        reduction: of `map`: `mean_square` of the error as the network saw the picture (the paper's AE), or the
            `maximum` of the anomaly map, which a small defect raises as much as a large one, or `top_mean`, the mean
            of its largest values, which one noisy place does not raise as much.
        top_share: of the map's pixels, for `top_mean`.
        samples: of the latent, for `reconstruction_probability`.
    """

    method: str = "embedding"
    pooling: str = "cascade"
    contrast: bool = True
    reduction: str = "mean_square"
    top_share: float = 0.01
    samples: int = 16

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"scoring.method must be one of {', '.join(METHODS)}, got {self.method}")
        if self.reduction not in REDUCTIONS:
            raise InputError(
                f"scoring.reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction}"
            )
        if not 0 < self.top_share <= 1:
            raise InputError(f"scoring.top_share must be above 0 and at most 1, got {self.top_share}")
        if self.samples < 1:
            raise InputError(f"scoring.samples must be at least 1, got {self.samples}")
        if self.samples > MOST_SAMPLES:
            raise InputError(f"scoring.samples must be at most {MOST_SAMPLES}, got {self.samples}")
        if self.pooling not in POOLINGS:
            raise InputError(f"scoring.pooling must be one of {', '.join(POOLINGS)}, got {self.pooling}")
