"""Sinkhorn by hand, against the plain form in float64, and where exp(s / ε) overflows."""

import math

import pytest
import torch
from torch import Tensor

from vidssl.core import sinkhorn
from vidssl.errors import VidsslError

TWO = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # exp of the scores below


def plain(scores: Tensor, iterations: int) -> Tensor:
    """Rows and columns divided by their sums in turn, as in SwAV's listing."""
    q = scores.double().exp()
    for _ in range(iterations):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdim=True)
    return q


def test_two_by_two_by_hand() -> None:
    # Columns (1, 3)/4 and (2, 4)/6, then rows (1/4, 1/3) and (3/4, 2/3) over 7/12 and 17/12.
    got = sinkhorn(TWO.log(), torch.eye(2), epsilon=1.0, iterations=1)
    torch.testing.assert_close(got, torch.tensor([[3 / 7, 4 / 7], [9 / 17, 8 / 17]]))


def test_two_by_two_in_the_limit() -> None:
    # The doubly stochastic table [[p, 1−p], [1−p, p]] with (p / (1−p))² = 1·4 / (2·3), the odds ratio that is kept.
    odds = math.sqrt(4 / 6)
    p = odds / (1 + odds)
    got = sinkhorn(TWO.log(), torch.eye(2), epsilon=1.0, iterations=50)
    torch.testing.assert_close(got, torch.tensor([[p, 1 - p], [1 - p, p]]))


def test_against_the_plain_form() -> None:
    generator = torch.Generator().manual_seed(0)
    features, prototypes = (torch.randn(n, 8, dtype=torch.float64, generator=generator) for n in (300, 7))
    for iterations in (1, 2, 3, 30):
        got = sinkhorn(features, prototypes, 0.7, iterations)
        torch.testing.assert_close(got, plain(features @ prototypes.T / 0.7, iterations), rtol=1e-10, atol=1e-14)
    assert (got.sum(0) - 300 / 7).abs().max() < 1e-3
    assert not sinkhorn(features.requires_grad_(), prototypes).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_of_ten_thousand(dtype: torch.dtype) -> None:
    """exp(1e4) is infinite and exp(−1e4) zero in any type; divided by their sums, both give NaN in the plain form."""
    # Sample 0 wants prototype 0 and sample 1 prototype 1 by 2e4: so it is. All samples alike: half of each.
    apart = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], dtype=dtype)
    prototypes = torch.tensor([[100.0, 0.0], [0.0, 100.0]], dtype=dtype)
    assert plain(apart.float() @ prototypes.float().T, 3).isnan().any()
    torch.testing.assert_close(sinkhorn(apart, prototypes, 1.0), torch.eye(2))
    alike = apart[:1].expand(2, 2)
    torch.testing.assert_close(sinkhorn(alike, prototypes, 1.0), torch.full((2, 2), 0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features, prototypes = (
        torch.nn.functional.normalize(torch.randn(n, 16, generator=generator)).to(dtype) for n in (60, 5)
    )
    expected = plain(features.double() @ prototypes.double().T / 0.05, 3)
    with torch.autocast("cpu", torch.bfloat16):
        got = sinkhorn(features, prototypes)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6)


def test_refusals() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(VidsslError, match=r"sinkhorn: got epsilon 0; choose one above 0"):
        sinkhorn(x, x, epsilon=0)
    with pytest.raises(VidsslError, match="sinkhorn: got 0 iterations; at least 1"):
        sinkhorn(x, x, iterations=0)
