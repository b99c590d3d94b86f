"""A first-in first-out store of keys of earlier batches: He et al. 2020 (MoCo), section 3.1."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.gather import gather
from vidssl.errors import VidsslError


class Queue(nn.Module):
    """Q unit keys [Q, D], random to begin with; a push overwrites the oldest. Part of the state a run resumes from.

    Raises:
        VidsslError: size below 1.
    """

    keys: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise VidsslError(f"queue: got size {size}; at least 1 key")
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Take in the keys [n, D] of this rank and all others', in rank order; of more than Q, the last Q."""
        rows = gather(keys.detach())[-len(self.keys) :]
        places = (self.place + torch.arange(len(rows), device=rows.device)) % len(self.keys)
        self.keys[places] = rows.to(self.keys.dtype)
        self.place.copy_((self.place + len(rows)) % len(self.keys))
