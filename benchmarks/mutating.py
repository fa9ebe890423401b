"""Damage done on purpose: to bytes, JSON, arrays, pictures and bundles.

Every choice comes from the generator passed in, so that `random.Random(seed)` repeats an input.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import cv2
import numpy as np
import safetensors.numpy
import torch
from PIL import Image

from anomalib_lite.baselines import DeepFeatures, NearestNeighbour, Variation
from anomalib_lite.bundle import ARRAYS, MANIFEST, SETTINGS
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.registration import Registration
from anomalib_lite.detector import Detector
from anomalib_lite.models.cae import CAE
from anomalib_lite.models.cpcae import CPCAE
from anomalib_lite.models.dilated import Dilated
from anomalib_lite.models.gan import GAN
from anomalib_lite.models.model import Model
from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import PatchAutoencoder
from anomalib_lite.models.vae import VAE
from anomalib_lite.scoring.classifiers import (
    KNN,
    LOF,
    Mahalanobis,
    OneClassClassifier,
    OneClassSVM,
    PCAResidual,
)
from anomalib_lite.scoring.embedding import Embedder, Weights
from anomalib_lite.scoring.method import Scoring
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.scoring.similarity import Similarity
from anomalib_lite.scoring.threshold import ConformalThreshold
from anomalib_lite.stages import DONE, _describe

SIZE = (32, 32)  # of the pictures that the seeds' networks see
PHOTOGRAPH = (48, 64)
BACKBONE = "test_resnet"  # timm's smallest: the embedding of a seed is not what is tried

# what a length, a count or an offset should never be, and what floats can be at most
INTEGERS = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 16, 10**3, 10**6, 10**9, 10**12, 2**31, 2**63, 2**64, -(2**63), 10**40, 0.5, -0.5, 1e-300, 1e-45,
    3.4e38, 1e300, 1.7e308, -1e300,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, "", "none", "auto", "os.system", "../../etc/passwd", "\x00", "é" * 300, [], [1], [0, 0],
    [10**9] * 2, [[[]]], {}, {"_target_": "os.system", "command": "true"}, {"name": "knn"},
)  # fmt: skip


def mutated_bytes(data: bytes, rng: Random) -> bytes:
    """The same bytes after one to six edits: bits, numbers, runs that are gone, repeated, moved or from elsewhere."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randint(0, max(0, len(content) - 1))
        length = min(2 ** rng.randint(0, 8), len(content) - place)
        match rng.randint(0, 6):
            case 0 if content:
                content[place] ^= 1 << rng.randint(0, 7)
            case 1:
                width = rng.choice((1, 2, 4, 8))
                number = (rng.choice(INTEGERS) % 2 ** (8 * width)).to_bytes(
                    width, rng.choice(("little", "big"))
                )
                content[place : place + width] = number
            case 2:
                del content[place : place + length]
            case 3:
                content[place:place] = content[place : place + length] * rng.randint(1, 4)
            case 4:
                other = rng.randint(0, len(content))
                content[other:other] = content[place : place + length]
            case 5:
                content[place : place + length] = rng.randbytes(rng.randint(0, 64))
            case 6:
                del content[place:]
    return bytes(content)


def mutated_json(value: Any, rng: Random) -> Any:
    """The same JSON value after one to three edits somewhere in its structure."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        container, key = rng.choice(places)
        match rng.randint(0, 6):
            case 0 | 1:
                container[key] = rng.choice(NUMBERS)
            case 2:
                container[key] = copy.deepcopy(rng.choice(VALUES))
            case 3:
                del container[key]
            case 4:
                other, name = rng.choice(places)
                container[key] = copy.deepcopy(other.get(name) if isinstance(other, dict) else other[-1:])
            case 5 if isinstance(container[key], int | float):
                container[key] = container[key] * rng.choice((-1, 0, 2, 0.5, 10, 1000))
            case 6 if isinstance(container, dict):
                container[f"{key}{rng.choice(('', '_', '.x', '/..'))}"] = container.pop(key)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) below a JSON value."""
    places: list[tuple[Any, Any]] = []
    level = [value]
    while level:
        container = level.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, child in items:
            places.append((container, key))
            if isinstance(child, dict | list):
                level.append(child)
    return places


