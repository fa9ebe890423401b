"""Losses against scikit-image, torch.distributions and SciPy, and hand-computed values."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.metrics import structural_similarity
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from anomalib_lite.models.losses import gaussian_nll, kl_divergence, l1_activity, l2, ssim_loss
from anomalib_lite.types import InputError


def random_patches(count: int, height: int, width: int, *, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def random_normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference_ssim(clean: torch.Tensor, reconstruction: torch.Tensor) -> float:
    """Mean of scikit-image's, which leaves out the 5 pixels at the border: so they are reflected before."""
    reflected = [
        np.pad(patches.double().numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)), mode="reflect")
        for patches in (clean, reconstruction)
    ]
    return float(
        np.mean(
            [
                structural_similarity(
                    one,
                    other,
                    channel_axis=0,
                    data_range=1.0,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
                for one, other in zip(*reflected, strict=True)
            ]
        )
    )


def test_l2_and_l1_activity_by_hand() -> None:
    assert l2(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.0])).item() == 0.625
    assert l1_activity(torch.tensor([-3.0, 1.0])).item() == 2.0


@settings(deadline=None, max_examples=20)
@given(height=st.integers(11, 40), width=st.integers(11, 40), noise=st.floats(0, 1), seed=st.integers(0, 99))
def test_ssim_loss_equals_scikit_image(height: int, width: int, noise: float, seed: int) -> None:
    clean = random_patches(2, height, width, seed=seed)
    other = random_patches(2, height, width, seed=seed + 100)
    reconstruction = (1 - noise) * clean + noise * other
    expected = 1 - reference_ssim(clean, reconstruction)
    assert ssim_loss(clean, reconstruction).item() == pytest.approx(expected, abs=2e-5)
    assert ssim_loss(clean.double(), reconstruction.double()).item() == pytest.approx(expected, abs=1e-9)


def test_ssim_loss_by_hand() -> None:
    """Flat patches have no structure: luminance is all that is compared, 2xy + c1 over x^2 + y^2 + c1."""
    dark, bright = torch.full((2, 3, 16, 16), 0.25), torch.full((2, 3, 16, 16), 0.75)
    expected = 1 - (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ssim_loss(dark.double(), bright.double()).item() == pytest.approx(expected, abs=1e-9)
    assert ssim_loss(dark, bright).item() == pytest.approx(expected, abs=5e-3)


@given(level=st.floats(0, 1))
def test_ssim_loss_of_equal_flat_patches_is_nothing_but_rounding(level: float) -> None:
    flat = torch.full((1, 3, 11, 11), level)
    assert ssim_loss(flat, flat).item() == pytest.approx(0, abs=5e-3)


def test_ssim_loss_of_equal_and_of_opposite_patches() -> None:
    clean = random_patches(3, 24, 20, seed=0)
    assert ssim_loss(clean, clean).item() == pytest.approx(0, abs=1e-6)
    assert 1 < ssim_loss(clean, 1 - clean).item() <= 2


def test_ssim_loss_does_not_take_the_range_from_the_patches() -> None:
    """A faint pattern lost on a faint ground costs little: with the patch's own range it would cost all."""
    faint = 0.5 + 0.01 * (random_patches(1, 20, 20, seed=1) - 0.5)
    assert ssim_loss(faint, torch.full_like(faint, 0.5)).item() < 0.02


def test_ssim_loss_sees_the_border() -> None:
    clean = random_patches(1, 24, 24, seed=2)
    corner = clean.clone().requires_grad_()
    with torch.no_grad():
        corner[..., 0, 0] += 0.5
    loss = ssim_loss(clean, corner)
    loss.backward()
    assert corner.grad is not None
    assert (corner.grad[..., 0, 0] > 0).all()


def test_ssim_loss_gradient_equals_finite_differences() -> None:
    clean = random_patches(1, 11, 12, seed=3)[:, :1].double()
    reconstruction = random_patches(1, 11, 12, seed=4)[:, :1].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim_loss(clean, x), reconstruction)


