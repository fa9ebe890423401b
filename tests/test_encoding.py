"""Error near anomalies and over the picture: numbers by hand, the vicinity, and the size of an encoding."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.encoding import MARGIN, ReconstructionError, encoding_elements, vicinity
from anomalib_lite.models.cae import CAE
from anomalib_lite.models.cpcae import CPCAE
from anomalib_lite.models.dilated import Dilated
from anomalib_lite.models.encoder_decoder import EncoderDecoder
from anomalib_lite.models.gan import GAN
from anomalib_lite.models.reconstruction import NETWORKS, Mapped, PatchAutoencoder
from anomalib_lite.models.vae import VAE


def mapped(error: np.ndarray) -> Mapped:
    """A picture (h, w) that is reconstructed with this error in every channel."""
    image = torch.from_numpy(np.repeat(error[None, None], 3, axis=1).astype(np.float32))
    return Mapped(image, image, low_image=image, low_reconstruction=torch.zeros_like(image))


def spot(height: int, width: int, *places: tuple[int, int]) -> np.ndarray:
    """A mask of single pixels."""
    mask = np.zeros((height, width), bool)
    for place in places:
        mask[place] = True
    return mask


def test_two_pictures_by_hand() -> None:
    found = ReconstructionError("drawn defects")
    # 10 x 10, errors 0.5 in the 5 x 5 vicinity of the anomaly and 0.1 elsewhere
    near = np.full((10, 10), 0.1)
    near[2:7, 3:8] = 0.5
    found.add(mapped(near), spot(10, 10, (4, 5)))
    # the anomaly is reconstructed as badly as all the rest
    found.add(mapped(np.full((10, 10), 0.2)), spot(10, 10, (4, 5)))
    figures = found.figures()
    assert figures is not None
    first = (25 * 0.25 + 75 * 0.01) / 100  # 0.07
    assert figures == {
        "total": pytest.approx((first + 0.04) / 2),
        "total_se": pytest.approx((first - 0.04) / 2),  # of two numbers: half of their difference
        "vicinity": pytest.approx((0.25 + 0.04) / 2),
        "vicinity_se": pytest.approx((0.25 - 0.04) / 2),
        "ratio": pytest.approx((0.25 / first + 1) / 2),
        "ratio_se": pytest.approx((0.25 / first - 1) / 2),
        "count": 2,
        "from": "drawn defects",
    }


def test_the_ratio_is_of_each_picture_and_the_error_over_three() -> None:
    found = ReconstructionError("masks")
    for loud in (0.1, 0.3, 0.8):  # a picture with ten times the error must not count more
        error = np.full((9, 9), loud)
        error[0, 0] = 0
        found.add(mapped(error), spot(9, 9, (6, 6)))
    figures = found.figures()
    assert figures is not None
    assert figures["ratio"] == pytest.approx(81 / 80)
    assert figures["ratio_se"] == pytest.approx(0, abs=1e-7)
    totals = np.array([0.01, 0.09, 0.64]) * 80 / 81
    assert figures["total_se"] == pytest.approx(totals.std(ddof=1) / math.sqrt(3))


def test_channels_are_averaged() -> None:
    image = torch.zeros(1, 3, 6, 6)
    image[:, 1] = 0.3  # one of three channels is wrong by 0.3
    found = ReconstructionError("masks")
    found.add(
        Mapped(image, image, low_image=image, low_reconstruction=torch.zeros_like(image)), spot(6, 6, (0, 0))
    )
    figures = found.figures()
    assert figures is not None
    assert figures["total"] == pytest.approx(0.03)


def test_one_picture_has_no_standard_error() -> None:
    found = ReconstructionError("masks")
    found.add(mapped(np.full((8, 8), 0.5)), spot(8, 8, (0, 0)))
    assert found.figures() == {
        "total": 0.25,
        "total_se": None,
        "vicinity": 0.25,
        "vicinity_se": None,
        "ratio": 1.0,
        "ratio_se": None,
        "count": 1,
        "from": "masks",
    }


def test_a_mask_that_fills_the_picture_makes_both_errors_one() -> None:
    found = ReconstructionError("masks")
    error = np.random.default_rng(0).uniform(0, 1, (8, 8))
    found.add(mapped(error), np.ones((32, 32), bool))
    figures = found.figures()
    assert figures is not None
    assert figures["vicinity"] == figures["total"] == pytest.approx((error.astype(np.float32) ** 2).mean())
    assert figures["ratio"] == 1


def test_without_any_error_there_is_no_ratio() -> None:
    found = ReconstructionError("masks")
    found.add(mapped(np.zeros((8, 8))), spot(8, 8, (3, 3)))
    figures = found.figures()
    assert figures is not None
    assert (figures["total"], figures["vicinity"], figures["ratio"], figures["ratio_se"]) == (
        0,
        0,
        None,
        None,
    )
    found.add(mapped(np.full((8, 8), 0.5)), spot(8, 8, (3, 3)))
    figures = found.figures()
    assert figures is not None
    # the perfect picture counts in the errors, not in the ratio
    assert (figures["total"], figures["count"], figures["ratio"], figures["ratio_se"]) == (0.125, 2, 1, None)


def test_what_has_no_anomaly_or_no_reconstruction_does_not_count() -> None:
    found = ReconstructionError("drawn defects")
    found.add(mapped(np.ones((8, 8))), np.zeros((16, 16), bool))
    image = torch.zeros(1, 3, 8, 8)
    found.add(Mapped(image, image), np.ones((8, 8), bool))
    assert found.figures() is None


def test_a_thin_anomaly_survives_the_downsizing() -> None:
    # half a pixel of the small picture is covered nowhere: an average would lose it
    scratch = spot(160, 160, *((80, column) for column in range(40, 120)))
    near = vicinity(scratch, (20, 20))
    rows, columns = torch.nonzero(near, as_tuple=True)
    assert (rows.min(), rows.max()) == (10 - MARGIN, 10 + MARGIN)
    assert (columns.min(), columns.max()) == (5 - MARGIN, 14 + MARGIN)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 24), width=st.integers(1, 24), scale=st.integers(1, 4), seed=st.integers(0, 2**16)
)
def test_the_vicinity_equals_scipys(height: int, width: int, scale: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height * scale, width * scale)) < 0.02
    touched = mask.reshape(height, scale, width, scale).any(axis=(1, 3))
    square = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), bool)
    expected = binary_dilation(touched, square)
    assert np.array_equal(vicinity(mask, (height, width)).numpy(), expected)


@settings(deadline=None, max_examples=40)
@given(
    full=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    low=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_an_anomaly_has_a_vicinity_at_any_size(full: tuple[int, int], low: tuple[int, int]) -> None:
    near = vicinity(spot(*full, (full[0] - 1, 0)), low)
    assert near.shape == low
    assert near[-1, 0]


def autoencoder(network: object, size: int) -> PatchAutoencoder:
    return PatchAutoencoder(network=network, grid=PatchGrid(size=size, stride=size), downsize=(size, size))


DENSE: dict[str, Any] = {
    "patch_size": 32,
    "widths": (4, 8),
    "dense": 8,
    "latent_dim": 7,
    "condition": "index",
    "positions": 9,
}
ONE: dict[str, Any] = {"patch_size": 32, "positions": 1}
SIZES: list[tuple[Any, int, int]] = [  # network, its patch, elements
    (CPCAE(**DENSE), 32, 7),
    (VAE(**DENSE, kl_weight=1.0, kl_warmup=0.5), 32, 7),  # the mean, not the spread with it
    (GAN(**DENSE, contextual_weight=50, encoding_weight=1, adversarial_weight=1), 32, 7),
    (EncoderDecoder(patch_size=256, positions=1, latent_dim=7), 256, 7),
    (CAE(**ONE, depth=2, filters=5, widths=[4]), 32, 8 * 8 * 5),  # two halvings of 32 pixels
    (Dilated(**ONE, widths=(4, 8), dilations=(1, 2), filters=3), 32, 8 * 8 * 3),
]


@pytest.mark.parametrize(("network", "size", "expected"), SIZES, ids=[type(row[0]).__name__ for row in SIZES])
def test_elements_of_the_encoding(network: Any, size: int, expected: int) -> None:
    assert encoding_elements(autoencoder(network, size)) == expected


def test_no_network_is_forgotten() -> None:
    assert {type(row[0]) for row in SIZES} == set(NETWORKS.values())


def test_counting_the_elements_leaves_no_trace() -> None:
    network = CAE(patch_size=16, positions=1, depth=2, filters=5, widths=[4]).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    encoding_elements(autoencoder(network, 16))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    drawn = VAE(
        patch_size=16,
        widths=(4, 8),
        dense=8,
        latent_dim=3,
        condition="index",
        positions=1,
        kl_weight=1.0,
        kl_warmup=0.5,
    ).train()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert encoding_elements(autoencoder(drawn, 16)) == 3
    assert torch.equal(torch.rand(1), expected)  # a VAE in training would have drawn from the generator


def test_a_run_writes_its_figures(part: Path, train: Callable[..., Any], tmp_path: Path) -> None:
    ended = train(part, tmp_path, "scoring=map")
    assert ended.code == 0, ended.err
    metrics = json.loads((ended.folder / "metrics.json").read_text())
    assert metrics["encoding_elements"] == 4
    drawn, masks = metrics["reconstruction"]["validation"], metrics["reconstruction"]["test"]
    assert (drawn["from"], masks["from"]) == ("drawn defects", "masks")
    assert drawn["count"] >= 48
    assert masks["count"] == 4  # pictures with a mask
    assert masks["ratio"] > 1  # no part has the hole: it is reconstructed worse than the rest


def test_a_model_without_a_reconstruction_has_no_figures(
    part: Path, train: Callable[..., Any], tmp_path: Path
) -> None:
    ended = train(part, tmp_path, "scoring=map", model="variation")
    assert ended.code == 0, ended.err
    metrics = json.loads((ended.folder / "metrics.json").read_text())
    assert not {"reconstruction", "encoding_elements"} & metrics.keys()
