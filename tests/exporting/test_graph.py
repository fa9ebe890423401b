"""A graph computes what the detector does, on noise."""

from __future__ import annotations

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
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.detector import Detector
from anomalib_lite.exporting.graph import SIMILARITIES as EXPORTED_SIMILARITIES
from anomalib_lite.exporting.graph import Graph, as_onnx, in_float32, to_onnx
from anomalib_lite.models.model import Model
from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import NETWORKS, PatchAutoencoder
from anomalib_lite.runtime.engines import OnnxEngine
from anomalib_lite.schema import register_schemas
from anomalib_lite.scoring.classifiers import KNN
from anomalib_lite.scoring.embedding import LITE0, Embedder, find_weights
from anomalib_lite.scoring.method import Scoring
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.scoring.similarity import Similarity
from anomalib_lite.scoring.threshold import ConformalThreshold
from anomalib_lite.types import InputError

pytest.importorskip("onnxscript", reason="needs anomalib-lite[export]")
PLAIN = PostProcess()
SIDE = dict.fromkeys(NETWORKS, 32) | {"dilated": 128, "encoder_decoder": 256}  # of a patch
DOWNSIZE = (32, 48)


def photographs(count: int, *, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    plain = cv2.resize(rng.random((6, 8, 3), np.float32), (64, 48))
    return [(plain + rng.normal(0, 0.02, plain.shape)).clip(0, 1).astype(np.float32) for _ in range(count)]


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


def test_an_embedding_in_bfloat16_is_exported_in_float32(finished: Any) -> None:
    detector = Detector.load(finished.folder / "bundle")
    float32 = detector.embedder
    assert float32 is not None
    detector.embedder = Embedder(weights=float32.weights, pooling="cascade", precision="bfloat16")
    picture = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(detector.embedder(picture), float32(picture))
    assert torch.equal(in_float32(detector).embedder(picture), float32(picture))  # type: ignore[misc]  # not None


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
