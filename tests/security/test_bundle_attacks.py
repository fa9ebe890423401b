"""A hostile bundle is refused in one line: nothing of it runs, and it gets no more memory than its files have."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from anomalib_lite.bundle import ARRAYS, MANIFEST, SETTINGS

Seeds = Callable[[str], Path]
Refused = Callable[[str, Path], str]
Attack = Callable[[Path], None]
SIDE = 10**9


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch code-ran",)


@pytest.fixture
def copy(seeds: Seeds, place: Path) -> Callable[[str], Path]:
    """A bundle of the test's own."""
    return lambda name: shutil.copytree(seeds(name), place / "bundle")


def edited(folder: Path, path: str, value: Any, mutating: ModuleType) -> None:
    """Another value at a dotted path of a bundle's settings, and a manifest that fits."""
    settings = json.loads((folder / SETTINGS).read_text())
    *outer, last = path.split(".")
    inner = settings
    for key in outer:
        inner = inner[key]
    assert last in inner, f"no {path} to attack"
    inner[last] = value
    (folder / SETTINGS).write_bytes(mutating.dump(settings))
    mutating.sign(folder)


def test_the_whole_bundles_are_read(seeds: Seeds, place: Path, hostile: Any, mutating: ModuleType) -> None:
    """What is refused below is refused for the attack."""
    for name in mutating.SEEDS:
        found = hostile("bundle", shutil.copytree(seeds(name), place / name))
        assert found.outcome == "read", (name, found)


