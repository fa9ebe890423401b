"""t-SNE of the map embeddings beside t-SNE of the latent vectors, as Saeedi & Giusti (2022) show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.manifold import TSNE

from anomalib_lite.report.plots import FAINT, INK, label_legend, new_figure, own_styles, png

MOST_POINTS = 600  # more points take long and cover each other
FEWEST_POINTS = 6
COMPONENTS = 50  # van der Maaten & Hinton 2008: principal components first, to suppress noise
SEED = 0


def project(vectors: np.ndarray) -> np.ndarray | None:
    """t-SNE (van der Maaten & Hinton, JMLR 9, 2008) of vectors (n, D) to (n, 2).

    None where there are fewer than `FEWEST_POINTS`, or where all are equal.

    >>> project(np.eye(8)).shape
    (8, 2)
    >>> project(np.ones((8, 3))) is None
    True
    """
    if len(vectors) < FEWEST_POINTS:
        return None
    components = principal_components(vectors)
    spread = components[:, 0].std()
    if spread == 0:
        return None
    start = components[:, :2] / spread * 1e-4  # as scikit-learn scales init="pca"
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    model = TSNE(perplexity=perplexity, init=start, random_state=SEED, n_jobs=1)
    return model.fit_transform(components[:, :COMPONENTS].astype(np.float32))


def principal_components(vectors: np.ndarray) -> np.ndarray:
    """Principal components (n, >= 2) of vectors (n, D), from their n x n Gram matrix, since D may be 6144.

    >>> principal_components(np.array([[3.0], [0.0], [-3.0]])).round(6)[:, 1]
    array([0., 0., 0.])
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred @ centred.T)
    variances, directions = variances[::-1], directions[:, ::-1]
    scale = np.where(variances > 1e-12 * variances[0], variances, 0.0)  # the rest is rounding
    return directions * np.sqrt(scale)


def subsample(defects: Sequence[str], count: int = MOST_POINTS) -> np.ndarray:
    """At most `count` row numbers, spread evenly over the rows sorted by defect type.

    >>> subsample(["b", "a", "b", "a"], count=2).tolist()
    [1, 2]
    """
    order = sorted(range(len(defects)), key=lambda row: (defects[row], row))
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return np.sort(np.array(order, dtype=int)[places])


def draw_tsne(spaces: Mapping[str, np.ndarray], defects: Sequence[str]) -> bytes | None:
    """t-SNE of each named space (n, D), side by side, coloured by defect type; None if none is possible."""
    merged, styles = own_styles(defects)
    rows = subsample(defects)
    names = [merged[row] for row in rows]
    projected = {title: project(vectors[rows]) for title, vectors in spaces.items()}
    panels = {title: points for title, points in projected.items() if points is not None}
    if not panels:
        return None
    figure = new_figure(4.4 * len(panels), 4.6)
    for axes, (title, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        handles = []
        for name, (colour, marker) in styles.items():
            chosen = points[[other == name for other in names]]
            handles.append(axes.scatter(*chosen.T, c=colour, marker=marker, s=26, alpha=0.8, linewidths=0))
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(FAINT)
    labels = [f"{name} ({names.count(name)})" for name in styles]
    label_legend(figure, handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return png(figure)
