"""The paper's rivals, by hand."""

import numpy as np
import pytest
import torch

from anomalib_lite.baselines import DeepFeatures, NearestNeighbour, Variation


def picture(value: float) -> torch.Tensor:
    return torch.full((1, 3, 4, 6), value)


def test_variation_by_hand():
    baseline = Variation(downsize=(4, 6), floor=0.01).learn([picture(0.4), picture(0.6)])
    mapped = baseline.map(picture(0.8))
    torch.testing.assert_close(mapped.error, picture((0.8 - 0.5) / 0.1))
    torch.testing.assert_close(mapped.reconstruction, picture(0.5))


def test_variation_where_training_pictures_agree_is_bounded_by_the_floor():
    baseline = Variation(downsize=(4, 6), floor=0.05).learn([picture(0.5), picture(0.5)])
    torch.testing.assert_close(baseline.map(picture(0.6)).error, picture(2.0))


def test_nearest_neighbour_takes_the_most_similar():
    baseline = NearestNeighbour(downsize=(4, 6)).learn([picture(0.25), picture(0.75)])
    mapped = baseline.map(picture(0.625))
    torch.testing.assert_close(mapped.reconstruction, picture(0.75))
    torch.testing.assert_close(mapped.error, picture(0.125))


@pytest.mark.parametrize(
    "baseline", [DeepFeatures(), NearestNeighbour(downsize=(2, 3)), Variation(downsize=(2, 3), floor=0.01)]
)
def test_state_round_trip_gives_the_same_bits(baseline):
    rng = np.random.default_rng(0)
    train = [torch.from_numpy(rng.random((1, 3, 4, 6), dtype=np.float32)) for _ in range(3)]
    image = torch.from_numpy(rng.random((1, 3, 4, 6), dtype=np.float32))
    error = baseline.learn(train).map(image).error
    assert torch.equal(type(baseline).from_state(*baseline.state()).map(image).error, error)
