"""The GAN against its description, its losses against numpy, and who learns from which of them."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from anomalib_lite.console import config_folder
from anomalib_lite.models.gan import GAN, adversary_loss
from anomalib_lite.types import InputError

INDEX = torch.tensor([0, 1, 2, 6])


def make(condition="index", **changes) -> GAN:
    torch.manual_seed(0)
    settings = {
        "patch_size": 32,
        "widths": (8, 16, 32),
        "dense": 20,
        "latent_dim": 10,
        "positions": 7,
        "contextual_weight": 50,
        "encoding_weight": 1,
        "adversarial_weight": 1,
    } | changes
    return GAN(condition=condition, **settings).eval()


def patches(count: int = 4, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def with_loud_features() -> GAN:
    """A network whose discriminator's features are large enough to count beside the other terms."""
    network = make().double()
    for block in network.discriminator.features:
        nn.init.normal_(block[0].weight, std=0.3)
    return network


def test_shapes_at_every_layer() -> None:
    network, shapes = make(), []
    blocks = [
        *network.encoder.convolutions,
        *network.decoder,
        *network.second_encoder.convolutions,
        *network.discriminator.features,
    ]
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    out = network(patches(), INDEX)
    down, up = [(8, 16, 16), (16, 8, 8), (32, 4, 4)], [(16, 8, 8), (8, 16, 16), (3, 32, 32)]
    assert shapes == down + up  # the second encoder and the discriminator are not run in prediction
    assert out.latent.shape == (4, 10)
    assert out.patches.shape == (4, 3, 32, 32)
    assert out.predicted_error is None
    shapes.clear()
    network.loss(patches(), INDEX, patches(), progress=0.0)
    assert (
        shapes == down + up + 4 * down
    )  # the discriminator: the photographed, the generated, and once as a constant
    features, logit = network.discriminator(patches())
    assert (features.shape, logit.shape) == ((4, 32, 4, 4), (4, 1))


@pytest.mark.parametrize(("condition", "extra"), [("index", 1), ("one_hot", 7), ("none", 0)])
def test_parameter_count_by_hand(condition: str, extra: int) -> None:
    # 4x4 convolutions without bias + BatchNorm (2 per channel), dense layers with the condition; two such encoders,
    # the decoder mirrored; the discriminator's convolutions have a bias instead, and one unit sees them all
    strided, flat = 16 * (8 * 16 + 16 * 32), 32 * 4 * 4
    encoder = 16 * 3 * 8 + strided + 2 * (8 + 16 + 32) + (flat + extra) * 20 + 20 + 20 * 10 + 10
    decoder = (10 + extra) * 20 + 20 + 20 * flat + flat + strided + 2 * (16 + 8) + 16 * 3 * 8 + 3
    discriminator = 16 * 3 * 8 + strided + (8 + 16 + 32) + flat + 1
    assert sum(p.numel() for p in make(condition).parameters()) == 2 * encoder + decoder + discriminator


@pytest.mark.parametrize(("condition", "differs"), [("index", True), ("one_hot", True), ("none", False)])
def test_same_patch_elsewhere_is_reconstructed_otherwise_only_if_conditioned(
    condition: str, differs: bool
) -> None:
    patch = patches(1).repeat(2, 1, 1, 1)
    first, second = make(condition)(patch, torch.tensor([0, 6])).patches
    # rows of one matrix product may differ in the last bit
    assert (float((first - second).detach().abs().max()) > 1e-5) == differs


def test_settings_rebuild_the_network() -> None:
    network = make(contextual_weight=3, encoding_weight=5, adversarial_weight=7)
    again = GAN(**network.settings).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(patches(), INDEX).patches, network(patches(), INDEX).patches)
    first, second = (n.loss(patches(), INDEX, patches(), progress=0.0) for n in (network, again))
    assert torch.equal(first.total, second.total)


def test_loss_by_hand() -> None:
    network = with_loud_features()
    network.contextual_weight, network.encoding_weight, network.adversarial_weight = 3.0, 50.0, 0.1
    x, clean = patches().double(), 0.7 * patches().double().flip(0)  # corrupted, and what is to be given back
    loss = network.loss(x, INDEX, clean, progress=0.0)
    out = network(x, INDEX)
    condition = INDEX[:, None] / 7
    encoded_again = network.second_encoder(out.patches, condition)
    real, real_logits = network.discriminator(clean)
    fake, fake_logits = network.discriminator(out.patches)

    def plain(tensor: Tensor) -> np.ndarray:
        return tensor.detach().numpy()

    contextual = np.abs(plain(clean) - plain(out.patches)).mean()
    encoding = ((plain(out.latent) - plain(encoded_again)) ** 2).mean()
    adversarial = ((plain(real).mean(axis=0) - plain(fake).mean(axis=0)) ** 2).mean()
    called_real = 1 / (1 + np.exp(-plain(real_logits)))
    called_fake = 1 / (1 + np.exp(-plain(fake_logits)))
    entropy = -(np.log(called_real).mean() + np.log(1 - called_fake).mean()) / 2
    terms = np.array([3 * contextual, 50 * encoding, 0.1 * adversarial, entropy])
    assert terms.min() > 0.02 * terms.max()  # no term is too small to be missed
    assert loss.total.item() == pytest.approx(terms.sum(), rel=1e-6)
    assert loss.reconstruction.item() == pytest.approx(
        ((plain(clean) - plain(out.patches)) ** 2).mean(), rel=1e-6
    )


