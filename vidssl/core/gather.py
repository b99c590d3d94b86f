"""Collectives whose gradients are those of one process.

W ranks, n rows a rank, D feature dim. The rule all methods follow: a rank's loss is the mean over its own n anchors
against the keys of all ranks. A rank's features are then keys in every rank's loss, so the backward of `gather` sums
what all ranks send back; DDP averages the parameter gradients, and

    1/W Σ_rank  d loss_rank / dθ  =  d (mean over all W·n anchors) / dθ

which is the gradient of the whole batch on one process. With `positives` as indices into the gathered keys, the rows of
rank r begin at r·n:  [rank 0: 0 … n−1 | rank 1: n … 2n−1 | …]. Without a process group W = 1 and nothing moves.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidssl.errors import VidsslError


def world() -> tuple[int, int]:
    """(rank, number of ranks) of this process; (0, 1) when torch.distributed is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(x: Tensor) -> Tensor:
    """All ranks' rows in rank order; its backward sums the gradients of all ranks.

    Args:
        x: [n, …], the same shape on every rank; any strides.

    Returns:
        [W·n, …]; `x` itself when W = 1. Differentiable once.

    Raises:
        VidsslError: ranks hold different shapes (on every rank alike, after one small exchange).
    """
    if world()[1] == 1:
        return x
    _check_same_shape(x)
    return _Gather.apply(x)


def gather_ints(x: Tensor) -> Tensor:
    """All ranks' integer rows in rank order, without gradient: labels for `Exclude`, keys of samples.

    Args:
        x: integer or bool [n, …], the same shape on every rank.

    Returns:
        [W·n, …]; `x` itself when W = 1.

    Raises:
        VidsslError: a float tensor, or different shapes among ranks.
    """
    if x.is_floating_point() or x.is_complex():
        raise VidsslError(f"gather_ints: expected integers, got {x.dtype}; use gather for features")
    return gather(x)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over ranks, the same on each; its backward sums the gradients of all ranks.

    Args:
        x: a tensor of the same shape on every rank (statistics of a batch, say).

    Returns:
        A tensor of that shape; `x` itself when W = 1. Differentiable once.
    """
    return x if world()[1] == 1 else _AllReduceSum.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world()[1])]
        dist.all_gather(parts, x.detach().contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rank, size = world()
        return _summed(grad).chunk(size)[rank]


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


def _summed(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)  # all_reduce writes in place
    dist.all_reduce(total)
    return total


def _check_same_shape(x: Tensor) -> None:
    """Unequal shapes make all_gather hang or read garbage; one vector of sizes from each rank tells."""
    mine = torch.tensor([len(x), x.numel()], device=x.device)
    sizes = [torch.empty_like(mine) for _ in range(world()[1])]
    dist.all_gather(sizes, mine)
    rows, numbers = torch.stack(sizes).T.tolist()
    if len(set(rows)) > 1 or len(set(numbers)) > 1:
        raise VidsslError(
            f"gather: expected one shape on every rank, got {rows} rows of {numbers} numbers by rank; "
            "drop the last incomplete batch"
        )
