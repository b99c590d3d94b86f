"""Whitening by hand, its two properties, its gradient."""

import math

import pytest
import torch
from torch import Tensor

from vidssl.core import mix, sub_batches, whiten
from vidssl.errors import VidsslError


def rows(n: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) + 5).to(dtype)


def one(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.int64)


def test_four_points_by_hand() -> None:
    # Deviations (±3, ±3) and (±1, ∓1): Σ = 1/3 [[20, 16], [16, 20]], so L = 1/√3 [[√20, 0], [16/√20, 12/√20]] and
    # (3, 3) becomes √3 (3/√20, (3 − 16·3/20)·√20/12) = √(3/20) (3, 1), (1, −1) becomes √(3/20) (1, −3).
    x = torch.tensor([[3.0, 3.0], [-3.0, -3.0], [1.0, -1.0], [-1.0, 1.0]]) + 7
    expected = torch.tensor([[3.0, 1.0], [-3.0, -1.0], [1.0, -3.0], [-1.0, 3.0]]) * math.sqrt(3 / 20)
    torch.testing.assert_close(whiten(x, one(x), 1, shrink=0.0), expected)


def test_every_group_is_white() -> None:
    x = rows(50, 4)
    group, groups = sub_batches(mix(0, torch.arange(50)), torch.tensor(3), 16)
    assert groups == 3
    y = whiten(x, group, groups, shrink=0.0)
    for g in range(3):
        part = y[group == g]
        assert len(part) in (16, 17)
        torch.testing.assert_close(part.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-10)
        torch.testing.assert_close(torch.cov(part.T), torch.eye(4).double(), rtol=0, atol=1e-10)
        torch.testing.assert_close(part, whiten(x[group == g], one(part), 1, shrink=0.0))


def test_linear_maps_that_keep_the_order_of_dims_are_undone() -> None:
    """L⁻¹ takes out any lower triangular map: a scale of each dim, and what it shares with the dims before."""
    x = rows(30, 3)
    lower = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.1, 0.0], [-3.0, 1.0, 5.0]]).double()
    torch.testing.assert_close(whiten(x @ lower.T + 2, one(x), 1, 0.0), whiten(x, one(x), 1, 0.0))


def test_gradient() -> None:
    x = rows(9, 2).requires_grad_()
    group = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1])
    torch.autograd.gradcheck(lambda x: whiten(x, group, 2), x)


def test_dependent_dims_are_shrunk_to_a_finite_factor() -> None:
    x = rows(20, 1, torch.float32).expand(20, 3).clone().requires_grad_()
    y = whiten(x, one(x), 1)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_mixed_precision_leaves_statistics_alone() -> None:
    x = rows(20, 3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whiten(x, one(x), 1), whiten(x, one(x), 1))
        mixed = whiten(x, one(x), 1)
    assert torch.equal(mixed, whiten(x, one(x), 1))


def test_sub_batches_depend_on_keys_and_step_not_on_places() -> None:
    keys = mix(5, torch.arange(40))
    group, groups = sub_batches(keys, torch.tensor(7), 10)
    assert groups == 4
    assert group.bincount().tolist() == [10, 10, 10, 10]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sub_batches(keys[order], torch.tensor(7), 10)[0], group[order])
    assert not torch.equal(sub_batches(keys, torch.tensor(8), 10)[0], group)
    assert not torch.equal(sub_batches(keys, torch.tensor(7), 10, stream=1)[0], group)
    assert sub_batches(keys[:3], torch.tensor(0), 10)[1] == 1


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"got 4 samples to whiten 4 dims.*raise --batch-size to 8 or lower"):
        whiten(rows(4, 4), one(rows(4, 4)), 1)
    broken = rows(8, 2)
    broken[3, 1] = math.nan
    with pytest.raises(VidsslError, match=r"no Cholesky factor, embeddings are infinite or not a number; lower --lr"):
        whiten(broken, one(broken), 1)


def test_the_scale_of_dims_hardly_matters() -> None:
    """Shrunk dims must whiten like large ones, or a loss on the whitened rows would pay for shrinking them."""
    x = torch.randn(32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small = x * torch.tensor([1, 1, 1, 0.03, 0.03, 0.03], dtype=torch.float64)
    torch.testing.assert_close(whiten(small, one(x), 1), whiten(x, one(x), 1), rtol=0, atol=0.01)
