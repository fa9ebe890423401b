"""The hazelnut network against its published table, typed here a second time."""

import pytest
import torch
from torch import nn

from anomalib_lite.models.encoder_decoder import CORRECTIONS, DECODER, ENCODER, EncoderDecoder
from anomalib_lite.types import InputError

# METHODS, section 5
PRINTED_ENCODER = (
    "3-3 k4 s2; 3-32 k4 s2; 32-32 k4 s2; 32-32 k3 s1; 32-64 k4 s2; 64-64 k3 s1; 64-128 k4 s2; 128-64 k3 s1; "
    "64-32 k3 s1; 32-500 k8 s1"
)
PRINTED_DECODER = (
    "500-32 k8 s1; 32-64 k3 s1; 64-128 k3 s1; 128-64 k4 s2; 64-64 k3 s1; 64-32 k4 s2; 64-128 k4 s2; 128-64 k3 s1; "
    "64-32 k4 s2; 32-32 k3 s1; 32-32 k4 s2; 32-3 k4 s2; 3-3 k4 s2"
)
SIDES = [128, 64, 32, 32, 16, 16, 8, 8, 8, 1], [8, 8, 8, 16, 16, 32, 64, 64, 128, 128, 256, 256, 256]


def printed(layers) -> str:
    return "; ".join(f"{i}-{o} k{kernel} s{stride}" for i, o, kernel, stride in layers)


@pytest.fixture(scope="module")
def network() -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(patch_size=256, positions=1).eval()


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))


INDEX = torch.zeros(2, dtype=torch.int64)


def test_the_table_is_the_published_one():
    assert printed(ENCODER) == PRINTED_ENCODER
    assert printed(DECODER) == PRINTED_DECODER
    assert {row + 1: printed([layer]) for row, layer in CORRECTIONS.items()} == {
        7: "32-128 k4 s2",
        12: "32-3 k3 s1",
        13: "3-3 k3 s1",
    }


def test_the_modules_are_the_corrected_table(network):
    corrected = PRINTED_DECODER.replace("64-128 k4", "32-128 k4").replace(
        "32-3 k4 s2; 3-3 k4 s2", "32-3 k3 s1; 3-3 k3 s1"
    )

    def built(blocks, kind) -> str:
        layers = [block[0] for block in blocks]
        assert all(type(layer) is kind for layer in layers)
        assert all(layer.padding == ((0, 0) if layer.kernel_size == (8, 8) else (1, 1)) for layer in layers)
        return printed((c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in layers)

    assert built(network.encoder, nn.Conv2d) == PRINTED_ENCODER
    assert built(network.decoder, nn.ConvTranspose2d) == corrected


def test_what_follows_each_convolution(network):
    def names(blocks) -> list[list[str]]:
        return [[type(layer).__name__ for layer in block[1:]] for block in blocks]

    assert names(network.encoder) == [["BatchNorm2d", "LeakyReLU"]] * 9 + [["BatchNorm2d"]]
    assert names(network.decoder) == [["BatchNorm2d", "LeakyReLU"]] * 12 + [["Sigmoid"]]
    modules = list(network.modules())
    assert {(m.momentum, m.eps) for m in modules if isinstance(m, nn.BatchNorm2d)} == {(0.1, 1e-6)}
    assert {m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)} == {0.01}


def test_shapes_at_every_layer(network, picture):
    sides: list[int] = []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
        for block in [*network.encoder, *network.decoder]
    ]
    out = network(picture, INDEX)
    for hook in hooks:
        hook.remove()
    assert sides == SIDES[0] + SIDES[1]
    assert out.latent.shape == (2, 500)
    assert out.patches.shape == picture.shape
    assert out.patches.min() >= 0
    assert out.patches.max() <= 1


