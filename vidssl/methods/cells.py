"""A contrast of every cell of an encoder's map over time: the global-local loss of Anand et al. 2019, "Unsupervised
State Representation Learning in Atari" (ST-DIM), arXiv 1906.08226.

    z_t [D] --linear--> a prediction for each cell of the map at t+1, told apart from that same cell in other frames

A contrast of whole frames is won by whatever is largest; here every place counts the same, so the feature has to say
what is where, small things too.

B clips, T frames, D feature dim, D' channels of the map, h x w its cells (n = h*w), E size of a cell's key.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import gather, info_nce, world


class CellContrast(nn.Module):
    """InfoNCE of `n` cells, each by itself, among all frames of the batch (all ranks').

    Args:
        dim: D.
        channels: D'.
        cells: n.
        key_dim: E.
        temperature: of the cosine similarity.
    """

    def __init__(self, dim: int, channels: int, cells: int, key_dim: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.key = nn.Linear(channels, key_dim)
        self.query = nn.Linear(dim, cells * key_dim)
        self.cells, self.temperature = cells, temperature

    def forward(self, z: Tensor, maps: Tensor) -> Tensor:
        """The mean loss, scalar, of features `[B,T,D]` and maps `[B,T,D',h,w]`."""
        query = self.query(z[:, :-1]).flatten(0, 1).unflatten(1, (self.cells, -1))  # [N,n,E], N = B*(T-1)
        key = gather(self.key(maps[:, 1:].flatten(3).mT).flatten(0, 1))  # [M,n,E], M = N of all ranks
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        positive = world()[0] * len(query) + torch.arange(len(query), device=z.device)
        of_cells = zip(query.unbind(1), key.unbind(1), strict=True)
        return torch.stack([info_nce(q, k, positive, self.temperature) for q, k in of_cells]).mean()
