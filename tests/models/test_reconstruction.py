"""Every network goes the same way from a picture to its error, and is trained by the same step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from anomalib_lite.data.augmentation import Augmentation
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.models.cae import CAE
from anomalib_lite.models.cpcae import CPCAE
from anomalib_lite.models.dilated import Dilated
from anomalib_lite.models.encoder_decoder import EncoderDecoder
from anomalib_lite.models.gan import GAN
from anomalib_lite.models.network import Loss
from anomalib_lite.models.reconstruction import NETWORKS, PatchAutoencoder, Reconstruction
from anomalib_lite.models.vae import VAE
from anomalib_lite.types import InputError

PATCHED = {
    "patch_size": 16,
    "widths": [4, 8],
    "dense": 8,
    "latent_dim": 4,
    "condition": "index",
    "positions": 9,
}
BUILD: dict[str, Callable[[], nn.Module]] = {
    "cpcae": lambda: CPCAE(**PATCHED),
    "vae": lambda: VAE(**PATCHED, kl_weight=0.002, kl_warmup=0.3),
    "cae": lambda: CAE(patch_size=16, positions=9, depth=2, filters=4),
    "dilated": lambda: Dilated(patch_size=16, positions=9, widths=[4, 8], dilations=[1, 2], filters=4),
    "encoder_decoder": lambda: EncoderDecoder(patch_size=256, positions=1, latent_dim=8),
    "gan": lambda: GAN(**PATCHED, contextual_weight=50, encoding_weight=1, adversarial_weight=1),
}


def built(name: str) -> PatchAutoencoder:
    torch.manual_seed(0)
    network = BUILD[name]()
    if name == "encoder_decoder":
        return PatchAutoencoder(
            network=network, grid=PatchGrid(size=256, stride=256), downsize=(256, 256)
        ).eval()
    return PatchAutoencoder(network=network, grid=PatchGrid(size=16, stride=8), downsize=(32, 32)).eval()


def pictures(count: int, size: int = 48) -> Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(1))


def test_the_table_knows_every_network() -> None:
    assert set(NETWORKS) == set(BUILD)
    assert {name: built(name).network_name for name in NETWORKS} == {name: name for name in NETWORKS}


@pytest.mark.parametrize("name", BUILD)
def test_the_way_from_a_picture_to_its_error(name: str) -> None:
    autoencoder, images = built(name), pictures(2)
    mapped = autoencoder.map(images)
    assert mapped.reconstruction is not None
    assert mapped.low_image is not None
    assert mapped.low_reconstruction is not None
    assert torch.equal(mapped.error, (images - mapped.reconstruction).abs())
    assert torch.equal(mapped.low_error, (mapped.low_image - mapped.low_reconstruction).abs())
    assert mapped.low_error.shape == (2, 3, *autoencoder.downsize)
    assert (mapped.predicted_error is not None) == (name == "cae")
    if mapped.predicted_error is not None:
        assert mapped.predicted_error.shape == (2, 1, *autoencoder.downsize)
        assert mapped.predicted_error.min() >= 0


@pytest.mark.parametrize("name", BUILD)
def test_a_bundle_rebuilds_every_network_to_the_bit(name: str) -> None:
    autoencoder = built(name)
    again = PatchAutoencoder.from_state(*autoencoder.state())
    image = pictures(1)
    assert torch.equal(again.map(image).error, autoencoder.map(image).error)


def test_probability_is_the_same_every_time_and_for_every_batch() -> None:
    autoencoder, images = built("vae"), pictures(3)
    difference = autoencoder.map(images).low_error
    autoencoder.use_probability(5)
    improbable = autoencoder.map(images).low_error
    assert improbable.min() >= 0
    assert not torch.allclose(improbable, difference)
    assert torch.equal(autoencoder.map(images).low_error, improbable)
    torch.testing.assert_close(autoencoder.map(images[1:2]).low_error, improbable[1:2])


def test_only_a_vae_has_a_probability() -> None:
    with pytest.raises(InputError, match=r"needs a network with a probability \(vae\), got cpcae"):
        built("cpcae").use_probability(5)


class Steps:
    """As much of a Trainer as a training step asks for."""

    estimated_stepping_batches = 10
    global_step = 3


class Listening(nn.Module):
    """A network that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.heard: list[tuple[Tensor, Tensor, float]] = []

    def loss(self, patches: Tensor, index: Tensor, clean: Tensor, *, progress: float) -> Loss:
        self.heard.append((patches, clean, progress))
        return Loss(self.weight * 2, self.weight.detach())


def heard(corruption: str, augmentation: Augmentation, monkeypatch: pytest.MonkeyPatch, seed: int = 0):
    network = Listening()
    autoencoder = PatchAutoencoder(network=network, grid=PatchGrid(size=32, stride=32), downsize=(32, 32))
    module = Reconstruction(
        autoencoder=autoencoder,
        optimizer=torch.optim.SGD,
        learning_rate=0.1,
        corruption=Corruption(family=corruption),
        augmentation=augmentation,
        seed=seed,
    )
    monkeypatch.setattr(Reconstruction, "trainer", Steps(), raising=False)
    monkeypatch.setattr(Reconstruction, "global_step", 3, raising=False)
    monkeypatch.setattr(module, "log", lambda *arguments, **options: None)
    batch = (pictures(4, 32), torch.zeros(4, dtype=torch.int64))
    module.training_step(batch, 0)
    module.validation_step(batch, 0)
    return batch[0], network.heard


def test_without_corruption_a_network_gives_back_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, ((patches, clean, progress), _) = heard("none", Augmentation(), monkeypatch)
    assert patches is clean
    assert torch.equal(clean, batch)
    assert progress == 0.3


def test_a_denoising_network_gets_every_patch_corrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, steps = heard("mixed", Augmentation(), monkeypatch)
    for patches, clean, _ in steps:
        assert torch.equal(clean, batch)
        assert all((patch != original).any() for patch, original in zip(patches, clean, strict=True))
    again = heard("mixed", Augmentation(), monkeypatch)[1]
    other = heard("mixed", Augmentation(), monkeypatch, seed=1)[1]
    assert [torch.equal(one[0], two[0]) for one, two in zip(steps, again, strict=True)] == [True, True]
    assert [torch.equal(one[0], two[0]) for one, two in zip(steps, other, strict=True)] == [False, False]
    assert not torch.equal(steps[0][0], steps[1][0])  # training and validation draw from two streams


def test_augmentation_is_for_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, ((patches, clean, _), (validated, _, _)) = heard("none", Augmentation(noise=0.1), monkeypatch)
    assert patches is clean  # what is augmented has to be given back as it is
    assert not torch.equal(patches, batch)
    assert torch.equal(validated, batch)