def mutated_arrays(arrays: dict[str, np.ndarray], rng: Random) -> dict[str, np.ndarray]:
    """The same arrays with one to three that have other values, another type or shape, another name, or are gone."""
    arrays = dict(arrays)
    for _ in range(rng.randint(1, 3)):
        if not arrays:
            break
        name = rng.choice(sorted(arrays))
        array = arrays[name]
        match rng.randint(0, 7):
            case 0:
                del arrays[name]
            case 1:
                arrays[f"{name}x"] = arrays.pop(name)
            case 2:
                with np.errstate(all="ignore"):
                    arrays[name] = array.astype(rng.choice(("float64", "float16", "uint8", "int64", "bool")))
            case 3:
                arrays[name] = array.reshape(-1)[: rng.randint(0, array.size)]
            case 4:
                arrays[name] = array[None]
            case 5:
                arrays[name] = array.T
            case 6:
                changed = np.array(array).reshape(-1)
                if changed.size and changed.dtype.kind == "f":
                    extreme = rng.choice((0, np.nan, np.inf, -1, 1e-45, np.finfo(changed.dtype).max))
                    changed[rng.randint(0, changed.size - 1) :: rng.choice((1, changed.size))] = extreme
                arrays[name] = changed.reshape(array.shape)
            case 7:
                arrays[name] = np.repeat(array[None] if array.ndim == 0 else array, rng.randint(0, 3), axis=0)
    return arrays


def mutated_safetensors(data: bytes, rng: Random) -> bytes:
    """A safetensors file whose header says something else about the same numbers."""
    length = int.from_bytes(data[:8], "little")
    header = mutated_json(json.loads(data[8 : 8 + length]), rng)
    text = json.dumps(header).encode()
    stated = len(text) if rng.randint(0, 5) else rng.choice(INTEGERS)
    return stated.to_bytes(8, "little") + text + data[8 + length :]


def mutated_archive(data: bytes, rng: Random) -> bytes:
    """A checkpoint (a zip file) with whole checksums, one of whose members is changed, gone or under another name."""
    with ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    name = pickled if rng.randint(0, 1) else rng.choice(sorted(members))
    match rng.randint(0, 5):
        case 0:
            del members[name]
        case 1:
            members[f"{name}/../../x"] = members.pop(name)
        case _:
            members[name] = mutated_bytes(members[name], rng)
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


# --- bundles


def dump(content: Any) -> bytes:
    """JSON as a bundle has it."""
    return (json.dumps(content, indent=2) + "\n").encode()


def sign(folder: Path) -> None:
    """Give a bundle a manifest that fits its files, as somebody with bad intentions would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, facts in manifest["files"].items():
        data = (folder / name).read_bytes()
        facts |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.pop("sha256", None)
    digest = hashlib.sha256(dump(manifest)).hexdigest()
    (folder / MANIFEST).write_bytes(dump(manifest | {"sha256": digest}))


def mutate_bundle(folder: Path, rng: Random) -> None:
    """Damage one of a bundle's files; mostly its manifest is made to fit, so that what is behind it is reached."""
    match rng.randint(0, 7):
        case 0:
            name = rng.choice((ARRAYS, SETTINGS, MANIFEST))
            (folder / name).write_bytes(mutated_bytes((folder / name).read_bytes(), rng))
            return
        case 1:
            name = rng.choice((ARRAYS, SETTINGS))
            (folder / name).write_bytes(mutated_bytes((folder / name).read_bytes(), rng))
        case 2:
            (folder / ARRAYS).write_bytes(mutated_safetensors((folder / ARRAYS).read_bytes(), rng))
        case 3 | 4:
            arrays = mutated_arrays(safetensors.numpy.load((folder / ARRAYS).read_bytes()), rng)
            arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
        case _:
            settings = mutated_json(json.loads((folder / SETTINGS).read_text()), rng)
            (folder / SETTINGS).write_bytes(dump(settings))
    sign(folder)


