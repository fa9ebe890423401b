"""Folders as samples: both layouts, what each mistake is told, and the split of the normals."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.data.folder import (
    TRAIN_MINIMUM,
    VALIDATION_MINIMUM,
    folder_samples,
    mvtec_samples,
    split_normals,
)
from anomalib_lite.data.images import write_png
from anomalib_lite.types import InputError, Sample


def draw(path: Path, size: tuple[int, int] = (4, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.zeros(size, np.uint8))
    return path


@pytest.fixture
def bottle(tmp_path: Path) -> Path:
    """A small category with a masked, and an unmasked type of defect."""
    folder = tmp_path / "bottle"
    for name in ["train/good/000", "train/good/001", "test/good/000", "test/scratch/000", "test/scratch/001"]:
        draw(folder / f"{name}.png")
    draw(folder / "test/dent/7.png")
    draw(folder / "ground_truth/scratch/000_mask.png")
    draw(folder / "ground_truth/scratch/001.png")
    return folder


def mvtec_error(root: Path, category: str | None) -> str:
    with pytest.raises(InputError) as error:
        mvtec_samples(root, category)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mvtec_layout(bottle: Path) -> None:
    expected = [
        Sample(bottle / "train/good/000.png", "train"),
        Sample(bottle / "train/good/001.png", "train"),
        Sample(bottle / "test/good/000.png", "test"),
        Sample(bottle / "test/dent/7.png", "test", "dent"),
        Sample(
            bottle / "test/scratch/000.png", "test", "scratch", bottle / "ground_truth/scratch/000_mask.png"
        ),
        Sample(bottle / "test/scratch/001.png", "test", "scratch", bottle / "ground_truth/scratch/001.png"),
    ]
    assert mvtec_samples(bottle.parent, "bottle") == expected
    assert mvtec_samples(bottle, None) == expected


def test_a_category_with_training_pictures_only_is_enough(tmp_path: Path) -> None:
    path = draw(tmp_path / "train/good/0.png")
    assert mvtec_samples(tmp_path, None) == [Sample(path, "train")]


def test_masks_of_good_parts_are_ignored(bottle: Path) -> None:
    draw(bottle / "ground_truth/good/000_mask.png")
    assert [sample.mask_path for sample in mvtec_samples(bottle, None) if not sample.label] == [None] * 3


def test_an_unknown_category_lists_the_others_nearest_first(bottle: Path) -> None:
    root = bottle.parent
    draw(root / "cable/train/good/0.png")
    draw(root / "pill/train/good/0.png")
    assert mvtec_error(root, "pil") == f"data.category=pil: not in {root}, which has pill, cable, bottle"
    assert mvtec_error(root, "Botle").endswith("which has bottle, cable, pill")
    assert mvtec_error(root, None) == (
        f"{root}: expected data.category to be one of bottle, cable, pill, found none given"
    )


def test_places_that_hold_no_category_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert mvtec_error(missing, "pill") == f"data.root={missing}: expected a folder, found nothing there"
    assert mvtec_error(tmp_path, "pill") == (
        f"data.category=pill: expected the folder {tmp_path / 'pill'}, found nothing there"
    )
    draw(tmp_path / "pill/good/0.png")
    assert mvtec_error(tmp_path, "pill") == (
        f"{tmp_path / 'pill'}: expected train/good with pictures of good parts, found good"
    )
    (tmp_path / "pill/train/good").mkdir(parents=True)
    assert mvtec_error(tmp_path, "pill").startswith(
        f"no images in {tmp_path / 'pill/train/good'} (looked for .png"
    )


def test_a_missing_mask_is_named(bottle: Path) -> None:
    image = draw(bottle / "test/scratch/002.png")
    mask = bottle / "ground_truth/scratch/002_mask"
    assert mvtec_error(bottle, None) == f"{image}: expected its mask, {mask}.* or 002.*, found none"


def test_a_mask_without_its_image_is_named(bottle: Path) -> None:
    mask = draw(bottle / "ground_truth/scratch/009_mask.png")
    assert mvtec_error(bottle, None) == (
        f"{mask}: expected its picture, {bottle / 'test/scratch/009'}.*, found none"
    )


def test_a_mask_folder_without_pictures_is_named(bottle: Path) -> None:
    draw(bottle / "ground_truth/cut/000_mask.png")
    assert mvtec_error(bottle, None) == (
        f"{bottle / 'ground_truth/cut'}: expected the pictures of these masks under the same name, found none"
    )


def test_ambiguous_pairs_are_refused(bottle: Path) -> None:
    draw(bottle / "ground_truth/scratch/000.png")
    assert mvtec_error(bottle, None) == (
        f"{bottle / 'ground_truth/scratch/000_mask.png'}: expected one mask for a picture, found 000.png too"
    )
    draw(bottle / "test/scratch/000.png").rename(bottle / "test/scratch/001.bmp")
    assert mvtec_error(bottle, None) == (
        f"{bottle / 'test/scratch/001.png'}: expected one picture for a mask, found 001.bmp too"
    )


def test_a_mask_of_another_size_is_refused_with_both_sizes(bottle: Path) -> None:
    mask = draw(bottle / "ground_truth/scratch/000_mask.png", (4, 7))
    assert mvtec_error(bottle, None) == f"{mask}: expected a mask of its image's size, 4 x 6, found 4 x 7"


def test_an_unreadable_picture_is_left_to_its_reader(bottle: Path) -> None:
    (bottle / "test/scratch/000.png").write_text("not a picture")
    assert len(mvtec_samples(bottle, None)) == 6


def test_pictures_outside_a_type_are_refused(bottle: Path) -> None:
    draw(bottle / "test/1.png")
    assert mvtec_error(bottle, None).startswith(f"{bottle / 'test'}: expected a subfolder for each type")


# Plain folders


def plain(**folders: Any) -> list[Sample]:
    defaults = {"abnormal_dir": None, "mask_dir": None, "normal_test_dir": None, "test_share": 0.2, "seed": 0}
    return folder_samples(**{**defaults, **folders})


def plain_error(**folders: Any) -> str:
    with pytest.raises(InputError) as error:
        plain(**folders)
    return str(error.value)


@pytest.fixture
def ok(tmp_path: Path) -> Path:
    for index in range(10):
        draw(tmp_path / f"ok/{index}.png")
    return tmp_path / "ok"


def test_a_seeded_share_of_the_normals_is_tested(ok: Path) -> None:
    samples = plain(normal_dir=ok)
    assert Counter(sample.split for sample in samples) == {"train": 8, "test": 2}
    assert sorted(sample.path for sample in samples) == sorted(ok.iterdir())
    assert {sample.label for sample in samples} == {0}
    assert samples == plain(normal_dir=ok)
    assert any(samples != plain(normal_dir=ok, seed=seed) for seed in (1, 2, 3))


def test_own_test_normals_leave_all_others_to_training(ok: Path, tmp_path: Path) -> None:
    path = draw(tmp_path / "more/0.png")
    samples = plain(normal_dir=ok, normal_test_dir=tmp_path / "more")
    assert [sample.path for sample in samples if sample.split == "test"] == [path]
    assert len(samples) == 11


def test_abnormal_pictures_with_and_without_types(ok: Path, tmp_path: Path) -> None:
    bad, masks = tmp_path / "bad", tmp_path / "masks"
    draw(bad / "0.png")
    draw(bad / "scratch/a.png")
    draw(bad / "dent/a.png")
    draw(masks / "0.png")
    draw(masks / "scratch/a_mask.png")
    defective = [sample for sample in plain(normal_dir=ok, abnormal_dir=bad, mask_dir=masks) if sample.label]
    assert defective == [
        Sample(bad / "0.png", "test", "defective", masks / "0.png"),
        Sample(bad / "dent/a.png", "test", "dent"),
        Sample(bad / "scratch/a.png", "test", "scratch", masks / "scratch/a_mask.png"),
    ]


def test_mistakes_in_plain_folders_are_named(ok: Path, tmp_path: Path) -> None:
    bad, empty = tmp_path / "bad", tmp_path / "empty"
    empty.mkdir()
    draw(bad / "0.png")
    assert plain_error(normal_dir=empty).startswith(f"no images in {empty}")
    assert plain_error(normal_dir=ok, abnormal_dir=empty).startswith(f"no images in {empty}")
    assert plain_error(normal_dir=ok, normal_test_dir=empty).startswith(f"no images in {empty}")
    assert plain_error(normal_dir=ok, abnormal_dir=bad, mask_dir=empty).startswith(f"no images in {empty}")
    assert "abnormal_dir" in plain_error(normal_dir=ok, mask_dir=bad)
    assert plain_error(normal_dir=ok, abnormal_dir=ok / "../ok").startswith(
        "expected different folders, found"
    )
    assert plain_error(normal_dir=ok, test_share=1.0) == "test_share must be in [0, 1), got 1.0"
    assert (
        plain_error(normal_dir=tmp_path / "x")
        == f"{tmp_path / 'x'}: expected a folder of pictures, found nothing there"
    )
    draw(bad / "good/1.png")
    assert plain_error(normal_dir=ok, abnormal_dir=bad) == (
        f"{bad / 'good'}: expected defective parts only, found a type called good"
    )


def test_relative_folders_start_at_the_working_directory(ok: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ok.parent)
    assert plain(normal_dir=Path("ok"))[0].path.parent == Path("ok")


# The split


def normals(count: int, folder: str = "good") -> list[Sample]:
    return [Sample(Path(folder) / f"{index:03}.png", "train") for index in range(count)]


def split(samples: list[Sample], **options: Any) -> list[list[Sample]]:
    defaults = {"validation_share": 0.1, "calibration_share": 0.15, "calibration_minimum": 9}
    defaults |= {"scores_only": False, "seed": 0}
    splits = split_normals(samples, **{**defaults, **options})
    return [splits.train, splits.validation, splits.calibration]


@pytest.mark.parametrize(
    ("count", "counts"),
    [
        (15, [4, 2, 9]),  # the fewest
        (16, [5, 2, 9]),
        (28, [16, 3, 9]),  # zipper set 6
        (60, [45, 6, 9]),
        (200, [150, 20, 30]),  # the shares are above the minima
    ],
)
def test_counts(count: int, counts: list[int]) -> None:
    assert [len(part) for part in split(normals(count))] == counts


def test_too_few_normals_say_how_many_are_needed() -> None:
    with pytest.raises(InputError) as error:
        split(normals(1, "parts/ok"))
    assert str(error.value) == (
        "found 1 normal picture in parts/ok: expected at least 15, 4 to learn from, 2 for validation "
        "and 9 to set the threshold; a single one is enough for raw scores and maps without a verdict: "
        "model=positional_memory threshold=none"
    )
    with pytest.raises(InputError, match="found 24 normal pictures in good: expected at least 25"):
        split(normals(24), calibration_minimum=19)


@pytest.mark.parametrize(("count", "counts"), [(1, [1, 0, 0]), (5, [5, 0, 0]), (6, [4, 2, 0])])
def test_where_scores_are_enough_few_normals_are_all_learned_from(count: int, counts: list[int]) -> None:
    parts = split(normals(count), calibration_minimum=0, scores_only=True)
    assert [len(part) for part in parts] == counts


def test_none_at_all_is_never_enough() -> None:
    with pytest.raises(InputError, match="found 0 normal pictures: expected at least 6"):
        split([], calibration_minimum=0, scores_only=True)


@pytest.mark.parametrize(("validation", "calibration"), [(0.5, 0.5), (-0.1, 0.1)])
def test_impossible_shares_are_refused(validation: float, calibration: float) -> None:
    with pytest.raises(InputError, match=f"less than 1, got {validation} and {calibration}"):
        split(normals(50), validation_share=validation, calibration_share=calibration)


@settings(max_examples=60)
@given(
    count=st.integers(6, 80),
    validation=st.floats(0, 0.49),
    calibration=st.floats(0, 0.49),
    minimum=st.integers(0, 30),
    seed=st.integers(0, 99),
)
def test_parts_are_disjoint_complete_and_large_enough(
    count: int, validation: float, calibration: float, minimum: int, seed: int
) -> None:
    samples = normals(max(count, TRAIN_MINIMUM + VALIDATION_MINIMUM + minimum))
    options = {
        "validation_share": validation,
        "calibration_share": calibration,
        "calibration_minimum": minimum,
    }
    parts = split(samples, seed=seed, **options)
    assert sorted((sample for part in parts for sample in part), key=lambda sample: sample.path) == samples
    assert len(parts[0]) >= TRAIN_MINIMUM
    assert len(parts[1]) >= VALIDATION_MINIMUM
    assert len(parts[2]) >= minimum
    shuffled = random.Random(seed).sample(samples, len(samples))
    assert split(shuffled, seed=seed, **options) == parts


def test_the_split_does_not_depend_on_where_the_folder_lies() -> None:
    def names(parts: list[list[Sample]]) -> list[list[str]]:
        return [[sample.path.name for sample in part] for part in parts]

    assert names(split(normals(40, "a/b"))) == names(split(normals(40, "elsewhere")))
    assert names(split(normals(40))) != names(split(normals(40), seed=1))


def test_a_new_picture_hardly_moves_the_others() -> None:
    before, after = split(normals(200)), split(normals(201))
    moved = sum(len(set(old) - set(new)) for old, new in zip(before, after, strict=True))
    assert moved <= 2


def test_every_normal_gets_every_use_over_the_seeds() -> None:
    """Each of 20 normals should be among the 9 for calibration in 9/20 of the seeds."""
    uses = Counter(sample for seed in range(400) for sample in split(normals(20), seed=seed)[2])
    assert len(uses) == 20
    assert all(abs(count / 400 - 9 / 20) < 0.12 for count in uses.values())  # 4.8 standard deviations


def test_test_pictures_teach_nothing() -> None:
    test = [Sample(Path("test/good/0.png"), "test"), Sample(Path("test/dent/0.png"), "test", "dent")]
    assert split([*test, *normals(30)]) == split(normals(30))


# Real photographs


@pytest.mark.real
def test_real_folders(assets: Path) -> None:
    def counts(folder: str, category: str | None) -> Counter[tuple[str, str, bool]]:
        samples = mvtec_samples(assets / "data" / folder, category)
        return Counter((sample.split, sample.defect, sample.mask_path is not None) for sample in samples)

    assert counts("mvtec", "bottle") == {
        ("train", "good", False): 209,
        ("test", "good", False): 20,
        ("test", "broken_large", True): 20,
        ("test", "broken_small", True): 22,
        ("test", "contamination", True): 21,
    }
    assert counts("casting", None) == {
        ("train", "good", False): 400,
        ("test", "good", False): 130,
        ("test", "defective", False): 200,
    }
    assert counts("surface_crack", None)[("test", "crack", False)] == 150
