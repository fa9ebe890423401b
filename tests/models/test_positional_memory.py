"""Positional memory: finds what is odd at its place, learns in one pass, travels in a bundle."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomalib_lite.detector import Detector
from anomalib_lite.models.positional_memory import PositionalMemory, free_memory
from anomalib_lite.scoring.embedding import LITE0, find_weights
from anomalib_lite.types import InputError

Run = Callable[..., Any]
WEIGHTS = find_weights(LITE0)
SQUARE = (slice(24, 40), slice(48, 64))  # rows and columns of a defect
EMBEDDED = "embedding=efficientnet_lite0"


def parts(count: int, *, seed: int = 0) -> list[Tensor]:
    """Pictures (1, 3, 64, 96): grey, a bright bar on the left, noise."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, 3, 64, 96), 0.4) + 0.02 * rng.normal(size=(count, 3, 64, 96))
    pictures[..., 16:24] += 0.4
    return [torch.from_numpy(picture).float().clamp(0, 1)[None] for picture in pictures]


@pytest.fixture(scope="module")
def memory() -> PositionalMemory:
    return PositionalMemory(weights=WEIGHTS).learn(parts(12))


def test_a_defect_is_found_at_its_place(memory: PositionalMemory) -> None:
    (good,) = parts(1, seed=5)
    defective = good.clone()
    defective[..., *SQUARE] = 0.0
    usual, odd = memory.map(good), memory.map(defective)
    assert (odd.error.shape, odd.low_error.shape) == ((1, 1, 64, 96), (1, 1, 8, 12))
    row, column = np.unravel_index(int(odd.error[0, 0].argmax()), (64, 96))
    assert 24 <= row < 40
    assert 48 <= column < 64
    assert float(odd.low_error.max()) > 3 * float(usual.low_error.max())


def test_what_is_usual_elsewhere_is_odd_here(memory: PositionalMemory) -> None:
    (good,) = parts(1, seed=5)
    moved = memory.map(good.roll(40, dims=3)).low_error[0, 0]  # the bar is now at columns 56 to 63
    usual = memory.map(good).low_error[0, 0]
    assert float(moved[:, 7].mean()) > 2 * float(usual[:, 7].mean())  # a bar where none belongs
    assert float(moved[:, 2].mean()) > 2 * float(usual[:, 2].mean())  # none where one belongs


def test_it_learns_in_one_pass_of_any_length(memory: PositionalMemory) -> None:
    def once() -> Iterator[Tensor]:
        yield from parts(12)

    again = PositionalMemory(weights=WEIGHTS).learn(once())
    (picture,) = parts(1, seed=5)
    assert torch.equal(again.map(picture).error, memory.map(picture).error)
    again.learn(parts(3)[0][..., :48] for _ in range(2))  # anew, of another size
    assert again.map(picture[..., :48]).low_error.shape == (1, 1, 8, 6)


def test_sums_of_many_pictures_are_those_of_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = parts(7)
    found = []
    for at_a_time in (1, 3, 16):
        monkeypatch.setattr("anomalib_lite.models.positional_memory.PICTURES", at_a_time)
        found.append(PositionalMemory(weights=WEIGHTS).learn(pictures).map(parts(1, seed=5)[0]).low_error)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=5e-3, atol=5e-3)


def test_a_map_does_not_depend_on_its_batch(memory: PositionalMemory) -> None:
    pictures = torch.cat(parts(3, seed=5))
    together = memory.map(pictures).low_error
    for number in range(3):
        alone = memory.map(pictures[number : number + 1]).low_error[0]
        torch.testing.assert_close(together[number], alone, rtol=1e-4, atol=1e-4)


def test_a_single_picture_is_enough_for_a_map() -> None:
    (good, other), (row, column) = parts(2), (28, 54)
    memory = PositionalMemory(weights=WEIGHTS).learn([good])
    defective = other.clone()
    defective[..., *SQUARE] = 0.0
    error = memory.map(defective).error[0, 0]
    assert bool(error.isfinite().all())
    assert float(error[row, column]) > 3 * float(memory.map(other).error[0, 0, row, column])