def photographs(count: int, *, seed: int) -> list[np.ndarray]:
    """Pictures of a bright square in noise (48, 64, 3) float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    pictures = [rng.random((*PHOTOGRAPH, 3), np.float32) * 0.2 + 0.2 for _ in range(count)]
    for picture in pictures:
        picture[12:36, 20:44] += 0.4  # something to align
    return pictures


def _autoencoder(build: Callable[..., Any], **settings: Any) -> PatchAutoencoder:
    whole = build in (CAE, Dilated)  # takes the picture as one patch
    grid = PatchGrid(size=32, stride=32) if whole else PatchGrid(size=16, stride=8)
    network = build(patch_size=grid.size, positions=grid.count(SIZE), **settings).eval()
    return PatchAutoencoder(network=network, grid=grid, downsize=SIZE).eval()


def drawn_weights() -> Weights:
    """Of the smallest backbone, at random."""
    import timm

    state = timm.create_model(BACKBONE, pretrained=False, num_classes=0).state_dict()
    return Weights(BACKBONE, state, "drawn", "0" * 64)


def _dense(**more: Any) -> dict[str, Any]:
    return {"widths": [4, 8], "dense": 8, "latent_dim": 4, "condition": "index", **more}


# name: the model, how it scores, and the classifier of an embedding
SEEDS: dict[str, tuple[Callable[[], Model], Scoring, OneClassClassifier]] = {
    "cpcae": (lambda: _autoencoder(CPCAE, **_dense()), Scoring(method="map"), KNN(k=2)),
    "vae": (
        lambda: _autoencoder(VAE, **_dense(kl_weight=0.002, kl_warmup=0.3)),
        Scoring(method="reconstruction_probability", samples=2),
        KNN(k=2),
    ),
    "gan": (
        lambda: _autoencoder(
            GAN, **_dense(contextual_weight=1.0, encoding_weight=1.0, adversarial_weight=1.0)
        ),
        Scoring(method="map", reduction="maximum"),
        KNN(k=2),
    ),
    "cae": (
        lambda: _autoencoder(CAE, depth=2, filters=2),
        Scoring(method="map", reduction="maximum"),
        KNN(k=2),
    ),
    "dilated": (lambda: _autoencoder(Dilated, dilations=[1, 2]), Scoring(method="similarity"), KNN(k=2)),
    "nearest_neighbour": (lambda: NearestNeighbour(downsize=SIZE), Scoring(method="map"), KNN(k=2)),
    "variation": (lambda: Variation(downsize=SIZE, floor=0.01), Scoring(method="map"), KNN(k=2)),
    "positional_memory": (
        lambda: PositionalMemory(weights=drawn_weights(), windows=[3, 5], channels=8),
        Scoring(method="map", reduction="maximum"),
        KNN(k=2),
    ),
    "knn": (DeepFeatures, Scoring(), KNN(k=2)),
    "lof": (lambda: _autoencoder(CPCAE, **_dense()), Scoring(), LOF(n_neighbors=2)),
    "svm": (DeepFeatures, Scoring(), OneClassSVM(nu=0.5)),
    "mahalanobis": (DeepFeatures, Scoring(pooling="max"), Mahalanobis()),
    "pca": (DeepFeatures, Scoring(pooling="max"), PCAResidual(variance=0.9)),
}


def seed_bundle(name: str, folder: Path) -> None:
    """Write the small whole bundle of this name of SEEDS, learned from noise."""
    torch.manual_seed(0)
    build, scoring, classifier = SEEDS[name]
    train = photographs(6, seed=0)
    registration = Registration(method="phase" if name in ("cpcae", "knn") else "none")
    preparation = Preparation(registration=registration, crop=None, size=None)
    preparation.fit(train, [Path(f"{number}.png") for number in range(len(train))])
    embedder = None
    if scoring.method == "embedding":
        embedder = Embedder(weights=drawn_weights(), pooling=scoring.pooling)  # type: ignore[arg-type]  # checked
    detector = Detector(
        preparation=preparation,
        model=build(),
        scoring=scoring,
        embedder=embedder,
        scaler=Scaler(),
        classifier=copy.deepcopy(classifier),
        similarity=Similarity(name="ssim"),
        postprocess=PostProcess(gaussian=1.0, median=3),
        threshold=ConformalThreshold(alpha=0.2),
    )
    held_out, others = photographs(5, seed=1), photographs(3, seed=2)
    detector.fit(tensors(train))
    detector.calibrate(calibration=tensors(held_out), validation=tensors(others), qualities=[1.0] * 5)
    detector.save(folder, card={"data": "noise", "seed": 0})


def tensors(pictures: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Pictures (H, W, 3) as (1, 3, H, W) each."""
    return [torch.from_numpy(picture.transpose(2, 0, 1).copy())[None] for picture in pictures]


