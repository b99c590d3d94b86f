"""Means and covariances of a batch that is spread over ranks: what statistics losses are made of.

n rows of this rank, W ranks, N = W·n rows in all, D dims. Every rank holds as many rows. Sums of D or D × D numbers
cross the network, never rows; two passes, the mean first, since squares of uncentred values would lose digits.
"""

import torch
from torch import Tensor

from vidssl.core.gather import all_reduce_sum, world
from vidssl.errors import VidsslError


def wide(x: Tensor) -> Tensor:
    """x in the type its sums are made in: float64 stays, all else is float32."""
    return x if x.dtype == torch.float64 else x.float()


def alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their types: mixed precision leaves some layers' outputs in one, some in another."""
    kind = torch.promote_types(a.dtype, b.dtype)
    return a.to(kind), b.to(kind)


def exact(x: Tensor) -> torch.autocast:
    """A block in which products are made in their operands' own type, mixed precision or not."""
    return torch.autocast(x.device.type, enabled=False)


def rows_of_all_ranks(x: Tensor, least: int, what: str) -> int:
    """N for rows [n, …].

    Raises:
        VidsslError: fewer than `least`, the number that `what` needs.
    """
    rows = len(x) * world()[1]
    if rows < least:
        raise VidsslError(f"{what}: got a batch of {rows}, it needs {least} or more; raise --batch-size")
    return rows


def centred(x: Tensor) -> Tensor:
    """x [n, …] less its mean over the rows of all ranks."""
    return x - all_reduce_sum(x.sum(0)) / (len(x) * world()[1])


def variance(x: Tensor) -> Tensor:
    """Unbiased variance of every dim over all ranks: [n, D] -> [D].

    Raises:
        VidsslError: fewer than two rows in all.
    """
    rows = rows_of_all_ranks(x, 2, "variance")
    return all_reduce_sum(centred(wide(x)).square().sum(0)) / (rows - 1)


def covariance(x: Tensor) -> Tensor:
    """Unbiased covariance over all ranks: [n, D] -> [D, D], its diagonal is `variance`.

    Raises:
        VidsslError: fewer than two rows in all.
    """
    rows = rows_of_all_ranks(x, 2, "covariance")
    with exact(x):
        deviation = centred(wide(x))
        return all_reduce_sum(deviation.T @ deviation) / (rows - 1)


def off_diagonal(square: Tensor) -> Tensor:
    """The entries of [D, D] beside the diagonal, [D² − D]: a view where its strides allow."""
    size = len(square)
    return square.flatten()[:-1].view(size - 1, size + 1)[:, 1:].flatten()
