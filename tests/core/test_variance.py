"""VICReg's and Barlow Twins' statistics: by hand, against torch, in mixed precision."""

import math

import pytest
import torch

from vidssl.core import covariance_penalty, cross_correlation, variance_hinge
from vidssl.core.moments import covariance
from vidssl.errors import VidsslError


def rows(n: int = 12, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_hinge_by_hand() -> None:
    # Deviations 2, 1/2 and 0.01 (variance 0 and eps 1e-4) against 1: (0 + 1/2 + 0.99) / 3.
    hinge = variance_hinge(torch.tensor([4.0 - 1e-4, 0.25 - 1e-4, 0.0]))
    torch.testing.assert_close(hinge, torch.tensor(1.49 / 3))


def test_hinge_pulls_apart_what_is_nearly_one_point() -> None:
    """At deviations far below 1 the slope of each deviation is −1/D, not smaller the closer the rows are."""
    for size in (0.1, 0.03):
        x = (size * rows()).requires_grad_()
        variance_hinge(covariance(x).diagonal(), eps=1e-8).backward()
        outward = (x.grad * (x - x.mean(0))).sum(0) / (x - x.mean(0)).square().sum(0).sqrt()
        torch.testing.assert_close(-outward, torch.full((4,), 1 / (4 * math.sqrt(11))).double(), rtol=1e-4, atol=0)


def test_covariance_penalty_by_hand() -> None:
    # Beside the diagonal 1, 2, 1, 3, 2, 3: squares 28, over 3 dims.
    square = torch.tensor([[9.0, 1.0, 2.0], [1.0, 9.0, 3.0], [2.0, 3.0, 9.0]])
    assert float(covariance_penalty(square)) == pytest.approx(28 / 3)


def test_correlation_by_hand() -> None:
    # x deviates by (−1, 0, 1), y by (−1, 2, −1) and (2, 0, −2): products 0 and −4, lengths √2, √6 and √8.
    x = torch.tensor([[4.0], [5.0], [6.0]])
    y = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, -2.0]])
    torch.testing.assert_close(cross_correlation(x, y), torch.tensor([[0.0, -1.0]]), rtol=1e-4, atol=1e-6)


def test_correlation_against_numpy_form() -> None:
    x, y = rows(), rows(dim=3, seed=1) * 7 + 20
    whole = torch.corrcoef(torch.cat([x, y], 1).T)
    torch.testing.assert_close(cross_correlation(x, y, eps=0.0), whole[:4, 4:])


def test_gradients() -> None:
    x, y = rows(6).requires_grad_(), rows(6, seed=1).requires_grad_()
    torch.autograd.gradcheck(lambda a, b: cross_correlation(a, b), (x, y))
    torch.autograd.gradcheck(lambda a: covariance_penalty(covariance(a)), x)
    torch.autograd.gradcheck(lambda a: variance_hinge(covariance(a / 3).diagonal()), x)


def test_mixed_precision_leaves_statistics_alone() -> None:
    x, y = rows().float(), rows(seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cross_correlation(x, y), cross_correlation(x, y))
        mixed = cross_correlation(x, y), covariance(x)
        half = cross_correlation(x.bfloat16(), y.bfloat16())
    torch.testing.assert_close(mixed, (cross_correlation(x, y), covariance(x)), rtol=0, atol=0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, cross_correlation(x, y), rtol=0, atol=0.02)


def test_two_rows_are_no_correlation() -> None:
    with pytest.raises(VidsslError, match="cross-correlation: got a batch of 2, it needs 3 or more; raise"):
        cross_correlation(torch.zeros(2, 3), torch.zeros(2, 3))
