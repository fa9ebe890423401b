"""Exports answer as the bundle does, or are not finished."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from anomalib_lite.baselines import NearestNeighbour, Variation
from anomalib_lite.console import config_folder
from anomalib_lite.data.images import read_image, write_png
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.detector import Detector
from anomalib_lite.exporting import export as exporting
from anomalib_lite.exporting.command import export_command
from anomalib_lite.exporting.export import compared_images, export
from anomalib_lite.exporting.graph import SIMILARITIES as EXPORTED_SIMILARITIES
from anomalib_lite.exporting.graph import Graph, as_onnx, in_float32, to_onnx
from anomalib_lite.exporting.parity import check_parity
from anomalib_lite.inspector import load_inspector
from anomalib_lite.models.model import Model
from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import NETWORKS, PatchAutoencoder
from anomalib_lite.runtime.engines import OnnxEngine
from anomalib_lite.runtime.exported import Exported
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.classifiers import KNN
from anomalib_lite.scoring.embedding import LITE0, Embedder, find_weights
from anomalib_lite.scoring.method import Scoring
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.scoring.similarity import Similarity
from anomalib_lite.scoring.threshold import ConformalThreshold
from anomalib_lite.types import Alignment, InputError, Prediction

pytest.importorskip("onnxscript", reason="needs anomalib-lite[export]")
PLAIN = PostProcess()
FREE_OF = ("torch", "torchvision", "timm", "lightning", "hydra", "omegaconf", "sklearn", "onnx")


@pytest.fixture(scope="module")
def exported(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the finished CPCAE run with its deep features, as ONNX."""
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    export(finished.folder / "bundle", folder, format="onnx", images=None, threads=1)
    return folder


def test_it_gives_the_bundles_answers(exported: Path, finished: Any, part: Path) -> None:
    bundle, ours = Detector.load(finished.folder / "bundle"), load_inspector(exported, threads=1)
    assert isinstance(ours, Exported)
    for path in sorted(part.glob("test/*/*.png")):
        photograph = read_image(path)
        expected, found = bundle.predict(photograph, path), ours.predict(photograph, path)
        assert found.raw_score == pytest.approx(expected.raw_score, rel=1e-4)
        assert found.pred_label == expected.pred_label
        assert found.error == pytest.approx(expected.error, rel=1e-4)
        assert expected.anomaly_map is not None
        assert found.anomaly_map is not None
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-4)
        size = (photograph.shape[0], photograph.shape[1])
        (carried, mask), (carried_too, mask_too) = (
            inspector.carry(prediction.anomaly_map, prediction.alignment, size)
            for inspector, prediction in ((bundle, expected), (ours, found))
            if prediction.anomaly_map is not None
        )
        np.testing.assert_allclose(carried_too, carried, atol=1e-4)
        assert mask is not None
        assert mask_too is not None
        assert (mask != mask_too).mean() < 0.01
    assert (ours.tau_, ours.raw_cut, ours.calibration) == (bundle.tau_, bundle.raw_cut, bundle.calibration)
    assert ours.card["calibration"] == bundle.card["calibration"]
    assert ours.card["exported as"].startswith("onnx, float32")


def test_the_graph_names_no_files_of_ours(exported: Path) -> None:
    assert b"/anomalib_lite/" not in (exported / "model.onnx").read_bytes()


def test_parity_is_kept_and_small(exported: Path) -> None:
    sizes = json.loads((exported / "parity.json").read_text())["sizes"]
    assert [size["scale"] for size in sizes] == [1.0, 0.5, 0.75, 1.5]
    assert all(size["photographs"] == 8 and size["score"] < 1e-3 and size["map"] < 1e-2 for size in sizes)


def test_it_runs_without_torch(exported: Path, part: Path) -> None:
    blocked = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in FREE_OF)
    code = f"{blocked}from anomalib_lite.runtime.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    arguments = [str(exported), str(part / "test" / "hole"), "--threads", "1"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1, ended.stderr  # the parts have a hole
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["verdict"] for line in lines] == ["defective"] * 4
    assert all(line["defects"] for line in lines)


