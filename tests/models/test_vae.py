"""The VAE against its description, and its losses and score against torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from anomalib_lite.models.losses import gaussian_nll
from anomalib_lite.models.vae import VAE
from anomalib_lite.types import InputError

INDEX = torch.tensor([0, 1, 2, 6])


def make(condition="index", **changes) -> VAE:
    torch.manual_seed(0)
    settings = {
        "patch_size": 32,
        "widths": (8, 16, 32),
        "dense": 20,
        "latent_dim": 10,
        "positions": 7,
        "kl_weight": 0.02,
        "kl_warmup": 0.5,
    } | changes
    return VAE(condition=condition, **settings).eval()


def patches(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def posterior(network: VAE, x: torch.Tensor, index: torch.Tensor) -> Normal:
    mean, log_variance = network.encode(x, index)
    return Normal(mean, log_variance.exp().sqrt())


def test_shapes_at_every_layer():
    network, shapes = make(), []
    for block in [*network.encoder, *network.decoder]:
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    out = network(patches(), INDEX)
    assert shapes == [(8, 16, 16), (16, 8, 8), (32, 4, 4), (16, 8, 8), (8, 16, 16)]
    assert out.latent.shape == (4, 10)
    assert out.patches.shape == (4, 3, 32, 32)
    assert out.predicted_error is None


@pytest.mark.parametrize(("condition", "extra"), [("index", 1), ("one_hot", 7), ("none", 0)])
def test_parameter_count_by_hand(condition, extra):
    # 4x4 convolutions without bias + BatchNorm (2 per channel), mirrored; two heads with bias at the end, one of
    # them with a 3x3 convolution more;
    # dense layers with the condition, and mean and log variance for a latent vector
    strided = 16 * (8 * 16 + 16 * 32)
    encoder = 16 * 3 * 8 + strided + 2 * (8 + 16 + 32)
    flat = 32 * 4 * 4
    dense = (flat + extra) * 20 + 20 + 20 * (2 * 10) + 2 * 10 + (10 + extra) * 20 + 20 + 20 * flat + flat
    decoder = strided + 2 * (16 + 8) + 2 * (16 * 3 * 8 + 3) + 9 * 8 * 8 + 8
    assert sum(p.numel() for p in make(condition).parameters()) == encoder + dense + decoder


@pytest.mark.parametrize(("condition", "differs"), [("index", True), ("one_hot", True), ("none", False)])
def test_same_patch_elsewhere_is_reconstructed_otherwise_only_if_conditioned(condition, differs):
    patch = patches(1).repeat(2, 1, 1, 1)
    first, second = make(condition)(patch, torch.tensor([0, 6])).patches
    # rows of one matrix product may differ in the last bit
    assert (float((first - second).detach().abs().max()) > 1e-5) == differs


def test_settings_rebuild_the_network():
    network = make()
    again = VAE(**network.settings).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(patches(), INDEX).patches, network(patches(), INDEX).patches)
    noise = torch.randn(2, 10)
    assert torch.equal(
        again.improbability(patches(), INDEX, noise=noise),
        network.improbability(patches(), INDEX, noise=noise),
    )


def test_evaluation_decodes_the_mean_and_training_a_sample():
    network = make(normalise=False)  # BatchNorm would differ between the two as well
    mean, log_variance = network.encode(patches(), INDEX)
    out = network(patches(), INDEX)
    assert torch.equal(out.latent, mean)
    assert torch.equal(out.patches, network.to_mean(network.decode(mean, INDEX)))
    assert torch.equal(out.patches, network(patches(), INDEX).patches)
    network.train()
    torch.manual_seed(3)
    sampled = network(patches(), INDEX)
    torch.manual_seed(3)
    latent = mean + (log_variance / 2).exp() * torch.randn(4, 10)
    torch.testing.assert_close(sampled.patches, network.to_mean(network.decode(latent, INDEX)))
    assert torch.equal(sampled.latent, mean)
    assert not torch.equal(network(patches(), INDEX).patches, sampled.patches)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_loss_against_torch_distributions(progress):
    network = make()
    clean = patches().flip(0)
    loss = network.loss(patches(), INDEX, clean, progress=progress)
    out = network(patches(), INDEX)
    q = posterior(network, patches(), INDEX)
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(dim=1).mean()
    log_variance = network.log_variance(network.decode(out.latent, INDEX))
    nll = -Normal(out.patches, log_variance.exp().sqrt()).log_prob(clean).mean()
    squared = ((clean - out.patches) ** 2).mean()
    warm = {0.0: 0.0, 0.25: 0.5, 0.5: 1.0, 1.0: 1.0}[progress]  # kl_warmup is half of the training
    torch.testing.assert_close(loss.reconstruction, squared)
    torch.testing.assert_close(loss.total, squared + warm * 0.02 * kl / (3 * 32 * 32) + nll)


def test_without_a_warmup_the_weight_counts_from_the_start():
    x = patches().double()  # in single precision the first likelihoods, which are large, swallow the KL
    start, end = (make(kl_warmup=0.0).double().loss(x, INDEX, x, progress=p).total for p in (0.0, 1.0))
    assert torch.equal(start, end)
    assert start > make(kl_warmup=1.0).double().loss(x, INDEX, x, progress=0.0).total


def test_kl_weight_is_twice_the_variance_of_a_fixed_decoder():
    """What is minimised equals the negative evidence bound, up to a factor and a constant."""
    deviation = 0.1
    network = make(kl_weight=2 * deviation**2).double()
    elements = 3 * 32 * 32

    def both(x: torch.Tensor) -> tuple[float, float]:
        loss = network.loss(x, INDEX, x, progress=1.0)
        out, q = network(x, INDEX), posterior(network, x, INDEX)
        bound = Independent(Normal(out.patches, deviation), 3).log_prob(x).mean()
        bound -= Independent(q, 1).entropy().neg().mean() - expected_log_prior(q)
        log_variance = network.log_variance(network.decode(out.latent, INDEX))
        variance_term = -Normal(out.patches, log_variance.exp().sqrt()).log_prob(x).mean()
        return (loss.total - variance_term).item() * elements / (2 * deviation**2), -bound.item()

    def expected_log_prior(q: Normal) -> torch.Tensor:
        return -0.5 * (math.log(2 * math.pi) + q.mean**2 + q.variance).sum(dim=1).mean()

    (first, first_bound), (second, second_bound) = both(patches().double()), both(patches().double() * 0.5)
    constant = elements / 2 * math.log(2 * math.pi * deviation**2)
    assert first_bound - first == pytest.approx(constant, abs=1e-6)
    assert second_bound - second == pytest.approx(constant, abs=1e-6)
    assert abs(first - second) > 100


def test_variance_head_teaches_nothing_else():
    network = make().train()

    def gradients(of) -> dict[str, torch.Tensor]:
        network.zero_grad()
        torch.manual_seed(5)  # the same sample
        of().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    def mean_only() -> torch.Tensor:
        mean, log_variance = network.encode(patches(), INDEX)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        squared = ((patches() - network.to_mean(network.decode(latent, INDEX))) ** 2).mean()
        kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
        return squared + 0.02 * kl / (3 * 32 * 32)

    whole = gradients(lambda: network.loss(patches(), INDEX, patches(), progress=1.0).total)
    alone = gradients(mean_only)
    heads = {name for name in whole if name.startswith("to_variance")}
    assert set(whole) - heads == set(alone)
    assert all(whole[name].abs().max() > 0 for name in heads)
    for name, gradient in alone.items():
        torch.testing.assert_close(whole[name], gradient, atol=1e-7, rtol=1e-4)


def test_improbability_against_torch_distributions():
    network = make()
    noise = torch.randn(5, 10, generator=torch.Generator().manual_seed(2))
    got = network.improbability(patches(), INDEX, noise=noise)
    q = posterior(network, patches(), INDEX)
    values = []
    for row in noise:
        features = network.decode(q.mean + q.stddev * row, INDEX)
        decoder = Normal(network.to_mean(features), network.log_variance(features).exp().sqrt())
        values.append(-decoder.log_prob(patches()))
    best = Normal(0.0, 1 / 255).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(got, torch.stack(values).mean(dim=0) + best, rtol=1e-4, atol=1e-4)
    assert not got.requires_grad


@pytest.mark.parametrize("logit", [-1000.0, 0.0, 1000.0])
def test_improbability_is_never_below_zero_and_grows_with_the_error(logit):
    network = make()
    torch.nn.init.zeros_(network.to_variance[-1].weight)
    torch.nn.init.constant_(network.to_variance[-1].bias, logit)
    torch.nn.init.zeros_(network.to_mean.weight)
    torch.nn.init.zeros_(network.to_mean.bias)  # whatever it sees, it reconstructs 0
    variance = {-1000.0: 1 / 255**2, 0.0: 1 / (2 * 255), 1000.0: 1 / 4}[logit]
    x = torch.zeros(1, 3, 32, 32)
    x[..., 5] = 0.3
    got = network.improbability(x, torch.tensor([0]), noise=torch.zeros(2, 10))
    floor = 0.5 * math.log(variance * 255**2)
    assert got.min() >= 0
    torch.testing.assert_close(got[..., 4], torch.full((1, 3, 32), floor), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        got[..., 5] - got[..., 4], torch.full((1, 3, 32), 0.045 / variance), rtol=1e-3, atol=0
    )


def test_log_variance_is_bounded_by_a_grey_level_and_the_widest_spread():
    network = make()
    features = torch.randn(2, 8, 16, 16) * 1e4
    log_variance = network.log_variance(features)
    assert log_variance.min().item() == pytest.approx(math.log(1 / 255**2), abs=1e-4)
    assert log_variance.max().item() == pytest.approx(math.log(0.25), abs=1e-4)


def test_improbability_of_a_patch_does_not_depend_on_its_batch():
    network, noise = make(), torch.randn(3, 10)
    whole = network.improbability(patches(), INDEX, noise=noise)
    alone = torch.cat(
        [network.improbability(patches()[i : i + 1], INDEX[i : i + 1], noise=noise) for i in range(4)]
    )
    torch.testing.assert_close(whole, alone)


def test_variance_head_learns_the_spread_that_the_features_tell():
    network = make()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 8, 1, 1, generator=generator).expand(2, 8, 4, 4)  # of two kinds of patches
    spread = torch.tensor([0.05, 0.2]).view(2, 1, 1, 1)
    optimizer = torch.optim.Adam(network.to_variance.parameters(), lr=2e-2)
    for _ in range(150):
        noise = spread * torch.randn(2, 3, 8, 8, generator=generator)
        loss = gaussian_nll(noise, torch.zeros_like(noise), network.log_variance(features)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    deviation = (network.log_variance(features) / 2).exp()[..., 2:-2, 2:-2].mean(dim=(1, 2, 3))
    torch.testing.assert_close(deviation, spread.flatten(), rtol=0.2, atol=0)


def test_learns_one_patch():
    network = make(kl_weight=1e-4).train()
    x = torch.rand(2, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    index = torch.tensor([0, 1])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    before = network.loss(x, index, x, progress=0.0)
    for step in range(60):
        loss = network.loss(x, index, x, progress=step / 60)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.reconstruction < before.reconstruction / 5
    assert loss.total < before.total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": "indx"}, "model.condition must be one of index, one_hot, none, got indx"),
        ({"positions": 0}, "model.positions must be at least 1, got 0"),
        (
            {"patch_size": 36},
            r"multiple of 8 for 3 strided convolutions \(model.widths=\[8, 16, 32\]\), got 36",
        ),
        ({"widths": ()}, r"model.widths must be numbers of at least 1, one or more, got \[\]"),
        ({"dense": 0}, "model.dense must be at least 1, got 0"),
        ({"latent_dim": 0}, "model.latent_dim must be at least 1, got 0"),
        ({"kl_weight": -0.1}, "model.kl_weight must be at least 0, got -0.1"),
        ({"kl_warmup": 1.5}, r"model.kl_warmup must be a share of the training, 0..1, got 1.5"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


@pytest.mark.parametrize("shape", [(0, 10), (3, 1), (10,)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"noise must be \(samples, 10\), got"):
        make().improbability(patches(), INDEX, noise=torch.zeros(shape))
