"""Feature maps of several depths of a frozen timm backbone: what a picture shows, place by place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from anomalib_lite.scoring.embedding import Backbone, Weights
from anomalib_lite.types import InputError

# pixels between neighbouring features: finer ones see edges only, coarser ones the whole part
STRIDES = (4, 16)
DEPTHS = 4  # of a transformer, whose features all have one stride
# of a backbone, at most so much lies behind the last layer and is not in a bundle
UNUSED_SHARE, UNUSED_NUMBERS = 30, 2**25


class Features(Backbone):
    """The layers of a frozen backbone, with its own normalisation: pictures in [0, 1] to maps of features.

    What lies behind the last layer is never computed, and its weights are not kept.

    Args:
        weights: what `find_weights` gave.
        layers: names of the backbone's modules; None: those with strides of 4 to 16 pixels, or four depths of a
            transformer.
        precision: `float32` or `bfloat16`; `auto` takes bfloat16 where the processor computes in it.

    Raises:
        InputError: for layers that the backbone lacks, or weights that do not fit it.
    """

    def __init__(
        self,
        *,
        weights: Weights,
        layers: tuple[str, ...] | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
    ) -> None:
        from timm.models import create_feature_extractor

        whole: Any = _whole(weights.backbone)
        self.layers = tuple(layers) if layers is not None else default_layers(whole)
        if unknown := [layer for layer in self.layers if layer not in dict(whole.named_modules())]:
            raise InputError(f"model.layers: {weights.backbone} has no {', '.join(unknown)}")
        self.depths: list[int] | None = None  # of a transformer
        trunk: Any = whole
        if _is_transformer(whole):
            names = [level["module"] for level in whole.feature_info]
            self.depths = [names.index(layer) for layer in self.layers]
        else:
            trunk = create_feature_extractor(whole, list(self.layers))  # ends behind the last of them
        wanted = trunk.state_dict()
        state = {name: weights.state[name] for name in wanted if name in weights.state}
        unfit = [
            name for name, tensor in wanted.items() if name not in state or state[name].shape != tensor.shape
        ]
        if unfit:
            raise InputError(
                f"weights of {weights.backbone} from {weights.source}: {len(unfit)} tensors are missing or have "
                f"another shape (first: {unfit[0]})"
            )
        trunk.load_state_dict(state)
        super().__init__(replace(weights, state=state), trunk, whole.pretrained_cfg, precision)

    @torch.inference_mode()
    def __call__(self, picture: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) float32 of pictures (B, 3, H, W) in [0, 1], one for each layer."""
        x = self.normalised(picture.to(self.mean.device))
        if self.depths is not None:
            maps = self.trunk.forward_intermediates(
                x, indices=self.depths, intermediates_only=True, output_fmt="NCHW", stop_early=True
            )
        else:
            maps = list(self.trunk(x).values())
        for layer, features in zip(self.layers, maps, strict=True):
            if features.ndim != 4:
                raise InputError(f"model.layers: {layer} of {self.weights.backbone} gives no map")
        return [features.float() for features in maps]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and settings that a bundle keeps: the weights travel with it, as far as they are used."""
        arrays, settings = self.weights.kept()
        return arrays, settings | {"layers": list(self.layers), "precision": self.precision}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """The backbone that `state` describes; the architecture comes from timm's table of names, not from data."""
        weights = Weights.from_kept(arrays, settings)
        _check_room(weights.backbone, weights.state)
        return cls(weights=weights, layers=tuple(settings["layers"]), precision=settings["precision"])


def _check_room(backbone: str, state: dict[str, Tensor]) -> None:
    """Raise InputError for a backbone far larger than its tensors: a name alone may ask for gigabytes."""
    with torch.device("meta"):
        wanted = sum(tensor.numel() for tensor in _whole(backbone).state_dict().values())
    found = sum(tensor.numel() for tensor in state.values())
    if wanted > UNUSED_SHARE * found + UNUSED_NUMBERS:
        raise InputError(f"bundle: {backbone} has {wanted:,} numbers, expected most of them, found {found:,}")


def default_layers(whole: nn.Module) -> tuple[str, ...]:
    """What timm lists for strides of 4 to 16 pixels; of a transformer, four depths from the first quarter to the end.

    Measured for EfficientNet-Lite0 only: finer layers see edges, and coarser ones made it worse.

    >>> default_layers(_whole("resnet18"))
    ('layer1', 'layer2', 'layer3')
    """
    known: Any = whole.feature_info
    if _is_transformer(whole):
        last = len(known) - 1
        depths = [round(last * (depth + 1) / DEPTHS) for depth in range(DEPTHS)]
        return tuple(dict.fromkeys(known[depth]["module"] for depth in depths))
    finest, coarsest = STRIDES
    return tuple(level["module"] for level in known if finest <= level["reduction"] <= coarsest)


def _whole(backbone: str) -> nn.Module:
    import timm

    settings: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    try:  # a transformer otherwise takes pictures of one size
        return timm.create_model(backbone, **settings, dynamic_img_size=True, dynamic_img_pad=True).eval()
    except TypeError:
        return timm.create_model(backbone, **settings).eval()


def _is_transformer(whole: nn.Module) -> bool:
    return hasattr(whole, "patch_embed") and hasattr(whole, "forward_intermediates")
