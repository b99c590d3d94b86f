"""KoLeo: embeddings spread out by pushing each from its nearest neighbour in the whole batch.

n rows of this rank, N of all ranks, D dims.
"""

import torch
from torch import Tensor

from vidssl.core.gather import gather, world
from vidssl.core.moments import exact, rows_of_all_ranks, wide

_BLOCK = 512  # rows whose N distances are held at once


def koleo(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Kozachenko-Leonenko estimate of differential entropy, negated, without its constants.

        −1/n Σ_i log min_{j≠i} |x_i − x_j|          j over all N rows

    Sablayrolles et al. 2019, "Spreading vectors for similarity search", eq. 4; as in DINOv2 (Oquab et al. 2023) on unit
    vectors: normalise first. Both of a pair are pushed.

    Args:
        x: [n, D], the same n on every rank.
        eps: added to squared distances, keeps the loss of equal rows finite.

    Returns:
        Scalar, the mean over own rows; float32 (float64 for float64 input), under autocast too.

    Raises:
        VidsslError: one row in all: it has no neighbour.
    """
    rows_of_all_ranks(x, 2, "KoLeo")
    with exact(x):
        x = wide(x)
        everyone = gather(x)
        neighbour = everyone[_nearest(x.detach(), everyone.detach())]
        return -0.5 * ((x - neighbour).square().sum(1) + eps).log().mean()


def _nearest(x: Tensor, everyone: Tensor) -> Tensor:
    """The nearest other row, int64 [n]: the greatest x_i·x_j − |x_j|²/2, which is (|x_i|² − |x_i − x_j|²) / 2."""
    half = everyone.square().sum(1) / 2
    first = world()[0] * len(x)
    found = []
    for start in range(0, len(x), _BLOCK):
        near = x[start : start + _BLOCK] @ everyone.T - half
        own = torch.arange(len(near), device=x.device)
        near[own, first + start + own] = -torch.inf
        found.append(near.argmax(1))
    return torch.cat(found)
