"""Whitening of a batch that is spread over ranks: Ermolov, Siarohin, Sangineto, Sebe 2021 (W-MSE), arXiv 2007.06346.

n rows of this rank, N of all ranks, D dims, G sub-batches with rows of any rank.

                  all rows, shuffled                    of each sub-batch g over all ranks:
    rows     0  1  2  3  4  5  6  7  …                    μ_g [D], Σ_g [D, D] = L_g L_gᵀ (Cholesky)
    group    1  0  0  1  1  0  1  0  …  ────────>         y_i = L_g⁻¹ (x_i − μ_g): mean 0, covariance 1
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vidssl.core.gather import all_reduce_sum, gather_ints, world
from vidssl.core.moments import exact, wide
from vidssl.core.random import mix
from vidssl.errors import VidsslError


def sub_batches(keys: Tensor, step: Tensor, size: int, stream: int = 0) -> tuple[Tensor, int]:
    """A random division of the whole batch into sub-batches of `size` samples or a few more.

    Args:
        keys: int64 [n], a key a sample; the division depends on them and the step, not on ranks or places in the batch.
        step: int64 scalar, the same on all ranks.
        size: samples a sub-batch at least; a smaller batch is one sub-batch.
        stream: another one gives another division.

    Returns:
        int64 [n], the sub-batch of every sample of this rank, and their number G.
    """
    everyone = gather_ints(keys)
    groups = max(1, len(everyone) // size)
    order = mix(stream, step, everyone).argsort()
    group = torch.empty_like(order)
    group[order] = torch.arange(len(order), device=order.device) * groups // len(order)
    return group.chunk(world()[1])[world()[0]], groups


def whiten(x: Tensor, group: Tensor, groups: int, shrink: float = 1e-6) -> Tensor:
    """Every sub-batch with mean 0 and covariance 1, by statistics of the rows of all ranks: section 3 of the paper.

    Args:
        x: [n, D].
        group: int64 [n] in [0, G), as from `sub_batches`.
        groups: G.
        shrink: s in Σ ← (1 − s) Σ + s 1, so that the factor exists when dims become dependent.

    Returns:
        [n, D]; float32 (float64 for float64 input), under autocast too.

    Raises:
        VidsslError: a sub-batch of D rows or fewer, whose covariance has no inverse; x not finite.
    """
    with exact(x):
        x = wide(x)
        dim, member = x.shape[1], F.one_hot(group, groups).to(x)  # [n, G]
        count = all_reduce_sum(member.sum(0))
        if (least := int(count.min())) <= dim:
            raise VidsslError(
                f"whitening: got {least} samples to whiten {dim} dims, it needs more samples than dims "
                f"(twice as many in the paper); raise --batch-size to {2 * dim * groups} or lower the method's dim"
            )
        mean = all_reduce_sum(member.T @ x) / count[:, None]
        # Row i holds x_i − μ in its group's D columns of G·D, zeros elsewhere: one product does all groups.
        apart = (member[:, :, None] * (x - mean[group])[:, None]).flatten(1)
        scatter = all_reduce_sum(apart.T @ apart.unflatten(1, (groups, dim)).sum(1)).unflatten(0, (groups, dim))
        one = torch.eye(dim, dtype=torch.float64, device=x.device)
        covariance = (1 - shrink) * scatter.double() / (count.double() - 1)[:, None, None] + shrink * one
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed.any()):
            raise VidsslError(
                "whitening: the covariance has no Cholesky factor, embeddings are infinite or not a number; "
                "lower --lr or use --precision 32"
            )
        inverse = torch.linalg.solve_triangular(factor, one.expand_as(factor), upper=False)
        return apart @ inverse.mT.flatten(0, 1).to(x)
