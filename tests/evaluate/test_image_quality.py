"""PSNR and SSIM against the formulas written out place by place."""

import math

import numpy as np
import pytest
import torch

from vidssl.errors import VidsslError
from vidssl.evaluate.image_quality import psnr, ssim


def test_psnr_by_hand() -> None:
    """Off by 0.1 everywhere: a mean square of 0.01, 20 dB; half of the pixels off by 0.2: 0.02."""
    true = torch.full((2, 3, 4, 4), 0.5)
    predicted = true.clone()
    predicted[0] += 0.1
    predicted[1, :, :2] -= 0.2
    assert psnr(predicted, true).tolist() == pytest.approx([20.0, -10 * math.log10(0.02)], abs=1e-4)
    assert psnr(true, true).tolist() == [math.inf, math.inf]


def ssim_written_out(p: np.ndarray, t: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13 to 16, window by window, for pictures float64 [H,W]."""
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for i in range(p.shape[0] - 10):
        for j in range(p.shape[1] - 10):
            a, b = p[i : i + 11, j : j + 11], t[i : i + 11, j : j + 11]
            mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
            var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
            covariance = (weight * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 1e-4)
                * (2 * covariance + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
    return float(np.mean(values))


def test_ssim_against_the_formula_written_out() -> None:
    random = np.random.default_rng(0)
    true = random.random((2, 14, 17))
    predicted = np.clip(true + 0.2 * random.standard_normal(true.shape), 0, 1)
    ours = ssim(torch.from_numpy(predicted)[None], torch.from_numpy(true)[None])
    expected = np.mean([ssim_written_out(p, t) for p, t in zip(predicted, true, strict=True)])
    assert ours.item() == pytest.approx(expected, abs=1e-12)
    assert 0.2 < expected < 0.95


def test_ssim_against_scipys_filter() -> None:
    """The same windows by scipy's Gaussian filter, cut off at 5 pixels, away from the border."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(1)
    true = gaussian_filter(random.random((40, 30)), 2)
    predicted = true + 0.05 * random.standard_normal(true.shape)

    def local(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]

    mean_p, mean_t = local(predicted), local(true)
    var_p, var_t = local(predicted**2) - mean_p**2, local(true**2) - mean_t**2
    covariance = local(predicted * true) - mean_p * mean_t
    expected = (2 * mean_p * mean_t + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_p**2 + mean_t**2 + 1e-4) * (var_p + var_t + 9e-4)
    ours = ssim(torch.from_numpy(predicted)[None, None], torch.from_numpy(true)[None, None])
    assert ours.item() == pytest.approx(expected.mean(), abs=1e-9)


def test_ssim_of_equal_and_of_inverted_pictures() -> None:
    picture = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert ssim(picture, picture).item() == pytest.approx(1, abs=1e-5)
    assert ssim(1 - picture, picture).item() < 0


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"10x64 are smaller than its window of 11x11; raise --size"):
        ssim(torch.rand(1, 3, 10, 64), torch.rand(1, 3, 10, 64))
    with pytest.raises(VidsslError, match=r"expected two tensors \[N,C,H,W\] of one shape, got \(3, 8, 8\)"):
        psnr(torch.rand(3, 8, 8), torch.rand(3, 8, 8))
