"""Patches, the seeded sampler, and pictures that are prepared once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomalib_lite.data.datamodule import InspectionData, Roles
from anomalib_lite.data.images import write_png
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.pictures import EpochSampler, Patches
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.data.sources import MVTecSource
from anomalib_lite.stages import StageStore
from anomalib_lite.types import InputError


def make_data(root, store, **changes) -> InspectionData:
    settings = {
        "source": MVTecSource(root=str(root), category=None, balanced_test=False, seed=0),
        "preparation": Preparation(registration=Registration(method="none"), crop=None, size=None),
        "roles": Roles(validation_share=0.1, calibration_share=0.15),
        "calibration_minimum": 9,
        "scores_only": False,
        "grid": PatchGrid(size=16, stride=8),
        "downsize": 32,
        "batch_size": 8,
        "steps_per_epoch": 3,
        "seed": 0,
        "store": store,
        "on_bad_image": "error",
        "on_not_aligned": "error",
    }
    data = InspectionData(**(settings | changes))
    data.setup()
    return data


@pytest.fixture
def root(draw_set, tmp_path):
    return draw_set(tmp_path / "part")


@given(population=st.integers(1, 30), per_epoch=st.integers(1, 40), epoch=st.integers(0, 5))
def test_sampler_depends_on_seed_and_epoch_alone(population, per_epoch, epoch):
    first, second = (EpochSampler(population=population, per_epoch=per_epoch, seed=3) for _ in range(2))
    for earlier in range(epoch):
        first.set_epoch(earlier)
        list(first)
    first.set_epoch(epoch)
    second.set_epoch(epoch)
    drawn = list(second)
    assert list(first) == drawn
    assert len(drawn) == per_epoch


def test_patches_are_those_of_the_grid():
    pictures = np.random.default_rng(0).integers(0, 65536, (2, 3, 20, 28), dtype=np.uint16)
    grid = PatchGrid(size=16, stride=8)
    patches, index = Patches(pictures, grid).__getitems__(list(range(2 * grid.count((20, 28)))))
    expected = grid.extract(torch.from_numpy(pictures.astype(np.float32)) / 65535).flatten(0, 1)
    torch.testing.assert_close(patches, expected)
    assert index.tolist() == list(range(grid.count((20, 28)))) * 2


def test_roles_are_disjoint_and_cover_everything(root, tmp_path):
    data = make_data(root, StageStore(root=tmp_path / "stages"))
    rows = [row for role in data.rows.values() for row in role]
    assert sorted(rows) == list(range(20 + 8))
    assert [len(data.rows[role]) for role in ("train", "validation", "calibration", "test")] == [9, 2, 9, 8]
    assert all(data.samples[row].split == "train" for row in data.rows["calibration"])


def test_second_run_reads_no_photograph_again(root, tmp_path, monkeypatch):
    first = make_data(root, StageStore(root=tmp_path / "stages"))
    monkeypatch.setattr("anomalib_lite.data.datamodule.read_image", lambda path: pytest.fail(f"read {path}"))
    second = make_data(root, StageStore(root=tmp_path / "stages"))
    assert np.array_equal(first.pictures, second.pictures)


def test_changed_image_is_prepared_again(root, tmp_path):
    first = make_data(root, StageStore(root=tmp_path / "stages"))
    write_png(root / "test" / "good" / "000.png", np.zeros((48, 64, 3), np.uint8))
    second = make_data(root, StageStore(root=tmp_path / "stages"))
    changed = [i for i in range(28) if not np.array_equal(first.pictures[i], second.pictures[i])]
    assert [first.samples[i].path for i in changed] == [root / "test" / "good" / "000.png"]


def test_batches_depend_on_the_epoch_and_the_seed(root, tmp_path):
    def batches(seed, epoch):
        loader = make_data(root, StageStore(root=tmp_path / "stages"), seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([index for _, index in loader])

    assert torch.equal(batches(0, 1), batches(0, 1))
    assert not torch.equal(batches(0, 1), batches(0, 2))


def test_bad_training_image_is_an_error_or_listed(root, tmp_path):
    (root / "train" / "good" / "005.png").write_text("no picture")
    with pytest.raises(InputError, match=r"good.005\.png"):
        make_data(root, StageStore(root=tmp_path / "stages"))
    data = make_data(root, StageStore(root=tmp_path / "stages"), on_bad_image="skip")
    assert [path for path, _ in data.excluded] == [str(root / "train" / "good" / "005.png")]
    assert len(data.samples) == 27


def test_patch_larger_than_the_picture(root, tmp_path):
    data = make_data(root, StageStore(root=tmp_path / "stages"), grid=PatchGrid(size=64, stride=32))
    with pytest.raises(InputError, match=r"patch size 64 is larger than the image \(24 x 32\)"):
        data.train_dataloader()  # what has no patches does without


def test_too_few_normals(draw_set, tmp_path):
    root = draw_set(tmp_path / "part", train=1)
    with pytest.raises(InputError, match="found 1 normal picture"):
        make_data(root, StageStore(root=tmp_path / "stages"))
