"""The benchmarks run and write what they say they write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TARGETS = 6  # in the quick run, which has one picture size


@pytest.mark.slow
def test_speed_writes_every_figure(tmp_path):
    out = tmp_path / "speed.json"
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--quick", "--threads", "1", "--out", str(out)]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written = json.loads(out.read_text())
    assert written["settings"]["threads"] == 1
    assert all(figure["name"] in table and figure["value"] > 0 for figure in written["figures"])
    targets = [figure for figure in written["figures"] if figure["least"] or figure["most"]]
    assert len(targets) == TARGETS


def test_a_figure_says_whether_its_target_is_missed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import Figure

    assert str(Figure(name="ratio", value=0.94, least=0.95)).endswith(">= 0.95  MISSED")
    assert not Figure(name="share", value=0.3, most=0.2).met
    assert Figure(name="ratio", value=0.95, least=0.95).met
    assert Figure(name="time", value=12.0, unit="ms").met
