"""How well good and defective are told apart, under the field's names; what is undefined is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import cv2
import numpy as np
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
)

from anomalib_lite.types import GOOD, InputError

BOOTSTRAP_CELLS = 2**21  # counts held at once
CONFIDENCE = (2.5, 97.5)  # percentiles
AUPRO_LIMITS = {
    "pixel_AUPRO": 0.3,
    "pixel_AUPRO_0.05": 0.05,
}  # false-positive rate up to which the area counts

# float32 numbers that are not negative have the order of their bit patterns: without the lowest 11 of 23
# bits of the mantissa a bin spans 1/4096 of its value, at any scale, and all of them fit into 2**20 bins
DROPPED_BITS = 11
BINS = 2 ** (31 - DROPPED_BITS)


def image_metrics(
    labels: np.ndarray, raw_scores: np.ndarray, predicted: np.ndarray | None
) -> dict[str, float | None]:
    """Metrics of n pictures from labels, raw scores and predicted labels, each (n,); 0 good, 1 defective.

    `image_AP` is the step-wise average precision of the papers, `image_AUPR` the trapezoid of anomalib;
    `chance_AP` is what scores at random reach. Without predictions or with one sort of pictures only, what
    is undefined is None. Raises InputError for a score that is NaN.

    >>> found = image_metrics(np.array([0, 0, 1, 1]), np.array([1.0, 3.0, 2.0, 40.0]), np.array([0, 1, 0, 1]))
    >>> found["image_AUROC"], round(found["image_AP"], 4), found["chance_AP"], found["false_reject_rate"]
    (0.75, 0.8333, 0.5, 0.5)
    """
    labels = np.asarray(labels).astype(bool)
    ranks, _ = _dense_ranks(raw_scores)
    defective, good = int(labels.sum()), int((~labels).sum())
    areas: dict[str, float | None] = dict.fromkeys(("image_AUROC", "image_AP", "image_AUPR", "chance_AP"))
    if defective and good:
        areas = _image_areas(labels, ranks) | {"chance_AP": defective / len(labels)}
    flagged = np.full(len(labels), np.nan) if predicted is None else np.asarray(predicted).astype(float)
    rates = _rates(flagged[labels].sum(), flagged[~labels].sum(), defective, good)
    return areas | {name: None if np.isnan(value) else float(value) for name, value in rates.items()}


def per_defect(
    defects: Sequence[str], raw_scores: np.ndarray, predicted: np.ndarray | None
) -> dict[str, dict[str, float | None]]:
    """The image metrics of each type of defect against all good pictures, which `defects` (n,) calls "good".

    >>> found = per_defect(["good", "hole", "dent"], np.array([2.0, 3.0, 1.0]), None)
    >>> {defect: values["image_AUROC"] for defect, values in found.items()}
    {'dent': 0.0, 'hole': 1.0}
    """
    types = np.asarray(defects)
    found = {}
    for defect in sorted(set(defects) - {GOOD}):
        chosen = (types == defect) | (types == GOOD)
        part = None if predicted is None else np.asarray(predicted)[chosen]
        found[defect] = image_metrics(types[chosen] != GOOD, np.asarray(raw_scores)[chosen], part)
    return found


def bootstrap(
    labels: np.ndarray,
    raw_scores: np.ndarray,
    predicted: np.ndarray | None,
    *,
    resamples: int = 1000,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the image metrics over resampled pictures, good and defective ones apart.

    They say what other test pictures of the same kind would give, not other training runs; a metric at its
    limit (an AUROC of 1) gets an interval without width. Undefined metrics are left out.
    """
    labels = np.asarray(labels).astype(bool)
    ranks, levels = _dense_ranks(raw_scores)
    rng = np.random.default_rng(seed)
    rows = max(1, BOOTSTRAP_CELLS // max(1, levels))
    chunks = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    parts = [_resampled(labels, ranks, levels, predicted, count, rng) for count in chunks]
    intervals = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[~np.isnan(values)]
        if len(values):
            low, high = np.percentile(values, CONFIDENCE)
            intervals[name] = (float(low), float(high))
    return intervals


def _resampled(
    labels: np.ndarray,
    ranks: np.ndarray,
    levels: int,
    predicted: np.ndarray | None,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The metrics of `resamples` draws, each (resamples,)."""
    counts, flagged = [], []
    for rows in (np.flatnonzero(labels), np.flatnonzero(~labels)):
        drawn = rows[rng.integers(0, max(1, len(rows)), (resamples, len(rows)))]  # (R, rows)
        cell = ranks[drawn] + levels * np.arange(resamples)[:, None]
        counts.append(np.bincount(cell.ravel(), minlength=resamples * levels).reshape(resamples, levels))
        flagged.append(
            np.full(resamples, np.nan) if predicted is None else np.asarray(predicted)[drawn].sum(1)
        )
    found = _rates(flagged[0], flagged[1], int(labels.sum()), int((~labels).sum()))
    if labels.any() and not labels.all():
        found |= {f"image_{name}": area for name, area in ranking_areas(*counts).items()}
    return found


def _dense_ranks(raw_scores: np.ndarray) -> tuple[np.ndarray, int]:
    """The place of each score (n,) among the distinct ones, and their number."""
    raw_scores = np.asarray(raw_scores, dtype=np.float64)
    if np.isnan(raw_scores).any():
        raise InputError("a raw score is NaN: expected a number")
    values, ranks = np.unique(raw_scores, return_inverse=True)
    return ranks, len(values)


def _image_areas(labels: np.ndarray, ranks: np.ndarray) -> dict[str, float | None]:
    # ranks in [0, 1]: torchmetrics puts a sigmoid on anything else, which makes ties of large scores
    scores = torch.from_numpy(ranks / max(1, ranks.max()))
    target = torch.from_numpy(labels).long()
    precision, recall, _ = binary_precision_recall_curve(scores, target)
    return {
        "image_AUROC": float(binary_auroc(scores, target)),
        "image_AP": float(binary_average_precision(scores, target)),
        "image_AUPR": float(-torch.trapezoid(precision, recall)),  # recall falls along the curve
    }


def _rates(
    true_positives: np.ndarray, false_positives: np.ndarray, defective: int, good: int
) -> dict[str, np.ndarray]:
    """Metrics at the threshold, NaN where undefined (torchmetrics would say 0)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        flagged = np.asarray(true_positives + false_positives, dtype=float)
        f1 = 2 * true_positives / (flagged + defective)
        return {
            "image_F1Score": f1 if defective else np.full_like(f1, np.nan),
            "image_Precision": true_positives / flagged,
            "image_Recall": np.divide(true_positives, defective),
            "image_Accuracy": np.divide(true_positives + good - false_positives, defective + good),
            "false_reject_rate": np.divide(false_positives, good),
        }


def ranking_areas(positives: np.ndarray, negatives: np.ndarray) -> dict[str, np.ndarray]:
    """AUROC, AP and AUPR (...) from how many of either sort (..., m) have each of m ascending scores.

    >>> ranking_areas(np.array([0, 1, 1]), np.array([1, 1, 0]))["AUROC"]
    np.float64(0.875)
    """
    true_positives, false_positives = _from_the_top(positives), _from_the_top(negatives)
    recall = true_positives / true_positives[..., -1:]
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.ones_like(flagged), where=flagged > 0)
    precision[..., 0] = 1  # of the empty selection that the curve starts with
    step = np.diff(recall)
    return {
        "AUROC": np.trapezoid(recall, false_positives / false_positives[..., -1:]),
        "AP": (step * precision[..., 1:]).sum(axis=-1),
        "AUPR": (step * (precision[..., 1:] + precision[..., :-1]) / 2).sum(axis=-1),
    }


def _from_the_top(counts: np.ndarray) -> np.ndarray:
    """Counts (..., m) at ascending scores, summed from the highest one down and led by 0: (..., m + 1)."""
    total = np.cumsum(counts[..., ::-1], axis=-1, dtype=np.float64)
    return np.concatenate([np.zeros_like(total[..., :1]), total], axis=-1)


class PixelMetrics:
    """Pixel metrics at original resolution in one pass, from histograms: no map is kept.

    Scores in one bin (`BINS`) count as equal, so AUROC is off by at most half the share of pairs (defective
    pixel, good pixel) that fall into one. The per-region overlap gives every connected region (8 neighbours)
    the same weight (Bergmann et al., The MVTec AD dataset, IJCV 2021), its area is taken up to a
    false-positive rate of 0.3 (or 0.05) and divided by that.

    >>> metrics = PixelMetrics()
    >>> metrics.update(np.array([[0.1, 0.6], [0.2, 0.9]], np.float32), np.array([[0, 0], [0, 1]], bool))
    >>> found = metrics.compute(tau=0.5)
    >>> found["pixel_AUROC"], round(found["pixel_F1Score"], 3), found["pixel_F1Score_oracle"]
    (1.0, 0.667, 1.0)
    """

    def __init__(self) -> None:
        self.regions = 0
        self._normal = np.zeros(BINS, dtype=np.int64)
        self._defect = np.zeros(BINS, dtype=np.int64)
        self._overlap = np.zeros(BINS)  # defect pixels, each weighing 1 / area of its region
        self._flagged: np.ndarray | None = None  # (2,) normal, defect pixels in predicted masks, where given

    def update(self, anomaly_map: np.ndarray, mask: np.ndarray, *, flagged: np.ndarray | None = None) -> None:
        """Count the pixels of a map (H, W) float32, not negative, against its mask (H, W) bool.

        `flagged` (H, W) bool is the predicted mask, where more decides about it than a cut on the map.

        Raises InputError for a mask of another size, or for a map that is negative, infinite or NaN.
        """
        if anomaly_map.ndim != 2 or mask.shape != anomaly_map.shape:
            raise InputError(f"expected map and mask of one (H, W), got {anomaly_map.shape} and {mask.shape}")
        anomaly_map, mask = np.asarray(anomaly_map, dtype=np.float32), np.asarray(mask, dtype=bool)
        if not (anomaly_map.min() >= 0 and anomaly_map.max() < np.inf):
            raise InputError("expected an anomaly map of finite numbers >= 0")
        bins = (anomaly_map + np.float32(0)).view(np.uint32) >> DROPPED_BITS  # + 0: -0.0 has a sign bit
        in_defect = bins[mask]
        _add(self._normal, np.bincount(bins.ravel()))
        if flagged is not None:
            hit = np.count_nonzero(flagged & mask)
            found = np.array([np.count_nonzero(flagged) - hit, hit])
            self._flagged = found if self._flagged is None else self._flagged + found
        if len(in_defect):
            defect = np.bincount(in_defect)
            _add(self._normal, -defect)
            _add(self._defect, defect)
            count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            region = regions[mask]  # (defect pixels,) 1 .. count - 1
            _add(self._overlap, np.bincount(in_defect, weights=1 / np.bincount(region)[region]))
            self.regions += count - 1

    def state(self) -> dict[str, np.ndarray]:
        """All that was counted, as arrays of the bins in use; `from_state` reads it."""
        used = np.flatnonzero((self._normal + self._defect) > 0)
        counts = {"normal": self._normal, "defect": self._defect, "overlap": self._overlap}
        arrays = {"bins": used, "regions": np.array(self.regions)}
        arrays |= {name: counted[used] for name, counted in counts.items()}
        return arrays if self._flagged is None else arrays | {"flagged": self._flagged}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """As `state` describes."""
        metrics = cls()
        metrics.regions, used = int(arrays["regions"]), arrays["bins"]
        counts = {"normal": metrics._normal, "defect": metrics._defect, "overlap": metrics._overlap}
        for name, counted in counts.items():
            counted[used] = arrays[name]
        metrics._flagged = arrays.get("flagged")
        return metrics

    def compute(self, *, tau: float | None) -> dict[str, float | None]:
        """The metrics so far: `pixel_F1Score` at `tau`, `pixel_F1Score_oracle` at the best cut for these masks.

        A cut takes effect at the upper edge of its bin; where predicted masks were given, they count instead. All None
        without defective or without normal pixels.
        """
        names = (
            "pixel_AUROC",
            "pixel_AUPR",
            "pixel_AP",
            "pixel_F1Score",
            "pixel_F1Score_oracle",
            "pixel_Precision",
            "pixel_Recall",
            *AUPRO_LIMITS,
        )
        found: dict[str, float | None] = dict.fromkeys(names)
        defect, normal = int(self._defect.sum()), int(self._normal.sum())
        if not (defect and normal):
            return found
        used = (self._normal + self._defect) > 0
        areas = ranking_areas(self._defect[used], self._normal[used])
        found |= {f"pixel_{name}": float(area) for name, area in areas.items()}
        true_positives, false_positives = _from_the_top(self._defect[used]), _from_the_top(self._normal[used])
        found["pixel_F1Score_oracle"] = float(
            (2 * true_positives / (true_positives + false_positives + defect)).max()
        )
        if tau is not None:
            hits, flagged = self._at(tau)
            found["pixel_F1Score"] = 2 * hits / (flagged + defect)
            found["pixel_Precision"] = hits / flagged if flagged else None
            found["pixel_Recall"] = hits / defect
        # rounding: the weights of a region sum to 1 only nearly
        overlap = np.minimum(_from_the_top(self._overlap[used]) / self.regions, 1)
        for name, limit in AUPRO_LIMITS.items():
            found[name] = area_up_to(false_positives / normal, overlap, limit)
        return found

    def _at(self, tau: float) -> tuple[int, int]:
        """Defect pixels, and pixels in all, that a cut finds."""
        if self._flagged is not None:
            return int(self._flagged[1]), int(self._flagged.sum())
        above = int(np.float32(tau).view(np.uint32) >> DROPPED_BITS) + 1
        hits = int(self._defect[above:].sum())
        return hits, hits + int(self._normal[above:].sum())

    def best_tau(self) -> float | None:
        """The cut with the best F1 score on these masks; None without defective or without normal pixels.

        >>> metrics = PixelMetrics()
        >>> metrics.update(np.array([[0.1, 0.6], [0.2, 0.9]], np.float32), np.array([[0, 0], [0, 1]], bool))
        >>> bool(0.6 < metrics.best_tau() < 0.9)
        True
        """
        used = np.flatnonzero((self._normal + self._defect) > 0)
        if not (self._defect.any() and self._normal.any()):
            return None
        hits, flagged = self._above(used)
        best = int(np.argmax(2 * hits / (flagged + self._defect.sum())))
        return float(np.nextafter(_lower_edge(used[best]), np.float32(0)))  # the bin itself lies above

    def curve(self, points: int) -> list[dict[str, float]]:
        """Precision, recall and F1 score against tau, at about `points` cuts between which equally many pixels lie.

        Half of the cuts divide the defect pixels alike, half the normal ones above half of all; empty without
        defective or without normal pixels.
        """
        used = np.flatnonzero((self._normal + self._defect) > 0)
        if not (self._defect.any() and self._normal.any()):
            return []
        hits, flagged = self._above(used)
        misses, defect = flagged - hits, int(self._defect.sum())
        shares = np.linspace(0, 1, points // 2)
        recall = np.searchsorted(-hits, -shares * defect)
        # false-positive rates on a logarithmic scale: what matters happens where few normal pixels are left
        rates = np.searchsorted(-misses, -misses[0] * np.geomspace(1e-5, 0.5, points - len(shares)))
        rows = []
        for place in np.unique(np.concatenate([recall, rates]).clip(0, len(used) - 1)):
            hit, flag = int(hits[place]), int(flagged[place])
            rows.append(
                {
                    "tau": float(np.nextafter(_lower_edge(used[place]), np.float32(0))),
                    "precision": hit / flag,
                    "recall": hit / defect,
                    "F1": 2 * hit / (flag + defect),
                }
            )
        return rows

    def _above(self, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many defect pixels and pixels in all lie in each used bin or a higher one."""
        return tuple(  # type: ignore[return-value]  # of two
            np.cumsum(counts[used][::-1])[::-1] for counts in (self._defect, self._normal + self._defect)
        )


def _lower_edge(bins: np.ndarray) -> np.ndarray:
    """The smallest value that falls into a bin."""
    return (np.asarray(bins, dtype=np.uint32) << DROPPED_BITS).view(np.float32)


def area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Mean height of the curve (x, y), both ascending from 0 to 1, for x up to `limit` < 1; at most 1.

    >>> round(area_up_to(np.array([0.0, 0.2, 1.0]), np.array([0.0, 0.8, 1.0]), 0.4), 4)
    0.6125
    """
    end = int(np.searchsorted(x, limit, side="right"))  # the first point beyond
    share = (limit - x[end - 1]) / (x[end] - x[end - 1])
    y_limit = y[end - 1] + share * (y[end] - y[end - 1])
    area = np.trapezoid(np.append(y[:end], y_limit), np.append(x[:end], limit))
    return min(float(area) / limit, 1.0)  # the sum of the steps rounds


def _add(total: np.ndarray, counts: np.ndarray) -> None:
    total[: len(counts)] += counts
