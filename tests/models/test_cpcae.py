"""The CPCAE against its published description."""

import pytest
import torch

from anomalib_lite.models.cpcae import CPCAE
from anomalib_lite.types import InputError


def make(condition="index", **changes) -> CPCAE:
    torch.manual_seed(0)
    settings = {
        "patch_size": 32,
        "widths": (8, 16, 32),
        "dense": 20,
        "latent_dim": 10,
        "positions": 7,
    } | changes
    return CPCAE(condition=condition, **settings).eval()


def test_shapes_at_every_layer():
    network, shapes = make(), []
    for block in network.encoder:
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    out = network(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 6]))
    assert shapes == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert out.latent.shape == (4, 10)
    assert out.patches.shape == (4, 3, 32, 32)


def test_parameter_count_by_hand():
    # 4x4 convolutions without bias + BatchNorm (2 per channel), mirrored; dense layers with the condition
    convolutions = 16 * (3 * 8 + 8 * 16 + 16 * 32)
    encoder = convolutions + 2 * (8 + 16 + 32)
    flat = 32 * 4 * 4
    dense = (flat + 1) * 20 + 20 + 20 * 10 + 10 + (10 + 1) * 20 + 20 + 20 * flat + flat
    decoder = convolutions + 2 * (16 + 8) + 3
    assert sum(p.numel() for p in make().parameters()) == encoder + dense + decoder


@pytest.mark.parametrize(("condition", "extra"), [("index", 1), ("one_hot", 7), ("none", 0)])
def test_condition_enters_twice(condition, extra):
    network = make(condition)
    assert network.to_latent[0].in_features == 32 * 4 * 4 + extra
    assert network.from_latent[0].in_features == 10 + extra


def test_condition_is_index_over_number_of_patches():
    condition = make().conditions(torch.tensor([0, 3, 6]))
    torch.testing.assert_close(condition, torch.tensor([[0.0], [3 / 7], [6 / 7]]))


@pytest.mark.parametrize(("condition", "differs"), [("index", True), ("one_hot", True), ("none", False)])
def test_same_patch_elsewhere_is_reconstructed_otherwise_only_if_conditioned(condition, differs):
    network = make(condition)
    patch = torch.rand(1, 3, 32, 32).repeat(2, 1, 1, 1)
    first, second = network(patch, torch.tensor([0, 6])).patches
    # rows of one matrix product may differ in the last bit
    assert (float((first - second).detach().abs().max()) > 1e-5) == differs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": "indx"}, "must be one of index, one_hot, none, got indx"),
        ({"patch_size": 36}, r"multiple of 8 for 3 strided convolutions .*, got 36"),
        ({"latent_dim": 0}, "model.latent_dim must be at least 1, got 0"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_learns_one_patch():
    network = make().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    patches = torch.rand(2, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    index = torch.tensor([0, 1])
    before = ((network(patches, index).patches - patches) ** 2).mean().item()
    for _ in range(60):
        loss = ((network(patches, index).patches - patches) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < before / 5