ABSURD: list[tuple[str, str, Any]] = [
    ("cpcae", "parts.model.downsize", [SIDE, SIDE]),
    ("cpcae", "parts.model.downsize", [10**5, 10**5]),
    ("cpcae", "parts.model.downsize", [10**40, 10**40]),
    ("cpcae", "parts.model.downsize", [0, 0]),
    ("cpcae", "parts.model.downsize", [-32, -32]),
    ("cpcae", "parts.model.downsize", [32.5, 32]),
    ("cpcae", "parts.model.downsize", []),
    ("cpcae", "parts.model.grid.size", SIDE),
    ("cpcae", "parts.model.grid.size", 0),
    ("cpcae", "parts.model.grid.stride", 0),
    ("cpcae", "parts.model.grid.stride", -1),
    ("cpcae", "parts.model.grid.stride", 1e-9),
    ("cpcae", "parts.model.network_settings.latent_dim", SIDE),
    ("cpcae", "parts.model.network_settings.latent_dim", 10**40),
    ("cpcae", "parts.model.network_settings.dense", SIDE),
    ("cpcae", "parts.model.network_settings.widths", []),
    ("cpcae", "parts.model.network_settings.widths", [SIDE]),
    ("cpcae", "parts.model.network_settings.widths", [10**6, 10**6]),
    ("cpcae", "parts.model.network_settings.patch_size", 2**40),
    ("cpcae", "parts.model.network_settings.patch_size", 32),
    ("cpcae", "parts.model.network_settings.channels", SIDE),
    ("cpcae", "parts.model.network_settings.channels", 1),
    ("gan", "parts.model.network_settings.latent_dim", SIDE),
    ("vae", "parts.model.network_settings.dense", SIDE),
    ("vae", "scoring.samples", 10**12),
    ("cae", "parts.model.network_settings.depth", 1000),
    ("cae", "parts.model.network_settings.filters", SIDE),
    ("dilated", "parts.model.network_settings.dilations", [SIDE]),
    ("dilated", "parts.model.network_settings.dilations", []),
    ("cpcae", "parts.preparation.registration.size", [SIDE, SIDE]),
    ("cpcae", "parts.preparation.registration.factor", 0),
    ("cpcae", "parts.preparation.crop", [0, 0, SIDE, SIDE]),
    ("cpcae", "parts.preparation.crop", [-1, 0, 10, 10]),
    ("cpcae", "parts.preparation.size", [SIDE, SIDE]),
    ("cpcae", "postprocess.gaussian", 1e12),
    ("cpcae", "postprocess.median", SIDE + 1),
    ("cpcae", "postprocess.opening", SIDE + 1),
    ("cpcae", "postprocess.border", SIDE),
    ("cpcae", "postprocess.border", -1),
    ("cpcae", "postprocess.channels", "os.system"),
    ("cpcae", "threshold.settings.alpha", 0),
    ("cpcae", "threshold.settings.alpha", "1e-999999999"),
    ("cpcae", "threshold.learned.spread", 0),
    ("cpcae", "threshold.learned.spread", "NaN"),
    ("cpcae", "threshold.learned.cut", "Infinity"),
    ("cpcae", "threshold.learned.cut", "nan"),
    ("cpcae", "threshold.rule", "__import__"),
    ("cpcae", "tau", "nan"),
    ("cpcae", "tau", "-Infinity"),
    ("knn", "gain", "nan"),
    ("knn", "gain", "Infinity"),
    ("knn", "parts.classifier.k", 0),
    ("knn", "parts.classifier.k", -(10**12)),
    ("knn", "parts.classifier.name", "os.system"),
    ("svm", "parts.classifier.gamma", "os.system"),
    ("knn", "parts.scaler.mode", "os.system"),
    ("knn", "parts.embedder.backbone", "vit_giant_patch14_dinov2"),
    ("knn", "parts.embedder.backbone", "hf-hub:somebody/something"),
    ("knn", "parts.embedder.backbone", "local-dir:/tmp"),
    ("knn", "parts.embedder.backbone", "../../etc/passwd"),
    ("knn", "parts.embedder.precision", "float64"),
    ("knn", "parts.embedder.precision", "load"),
    ("nearest_neighbour", "parts.model.downsize", [SIDE, SIDE]),
    ("variation", "parts.model.downsize", [7, 9]),
    ("variation", "parts.model.floor", -1),
    ("variation", "parts.model.floor", "nan"),
    ("positional_memory", "parts.model.size", [10**5, 10**5]),
    ("positional_memory", "parts.model.size", [0, 0]),
    ("positional_memory", "parts.model.windows", []),
    ("positional_memory", "parts.model.windows", [10**9 + 1]),
    ("positional_memory", "parts.model.backbone.backbone", "vit_giant_patch14_dinov2"),
    ("positional_memory", "parts.model.backbone.layers", []),
    ("positional_memory", "parts.model.backbone.layers", ["__class__"]),
    ("positional_memory", "parts.model.backbone.precision", "load"),
    ("cpcae", "model", "os.system"),
    ("cpcae", "parts.model.network", "os.system"),
    ("cpcae", "parts.model.network", {"_target_": "os.system", "command": "touch code-ran"}),
    ("cpcae", "parts.model", {"_target_": "os.system", "command": "touch code-ran"}),
    ("cpcae", "scoring", {"_target_": "os.system", "command": "touch code-ran"}),
    ("cpcae", "similarity", {"name": "os.system"}),
    (
        "cpcae",
        "calibration",
        {"scores": ["nan"], "errors": None, "qualities": [1.0], "validation_scores": [1.0]},
    ),
    ("cpcae", "on_not_aligned", "os.system"),
    ("cpcae", "card", 3),
]


@pytest.mark.parametrize(("name", "path", "value"), ABSURD, ids=[f"{n}-{p}-{v!s:.20}" for n, p, v in ABSURD])
def test_absurd_settings(
    name: str, path: str, value: Any, copy: Callable[[str], Path], refused: Refused, mutating: ModuleType
) -> None:
    folder = copy(name)
    edited(folder, path, value, mutating)
    assert refused("bundle", folder).startswith(str(folder))


def test_a_target_anywhere_in_the_settings_is_text(
    copy: Callable[[str], Path], hostile: Any, mutating: ModuleType
) -> None:
    folder = copy("cpcae")
    target = {"_target_": "os.system", "command": "touch code-ran", "_args_": ["touch code-ran"]}
    settings = json.loads((folder / SETTINGS).read_text())
    settings |= target | {"card": settings["card"] | target, "more": target}
    (folder / SETTINGS).write_bytes(mutating.dump(settings))
    mutating.sign(folder)
    assert hostile("bundle", folder).outcome in ("refused", "read")


# --- files that are not what their name says


def replaced(name: str, content: bytes) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return attack


def torch_file(folder: Path) -> None:
    torch.save(Payload(), folder / ARRAYS)


