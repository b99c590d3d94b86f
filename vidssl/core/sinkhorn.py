"""Sinkhorn-Knopp in the log domain: soft assignment of samples to prototypes that uses all prototypes alike.

n samples of this rank, N of all ranks, K prototypes, D dims.

                 prototypes [K]
    samples   ┌──────────────────┐    q_ij = exp(s_ij + f_i + g_j),   s = features · prototypes / ε
      [N]     │ s [n, K]         │    g_j = −log Σ_i exp(s_ij + f_i)     columns: over the samples of all ranks
    spread    │                  │    f_i = −log Σ_j exp(s_ij + g_j)     rows: each sample by itself
    over ranks└──────────────────┘

Both sums are the core's `lse` with the other side's dual variable as bias, so no exp(s / ε) is ever formed: nothing
overflows, in any type. Sums over ranks exchange K maxima and K sums.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from vidssl.core.gather import all_reduce_sum, world
from vidssl.core.info_nce import lse
from vidssl.core.moments import exact, wide
from vidssl.errors import VidsslError


@torch.no_grad()
def sinkhorn(features: Tensor, prototypes: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assignments with equal shares for all prototypes: Cuturi 2013; Caron et al. 2020 (SwAV), section 3.1, eq. 3 to 5.

    Every iteration scales columns, then rows, so rows sum to 1 exactly and columns to N / K the better the more
    iterations. The constants log N and log K of the published form cancel there.

    Args:
        features: [n, D], any floating type; n may differ among ranks.
        prototypes: [K, D], the same type, the same on every rank.
        epsilon: above 0; the smaller, the harder the assignments.
        iterations: at least 1.

    Returns:
        [n, K] float32 (float64 for float64 input), without gradient; the same on one process and on many.

    Raises:
        VidsslError: epsilon not above 0, no iterations, shapes or types that disagree.
    """
    if iterations < 1:
        raise VidsslError(f"sinkhorn: got {iterations} iterations; at least 1 (3 in SwAV)")
    if not epsilon > 0:
        raise VidsslError(f"sinkhorn: got epsilon {epsilon}; choose one above 0 (0.05 in SwAV)")
    by_sample = wide(features).new_zeros(len(features))
    by_prototype = _columns(features, prototypes, epsilon, by_sample)
    for _ in range(iterations - 1):
        by_sample = -lse(features, prototypes, epsilon, bias=by_prototype)
        by_prototype = _columns(features, prototypes, epsilon, by_sample)
    with exact(features):
        scores = wide(features) @ wide(prototypes).T / epsilon
    return (scores + by_prototype).softmax(1)  # the last scaling of rows, without their f


def _columns(features: Tensor, prototypes: Tensor, epsilon: float, by_sample: Tensor) -> Tensor:
    """g [K]: minus the log-sum-exp over the samples of all ranks."""
    here = lse(prototypes, features, epsilon, bias=by_sample)
    if world()[1] == 1:
        return -here
    highest = here.clone()
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return -(all_reduce_sum((here - highest).exp()).log() + highest)
