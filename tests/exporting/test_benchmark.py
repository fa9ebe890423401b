"""The benchmark of exports runs and writes what it says it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "export.py"


@pytest.mark.slow
def test_it_writes_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs anomalib-lite[export]")
    out = tmp_path / "export.json"
    command = [sys.executable, str(BENCHMARK), "--quick", "--threads", "1", "--out", str(out)]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written = json.loads(out.read_text())
    assert written["settings"]["threads"] == 1
    assert all(figure["name"] in table and figure["value"] > 0 for figure in written["figures"])
    stages = ("deep stage at 128 px", "whole chain at 128 px")
    for described in (f"{stage}, batch {batch}" for stage in stages for batch in (1, 2)):
        for job in ("PyTorch, float32", "onnx", "openvino"):
            assert any(figure["name"] == f"{described}, {job}" for figure in written["figures"])
    assert [figure["least"] for figure in written["figures"] if figure["least"]] == [1.5, 1.5]
