"""The figures that the papers print, in percent, as data: what a comparison shows beside its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

CPCAE = "Saeedi & Giusti, VISAPP 2022, doi 10.5220/0010780200003124, tables 2 and 3"
DENOISING = "Rojas, Morton, Perez & Andrade, 2020"
ENCODER_DECODER = "Fadaeinejad, hazelnut"

MVTEC = ("bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "toothbrush", "transistor")
ZIPPER = tuple(f"zipper{number}" for number in range(1, 7))
GROUPS = {"MVTec AD, 8 categories": MVTEC, "zipper, 6 sets": ZIPPER}

PIXEL_METRICS = ("pixel_Recall", "pixel_Precision", "pixel_F1Score")


@dataclass(frozen=True, slots=True)
class Figure:
    """A printed figure in percent; `low` and `high` differ where a range is printed."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.2f}" if self.low == self.high else f"{self.low:g}–{self.high:g}"


@dataclass(frozen=True, slots=True)
class PublishedMethod:
    """One method as its paper, or a rival's, reports it."""

    title: str
    source: str
    figures: dict[str, dict[str, Figure]]  # data set -> metric -> figure
    printed_means: dict[str, dict[str, float]] = field(default_factory=dict)  # group -> metric -> mean

    def figure(self, data: str, metric: str) -> Figure | None:
        """What is printed for a data set, None where nothing is.

        >>> print(PUBLISHED["cpcae"].figure("bottle", "image_AUROC"))
        99.71
        """
        return self.figures.get(data, {}).get(metric)

    def mean(self, data: Sequence[str], metric: str) -> float | None:
        """The mean recomputed from the printed columns, None unless every one of these data sets is printed.

        >>> round(PUBLISHED["ae_l2"].mean(MVTEC, "image_AUROC"), 2)
        76.87
        """
        found = [self.figure(name, metric) for name in data]
        values = [(figure.low + figure.high) / 2 for figure in found if figure is not None]
        return float(np.mean(values)) if values and len(values) == len(data) else None


def _both(
    title: str,
    mvtec: Sequence[tuple[float, float]],
    zipper: Sequence[tuple[float, float]],
    *,
    means: tuple[tuple[float, float], tuple[float, float]],
) -> PublishedMethod:
    """A method with AUROC / AP on both groups, and the printed means of the two."""
    columns = [*zip(MVTEC, mvtec, strict=True), *zip(ZIPPER, zipper, strict=True)]
    return PublishedMethod(
        title=title,
        source=CPCAE,
        figures={
            name: {"image_AUROC": Figure(auroc, auroc), "image_AP": Figure(precision, precision)}
            for name, (auroc, precision) in columns
        },
        printed_means={
            group: {"image_AUROC": auroc, "image_AP": precision}
            for group, (auroc, precision) in zip(GROUPS, means, strict=True)
        },
    )


def _auroc(title: str, values: Sequence[float], *, mean: float) -> PublishedMethod:
    """A method of which only AUROC on MVTec is printed."""
    return PublishedMethod(
        title=title,
        source=f"{CPCAE}, which takes it from earlier work",
        figures={
            name: {"image_AUROC": Figure(value, value)} for name, value in zip(MVTEC, values, strict=True)
        },
        printed_means={"MVTec AD, 8 categories": {"image_AUROC": mean}},
    )


