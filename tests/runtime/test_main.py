"""`python -m anomalib_lite.runtime`, of an export that finds bright parts; tests/exporting has real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anomalib_lite.data.images import write_png
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.runtime import __main__ as runtime
from anomalib_lite.runtime.exported import Exported
from anomalib_lite.scoring.pixel_mask import MaskRule
from anomalib_lite.scoring.threshold import FixedThreshold


class Brightness:
    """Stands in for a graph."""

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        brightness = pictures.mean(axis=1)
        return {
            "anomaly_map": brightness,
            "error": brightness.mean((1, 2)),
            "raw_score": brightness.max((1, 2)),
        }


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dark, a spotted and an unreadable one, and an `Exported.load` that gives an export for them."""
    spotted = np.full((20, 30, 3), 51, np.uint8)
    write_png(tmp_path / "a_dark.png", spotted)
    spotted[5:9, 10:16] = 255
    write_png(tmp_path / "b_spotted.png", spotted)
    (tmp_path / "c_broken.png").write_bytes(b"no picture")
    preparation = Preparation(registration=Registration(method="none"), crop=None, size=None)
    preparation.fit([np.zeros((20, 30, 3), np.float32)] * 2, [tmp_path] * 2)
    exported = Exported(
        preparation=preparation,
        engine=Brightness(),
        scaler=None,
        classifier=None,
        threshold=FixedThreshold(raw_value=0.5).fit(np.zeros(3), np.zeros(3)),
        tau=0.5,
        rule=MaskRule(),
        mm_per_pixel=0.5,
        on_not_aligned="reject",
        calibration=None,
        card={},
    )
    monkeypatch.setattr(Exported, "load", lambda folder, threads: exported)
    return tmp_path


def test_a_line_a_part(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime.main(["export", str(parts)]) == 1
    dark, spotted, broken = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["verdict"] for line in (dark, spotted, broken)] == ["good", "defective", "rejected"]
    assert dark["raw_score"] == pytest.approx(0.2)
    assert dark["error"] == pytest.approx(0.2)
    assert (spotted["raw_score"], spotted["pred_label"]) == (1, 1)
    (defect,) = spotted["defects"]
    assert (defect["box"], defect["area"], defect["area_mm2"]) == ([10, 5, 6, 4], 24, 6)
    assert "c_broken.png" in broken["rejected"]
    assert [line["path"] for line in (dark, spotted)] == [
        str(parts / name) for name in ("a_dark.png", "b_spotted.png")
    ]


def test_the_exit_code_tells_the_worst(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime.main(["export", str(parts / "a_dark.png")]) == 0
    assert runtime.main(["export", str(parts / "c_broken.png")]) == 1
    assert runtime.main(["export", str(parts / "nothing_here")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_no_threads(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runtime.main(["export", str(parts), "--threads", "0"])
    assert "--threads: expected at least 1, got 0" in capsys.readouterr().err