def test_large_windows_see_further_on_a_coarser_grid() -> None:
    pictures, (good,) = parts(6), parts(1, seed=5)
    defective = good.clone()
    defective[..., *SQUARE] = 0.0
    reach = []
    for window in (1, 7):
        memory = PositionalMemory(weights=WEIGHTS, windows=[window]).learn(pictures)
        odd = memory.map(defective).low_error - memory.map(good).low_error
        reach.append(int((odd > 0.5 * odd.max()).sum()))
        assert len(memory.gaussians_[0].mean) == (96 if window == 1 else 24)
    assert reach[1] > reach[0]


@pytest.mark.parametrize("channels", [256, 20])
def test_state_round_trip_gives_the_same_bits(channels: int) -> None:
    memory = PositionalMemory(weights=WEIGHTS, channels=channels).learn(parts(5))
    arrays, settings = memory.state()
    assert memory.gaussians_[0].mean.shape == (96, min(channels, 24 + 40 + 112))
    again = PositionalMemory.from_state(arrays, json.loads(json.dumps(settings)))
    (picture,) = parts(1, seed=5)
    assert torch.equal(again.map(picture).error, memory.map(picture).error)


def test_pictures_of_another_size_are_refused(memory: PositionalMemory) -> None:
    with pytest.raises(
        InputError, match=r"expected a picture of 64 x 96 pixels \(height x width\), got 64 x 64"
    ):
        memory.map(torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="expected a picture of 64 x 96 pixels"):
        PositionalMemory(weights=WEIGHTS).learn([*parts(1), torch.zeros(1, 3, 64, 64)])


def test_a_bundle_of_another_resolution_or_backbone_is_refused(memory: PositionalMemory) -> None:
    arrays, settings = memory.state()
    with pytest.raises(
        InputError, match="expected a memory of 192 positions and 176 channels for pictures of 128 x 96"
    ):
        PositionalMemory.from_state(arrays, settings | {"size": [128, 96]})
    fewer = settings | {"backbone": settings["backbone"] | {"layers": ["blocks.1", "blocks.2"]}}
    with pytest.raises(InputError, match=r"64 channels .* and tf_efficientnet_lite0, found \(96, 176\)"):
        PositionalMemory.from_state(arrays, fewer)
    other = settings | {"backbone": settings["backbone"] | {"backbone": "resnet18", "layers": ["layer1"]}}
    with pytest.raises(InputError, match=r"weights of resnet18 from .*tensors are missing"):
        PositionalMemory.from_state(arrays, other)


def test_settings_out_of_range_and_no_pictures_are_refused() -> None:
    for windows in ([], [2], [3, 0]):
        with pytest.raises(InputError, match=r"model\.windows must be odd and positive, got \["):
            PositionalMemory(weights=WEIGHTS, windows=windows)
    with pytest.raises(InputError, match=r"model\.channels must be at least 1, got 0"):
        PositionalMemory(weights=WEIGHTS, channels=0)
    with pytest.raises(InputError, match="expected at least one training picture, found none"):
        PositionalMemory(weights=WEIGHTS).learn([])


def test_too_little_memory_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    # 96 positions, 176 x 176 products of 8 bytes and 5 more while they are made
    needed = 96 * 176**2 * 13
    monkeypatch.setattr("anomalib_lite.models.positional_memory.free_memory", lambda: needed - 1)
    message = (
        r"pictures of 64 x 96 pixels, windows \[3\] and 176 channels need 0\.0 GB of memory, 0\.0 GB are free; "
        r"data\.size=88 or model\.baseline\.channels=175 would fit"
    )
    with pytest.raises(InputError, match=message):
        PositionalMemory(weights=WEIGHTS, windows=[3]).learn(parts(2))
    PositionalMemory(weights=WEIGHTS, windows=[3], channels=175).learn(parts(2))
    for enough in (needed, None):  # None: the system does not say
        monkeypatch.setattr(
            "anomalib_lite.models.positional_memory.free_memory", lambda enough=enough: enough
        )
        PositionalMemory(weights=WEIGHTS, windows=[3]).learn(parts(2))


def test_the_free_memory_is_that_of_this_machine() -> None:
    free = free_memory()
    assert free is None or 10**7 < free < 10**14


