"""The benchmarks run and write what they say they write."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
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


FAKE_PEER = """
import json, sys
import cv2, numpy as np
print(json.dumps({"anomalib": "none", **json.loads(sys.argv[1])}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "fit":
        assert len(asked["images"]) == 40, asked
        answer = {"fitting_seconds": 8.0, "fitting_processor_seconds": 9.0, "model_mb": 1e6}
    else:
        photograph = cv2.imread(asked["image"])
        np.save(asked["map_file"], photograph.mean(axis=2))
        answer = {"score": float(photograph.mean()), "seconds": 0.5}
    print(json.dumps(answer), flush=True)
"""


def bright_defects(root):
    """A rendered part with 40 good photographs; the defective ones have a white rectangle."""
    from measuring import draw, link

    drawn = draw(root / "drawn", (128, 96))
    part = root / "parts" / "part"
    link(drawn, part / "train" / "good", 40)
    link(drawn, part / "test" / "good", 3)
    (part / "test" / "bright").mkdir()
    (part / "ground_truth" / "bright").mkdir(parents=True)
    for number in range(3):
        photograph = cv2.imread(str(drawn[number]))
        mask = np.zeros(photograph.shape[:2], np.uint8)
        mask[20:50, 20:60] = 255
        photograph[mask > 0] = 255
        cv2.imwrite(str(part / "test" / "bright" / f"{number:03}.png"), photograph)
        cv2.imwrite(str(part / "ground_truth" / "bright" / f"{number:03}_mask.png"), mask)
    return part.parent


@pytest.mark.slow
def test_reality_measures_every_level_of_every_study(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import reality

    monkeypatch.setattr(reality, "PARTS", (1, 10))
    monkeypatch.setattr(reality, "MISPLACED", reality.MISPLACED[1:2])
    monkeypatch.setattr(reality, "SIZES", (64, 96))
    monkeypatch.setattr(reality, "HIDDEN", (0.0, 0.02, 0.05))  # of three defective parts, two
    out = tmp_path / "reality.json"
    options = ["--root", bright_defects(tmp_path), "--category", "part", "--out", out, "--seeds", "0"]
    # so that a cut can be set even if some of the few misplaced parts are not aligned
    options += [
        "--threads",
        "1",
        "--set",
        "embedding=efficientnet_lite0",
        "data.size=96",
        "roles.calibration_share=0.4",
    ]
    monkeypatch.setattr(sys, "argv", ["reality.py", *map(str, options)])
    reality.main()
    found = {f"{point['study']}: {point['level']}": point for point in json.loads(out.read_text())}
    assert [name for name in found if name.startswith("parts")] == [
        "parts: 1 good parts",
        "parts: 10 good parts",
        "parts: 40 good parts",
    ]
    assert found["parts: 1 good parts"]["false_rejects"] is None  # without a cut
    assert found["parts: 40 good parts"]["image_AUROC"] == 100
    assert found["parts: 40 good parts"]["found"] == 100
    trained_on = [found[f"hidden: {share} defective"]["trained_on"] for share in ("0%", "2%", "5%")]
    assert trained_on == [40, 41, 42]
    assert len([name for name in found if name.startswith("photograph")]) == len(reality.CHANGES)
    assert found["photograph: as it is"]["image_AUROC"] == 100
    assert {
        "misplaced: 2%, 2 degrees, registration=none",
        "misplaced: 2%, 2 degrees, registration=ecc",
    } < set(found)
    table = capsys.readouterr().out
    assert all(name in table for name in found)


@pytest.mark.slow
def test_peer_judges_the_same_photographs_by_every_method(monkeypatch, tmp_path):
    """With a program in the peer's place that scores by brightness; the defective parts are the brighter ones."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peer

    parts = bright_defects(tmp_path)
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (environment / "installed").touch()
    (tmp_path / "fake.py").write_text(FAKE_PEER)
    monkeypatch.setattr(peer, "WORKER", tmp_path / "fake.py")
    out = tmp_path / "peer.json"
    options = ["--root", parts, "--categories", "part", "--size", "128", "--threads", "1"]
    options += ["--environment", environment, "--out", out, "--set", "data.registration=none"]
    monkeypatch.setattr(sys, "argv", ["peer.py", *map(str, options)])
    peer.main()
    found = {figure["name"]: figure["value"] for figure in json.loads(out.read_text())["figures"]}
    for name in ("PatchCore 1 %", "PaDiM", "positional_memory", "positional_memory, ONNX"):
        assert found[f"part, seed 0: {name}: image AUROC"] == 100
        assert found[f"part, seed 0: {name}: pixel AUROC"] > 80
    assert found["part, seed 0: PaDiM: file to map"] == 500
    assert 0 < found["part, seed 0: model on disk / PaDiM"] < 0.5


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