# the key is the name of our model config where there is one
PUBLISHED: dict[str, PublishedMethod] = {
    "cpcae": _both(
        "CPCAE + deep features",
        [(99.71, 99.90), (87.73, 92.54), (86.39, 96.71), (95.87, 97.90), (79.28, 94.88), (86.74, 97.23),
         (100.0, 100.0), (93.06, 91.68)],
        [(95.67, 98.35), (96.90, 98.16), (95.20, 90.90), (88.08, 88.81), (94.64, 96.00), (96.10, 96.43)],
        means=((91.09, 96.35), (94.43, 94.77)),
    ),
    "ae_l2": _both(
        "AE (L2)",
        [(89.77, 96.83), (82.70, 89.70), (54.89, 87.12), (85.23, 91.74), (59.45, 87.36), (79.85, 95.59),
         (76.68, 91.03), (86.35, 85.72)],
        [(87.81, 95.24), (95.59, 97.05), (92.21, 87.88), (77.54, 83.01), (78.48, 82.47), (91.11, 90.17)],
        means=((75.31, 91.39), (87.12, 89.30)),
    ),
    "deep_feature": _both(
        "deep feature",
        [(96.71, 98.90), (83.61, 90.45), (88.37, 96.40), (90.29, 95.01), (68.93, 90.21), (71.71, 92.38),
         (91.67, 96.85), (85.33, 85.51)],
        [(85.32, 93.78), (95.77, 96.99), (80.81, 51.10), (74.97, 74.75), (62.15, 73.47), (93.77, 93.31)],
        means=((83.27, 93.89), (82.13, 80.56)),
    ),
    "nearest_neighbour": _both(
        "nearest neighbour",
        [(81.02, 93.78), (81.30, 88.11), (69.78, 91.09), (52.83, 74.29), (60.16, 87.76), (63.66, 88.71),
         (95.84, 98.46), (81.12, 78.64)],
        [(91.06, 96.36), (94.14, 96.50), (90.69, 86.51), (82.72, 85.94), (76.31, 79.88), (91.58, 92.83)],
        means=((68.12, 87.29), (87.75, 89.67)),
    ),
    "variation": _both(
        "variation",
        [(79.25, 93.12), (68.20, 77.88), (46.05, 83.08), (49.13, 70.93), (42.95, 79.20), (62.86, 87.56),
         (86.48, 94.36), (73.09, 75.15)],
        [(91.32, 96.18), (93.45, 95.47), (91.13, 86.37), (77.06, 83.33), (73.53, 77.11), (81.76, 81.06)],
        means=((58.07, 81.96), (84.70, 86.58)),
    ),
    "vae": _auroc("VAE", [89.7, 65.4, 52.6, 87.8, 57.6, 76.9, 69.3, 62.6], mean=71.66),
    "gan": _auroc("GANomaly", [89.2, 75.7, 73.2, 74.3, 78.5, 74.3, 65.3, 79.2], mean=77.53),
    "ae_ssim": _auroc("AE-SSIM", [83.4, 47.8, 86.0, 91.6, 60.3, 83.0, 78.4, 72.5], mean=75.35),
    "anogan": _auroc("AnoGAN", [62.0, 38.3, 30.6, 69.8, 32.0, 77.6, 74.9, 54.9], mean=51.71),
    "geotrans": _auroc("GeoTrans", [74.4, 78.3, 67.0, 63.0, 35.9, 63.0, 97.2, 86.9], mean=63.60),
    "dilated": PublishedMethod(
        "SSIM denoising autoencoder",
        f"{DENOISING}, from 1,000 training pictures",
        {"surface_crack": {"image_Accuracy": Figure(91, 98)}, "casting": {"image_Accuracy": Figure(86, 90)}},
    ),
    "encoder_decoder": PublishedMethod(
        "deep encoder-decoder",
        ENCODER_DECODER,
        {
            "hazelnut": {
                f"{defect}/{metric}": Figure(value, value)
                for defect, values in (
                    ("print", (22, 82, 35)),
                    ("crack", (26, 57, 36)),
                    ("cut", (69, 80, 57)),
                    ("hole", (55, 61, 75)),
                )
                for metric, value in zip(PIXEL_METRICS, values, strict=True)
            }
        },
    ),
}  # fmt: skip

# pixel recall, precision and F1 of rivals on hazelnut, as the encoder-decoder's paper prints them
HAZELNUT_RIVALS = {
    "AE-L2": (84, 93, 88),
    "AE-SSIM": (8, 100, 15),
    "AnoGAN": (16, 83, 27),
    "CNN feature dictionary": (7, 90, 13),
}
# mean image AUROC on the eight categories
REFERENCES = {
    "PCA residual on frozen WideResNet-50 features": 96.4,
    "PatchCore": 99.3,
    "Dinomaly": 99.7,
}
MISPRINT = 0.05  # percent points; rounding of printed columns explains less


def misprinted_means() -> list[tuple[str, str, str, float, float]]:
    """Title, group, metric, printed mean and the mean of the printed columns, where the two disagree.

    >>> [found[:3] for found in misprinted_means()][0]
    ('AE (L2)', 'MVTec AD, 8 categories', 'image_AUROC')
    """
    found = []
    for method in PUBLISHED.values():
        for group, means in method.printed_means.items():
            for metric, printed in means.items():
                actual = method.mean(GROUPS[group], metric)
                if actual is not None and abs(actual - printed) > MISPRINT:
                    found.append((method.title, group, metric, printed, actual))
    return found


def f1(recall: float, precision: float) -> float:
    """The F1 score in percent that follows from recall and precision in percent.

    >>> round(f1(69, 80))
    74
    """
    return 2 * recall * precision / (recall + precision)
