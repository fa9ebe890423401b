"""Where a run's photographs come from: one small class for each data config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.data.folder import folder_samples, mvtec_samples
from anomalib_lite.types import InputError, Sample


@dataclass(frozen=True, kw_only=True)
class MVTecSource:
    """One category of the MVTec layout.

    `balanced_test` keeps as many defective test pictures as there are good ones, drawn by `seed`.
    """

    root: str
    category: str | None
    balanced_test: bool
    seed: int

    def samples(self) -> list[Sample]:
        """Every photograph, masks paired by stem."""
        samples = mvtec_samples(Path(self.root), self.category)
        return _balanced(samples, self.seed) if self.balanced_test else samples


def _balanced(samples: list[Sample], seed: int) -> list[Sample]:
    good = sum(sample.split == "test" and not sample.label for sample in samples)
    if not good:
        raise InputError("data.balanced_test: expected good test pictures to match in number, found none")
    defective = [row for row, sample in enumerate(samples) if sample.label]
    kept = np.random.default_rng(seed).permutation(defective)[:good]
    left_out = set(defective) - set(kept.tolist())
    return [sample for row, sample in enumerate(samples) if row not in left_out]


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder of good parts and, to test with, one of defective parts."""

    normal_dir: str
    normal_test_dir: str | None
    abnormal_dir: str | None
    mask_dir: str | None
    test_share: float
    seed: int

    def samples(self) -> list[Sample]:
        """Every photograph, masks paired by stem."""

        def path(text: str | None) -> Path | None:
            return None if text is None else Path(text)

        return folder_samples(
            normal_dir=Path(self.normal_dir),
            normal_test_dir=path(self.normal_test_dir),
            abnormal_dir=path(self.abnormal_dir),
            mask_dir=path(self.mask_dir),
            test_share=self.test_share,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class RenderedSource(ABC):
    """A rendered set of pictures (width, height), or the user's own photographs in the same layout."""

    root: str | None
    picture: list[int]
    seed: int
    folder: str

    def samples(self) -> list[Sample]:
        """Every picture; renders the set where it is not there yet."""
        return mvtec_samples(self._render() if self.root is None else Path(self.root), None)

    @abstractmethod
    def _render(self) -> Path:
        """The folder of the set; its renderer is imported here, for nobody's own pictures need it."""


@dataclass(frozen=True, kw_only=True)
class ZipperSource(RenderedSource):
    """A set of zipper cursors."""

    set_number: int

    def _render(self) -> Path:
        from anomalib_lite.data.rendered.zipper import MINIMUM_SIZE, render_zipper

        size = _picture_size(self.picture, MINIMUM_SIZE)
        return render_zipper(Path(self.folder), set_number=self.set_number, size=size, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class BeltSource(RenderedSource):
    """Frames of a conveyor belt."""

    def _render(self) -> Path:
        from anomalib_lite.data.rendered.belt import MINIMUM_SIZE, render_belt

        return render_belt(Path(self.folder), size=_picture_size(self.picture, MINIMUM_SIZE), seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class FabricSource(RenderedSource):
    """Close-ups of cloth."""

    weave: str

    def _render(self) -> Path:
        from anomalib_lite.data.rendered.fabric import MINIMUM_SIZE, render_fabric

        size = _picture_size(self.picture, MINIMUM_SIZE)
        return render_fabric(Path(self.folder), weave=self.weave, size=size, seed=self.seed)


def _picture_size(picture: Any, minimum: tuple[int, int]) -> tuple[int, int]:
    """`data.picture` as (width, height); raises InputError unless it is two whole numbers of at least `minimum`."""
    sides: list[Any] = [picture] if isinstance(picture, str | int) else list(picture)
    whole = len(sides) == 2 and all(isinstance(side, int) for side in sides)
    if not whole or sides[0] < minimum[0] or sides[1] < minimum[1]:
        raise InputError(
            f"data.picture must be [width, height] in pixels, at least [{minimum[0]}, {minimum[1]}], got {picture}"
        )
    return sides[0], sides[1]