def numpy_file(folder: Path) -> None:
    with (folder / ARRAYS).open("wb") as file:
        np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)


def header(text: str, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + data


def one_array(dtype: str, shape: str, offsets: str, data: bytes = bytes(8)) -> bytes:
    return header(f'{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}', data)


FILES: dict[str, Attack] = {
    "arrays are a pickle": replaced(ARRAYS, pickle.dumps(Payload())),
    "settings are a pickle": replaced(SETTINGS, pickle.dumps(Payload())),
    "arrays are a checkpoint": torch_file,
    "arrays are numpy's": numpy_file,
    "arrays are nothing": replaced(ARRAYS, b""),
    "header of 2^63 bytes": replaced(ARRAYS, (2**63).to_bytes(8, "little")),
    "header of 2^64 - 1 bytes": replaced(ARRAYS, (2**64 - 1).to_bytes(8, "little") + b"{}"),
    "header of 100 MB": replaced(ARRAYS, (10**8).to_bytes(8, "little") + b"{}"),
    "deep header": replaced(ARRAYS, header("[" * 10**5 + "]" * 10**5)),
    "deep metadata": replaced(ARRAYS, header('{"__metadata__":' + '{"a":' * 10**4 + "1" + "}" * 10**4 + "}")),
    "doubled key in the header": replaced(
        ARRAYS, header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],'
                       '"data_offsets":[0,4]}}', bytes(4))
    ),
    "shape overflows": replaced(ARRAYS, one_array("F32", "[4294967296,4294967296]", "[0,0]", b"")),
    "shape overflows to 8 bytes": replaced(ARRAYS, one_array("F32", "[4611686018427387905,2]", "[0,8]")),
    "negative shape": replaced(ARRAYS, one_array("F32", "[-1,-2]", "[0,8]")),
    "huge empty shape": replaced(ARRAYS, one_array("F32", "[0,9223372036854775807]", "[0,0]", b"")),
    "offsets outside": replaced(ARRAYS, one_array("F32", "[2]", "[8,16]")),
    "offsets backwards": replaced(ARRAYS, one_array("F32", "[2]", "[8,0]")),
    "offsets huge": replaced(ARRAYS, one_array("F32", "[2]", f"[{2**63},{2**63 + 8}]")),
    "dtype unknown": replaced(ARRAYS, one_array("O", "[1]", "[0,8]")),
    "dtype without numpy": replaced(ARRAYS, one_array("BF16", "[4]", "[0,8]")),
    "dtype of 8 bits": replaced(ARRAYS, one_array("F8_E4M3", "[8]", "[0,8]")),
    "deep settings": replaced(SETTINGS, b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "settings are a list": replaced(SETTINGS, b"[]\n"),
    "doubled key": replaced(SETTINGS, b'{\n  "a": 1,\n  "a": 2\n}\n'),
    "not a number": replaced(SETTINGS, b'{\n  "gain": NaN\n}\n'),
    "a number of a million digits": replaced(SETTINGS, b'{\n  "gain": ' + b"9" * 10**6 + b"\n}\n"),
    "settings are UTF-16": replaced(SETTINGS, '{"a": 1}'.encode("utf-16")),
}  # fmt: skip


@pytest.mark.parametrize("attack", FILES.values(), ids=FILES)
def test_files_that_are_something_else(
    attack: Attack, copy: Callable[[str], Path], refused: Refused, mutating: ModuleType
) -> None:
    folder = copy("cpcae")
    attack(folder)
    mutating.sign(folder)
    assert refused("bundle", folder).startswith(str(folder))


