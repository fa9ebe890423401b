"""Layers of a frozen backbone: the plain network's own values, nothing behind them, errors by name."""

from __future__ import annotations

import pytest
import timm
import torch

from anomalib_lite.scoring.embedding import LITE0, Weights, find_weights
from anomalib_lite.scoring.features import Features
from anomalib_lite.types import InputError


@pytest.fixture(scope="module")
def lite0() -> Features:
    return Features(weights=find_weights(LITE0))


def random_weights(backbone: str) -> Weights:
    torch.manual_seed(0)
    return Weights(backbone, timm.create_model(backbone, num_classes=0).state_dict(), "drawn", "0" * 64)


@pytest.mark.parametrize("size", [(64, 64), (50, 75)])
def test_maps_are_those_inside_the_plain_network(lite0: Features, size: tuple[int, int]) -> None:
    picture = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(0))
    network = timm.create_model(LITE0, num_classes=0).eval()
    network.load_state_dict(find_weights(LITE0).state)
    seen = []
    for layer in ("blocks.1", "blocks.2", "blocks.4"):
        network.get_submodule(layer).register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.inference_mode():
        network((picture - 0.5) / 0.5)
    assert lite0.layers == ("blocks.1", "blocks.2", "blocks.4")
    found = lite0(picture)
    assert [maps.shape[1] for maps in found] == [24, 40, 112]
    for maps, expected in zip(found, seen, strict=True):
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)


def test_what_lies_behind_the_last_layer_is_not_kept(lite0: Features) -> None:
    arrays, _ = lite0.state()
    assert "blocks.4.2.conv_pwl.weight" in arrays
    assert [name for name in arrays if name.startswith(("blocks.5", "blocks.6", "conv_head"))] == []


def test_state_round_trip_gives_the_same_bits(lite0: Features) -> None:
    picture = torch.rand(1, 3, 48, 64)
    again = Features.from_state(*lite0.state())
    assert all(torch.equal(a, b) for a, b in zip(again(picture), lite0(picture), strict=True))


def test_other_layers_and_networks_with_blocks_of_their_own() -> None:
    weights = random_weights("resnet18")
    assert [maps.shape for maps in Features(weights=weights)(torch.rand(1, 3, 64, 96))] == [
        (1, 64, 16, 24),
        (1, 128, 8, 12),
        (1, 256, 4, 6),
    ]
    deep = Features(weights=weights, layers=("layer2.0", "layer3"))
    assert [maps.shape[1] for maps in deep(torch.rand(1, 3, 64, 64))] == [128, 256]


def test_a_transformer_gives_four_depths_for_pictures_of_any_size() -> None:
    features = Features(weights=random_weights("vit_tiny_patch16_224"))
    assert features.layers == ("blocks.3", "blocks.6", "blocks.8", "blocks.11")
    maps = features(torch.rand(1, 3, 40, 70))
    assert [found.shape for found in maps] == [(1, 192, 3, 5)] * 4
    assert not torch.equal(maps[0], maps[1])


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"model\.layers: resnet18 has no layer9"):
        Features(weights=random_weights("resnet18"), layers=("layer1", "layer9"))


def test_a_layer_without_a_map_is_named() -> None:
    features = Features(weights=random_weights("resnet18"), layers=("global_pool",))
    with pytest.raises(InputError, match=r"model\.layers: global_pool of resnet18 gives no map"):
        features(torch.rand(1, 3, 32, 32))


def test_weights_of_another_backbone_are_refused() -> None:
    foreign = Weights("resnet18", find_weights(LITE0).state, "a file", "0" * 64)
    with pytest.raises(InputError, match=r"weights of resnet18 from a file: \d+ tensors are missing or have"):
        Features(weights=foreign)


def test_a_bundles_unknown_backbone_is_refused(lite0: Features) -> None:
    arrays, settings = lite0.state()
    with pytest.raises(InputError, match="bundle: unknown backbone 'lite1'"):
        Features.from_state(arrays, settings | {"backbone": "lite1"})
