"""The benchmarks run and write what they say they write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from anomalib_lite.benchmark.command import plan
from anomalib_lite.benchmark.grid import parse_entries
from anomalib_lite.console import quote_raw
from anomalib_lite.schema import register_schemas

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


def test_accuracy_is_a_benchmark_of_the_papers_methods(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from accuracy import ROWS, command

    root = tmp_path / "my, parts"
    typed = [
        "--root",
        str(root),
        "--categories",
        "bottle",
        "pill",
        "--zipper",
        "2",
        "--set",
        "data.crop=[1,2,3,4]",
    ]
    overrides = OverridesParser.create().parse_overrides([quote_raw(argument) for argument in command(typed)])
    settings = {override.key_or_group: override.value() for override in overrides}
    models = parse_entries(settings["benchmark.models"], "model")
    assert [(model.label, model.paper) for model in models] == [
        (row, paper) for row, (_, paper) in ROWS.items()
    ]
    data = parse_entries(settings["benchmark.data"], "data")
    assert [part.label for part in data] == ["zipper2", "bottle", "pill"]
    assert data[1].options == ("experiment=paper_mvtec", f"data.root={root}", "data.category=bottle")
    assert settings["benchmark.options"] == ["data.crop=[1,2,3,4]"]
    assert settings["benchmark.seeds"] == [0, 1, 2]


def test_accuracy_of_nothing_is_an_error(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from accuracy import command

    with pytest.raises(SystemExit):
        command(["--seeds", "0"])
    assert "expected --root or --zipper, found neither" in capsys.readouterr().err


def test_every_row_of_accuracy_composes(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from accuracy import ROWS, data_sets, method

    register_schemas()
    data = data_sets(Path("/mvtec"), ["bottle"], [])
    methods, sets, cells = plan(
        {"models": list(map(method, ROWS)), "data": data, "seeds": [0], "options": []}
    )
    assert [part.name for part in sets] == ["bottle"]
    assert [one.paper for one in methods] == [paper for _, paper in ROWS.values()]
    assert len(cells) == len(ROWS)
