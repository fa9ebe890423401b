"""From photographs on disk to registered pictures in a memory-mapped file, split by role, and their patches."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from anomalib_lite.bundle import read_bundle, write_bundle
from anomalib_lite.data.folder import Splits, split_normals
from anomalib_lite.data.images import read_image
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.pictures import LEVELS, EpochSampler, Patches, Photographs, Pictures
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.resize import resize
from anomalib_lite.data.resize_array import fit_long_side
from anomalib_lite.stages import StageStore, code_digest, file_digest, taking_over, versions
from anomalib_lite.types import Alignment, Batch, InputError, Sample

log = logging.getLogger(__name__)

PREPARATION_CODE = (
    "bundle.py",
    *(
        f"data/{name}.py"
        for name in (
            "images",
            "resize",
            "resize_array",
            "affine",
            "pose",
            "part",
            "method_choice",
            "registration",
            "preparation",
            "pictures",
            "datamodule",
        )
    ),
)


class Source(Protocol):
    """Where photographs come from."""

    def samples(self) -> list[Sample]:
        """Every photograph with its split, defect type and mask."""


@dataclass(kw_only=True)
class Roles:
    """How many training normals are held out.

    Args:
        validation_share: early stopping, the value a sweep optimises, the spread of scores and the pixel cut.
        calibration_share: the image cut and nothing else; never fewer than the threshold rule needs.
    """

    validation_share: float = 0.1
    calibration_share: float = 0.15


class InspectionData(LightningDataModule):
    """Photographs of one part, prepared once and kept on disk.

    Args:
        source: gives the samples.
        preparation: unfitted; learns from the training normals alone.
        roles: the shares held out.
        calibration_minimum: calibration normals that the threshold rule needs.
        scores_only: whether a few pictures, all learned from, will do: see `split_normals`.
        grid: patches of the downsized picture.
        downsize: of the picture that the network sees: its long side, pixels; or (height, width), whatever the
            part's shape, for networks that take a picture of one size as a whole; None: the registered picture.
        batch_size: patches in a training batch.
        steps_per_epoch: training batches between two validations.
        seed: of the split and the shuffling.
        store: keeps the prepared pictures.
        on_bad_image: `error`, or `skip`: unreadable training pictures are left out and listed.
        on_not_aligned: `error`, or `exclude`: training parts that could not be aligned are left out and listed.
        num_workers: loader processes.
    """

    def __init__(
        self,
        *,
        source: Source,
        preparation: Preparation,
        roles: Roles,
        calibration_minimum: int,
        scores_only: bool,
        grid: PatchGrid,
        downsize: int | tuple[int, int] | None,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        store: StageStore,
        on_bad_image: Literal["error", "skip"],
        on_not_aligned: Literal["error", "exclude"],
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        _check_choice("data.on_bad_image", on_bad_image, ("error", "skip"))
        _check_choice("data.on_not_aligned", on_not_aligned, ("error", "exclude"))
        _check_least("model.batch_size", batch_size, 1)
        _check_least("model.steps_per_epoch", steps_per_epoch, 1)
        _check_least("seed", seed, 0)
        self.source, self.preparation, self.roles = source, preparation, roles
        self.calibration_minimum, self.scores_only = calibration_minimum, scores_only
        self.grid, self.wanted = grid, downsize
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch
        self.seed, self.store, self.num_workers = seed, store, num_workers
        self.on_bad_image, self.on_not_aligned = on_bad_image, on_not_aligned
        self.excluded: list[tuple[str, str]] = []
        self.downsize = (grid.size, grid.size)  # one patch, until `setup` knows the pictures
        self.ready = False

    @property
    def largest(self) -> tuple[int, int] | None:
        """(h, w) that the network sees at most, known without a picture: of a long side, its square; None: unknown."""
        side = self.preparation.size if self.wanted is None else self.wanted
        return (side, side) if isinstance(side, int) else side

    def setup(self, stage: str | None = None) -> None:
        """Find, check, split and prepare everything; the second call does nothing.

        Raises:
            InputError: whatever is wrong with the user's files.
        """
        if self.ready:
            return
        samples = self._readable(self.source.samples())
        self.splits = split_normals(
            samples,
            validation_share=self.roles.validation_share,
            calibration_share=self.roles.calibration_share,
            calibration_minimum=self.calibration_minimum,
            scores_only=self.scores_only,
            seed=self.seed,
        )
        test = [sample for sample in samples if sample.split == "test"]
        self.samples = [*self.splits.train, *self.splits.validation, *self.splits.calibration, *test]
        self.made_from = self._made_from(self.splits, test)
        folder = self.store.get("prepared", self.made_from, self._prepare)
        arrays, settings = read_bundle(folder / "preparation")
        self.preparation = Preparation.from_state(arrays, settings)
        self.prepared = folder / "pictures.npy"
        with taking_over(folder):
            self.alignments = [
                Alignment(np.array(row.pop("matrix"), np.float64), **row)
                for row in json.loads((folder / "alignments.json").read_text())
            ]
            expected = (len(self.samples), 3, *self.preparation.size_)
            if self.pictures.shape != expected or len(self.alignments) != len(self.samples):
                raise ValueError(f"{len(self.alignments)} alignments, pictures {self.pictures.shape}")
        self._assign_rows()
        height, width = self.pictures.shape[-2:]
        self.downsize = (
            self.wanted if isinstance(self.wanted, tuple) else fit_long_side((height, width), self.wanted)
        )
        self.ready = True

    @cached_property
    def pictures(self) -> np.ndarray:
        """Registered pictures uint16 (n, 3, H, W), memory-mapped; after `setup`."""
        pictures: np.ndarray = np.load(self.prepared, mmap_mode="r")
        return pictures

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which maps the pictures itself."""
        return {name: value for name, value in self.__dict__.items() if name != "pictures"}

    def _readable(self, samples: list[Sample]) -> list[Sample]:
        if self.on_bad_image == "error":
            return samples
        readable = []
        for sample in tqdm(samples, desc="checking files", unit="picture", disable=None):
            try:
                read_image(sample.path)
                readable.append(sample)
            except InputError as error:
                log.warning("skipped: %s", error)
                self.excluded.append((str(sample.path), str(error)))
        return readable

    def _made_from(self, splits: Splits, test: list[Sample]) -> dict[str, Any]:
        roles = {
            "train": splits.train,
            "validation": splits.validation,
            "calibration": splits.calibration,
            "test": test,
        }
        return {
            "files": {
                role: [file_digest(sample.path) for sample in of_role] for role, of_role in roles.items()
            },
            "preparation": self.preparation.settings(),
            "code": code_digest(*PREPARATION_CODE),
            "versions": versions(),
        }

    def _prepare(self, folder: Path) -> None:
        train = self.splits.train
        self.preparation.fit(Photographs(train), [sample.path for sample in train])
        shape = (len(self.samples), 3, *self.preparation.size_)
        pictures = np.lib.format.open_memmap(folder / "pictures.npy", mode="w+", dtype=np.uint16, shape=shape)
        alignments = []
        for row, sample in enumerate(tqdm(self.samples, desc="registering", unit="picture", disable=None)):
            pictures[row], alignment = self.preparation(read_image(sample.path))
            alignments.append({**asdict(alignment), "matrix": alignment.matrix.tolist()})
        pictures.flush()
        (folder / "alignments.json").write_text(json.dumps(alignments))
        write_bundle(folder / "preparation", *self.preparation.state())

    def _assign_rows(self) -> None:
        """Rows of the prepared pictures by role; training parts that could not be aligned stay out."""
        refused = [
            (row, sample)
            for row, (sample, alignment) in enumerate(zip(self.samples, self.alignments, strict=True))
            if sample.split == "train" and not alignment.accepted
        ]
        if refused and self.on_not_aligned == "error":
            row, sample = refused[0]
            raise InputError(
                f"{sample.path}: could not be aligned with the reference ({self.alignments[row].reason}); "
                f"{len(refused)} of {len(self.samples)} pictures in all. Remove them, set "
                "data.on_not_aligned=exclude to leave them out, or data.registration=none"
            )
        self.excluded += [(str(s.path), f"not aligned: {self.alignments[row].reason}") for row, s in refused]
        out = {row for row, _ in refused}
        counts = [len(self.splits.train), len(self.splits.validation), len(self.splits.calibration)]
        starts = np.cumsum([0, *counts])
        train, validation, calibration = (
            [row for row in range(start, start + count) if row not in out]
            for start, count in zip(starts, counts, strict=False)
        )
        held_out = len(calibration) >= self.calibration_minimum and validation
        if not (self.scores_only and train) and (len(train) < 2 or not held_out):
            raise InputError(
                f"after leaving out {len(out)} parts that could not be aligned, {len(train)} train, {len(validation)} "
                f"validation and {len(calibration)} calibration pictures are left; "
                f"needed: 2, 1 and {self.calibration_minimum}"
            )
        self.rows = {
            "train": train,
            "validation": validation,
            "calibration": calibration,
            "test": list(range(int(starts[-1]), len(self.samples))),
        }

    def of_role(self, role: Literal["train", "validation", "calibration", "test"]) -> Pictures:
        """The registered pictures of one role."""
        return Pictures(self.pictures, self.rows[role], self.samples, self.alignments)

    def _downsized(self, role: Literal["train", "validation"]) -> np.ndarray:
        """Downsized pictures uint16 (n, 3, h, w), memory-mapped."""

        def make(folder: Path) -> None:
            shape = (len(self.rows[role]), 3, *self.downsize)
            small = np.lib.format.open_memmap(folder / "small.npy", mode="w+", dtype=np.uint16, shape=shape)
            for row, image in enumerate(self.of_role(role).images()):
                small[row] = np.round(resize(image, self.downsize)[0].numpy() * LEVELS)
            small.flush()

        made_from = {"prepared": self.made_from, "rows": self.rows[role], "downsize": self.downsize}
        folder = self.store.get("downsized", made_from, make)
        with taking_over(folder):
            small: np.ndarray = np.load(folder / "small.npy", mmap_mode="r")
            if small.shape != (len(self.rows[role]), 3, *self.downsize):
                raise ValueError(f"pictures {small.shape}")
            return small

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches of patches of training normals, shuffled by (seed, epoch)."""
        patches = Patches(self._downsized("train"), self.grid)
        process, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % processes:
            raise InputError(
                f"model.batch_size must be divisible by the {processes} processes, got {self.batch_size}"
            )
        sampler = EpochSampler(
            population=len(patches),
            per_epoch=self.batch_size * self.steps_per_epoch,
            seed=self.seed,
            process=process,
            processes=processes,
        )
        return self._loader(patches, sampler, self.batch_size // processes)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Every patch of the validation normals."""
        return self._loader(Patches(self._downsized("validation"), self.grid), None, self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test pictures, one to a batch: a score must not depend on its batch."""
        return DataLoader(self.of_role("test"), batch_size=None)

    def _loader(self, patches: Patches, sampler: Sampler[int] | None, batch_size: int) -> DataLoader[Any]:
        workers = self.num_workers
        return DataLoader(
            patches,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_as_is,
            num_workers=workers,
            # forking after OpenMP has run can hang the second job of a multirun
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=workers > 0,
        )


def _as_is(batch: Any) -> Any:
    return batch  # __getitems__ has gathered it already


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value}")


def _check_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