# --- pictures


def seed_pictures() -> dict[str, bytes]:
    """Small whole pictures of every kind that is read, by name."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (12, 17, 3), np.uint8)
    deep = rng.integers(0, 65536, (12, 17, 3), np.uint16)
    found: dict[str, bytes] = {}

    def pillow(name: str, picture: Image.Image, **options: Any) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, **options)
        found[name] = buffer.getvalue()

    def opencv(name: str, suffix: str, pixels: np.ndarray, *options: int) -> None:
        found[name] = cv2.imencode(suffix, pixels, list(options))[1].tobytes()

    picture = Image.fromarray(colour)
    turned = Image.Exif()
    turned[0x0112] = 6
    pillow("colour.png", picture, format="PNG")
    pillow("turned.png", picture, format="PNG", exif=turned)
    pillow("alpha.png", picture.convert("RGBA"), format="PNG")
    pillow("palette.png", picture.convert("P"), format="PNG")
    pillow("bits.png", picture.convert("1"), format="PNG")
    pillow("colour.jpg", picture, format="JPEG")
    pillow("turned.jpg", picture, format="JPEG", exif=turned, progressive=True)
    pillow("colour.bmp", picture, format="BMP")
    pillow("grey.bmp", picture.convert("L"), format="BMP")
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        pillow(f"{compression}.tif", picture, format="TIFF", compression=compression)
    opencv("deep.png", ".png", deep)
    opencv("deep_grey.png", ".png", deep[..., 0])
    opencv("deep.tif", ".tif", deep)
    opencv("deep_raw.tif", ".tif", deep, cv2.IMWRITE_TIFF_COMPRESSION, 1)
    opencv("float.tif", ".tif", rng.random((12, 17, 3), np.float32))
    opencv("float64.tif", ".tif", rng.random((12, 17)))
    return found


def mutated_picture(data: bytes, rng: Random) -> bytes:
    """A damaged picture; of a damaged PNG the checksums fit in most cases."""
    if data.startswith(b"\x89PNG") and rng.randint(0, 3):
        return _mutated_png(data, rng)
    return mutated_bytes(data, rng)


def _mutated_png(data: bytes, rng: Random) -> bytes:
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    for _ in range(rng.randint(1, 3)):
        number = rng.randint(0, len(chunks) - 1)
        kind, content = chunks[number]
        match rng.randint(0, 4):
            case 0:
                chunks.insert(rng.randint(0, len(chunks)), (kind, content))
            case 1:
                chunks[number] = (
                    rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"acTL", b"PLTE", b"tRNS")),
                    content,
                )
            case 2:
                extra = zlib.compress(bytes(10**6)) if rng.randint(0, 1) else rng.randbytes(40)
                chunks.insert(1, (rng.choice((b"zTXt", b"iCCP", b"eXIf", b"fcTL")), b"name\0\0" + extra))
            case _:
                chunks[number] = (kind, mutated_bytes(content, rng))
    return data[:8] + b"".join(png_chunk(kind, content) for kind, content in chunks)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG with its length and its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def sign_stage(folder: Path) -> None:
    """Give a stage sizes and digests that fit its files."""
    made = json.loads((folder / DONE).read_text())
    made["files"] = _describe(folder)
    (folder / DONE).write_text(json.dumps(made, indent=1, sort_keys=True))
