"""The vector that tells a network the place of its patch."""

import pytest
import torch

from anomalib_lite.models.condition import Condition
from anomalib_lite.types import InputError


def test_vectors_by_hand():
    index = torch.tensor([0, 2])
    torch.testing.assert_close(Condition("index", 3)(index), torch.tensor([[0.0], [2 / 3]]))
    torch.testing.assert_close(Condition("one_hot", 3)(index), torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    assert Condition("none", 3)(index).shape == (2, 0)


@pytest.mark.parametrize("kind", ["index", "one_hot", "none"])
def test_width_is_that_of_the_vectors(kind):
    condition = Condition(kind, 5)
    vectors = condition(torch.arange(5))
    assert vectors.shape == (5, condition.width)
    assert vectors.dtype == torch.float32


def test_errors():
    with pytest.raises(InputError, match=r"model.condition must be one of index, one_hot, none, got place"):
        Condition("place", 4)
    with pytest.raises(InputError, match=r"model.positions must be at least 1, got 0"):
        Condition("none", 0)