def scores(folder: Path) -> dict[str, float]:
    rows = csv.DictReader((folder / "scores.csv").open())
    return {row["path"]: float(row["raw_score"]) for row in rows}


def test_a_run_its_bundle_and_its_repetition(part: Path, tmp_path: Path, train: Run, predict: Run) -> None:
    ended = train(part, tmp_path / "outputs", EMBEDDED, model="positional_memory")
    assert ended.code == 0, ended.err
    expected, found = scores(ended.folder), json.loads((ended.folder / "metrics.json").read_text())
    assert found["image"]["image_AUROC"] == 1.0
    assert found["pixel"]["pixel_AUROC"] > 0.9
    detector = Detector.load(ended.folder / "bundle")
    assert isinstance(detector.model, PositionalMemory)
    assert (detector.scoring.reduction, detector.postprocess.relative) == ("maximum", False)
    assert (
        predict(ended.folder / "bundle", part / "test" / "hole", tmp_path / "new", "overlays=false").code == 1
    )
    predicted = scores(tmp_path / "new")
    assert len(predicted) == 4
    assert predicted == {path: expected[path] for path in predicted}
    again = train(part, tmp_path / "outputs", EMBEDDED, model="positional_memory")
    assert "reused stage scores" in again.out


def one_good_part(part: Path, folder: Path) -> Path:
    """The set with a single picture to learn from."""
    shutil.copytree(part, folder)
    first, *others = sorted((folder / "train" / "good").iterdir())
    for other in others:
        other.unlink()
    return first


def test_a_single_part_gives_scores_and_maps_without_a_verdict(
    part: Path, tmp_path: Path, train: Run, predict: Run
) -> None:
    one_good_part(part, tmp_path / "one")
    refused = train(tmp_path / "one", tmp_path / "outputs", EMBEDDED, model="positional_memory")
    assert refused.code == 2
    assert "found 1 normal picture" in refused.err
    assert "a single one is enough for raw scores and maps without a verdict" in refused.err
    ended = train(
        tmp_path / "one",
        tmp_path / "outputs",
        EMBEDDED,
        "threshold=none",
        "report=true",
        model="positional_memory",
    )
    assert ended.code == 0, ended.err
    found = json.loads((ended.folder / "metrics.json").read_text())
    assert found["counts"]["train"] == 1
    assert found["image"]["image_AUROC"] > 0.9
    assert found["image"]["image_Recall"] is None
    assert (ended.folder / "report.html").exists()
    assert predict(ended.folder / "bundle", part / "test" / "hole", tmp_path / "new").code == 0
    (line, *_) = map(json.loads, (tmp_path / "new" / "scores.jsonl").read_text().splitlines())
    assert line["raw_score"] > 1
    assert [line[name] for name in ("verdict", "pred_score", "pred_label")] == ["unjudged", None, None]
    assert len(list((tmp_path / "new" / "overlays").iterdir())) == 4
    assert not list((tmp_path / "new" / "masks").iterdir())  # there is no pixel cut


def test_what_is_usual_at_a_place_needs_validation_normals(part: Path, tmp_path: Path, train: Run) -> None:
    one_good_part(part, tmp_path / "one")
    relative = ["threshold=none", "postprocess.relative=true"]
    ended = train(tmp_path / "one", tmp_path / "outputs", EMBEDDED, *relative, model="positional_memory")
    assert ended.code == 2
    assert "postprocess.relative=true needs validation normals, found none" in ended.err


def test_pictures_smaller_than_a_patch_of_the_others(part: Path, tmp_path: Path, train: Run) -> None:
    ended = train(part, tmp_path, EMBEDDED, "grid.size=500", "grid.stride=500", model="positional_memory")
    assert ended.code == 0, ended.err  # it has no patches


def test_an_unknown_backbone_names_the_nearest(part: Path, tmp_path: Path, train: Run) -> None:
    unknown = ["embedding=timm", "embedding.backbone=resnet81"]
    ended = train(part, tmp_path, *unknown, model="positional_memory")
    assert ended.code == 2
    assert "timm has no architecture 'resnet81'; nearest: " in ended.err
    assert "resnet18" in ended.err
