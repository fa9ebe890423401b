"""`model=auto`: the best set-up within the time, chosen without a test picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomalib_lite import auto_setup
from anomalib_lite.bundle import read_bundle

Run = Callable[..., Any]
SETTINGS = [
    "embedding=efficientnet_lite0",
    "model.choice.sizes=[32,64,640]",
    "model.choice.windows=[[3],[1,3]]",
]


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Milliseconds of each size, instead of measured ones: a slow machine changes nothing."""
    of_size = {32: 5.0, 64: 20.0}
    monkeypatch.setattr(
        auto_setup, "_remembered_time", lambda chain, data, store, threads: of_size[data.pictures.shape[-1]]
    )
    return of_size


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_best_at_drawn_defects_is_taken_and_the_reason_kept(
    part: Path, tmp_path: Path, train: Run, times: dict[int, float]
) -> None:
    ended = train(part, tmp_path, *SETTINGS, model="auto")
    assert ended.code == 0, ended.err
    tried, (chosen,) = lines(ended.out, "tried:"), lines(ended.out, "chosen:")
    assert len(tried) == 4  # the photographs have 64 pixels, so 640 is not tried
    figures = {line.partition(":  ")[2]: float(line.split("AUROC ")[1].split(" %")[0]) for line in tried}
    assert figures[chosen.partition(": ")[2]] == max(figures.values())
    _, settings = read_bundle(ended.folder / "bundle")
    reason = settings["card"]["set-up"]
    assert reason.startswith(chosen.partition(": ")[2])
    assert "best of 4 within 100 ms (others: " in reason
    assert settings["model"] == "positional_memory"
    found = json.loads((ended.folder / "metrics.json").read_text())
    assert found["validation_AUROC"] == pytest.approx(max(figures.values()) / 100, abs=1e-4)
    again = train(part, tmp_path, *SETTINGS, model="auto")
    assert lines(again.out, "chosen:") == [chosen]


def test_a_size_that_takes_too_long_is_the_last_one(
    part: Path, tmp_path: Path, train: Run, times: dict[int, float]
) -> None:
    ended = train(part, tmp_path, *SETTINGS, "model.choice.budget_ms=4.9", model="auto")
    assert ended.code == 2
    assert "model.choice.budget_ms=4.9: nothing tried keeps to it; the fastest was 32 pixels" in ended.err
    assert len(lines(ended.out, "tried:")) == 2
    ended = train(part, tmp_path, *SETTINGS, "model.choice.budget_ms=19", model="auto")
    assert lines(ended.out, "chosen: 32 pixels")
    assert len(lines(ended.out, "tried:")) == 4


def test_the_time_is_measured_once(part: Path, tmp_path: Path, train: Run) -> None:
    settings = [*SETTINGS, "model.choice.sizes=[32]", "model.choice.budget_ms=100000"]
    first = train(part, tmp_path, *settings, model="auto")
    assert first.code == 0, first.err
    assert lines(train(part, tmp_path, *settings, model="auto").out, "tried:") == lines(first.out, "tried:")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("budget_ms=0", "budget_ms must be a number of milliseconds above 0, got 0"),
        ("budget_ms=soon", "budget_ms must be a number of milliseconds above 0, got soon"),
        ("sizes=[]", "sizes must be a list with something in it, got []"),
        ("sizes=[0]", "sizes must be whole numbers of pixels above 0, got [0]"),
        ("windows=[3]", "windows must be a list of lists such as [[3], [3, 5]], got [3]"),
        ("windows=[[4]]", "model.windows must be odd and positive, got [4]"),
    ],
)
def test_a_choice_out_of_range_is_refused(
    part: Path, tmp_path: Path, train: Run, setting: str, message: str
) -> None:
    ended = train(part, tmp_path, *SETTINGS, f"model.choice.{setting}", model="auto")
    assert ended.code == 2
    assert message in ended.err


def test_too_few_parts_to_choose_by(part: Path, tmp_path: Path, train: Run) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number, picture in enumerate(sorted((part / "train" / "good").iterdir())[:3]):
        (few / f"{number}.png").write_bytes(picture.read_bytes())
    ended = train(
        None,
        tmp_path / "outputs",
        *SETTINGS,
        "data=folder",
        f"data.normal_dir={few}",
        "data.test_share=0",
        "threshold=none",
        model="auto",
    )
    assert ended.code == 2
    assert "model=auto chooses by validation normals, found none" in ended.err
