"""A first-in first-out store of keys of earlier batches: He et al. 2020 (MoCo), section 3.1."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.gather import gather, gather_ints
from vidssl.errors import VidsslError


class Queue(nn.Module):
    """Q unit keys [Q, D], random to begin with, and their labels [Q], then -1. A push overwrites the oldest.

    Both are buffers, so part of the state a run resumes from.

    Raises:
        VidsslError: size below 1.
    """

    keys: Tensor
    labels: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise VidsslError(f"queue: got size {size}; at least 1 key")
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("labels", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor, labels: Tensor) -> None:
        """Take in keys [n, D] and int64 labels [n] of this rank and all others', in rank order; the last Q of them."""
        rows = gather(keys.detach())[-len(self.keys) :]
        places = (self.place + torch.arange(len(rows), device=rows.device)) % len(self.keys)
        self.keys[places] = rows.to(self.keys.dtype)
        self.labels[places] = gather_ints(labels)[-len(self.keys) :]
        self.place.copy_((self.place + len(rows)) % len(self.keys))
