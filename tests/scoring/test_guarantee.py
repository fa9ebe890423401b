"""The conformal guarantee on scores of real photographs."""

import numpy as np
import pytest
import torch

from anomalib_lite.baselines import Variation
from anomalib_lite.data.images import list_images, read_image
from anomalib_lite.scoring.anomaly_map import mean_square
from anomalib_lite.scoring.threshold import ConformalThreshold

SPLITS = 200


@pytest.mark.real
@pytest.mark.parametrize(("alpha", "calibration"), [(0.1, 9), (0.1, 40), (0.05, 40)])
def test_false_rejects_stay_within_alpha_over_random_splits(assets, alpha, calibration):
    scores = bottle_scores(assets)
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(SPLITS):
        order = rng.permutation(len(scores))
        held_out, rest = scores[order[:calibration]], scores[order[calibration:]]
        rates.append(ConformalThreshold(alpha=alpha).fit(held_out, scores[:5]).label(rest).mean())
    expected = (calibration + 1 - np.ceil((calibration + 1) * (1 - alpha) - 1e-9)) / (calibration + 1)
    error = np.std(rates) / np.sqrt(SPLITS)
    assert expected <= alpha
    assert (
        abs(np.mean(rates) - expected) < 4 * error
    )  # neither more rejects than promised nor a cut set too high


def bottle_scores(assets) -> np.ndarray:
    """Mean squared deviations of good bottles that the mean was not learned from."""
    paths = list_images(assets / "data" / "mvtec" / "bottle" / "train" / "good")
    images = [torch.from_numpy(read_image(path)).permute(2, 0, 1)[None] for path in paths[::2]]
    model = Variation(downsize=(48, 48), floor=0.01).learn(images[:30])
    return np.array([float(mean_square(model.map(image).low_error)) for image in images[30:]])