@pytest.mark.parametrize("latent_dim", [500, 20])
def test_parameter_count_by_hand(latent_dim):
    encoder = 16 * (3 * 3 + 3 * 32 + 32 * 32 + 32 * 64 + 64 * 128) + 9 * (
        32 * 32 + 64 * 64 + 128 * 64 + 64 * 32
    )
    decoder = 9 * (32 * 64 + 64 * 128 + 64 * 64 + 128 * 64 + 32 * 32 + 32 * 3 + 3 * 3) + 3
    decoder += 16 * (128 * 64 + 64 * 32 + 32 * 128 + 64 * 32 + 32 * 32)
    dense = 2 * 8 * 8 * 32 * latent_dim
    norms = 2 * (3 + 32 + 32 + 32 + 64 + 64 + 128 + 64 + 32 + latent_dim)
    norms += 2 * (32 + 64 + 128 + 64 + 64 + 32 + 128 + 64 + 32 + 32 + 32 + 3)
    network = EncoderDecoder(patch_size=256, positions=1, latent_dim=latent_dim)
    assert sum(p.numel() for p in network.parameters()) == encoder + decoder + dense + norms


@pytest.mark.parametrize(("layers", "field"), [(3, 22), (5, 62), (7, 142)])
def test_receptive_field(network, picture, layers, field):
    """Of one element after the first `layers`: each adds (kernel - 1) x the halvings before it."""
    x = picture[:1].clone().requires_grad_()
    features = network.encoder[:layers](x)
    middle = features.shape[-1] // 2
    features[0, :, middle, middle].sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    assert (seen.any(dim=0).sum().item(), seen.any(dim=1).sum().item()) == (field, field)


def test_the_encoding_sees_the_whole_picture(network, picture):
    x = picture[:1].clone().requires_grad_()
    network.encoder(x).square().sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    assert seen.float().mean() > 0.999


def test_loss_by_hand_and_the_same_again(network, picture):
    clean = picture.flip(0)
    with torch.no_grad():
        loss = network.loss(picture, INDEX, clean, progress=0.5)
        out = network(picture, INDEX).patches
        assert torch.equal(out, network(picture, INDEX).patches)
    torch.testing.assert_close(loss.total, ((clean - out) ** 2).sum() / clean.numel())
    assert torch.equal(loss.total, loss.reconstruction)


def test_settings_rebuild_the_network(picture):
    network = EncoderDecoder(patch_size=256, positions=3, latent_dim=7).eval()
    again = EncoderDecoder(**network.settings).eval()
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(again(picture, INDEX).patches, network(picture, INDEX).patches)


def test_learns_one_batch():
    torch.manual_seed(0)
    network = EncoderDecoder(patch_size=256, positions=1, latent_dim=8)
    x = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1).expand(2, 3, 256, 256).contiguous()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(5):
        losses.append(network.loss(x, INDEX, x, progress=0.0).total)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] * 0.9


@pytest.mark.parametrize("size", [0, 128, 255, 288, 512])
def test_other_patch_sizes_are_refused(size):
    with pytest.raises(InputError, match=rf"patch size must be 256 for encoder_decoder .*, got {size}"):
        EncoderDecoder(patch_size=size, positions=1)


@pytest.mark.parametrize("size", [287, 288])
def test_why_other_patch_sizes_are_refused(network, size):
    """Up to 287 the encoder still ends at one element, but 256 pixels come back; from 288 on at more than one."""
    with torch.no_grad():
        encoding = network.encoder(torch.zeros(1, 3, size, size))
        assert encoding.shape[-1] == (1 if size < 288 else 2)
        assert network.decoder(encoding[..., :1, :1]).shape[-1] == 256


def test_errors(picture):
    with pytest.raises(InputError, match=r"model.positions must be at least 1, got 0"):
        EncoderDecoder(patch_size=256, positions=0)
    with pytest.raises(InputError, match=r"model.latent_dim must be at least 1, got 0"):
        EncoderDecoder(patch_size=256, positions=1, latent_dim=0)
    training = EncoderDecoder(patch_size=256, positions=1, latent_dim=2)
    with pytest.raises(InputError, match=r"model.batch_size must leave at least 2 patches .*, got 1"):
        training(picture[:1], INDEX[:1])
