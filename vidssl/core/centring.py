"""DINO's centre: a running mean of the teacher's scores, taken from them so that no prototype wins for every sample."""

import torch
from torch import Tensor, nn

from vidssl.core.gather import all_reduce_sum
from vidssl.core.moments import rows_of_all_ranks
from vidssl.errors import VidsslError


class Centring(nn.Module):
    """`[n, K] -> [n, K]`: scores less their centre. Caron et al. 2021 (DINO), section 3.1, eq. 4.

    Args:
        size: K.
        momentum: m in c ← m c + (1 − m) · mean over the rows of all ranks; 0.9 in the paper (appendix D).

    Raises:
        VidsslError: momentum outside [0, 1).
    """

    centre: Tensor

    def __init__(self, size: int, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise VidsslError(f"centring: got momentum {momentum}; choose one in [0, 1), 0.9 as published")
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(size))

    def forward(self, scores: Tensor) -> Tensor:
        """Scores less the centre of the batches before."""
        return scores - self.centre

    @torch.no_grad()
    def update(self, scores: Tensor) -> None:
        """Move the centre towards the mean of `scores` [n, K] of all ranks."""
        total = all_reduce_sum(scores.to(self.centre.dtype).sum(0))
        self.centre.lerp_(total / rows_of_all_ranks(scores, 1, "centring"), 1 - self.momentum)
