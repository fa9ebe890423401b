"""Where a run's photographs come from: one small class for each data config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anomalib_lite.data.folder import folder_samples, mvtec_samples
from anomalib_lite.types import Sample


@dataclass(frozen=True, kw_only=True)
class MVTecSource:
    """One category of the MVTec layout."""

    root: str
    category: str | None

    def samples(self) -> list[Sample]:
        """Every photograph, masks paired by stem."""
        return mvtec_samples(Path(self.root), self.category)


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
class ZipperSource:
    """A rendered set of zipper cursors, or the user's own photographs in the same layout."""

    root: str | None
    set_number: int
    picture: list[int]
    seed: int
    folder: str

    def samples(self) -> list[Sample]:
        """Every picture; renders the set where it is not there yet."""
        if self.root is not None:
            return mvtec_samples(Path(self.root), None)
        from anomalib_lite.data.zipper import render_zipper  # not needed for anybody's own pictures

        width, height = self.picture
        folder = Path(self.folder)
        return mvtec_samples(
            render_zipper(folder, set_number=self.set_number, size=(width, height), seed=self.seed), None
        )