def test_an_export_that_answers_otherwise_is_not_finished(
    exported: Path, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (exported / "model.onnx").read_bytes()
    outputs = json.loads((exported / "detector.json").read_text())["outputs"]
    real = Exported._score

    def other(self: Exported, picture: np.ndarray) -> Any:
        raw_score, anomaly_map, error = real(self, picture)
        return raw_score * 1.002, anomaly_map, error

    monkeypatch.setattr(exporting, "to_onnx", lambda detector: (model, outputs))
    monkeypatch.setattr(Exported, "_score", other)
    folder = tmp_path / "onnx"
    with pytest.raises(
        InputError, match=r"\.png at 48 x 64: raw score: expected .* as the bundle says, the export"
    ):
        export(finished.folder / "bundle", folder, format="onnx", images=None, threads=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["model.onnx", "detector.json", "parity.json"])
def test_a_damaged_export_is_one_line(damage: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    data = bytearray((folder / damage).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / damage).write_bytes(data)
    with pytest.raises(InputError, match=rf"{damage}: damaged bundle: its SHA-256"):
        Exported.load(folder, threads=1)


def test_what_is_no_export(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an export"):
        Exported.load(finished.folder / "bundle", threads=1)
    with pytest.raises(InputError, match="not a bundle"):
        load_inspector(tmp_path, threads=1)


def test_a_model_that_would_read_another_file_is_refused(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "model.onnx")
    initializer = model.graph.initializer[0]
    initializer.ClearField("raw_data")
    initializer.data_location = onnx.TensorProto.EXTERNAL
    entry = initializer.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    with pytest.raises(InputError, match="expected its weights inside, found the name of a file"):
        OnnxEngine({"model.onnx": model.SerializeToString()}, ["raw_score"], threads=1)
    with pytest.raises(InputError, match="expected an ONNX model, found"):
        OnnxEngine({"model.onnx": b"\x80\x04cos\nsystem\n"}, ["raw_score"], threads=1)


def test_photographs_to_compare(finished: Any, tmp_path: Path) -> None:
    assert len(compared_images(finished.folder / "bundle", None)) == 8
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    with pytest.raises(InputError, match="give images="):
        compared_images(tmp_path / "run" / "bundle", None)
    (tmp_path / "run" / "scores.csv").write_text("path,raw_score\ngone.png,1\n")
    with pytest.raises(InputError, match="none of its 1 pictures is there any more; give images="):
        compared_images(tmp_path / "run" / "bundle", None)
    for number in range(30):
        write_png(tmp_path / f"{number:02}.png", np.zeros((4, 4, 3), np.uint8))
    assert len(compared_images(tmp_path, tmp_path)) == 24


# --- networks, scores and steps, on noise


def photographs(count: int, *, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    plain = cv2.resize(rng.random((6, 8, 3), np.float32), (64, 48))
    return [(plain + rng.normal(0, 0.02, plain.shape)).clip(0, 1).astype(np.float32) for _ in range(count)]


SIDE = dict.fromkeys(NETWORKS, 32) | {"dilated": 128, "encoder_decoder": 256}  # of a patch
DOWNSIZE = (32, 48)


def to_tensor(photograph: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photograph.transpose(2, 0, 1).copy())[None]


def autoencoder(name: str) -> PatchAutoencoder:
    side = SIDE[name]
    grid, downsize = PatchGrid(size=side, stride=side // 2), (side, side * 3 // 2)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [f"model={name}", f"grid.size={side}", f"grid.stride={side // 2}"])
    torch.manual_seed(0)
    network = instantiate(cfg.model.network)(positions=grid.count(downsize))
    return PatchAutoencoder(network=network, grid=grid, downsize=downsize).eval()


def fitted(
    model: Model, scoring: Scoring, *, postprocess: PostProcess = PLAIN, similarity: str = "l2"
) -> Detector:
    preparation = Preparation(registration=Registration(method="none"), crop=None, size=None)
    train = photographs(4, seed=0)
    preparation.fit(train, [Path(f"{number}.png") for number in range(len(train))])
    detector = Detector(
        preparation=preparation,
        model=model,
        scoring=scoring,
        embedder=None,
        scaler=Scaler(),
        classifier=KNN(k=1),
        similarity=Similarity(name=similarity),
        postprocess=postprocess,
        threshold=ConformalThreshold(alpha=0.2),
    )
    tensors = [to_tensor(photograph) for photograph in photographs(9, seed=1)]
    return detector.fit(tensors).calibrate(
        calibration=tensors[:5], validation=tensors[5:], qualities=[1.0] * 5
    )


def same_answers(detector: Detector, seed: int) -> None:
    model, outputs = to_onnx(detector)
    engine = OnnxEngine({"model.onnx": model}, outputs, threads=1)
    pictures = np.stack([p.transpose(2, 0, 1) for p in photographs(3, seed=seed)])
    found = engine(pictures)  # three at once: the batch is free
    for row, picture in enumerate(pictures):
        scored = detector.score(torch.from_numpy(picture)[None])
        assert found["raw_score"][row] == pytest.approx(scored.raw_score, rel=1e-4)
        assert scored.anomaly_map is not None
        largest = np.abs(scored.anomaly_map).max()
        np.testing.assert_allclose(found["anomaly_map"][row], scored.anomaly_map, atol=1e-4 * largest)


def test_every_step_of_post_processing() -> None:
    steps = PostProcess(
        channels="mean", predicted_error=0.05, border=2, median=3, gaussian=0.8, opening=3, minimum_area=4
    )
    scoring = Scoring(method="map", reduction="maximum")
    same_answers(fitted(autoencoder("cae"), scoring, postprocess=steps), seed=3)


def test_reconstruction_probability() -> None:
    scoring = Scoring(method="reconstruction_probability", samples=3)
    same_answers(fitted(autoencoder("vae"), scoring, postprocess=PostProcess(relative=False)), seed=4)


@pytest.mark.slow  # ten seconds each, and more
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_network(network: str) -> None:
    same_answers(fitted(autoencoder(network), Scoring(method="map")), seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("similarity", sorted(EXPORTED_SIMILARITIES))
def test_similarities(similarity: str) -> None:
    same_answers(fitted(autoencoder("cae"), Scoring(method="similarity"), similarity=similarity), seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["top_mean", "mean_square"])
def test_positional_memory(reduction: str) -> None:
    model = PositionalMemory(weights=find_weights(LITE0), windows=(3, 5), channels=16)
    model.learn(map(to_tensor, photographs(6, seed=6)))
    scoring = Scoring(method="map", reduction=reduction, top_share=0.1)
    same_answers(fitted(model, scoring, postprocess=PostProcess(relative=False)), seed=7)


@pytest.mark.slow
def test_variation() -> None:
    model = Variation(downsize=DOWNSIZE, floor=0.01).learn(map(to_tensor, photographs(6, seed=6)))
    same_answers(fitted(model, Scoring(method="map")), seed=7)


@pytest.mark.slow
def test_deep_features(part: Path, train: Callable[..., Any], tmp_path: Path) -> None:
    run = train(part, tmp_path / "outputs", model="deep_feature")
    assert run.code == 0, run.err
    export(run.folder / "bundle", tmp_path / "onnx", format="onnx", images=None, threads=1)
    assert json.loads((tmp_path / "onnx" / "detector.json").read_text())["outputs"] == ["embedding"]
    sizes = json.loads((tmp_path / "onnx" / "parity.json").read_text())["sizes"]
    assert [size["map"] for size in sizes] == [None] * 4


def test_an_embedding_in_bfloat16_is_exported_in_float32(finished: Any) -> None:
    detector = Detector.load(finished.folder / "bundle")
    float32 = detector.embedder
    assert float32 is not None
    detector.embedder = Embedder(weights=float32.weights, pooling="cascade", precision="bfloat16")
    picture = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(detector.embedder(picture), float32(picture))
    assert torch.equal(in_float32(detector).embedder(picture), float32(picture))  # type: ignore[misc]  # not None


class Judging:
    """An inspector that gives the same prediction of every photograph, but for what is changed."""

    def __init__(self, **changes: Any) -> None:
        anomaly_map = np.full((4, 4), 0.5, np.float32)
        alignment = Alignment(np.eye(3), 1.0, True)
        found = Prediction(Path("a.png"), 2.0, 0.5, 0, anomaly_map, None, alignment)
        self.found = replace(found, **changes)
        self.raw_cut = 2.0
        self.threshold, self.calibration = self, None

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        return self.found


REJECTED = {"rejected": "not aligned: too dark", "anomaly_map": None, "raw_score": float("nan")}
LARGER = np.full((4, 4), 0.5, np.float32)
LARGER[1, 2] = 0.506


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"raw_score": 2.0021}, "raw score: expected 2.0, as the bundle says, the export found 2.0021"),
        ({"raw_score": float("nan")}, "raw score: expected 2.0, as the bundle says, the export found nan"),
        ({"raw_score": 2.001, "pred_label": 1}, r"label \(the cut is 2.0\): expected 0 of the score 2.0, .* 1 of 2"),
        ({"anomaly_map": LARGER}, r"map: expected at most 0.5, .* found 1.20% of that away"),
        ({"anomaly_map": None}, "map: expected True, as the bundle says, the export found False"),
        (REJECTED, "alignment: expected aligned, as the bundle says, the export found not aligned: too dark"),
    ],
)  # fmt: skip
def test_what_differs_is_named(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=rf"a\.png at 40 x 60: {text}"):
        check_parity(Judging(), Judging(**changes), [tmp_path / "a.png"])


def test_what_is_within_the_tolerance(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    near = Judging(raw_score=2.0019, anomaly_map=LARGER - 0.002)
    parities = check_parity(Judging(), near, [tmp_path / "a.png"])
    assert [parity.scale for parity in parities] == [1.0, 0.5, 0.75, 1.5]
    assert parities[0].score == pytest.approx(0.00095)
    assert parities[0].map == pytest.approx(0.008, rel=1e-4)


def test_nothing_to_compare_is_no_agreement(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"none of the 1 photographs \(first: .*a\.png\) could be aligned"):
        check_parity(Judging(**REJECTED), Judging(**REJECTED), [tmp_path / "a.png"])


class OneBatch(torch.nn.Module):
    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.cat(torch.cat([picture, picture]).split(picture.shape[0])[:1]),)


def test_what_can_not_be_exported_is_said() -> None:
    detector = fitted(autoencoder("cae"), Scoring(method="similarity"), similarity="average_hash")
    with pytest.raises(InputError, match="similarity=average_hash can't be exported; l1, l2 can"):
        Graph(detector)
    with pytest.raises(InputError, match="only with one size of batch"):
        as_onnx(OneBatch(), size=(4, 4), outputs=["pictures"])
    detector.model = NearestNeighbour(downsize=DOWNSIZE)
    with pytest.raises(InputError, match="model=nearest_neighbour can't be exported: "):
        Graph(detector)


# --- the command


def test_the_command(
    exported: Path,
    finished: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino")
    outputs = json.loads((exported / "detector.json").read_text())["outputs"]
    model = (exported / "model.onnx").read_bytes()
    monkeypatch.setattr(exporting, "to_onnx", lambda detector: (model, outputs))  # made once is enough
    bundle = finished.folder / "bundle"
    output = tmp_path / "open,vino"
    assert export_command([f"bundle={bundle}", "format=openvino", f"output={output}", "threads=1"]) == 0
    said = capsys.readouterr().out
    assert "x 0.75            8            0" in said
    assert said.endswith(f"export: {output}\n")
    for bad, text in (
        (["format=tflite"], "format must be one of onnx, openvino, got tflite"),
        (["format=onnx", f"output={bundle}"], "is the bundle itself"),
        (["format=onnx", f"images={tmp_path}"], "no images in"),
    ):
        assert export_command([f"bundle={bundle}", "threads=1", *bad]) == 2
        assert text in capsys.readouterr().err


def test_predict_takes_an_export(
    exported: Path, part: Path, tmp_path: Path, predict: Callable[..., Any]
) -> None:
    ended = predict(exported, part / "test" / "hole", tmp_path / "out")
    assert ended.code == 1, ended.err
    assert "4 defective" in ended.out
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 4
