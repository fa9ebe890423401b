"""The conveyor-belt network against its description."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.models.cae import CAE
from anomalib_lite.types import InputError


def make(**changes) -> CAE:
    torch.manual_seed(0)
    return CAE(
        **({"patch_size": 32, "positions": 2, "depth": 3, "filters": 5, "widths": (4, 6)} | changes)
    ).eval()


def patches(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def index(count: int = 3) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


def test_published_encoding_and_the_shapes_at_every_layer():
    network, shapes = CAE(patch_size=192, positions=1).eval(), []
    for block in [*network.encoder, *network.decoder]:
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    out = network(patches(1, 192), index(1))
    assert shapes[:4] == [(16, 96, 96), (32, 48, 48), (64, 24, 24), (20, 12, 12)]
    assert shapes[4:] == [(64, 24, 24), (32, 48, 48), (16, 96, 96), (3, 192, 192)]
    assert out.latent.shape == (1, 20 * 12 * 12)
    assert out.patches.shape == (1, 3, 192, 192)
    assert out.predicted_error.shape == (1, 1, 192, 192)


def test_parameter_count_by_hand():
    # 4x4 convolutions; BatchNorm (2 per channel) in place of a bias, but for the encoding and the picture
    encoder = 16 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 20) + 2 * (16 + 32 + 64) + 20
    decoder = 16 * (20 * 64 + 64 * 32 + 32 * 16 + 16 * 3) + 2 * (64 + 32 + 16) + 3
    head = 7 * 7 * 3 + 1  # a single filter
    parameters = sum(p.numel() for p in CAE(patch_size=192, positions=1).parameters())
    assert parameters == encoder + decoder + head


@settings(deadline=None, max_examples=15)
@given(depth=st.integers(1, 5), filters=st.integers(1, 9), times=st.integers(1, 3))
def test_any_depth_filters_and_multiple_of_two_to_the_depth(depth, filters, times):
    size = times * 2**depth
    out = CAE(patch_size=size, positions=1, depth=depth, filters=filters).eval()(patches(2, size), index(2))
    assert out.latent.shape == (2, filters * times * times)
    assert out.patches.shape == (2, 3, size, size)


def test_derived_widths_double_up_to_a_limit():
    assert CAE(patch_size=64, positions=1, depth=6).settings["widths"] == [16, 32, 64, 128, 128]
    assert CAE(patch_size=64, positions=1, depth=1).settings["widths"] == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_receptive_field_of_the_encoding(depth):
    """Which pixels change one element in the middle of the encoding: 3 * 2 ** depth - 2 each way."""
    network = make(patch_size=64, depth=depth, widths=(4, 6)[: depth - 1])
    x = patches(1, 64).requires_grad_()
    encoding = network.encoder(x)
    middle = encoding.shape[-1] // 2
    encoding[0, :, middle, middle].sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    assert (seen.any(dim=0).sum().item(), seen.any(dim=1).sum().item()) == (3 * 2**depth - 2,) * 2


def test_the_predicted_error_is_one_filter_over_the_reconstruction():
    network = make(error_kernel=3)
    out = network(patches(), index())
    padded = torch.nn.functional.pad(out.patches, (1, 1, 1, 1), mode="replicate")
    expected = torch.zeros_like(out.predicted_error)
    for y in range(3):
        for x in range(3):
            weight = network.to_error.weight[0, :, y, x].view(1, 3, 1, 1)
            expected += (weight * padded[:, :, y : y + 32, x : x + 32]).sum(dim=1, keepdim=True)
    expected = (expected + network.to_error.bias).abs()
    torch.testing.assert_close(out.predicted_error, expected)
    assert out.predicted_error.min() >= 0


def test_loss_by_hand():
    network = make()
    clean = patches().flip(0)
    loss = network.loss(patches(), index(), clean, progress=0.3)
    out = network(patches(), index())
    squared = ((clean - out.patches) ** 2).mean()
    error = ((clean - out.patches).abs().sum(dim=1) / 3)[:, None]
    torch.testing.assert_close(loss.reconstruction, squared)
    torch.testing.assert_close(loss.total, squared + ((out.predicted_error - error) ** 2).mean())


def test_the_head_does_not_change_what_it_describes():
    network = make().train()
    loss = network.loss(patches(), index(), patches(), progress=0.0)
    (loss.total - loss.reconstruction).backward()
    touched = {
        name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    assert touched == {"to_error.weight", "to_error.bias"}


def test_the_head_learns_where_the_network_errs():
    """A checkerboard in one half of every patch is finer than the encoding: there it errs, and nowhere else."""
    torch.manual_seed(0)
    network = CAE(patch_size=32, positions=1, depth=3, filters=1, widths=(2, 2), error_kernel=3).train()
    x = torch.full((8, 3, 32, 32), 0.5)
    x[..., :16] += 0.3 * (torch.rand(8, 1, 32, 16, generator=torch.Generator().manual_seed(0)) - 0.5)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(150):
        loss = network.loss(x, index(8), x, progress=0.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    error = (x - network(x, index(8)).patches).abs().mean(dim=1, keepdim=True)
    predicted = network(x, index(8)).predicted_error
    assert predicted.mean().item() == pytest.approx(error.mean().item(), rel=0.3)
    assert ((predicted - error) ** 2).mean() < (error**2).mean() / 2


def test_settings_rebuild_the_network():
    network = make()
    again = CAE(**network.settings).eval()
    again.load_state_dict(network.state_dict())
    first, second = network(patches(), index()), again(patches(), index())
    assert torch.equal(first.patches, second.patches)
    assert torch.equal(first.predicted_error, second.predicted_error)


def test_learns_one_batch():
    network = make().train()
    x = torch.rand(2, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    before = network.loss(x, index(2), x, progress=0.0)
    for _ in range(60):
        loss = network.loss(x, index(2), x, progress=0.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.reconstruction < before.reconstruction / 5
    assert loss.total < before.total / 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 36}, r"multiple of 8 for 3 strided convolutions \(model.depth=3\), got 36"),
        ({"patch_size": 0}, "multiple of 8 for 3 strided convolutions .*, got 0"),
        ({"positions": 0}, "model.positions must be at least 1, got 0"),
        ({"depth": 0}, "model.depth must be at least 1, got 0"),
        ({"filters": 0}, "model.filters must be at least 1, got 0"),
        ({"widths": (4,)}, r"model.widths must be 2 numbers, one less than model.depth, got \[4\]"),
        ({"widths": (4, 0)}, r"model.widths must be numbers of at least 1, one or more, got \[4, 0"),
        ({"error_kernel": 4}, "model.error_kernel must be odd and at least 1, got 4"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