def test_adversary_loss_of_two_verdicts() -> None:
    # surely photographed (e^-3 against 1) and doubtfully so; the generated one is called photographed, wrongly
    real, fake = torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0]])
    expected = ((np.log1p(np.exp(-3)) + np.log(2)) / 2 + np.log1p(np.e)) / 2
    assert adversary_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)


def test_each_side_learns_from_its_own_loss_alone() -> None:
    network = with_loud_features().train()
    x, clean = patches().double(), 0.7 * patches().double().flip(0)

    def generator_alone() -> Tensor:
        out = network(x, INDEX)
        encoded_again = network.second_encoder(out.patches, INDEX[:, None] / 7)
        real, fake = network.discriminator(clean)[0], network.discriminator(out.patches)[0]
        adversarial = ((real.mean(dim=0) - fake.mean(dim=0)) ** 2).mean()
        encoding = ((out.latent - encoded_again) ** 2).mean()
        return 50 * (clean - out.patches).abs().mean() + encoding + adversarial

    def discriminator_alone() -> Tensor:
        generated = network(x, INDEX).patches
        ones, zeros = torch.ones(4, 1).double(), torch.zeros(4, 1).double()
        entropy = nn.BCEWithLogitsLoss()
        real, fake = network.discriminator(clean)[1], network.discriminator(generated)[1]
        return (entropy(real, ones) + entropy(fake, zeros)) / 2

    def gradients(of: Callable[[], Tensor]) -> dict[str, Tensor]:
        network.zero_grad()
        of().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    together = gradients(lambda: network.loss(x, INDEX, clean, progress=0.0).total)
    by_generator, by_discriminator = gradients(generator_alone), gradients(discriminator_alone)
    assert set(together) == {name for name, _ in network.named_parameters()}
    for name, gradient in together.items():
        adversary = name.startswith("discriminator.")
        own, other = (by_discriminator, by_generator) if adversary else (by_generator, by_discriminator)
        torch.testing.assert_close(gradient, own[name], rtol=1e-9, atol=1e-12)
        # each loss alone would have taught the other side as well: what is kept apart is there to be kept apart
        if name in other:
            assert not torch.allclose(gradient, own[name] + other[name], rtol=1e-9, atol=1e-12), name
    assert {name.split(".")[0] for name in set(by_generator) & set(by_discriminator)} == {
        "encoder",
        "from_latent",
        "decoder",
        "discriminator",
    }


def test_a_step_counts_once_in_the_running_statistics() -> None:
    network, once = make().train(), make().train()
    network.loss(patches(), INDEX, patches(), progress=0.0)
    once.second_encoder(once(patches(), INDEX).patches, INDEX[:, None] / 7)
    for (name, got), (_, expected) in zip(network.named_buffers(), once.named_buffers(), strict=True):
        assert torch.equal(got, expected), name
    assert not [name for name, _ in network.discriminator.named_buffers()]


def test_loss_can_be_asked_for_without_gradients() -> None:
    network = make()
    expected = network.loss(patches(), INDEX, patches(), progress=0.0).total.item()
    with torch.inference_mode():  # as Lightning validates
        assert network.loss(patches(), INDEX, patches(), progress=0.0).total.item() == expected


def test_a_few_steps_teach_both_sides() -> None:
    network = make().train()
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    x = x.repeat_interleave(8, 2).repeat_interleave(8, 3)
    index = torch.tensor([0, 1])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.5, 0.999))
    before = network.loss(x, index, x, progress=0.0)
    for step in range(80):
        loss = network.loss(x, index, x, progress=step / 80)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.reconstruction < before.reconstruction / 5
    assert loss.total < before.total / 2
    verdicts = [network.discriminator(seen)[1].mean() for seen in (x, torch.zeros_like(x))]
    assert verdicts[0] > verdicts[1]


def test_configured_optimiser_survives_a_checkpoint() -> None:
    """The betas of the authors' code, as plain types: a checkpoint is loaded with weights_only."""
    model = OmegaConf.merge(
        *(OmegaConf.load(config_folder() / f"model/{name}.yaml") for name in ("base", "gan"))
    )
    network = make()
    optimizer = instantiate(model.optimizer)(network.parameters(), lr=model.learning_rate)
    network.loss(patches(), INDEX, patches(), progress=0.0).total.backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    (group,) = torch.load(file, weights_only=True)["param_groups"]
    assert (group["lr"], list(group["betas"]), group["weight_decay"]) == (2e-3, [0.5, 0.999], 0)


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
        ({"contextual_weight": -1}, "model.contextual_weight must be at least 0, got -1"),
        ({"encoding_weight": -0.5}, "model.encoding_weight must be at least 0, got -0.5"),
        ({"adversarial_weight": -1}, "model.adversarial_weight must be at least 0, got -1"),
    ],
)
def test_errors(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**changes)
