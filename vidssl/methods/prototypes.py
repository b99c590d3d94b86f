"""Prototypes: unit vectors that embeddings are compared with, the last layer of SwAV and DINO."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.errors import VidsslError


class Prototypes(nn.Module):
    """`[n, E] -> [n, K]`: cosine of each embedding with each of K learned vectors, in [-1, 1].

    A linear layer with weight norm of fixed length 1 and no bias (Caron et al. 2021, appendix C), on unit embeddings.

    Raises:
        VidsslError: fewer than 2 prototypes.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        if count < 2:
            raise VidsslError(f"prototypes: got {count}; a choice needs 2 or more")
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    def unit(self) -> Tensor:
        """The prototypes `[K, E]`, of length 1."""
        return F.normalize(self.weight, dim=1)

    def forward(self, embeddings: Tensor, frozen: bool = False) -> Tensor:
        """Cosines; frozen prototypes get a gradient of zero, not none: DDP waits for everyone's."""
        unit = self.unit()
        return F.linear(F.normalize(embeddings, dim=1), unit.detach() + 0 * unit if frozen else unit)