def test_descending_the_ssim_loss_brings_the_patch_back() -> None:
    clean = random_patches(1, 16, 16, seed=5)
    reconstruction = torch.full_like(clean, 0.5).requires_grad_()
    optimiser = torch.optim.Adam([reconstruction], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        ssim_loss(clean, reconstruction).backward()
        optimiser.step()
    assert (reconstruction - clean).abs().mean().item() < 0.02


def test_ssim_loss_is_not_computed_in_half_precision() -> None:
    smooth = 0.8 + 0.02 * random_patches(2, 16, 16, seed=6)
    noisy = smooth + 0.01 * random_patches(2, 16, 16, seed=7)
    expected = ssim_loss(smooth, noisy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ssim_loss(smooth, noisy) == expected
    half = smooth.bfloat16()
    assert ssim_loss(smooth, half) == ssim_loss(smooth, half.float())
    assert ssim_loss(half, smooth) == ssim_loss(half.float(), smooth)


@pytest.mark.parametrize(("height", "width"), [(10, 64), (64, 10), (4, 4)])
def test_ssim_loss_of_too_small_patches(height: int, width: int) -> None:
    patches = torch.zeros(1, 3, height, width)
    message = f"SSIM needs at least 11 x 11 pixels, its window, got {height} x {width}$"
    with pytest.raises(InputError, match=message):
        ssim_loss(patches, patches)


def test_importing_the_losses_does_not_import_torchmetrics() -> None:
    code = "import sys, anomalib_lite.models.losses; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("shape", [(5, 8), (3, 4, 2, 2)])
def test_kl_divergence_equals_torch_distributions(shape: tuple[int, ...]) -> None:
    mean, log_variance = random_normal(*shape, seed=0), 2 * random_normal(*shape, seed=1)
    prior = Normal(torch.zeros(shape), torch.ones(shape))
    expected = reference_kl(Normal(mean, (log_variance / 2).exp()), prior).sum() / shape[0]
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_kl_divergence_by_hand() -> None:
    """Variance 4 costs (4 - 1 - log 4) / 2 an element, a mean of 3 costs 9 / 2."""
    mean = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    log_variance = torch.tensor([[math.log(4), math.log(4)], [0.0, 0.0]])
    assert kl_divergence(mean, log_variance).item() == pytest.approx(((3 - math.log(4)) + 4.5) / 2)


def test_kl_divergence_next_to_the_prior() -> None:
    """A variance of exp(1e-4) is 2.5e-9 nats away, which exp(v) - 1 - v loses in float32."""
    nearly = kl_divergence(torch.zeros(1, 1), torch.full((1, 1), 1e-4))
    assert nearly.item() == pytest.approx(2.5e-9, rel=0.02)
    assert kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0


def test_kl_divergence_pulls_towards_the_prior() -> None:
    mean, log_variance = random_normal(4, 3, seed=2).requires_grad_(), random_normal(4, 3, seed=3)
    log_variance.requires_grad_()
    kl_divergence(mean, log_variance).backward()
    torch.testing.assert_close(mean.grad, mean.detach() / 4)
    torch.testing.assert_close(log_variance.grad, (log_variance.detach().exp() - 1) / 8)


def test_gaussian_nll_equals_scipy() -> None:
    patches = random_patches(2, 5, 7, seed=8)
    mean, log_variance = random_patches(2, 5, 7, seed=9), 3 * random_normal(2, 3, 5, 7, seed=4)
    result = gaussian_nll(patches, mean, log_variance)
    expected = -stats.norm.logpdf(patches, loc=mean, scale=(log_variance.double() / 2).exp())
    assert result.shape == patches.shape
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_gaussian_nll_by_hand() -> None:
    """Where the density is above 1 its logarithm's negative is below 0."""
    patches, mean = torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.7])
    log_variance = torch.full((2,), 2 * math.log(0.1))
    exact = math.log(0.1 * math.sqrt(2 * math.pi))
    assert gaussian_nll(patches, mean, log_variance).tolist() == pytest.approx([exact, exact + 2], abs=1e-5)


def test_gaussian_nll_is_lowest_at_the_true_variance() -> None:
    patches, mean = torch.tensor([0.3]), torch.tensor([0.5])
    log_variance = torch.tensor([math.log(0.04)], requires_grad=True)
    gaussian_nll(patches, mean, log_variance).sum().backward()
    assert log_variance.grad is not None
    assert log_variance.grad.item() == pytest.approx(0, abs=1e-6)