def test_a_name_of_an_array_is_no_path(
    copy: Callable[[str], Path], hostile: Any, mutating: ModuleType, place: Path
) -> None:
    folder = copy("cpcae")
    arrays = safetensors.numpy.load((folder / ARRAYS).read_bytes())
    for name in ("../../outside", "/etc/outside", "model.../../x", "\x00"):
        arrays[name] = np.zeros(1, np.float32)
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
    mutating.sign(folder)
    assert hostile("bundle", folder).outcome in ("refused", "read")
    assert sorted(os.listdir(place)) == ["bundle"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(
    value: float, copy: Callable[[str], Path], refused: Refused, mutating: ModuleType
) -> None:
    folder = copy("cpcae")
    arrays = safetensors.numpy.load((folder / ARRAYS).read_bytes())
    for name in arrays:
        if arrays[name].dtype == np.float32:
            arrays[name] = np.full_like(arrays[name], value)
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
    mutating.sign(folder)
    assert "holds NaN or infinity" in refused("bundle", folder)


@pytest.mark.parametrize("name", ["cpcae", "vae", "cae", "dilated", "lof", "knn"])
def test_weights_so_large_that_scores_are_not_finite(
    name: str, copy: Callable[[str], Path], refused: Refused, mutating: ModuleType
) -> None:
    folder = copy(name)
    arrays = safetensors.numpy.load((folder / ARRAYS).read_bytes())
    for array in arrays:
        if array.startswith(("model.", "embedder.")) and arrays[array].dtype == np.float32:
            arrays[array] = np.full_like(arrays[array], 3e38)
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
    mutating.sign(folder)
    refused("bundle", folder)


# --- the folder


def linked(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return attack


def piped(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return attack


def device(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return attack


def enlarged(folder: Path) -> None:
    with (folder / ARRAYS).open("r+b") as file:
        file.truncate(2**42)  # a hole


PLACES = {
    f"{what.__name__} {name}": what(name)
    for name in (ARRAYS, SETTINGS, MANIFEST)
    for what in (linked, piped, device)
} | {"enlarged to 4 TiB": enlarged}


@pytest.mark.parametrize("attack", PLACES.values(), ids=PLACES)
def test_links_pipes_devices_and_holes(attack: Attack, copy: Callable[[str], Path], refused: Refused) -> None:
    folder = copy("cpcae")
    attack(folder)
    assert refused("bundle", folder).startswith(str(folder))


def test_a_pipe_in_place_of_a_bundle(place: Path, refused: Refused) -> None:
    os.mkfifo(place / "bundle")
    assert "not a bundle" in refused("bundle", place / "bundle")


@pytest.mark.parametrize("name", [ARRAYS, SETTINGS])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_files_of_two_bundles(
    name: str, signed: bool, copy: Callable[[str], Path], seeds: Seeds, refused: Refused, mutating: ModuleType
) -> None:
    folder = copy("cpcae")
    (folder / name).write_bytes((seeds("gan") / name).read_bytes())
    if signed:
        mutating.sign(folder)
    refused("bundle", folder)


def test_a_file_of_the_right_size(copy: Callable[[str], Path], refused: Refused) -> None:
    folder = copy("cpcae")
    data = bytearray((folder / ARRAYS).read_bytes())
    data[-4:] = b"\x00\x00\x80\x3f"
    (folder / ARRAYS).write_bytes(data)
    assert "SHA-256" in refused("bundle", folder)


def sections(data: bytes) -> list[int]:
    """Where the length, the header and each array of a safetensors file end."""
    start = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:start])
    return [8, start, *(start + entry["data_offsets"][1] for entry in table.values() if "dtype" in entry)]


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_cut_at_every_section(
    signed: bool, copy: Callable[[str], Path], refused: Refused, mutating: ModuleType
) -> None:
    folder = copy("cpcae")
    originals = {name: (folder / name).read_bytes() for name in (ARRAYS, SETTINGS, MANIFEST)}
    lines = {
        name: [place for place, byte in enumerate(originals[name]) if byte == ord("\n")]
        for name in (SETTINGS, MANIFEST)
    }
    cuts = {
        ARRAYS: sorted({cut for end in sections(originals[ARRAYS])[:-1] for cut in (end - 1, end, end + 1)}),
        SETTINGS: lines[SETTINGS][:: max(1, len(lines[SETTINGS]) // 12)],
        MANIFEST: lines[MANIFEST][:-1],
    }
    for name, places in cuts.items():
        for cut in [0, 1, *places, len(originals[name]) - 1]:
            (folder / name).write_bytes(originals[name][:cut])
            if signed and name != MANIFEST:
                mutating.sign(folder)
            refused("bundle", folder)
            for other, content in originals.items():
                (folder / other).write_bytes(content)
