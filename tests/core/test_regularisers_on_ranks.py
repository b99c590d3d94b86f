"""Every statistics loss on W ranks: values and gradients of one process on the whole batch."""

import pytest
import torch
import torch.nn.functional as F
from ranks import run_on_ranks
from torch import Tensor, nn

from vidssl.core import (
    Centring,
    all_reduce_sum,
    covariance_penalty,
    cross_correlation,
    koleo,
    mix,
    sigreg,
    sinkhorn,
    sub_batches,
    variance_hinge,
    whiten,
    world,
)
from vidssl.core.moments import covariance, variance

N, DIM = 12, 4
STEP = torch.tensor(5)


def losses(x: Tensor, y: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """Embeddings of this rank's share of two views -> one loss a statistic."""
    group, groups = sub_batches(keys, STEP, 6)
    assert groups == 2
    white = F.normalize(whiten(x, group, groups))
    return {
        "variance": variance_hinge(variance(x / 3)),
        "covariance": covariance_penalty(covariance(x)),
        "correlation": (cross_correlation(x, y) - torch.eye(DIM)).square().sum(),
        "whitening": (white - F.normalize(whiten(y, group, groups))).square().sum(1).mean(),
        "sigreg": sigreg(x, STEP, slices=20),
        "koleo": koleo(F.normalize(x)),
    }


def everything() -> dict[str, Tensor]:
    """Gradients averaged as DDP does, values averaged, and what has no gradient: assignments and a centre."""
    generator = torch.Generator().manual_seed(0)
    encoder = nn.Linear(7, DIM, dtype=torch.float64)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, generator=generator)
    views = torch.randn(2, N, 7, dtype=torch.float64, generator=generator)
    prototypes = torch.randn(3, DIM, dtype=torch.float64, generator=generator)
    rank, size = world()
    keys = mix(1, torch.arange(N)).chunk(size)[rank]
    x, y = (encoder(view.chunk(size)[rank]) for view in views)
    result = {}
    for name, loss in losses(x, y, keys).items():
        grads = torch.autograd.grad(loss, list(encoder.parameters()), retain_graph=True, materialize_grads=True)
        result[name] = all_reduce_sum(loss.detach()) / size
        result[f"{name} gradient"] = all_reduce_sum(torch.cat([g.flatten() for g in grads])) / size
    result["assignments"] = sinkhorn(x, prototypes, 0.5)
    uneven = x.detach()[rank:]  # rank 1 holds a row less than rank 0: columns are sums all the same
    result["uneven columns"] = all_reduce_sum(sinkhorn(uneven, prototypes, 0.5, 60).sum(0)) / all_reduce_sum(
        torch.tensor(float(len(uneven)))
    )
    centring = Centring(DIM, 0.5).double()
    centring.update(x)
    result["centre"] = centring.centre
    return result


@pytest.mark.parametrize("size", [2, 3])
def test_values_and_gradients_equal_one_process(size: int) -> None:
    alone = everything()
    ranks = run_on_ranks(everything, size)
    assignments = torch.cat([rank.pop("assignments") for rank in ranks])
    torch.testing.assert_close(assignments, alone.pop("assignments"), rtol=0, atol=1e-12)
    for rank in ranks:
        torch.testing.assert_close(rank.pop("uneven columns"), torch.full((3,), 1 / 3).double(), rtol=0, atol=1e-5)
    alone.pop("uneven columns")
    for rank in ranks:
        for name, expected in alone.items():
            assert expected.abs().max() > 1e-4, name
            torch.testing.assert_close(rank[name], expected, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
