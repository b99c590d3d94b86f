"""Regularisers on second moments of the whole batch: VICReg's variance and covariance, Barlow Twins' correlation.

n rows of this rank, W ranks, N = W·n rows in all, D dims. With C the covariance of the embeddings over all N rows,

    variance    1/D Σ_j max(0, γ − √(C_jj + ε))      no dim may become constant: against constant collapse
    covariance  1/D Σ_{i≠j} C_ij²                    no dim may repeat another: against dimensional collapse

Statistics are those of the whole batch, so they do not change with the number of ranks, and all-reduce D² numbers.
"""

import torch
from torch import Tensor

from vidssl.core.gather import all_reduce_sum
from vidssl.core.moments import centred, exact, off_diagonal, rows_of_all_ranks, wide


def variance_hinge(variance: Tensor, target: float = 1.0, eps: float = 1e-4) -> Tensor:
    """How far standard deviations stay below `target`: Bardes, Ponce, LeCun 2022 (VICReg), eq. 1 and 2.

    Args:
        variance: [D], as from `vidssl.core.moments.variance` or the diagonal of a covariance.
        target: γ.
        eps: ε, keeps the root's slope finite.

    Returns:
        Scalar, 0 where every deviation reaches the target.
    """
    return (target - (variance + eps).sqrt()).relu().mean()


def covariance_penalty(covariance: Tensor) -> Tensor:
    """Squares beside the diagonal of [D, D], over D: Bardes et al. 2022, eq. 4. Scalar."""
    return off_diagonal(covariance).square().sum() / len(covariance)


def cross_correlation(x: Tensor, y: Tensor, eps: float = 1e-5) -> Tensor:
    """Correlation of every dim of x with every dim of y over all ranks: Zbontar et al. 2021 (Barlow Twins), eq. 2.

    Args:
        x, y: [n, D] and [n, E], row for row embeddings of the same samples.
        eps: added to (biased) variances, as in the batch norm that the published code makes it with.

    Returns:
        [D, E] in [−1, 1]; float32 (float64 for float64 input), under autocast too.

    Raises:
        VidsslError: fewer than 3 rows in all: two always correlate by 1 or −1.
    """
    rows = rows_of_all_ranks(x, 3, "cross-correlation")
    with exact(x):
        both = centred(torch.cat([wide(x), wide(y)], dim=1))
        x, y = both.split([x.shape[1], y.shape[1]], dim=1)
        scale = (all_reduce_sum(both.square().sum(0)) / rows + eps).rsqrt()
        across = all_reduce_sum(x.T @ y) / rows
        return scale[: x.shape[1], None] * across * scale[x.shape[1] :]
