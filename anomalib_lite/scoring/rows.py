"""What every classifier checks: rows of embeddings, and the arrays of a saved state."""

from __future__ import annotations

import numpy as np

from anomalib_lite.types import InputError


def embedding_rows(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (n, D) as contiguous float32; raises InputError for another shape or a value that is not finite.

    >>> embedding_rows(np.ones((1, 2))).dtype
    dtype('float32')
    """
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise InputError(f"expected embeddings of shape (n, features), got {embeddings.shape}")
    if not np.isfinite(embeddings).all():
        raise InputError("expected finite embeddings, got NaN or infinity")
    return embeddings


def training_rows(embeddings: np.ndarray, *, method: str, minimum: int) -> np.ndarray:
    """Embeddings (N, D) to learn from; raises InputError for fewer than `minimum`, and what `embedding_rows` does.

    >>> training_rows(np.ones((1, 2)), method="lof", minimum=2)
    Traceback (most recent call last):
    anomalib_lite.types.InputError: lof needs at least 2 training embeddings, got 1
    """
    embeddings = embedding_rows(embeddings)
    if len(embeddings) < minimum:
        noun = "embedding" if minimum == 1 else "embeddings"
        raise InputError(f"{method} needs at least {minimum} training {noun}, got {len(embeddings)}")
    return embeddings


def query_rows(embeddings: np.ndarray, *, features: int) -> np.ndarray:
    """Embeddings (B, D) to score; raises InputError for a D other than `features`, and what `embedding_rows` does.

    >>> query_rows(np.ones((1, 2)), features=3)
    Traceback (most recent call last):
    anomalib_lite.types.InputError: expected embeddings of 3 features, got 2
    """
    embeddings = embedding_rows(embeddings)
    if embeddings.shape[1] != features:
        raise InputError(f"expected embeddings of {features} features, got {embeddings.shape[1]}")
    return embeddings


def check_leaving_one_out(count: int, *, minimum: int) -> None:
    """Raises InputError where `count` training rows are fewer than leaving one out needs.

    >>> check_leaving_one_out(1, minimum=2)
    Traceback (most recent call last):
    anomalib_lite.types.InputError: leaving one out needs at least 2 training embeddings, got 1
    """
    if count < minimum:
        raise InputError(f"leaving one out needs at least {minimum} training embeddings, got {count}")


def stored_array(arrays: dict[str, np.ndarray], name: str, *, shape: tuple[int | None, ...]) -> np.ndarray:
    """A saved array as contiguous float64; None in `shape` stands for any length.

    Raises:
        InputError: if it is missing, has another shape, or a value that is not finite.

    >>> stored_array({"mean": np.ones(2)}, "mean", shape=(None, 2))
    Traceback (most recent call last):
    anomalib_lite.types.InputError: mean: expected shape (any, 2), got (2,)
    """
    if name not in arrays:
        raise InputError(f"{name} is missing")
    # contiguous: BLAS adds in another order, and so to other bits, where the layout is another
    array = np.asarray(arrays[name], dtype=np.float64, order="C")
    if array.ndim != len(shape) or any(
        size not in (None, found) for size, found in zip(shape, array.shape, strict=True)
    ):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{name}: expected shape ({expected}), got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: expected finite numbers, got NaN or infinity")
    return array
