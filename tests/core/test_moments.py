"""Moments of the whole batch, by hand and against torch's."""

import pytest
import torch

from vidssl.core.moments import covariance, off_diagonal, variance
from vidssl.errors import VidsslError


def test_three_rows_by_hand() -> None:
    # Columns (0, 3, 6) and (1, 1, 4): means 3 and 2, deviations (−3, 0, 3) and (−1, −1, 2); sums of products over 2.
    x = torch.tensor([[0.0, 1.0], [3.0, 1.0], [6.0, 4.0]])
    assert variance(x).tolist() == [9.0, 3.0]
    assert covariance(x).tolist() == [[9.0, 4.5], [4.5, 3.0]]


def test_against_torch_far_from_the_origin() -> None:
    """Around 1000 with deviations of 1: sums of raw squares would leave three digits of float32."""
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)) + 1000
    exact = torch.cov(x.double().T)
    torch.testing.assert_close(covariance(x).double(), exact, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(variance(x).double(), exact.diagonal(), rtol=1e-3, atol=1e-4)


def test_off_diagonal() -> None:
    assert off_diagonal(torch.arange(9).view(3, 3)).tolist() == [1, 2, 3, 5, 6, 7]
    assert off_diagonal(torch.ones(1, 1)).tolist() == []


def test_one_row_has_no_variance() -> None:
    for statistic in (variance, covariance):
        with pytest.raises(VidsslError, match=r"got a batch of 1, it needs 2 or more; raise --batch-size"):
            statistic(torch.zeros(1, 3))
