"""The dilated denoising autoencoder against its description."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from anomalib_lite.models.dilated import Dilated
from anomalib_lite.types import InputError


def make(**changes) -> Dilated:
    torch.manual_seed(0)
    settings = {
        "patch_size": 32,
        "positions": 2,
        "widths": (4, 6),
        "dilations": (1, 2),
        "filters": 3,
    } | changes
    return Dilated(**settings).eval()


def patches(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def index(count: int = 3) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


def test_shapes_at_every_layer():
    network, shapes = Dilated(patch_size=128, positions=1).eval(), []
    for block in [*network.encoder, *network.decoder]:
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    out = network(patches(1, 128), index(1))
    assert shapes[:3] == [(16, 64, 64), (32, 32, 32), (64, 16, 16)]
    assert shapes[3:8] == [(64, 16, 16)] * 4 + [(16, 16, 16)]
    assert shapes[8:] == [(64, 16, 16), (32, 32, 32), (16, 64, 64), (3, 128, 128), (3, 128, 128)]
    assert out.latent.shape == (1, 16 * 16 * 16)
    assert out.predicted_error is None


def test_parameter_count_by_hand():
    # BatchNorm (2 per channel) in place of a bias, but for the encoding and the picture
    strided = 16 * (16 * 32 + 32 * 64)
    encoder = 16 * 3 * 16 + strided + 2 * (16 + 32 + 64) + 4 * (9 * 64 * 64 + 2 * 64) + 64 * 16 + 16
    decoder = 16 * 64 + 2 * 64 + strided + 2 * (32 + 16) + 16 * 16 * 3 + 3
    assert sum(p.numel() for p in Dilated(patch_size=128, positions=1).parameters()) == encoder + decoder


@pytest.mark.parametrize(
    ("size", "widths", "dilations", "field"),
    [
        (64, (4, 4), (1,), 3 * 4 - 2 + 8 * 1),
        (96, (4, 4), (1, 2, 4), 3 * 4 - 2 + 8 * 7),
        (320, (2, 2, 2), (1, 2, 4, 8), 262),  # the default's
    ],
)
def test_receptive_field_of_the_encoding(size, widths, dilations, field):
    network = make(patch_size=size, widths=widths, dilations=dilations)
    x = patches(1, size).requires_grad_()
    encoding = network.encoder(x)
    middle = encoding.shape[-1] // 2
    encoding[0, :, middle, middle].sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    columns, rows = seen.any(dim=0).nonzero(), seen.any(dim=1).nonzero()
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == (field, field)


def test_every_way_leads_through_the_encoding():
    """With the encoding held, the picture does not depend on the input any more."""
    network = make()
    network.encoder.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    first, second = network(patches(2), index(2)).patches
    assert torch.equal(first, second)
    assert network(patches(), index()).latent.shape[1] < 3 * 32 * 32 / 4


def test_output_lies_between_0_and_1_and_is_the_same_again():
    network = make()
    out = network(patches() * 100, index()).patches
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(network(patches() * 100, index()).patches, out)


def test_loss_against_scikit_image():
    network = make()
    clean = patches().flip(0)
    loss = network.loss(patches(), index(), clean, progress=0.5)
    out = network(patches(), index()).patches.detach().numpy()

    def similarity(first: np.ndarray, second: np.ndarray) -> float:
        # scikit-image leaves out the border of 5 pixels; with 5 reflected ones around, that is the whole patch
        around = ((0, 0), (5, 5), (5, 5))
        return structural_similarity(
            np.pad(first, around, mode="reflect"),
            np.pad(second, around, mode="reflect"),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )

    expected = 1 - np.mean([similarity(a, b) for a, b in zip(clean.numpy(), out, strict=True)])
    assert loss.total.item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(loss.total, loss.reconstruction)


def test_loss_is_that_of_the_clean_picture():
    network = make()
    against_input = network.loss(patches(), index(), patches(), progress=0.0).total
    against_clean = network.loss(patches(), index(), network(patches(), index()).patches, progress=0.0).total
    assert against_clean.item() == pytest.approx(0, abs=1e-5)
    assert against_input > 0.1


def test_settings_rebuild_the_network():
    network = make()
    again = Dilated(**network.settings).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(patches(), index()).patches, network(patches(), index()).patches)


def test_learns_to_take_a_defect_out():
    """Stripes with a black square in another place every time; the square has to go."""
    network = make(widths=(8, 16), dilations=(1, 2, 4), filters=8).train()
    generator = torch.Generator().manual_seed(0)
    clean = (0.5 + 0.3 * torch.sin(torch.arange(32) / 3)).expand(8, 3, 32, 32).contiguous()

    def corrupt() -> torch.Tensor:
        corrupted = clean.clone()
        for patch, (y, x) in zip(
            corrupted, torch.randint(26, (8, 2), generator=generator).tolist(), strict=True
        ):
            patch[:, y : y + 6, x : x + 6] = 0
        return corrupted

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    first = network.loss(corrupt(), index(8), clean, progress=0.0).total.item()
    for _ in range(60):
        loss = network.loss(corrupt(), index(8), clean, progress=0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 3
    corrupted = corrupt()
    repaired = network.train()(corrupted, index(8)).patches
    hole = corrupted != clean
    assert (repaired - clean)[hole].abs().mean() < (corrupted - clean)[hole].abs().mean() / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 34}, r"multiple of 4 for 2 strided convolutions \(model.widths=\[4, 6\]\), got 34"),
        ({"positions": 0}, "model.positions must be at least 1, got 0"),
        ({"filters": 0}, "model.filters must be at least 1, got 0"),
        ({"widths": ()}, r"model.widths must be numbers of at least 1, one or more, got \[\]"),
        ({"dilations": (0, 1)}, r"model.dilations must be numbers of at least 1, one or more, got \[0, 1\]"),
        (
            {"dilations": (1, 8)},
            "model.dilations must be below 8, the side of the map of a patch of 32 pixels",
        ),
    ],
)
def test_errors(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
