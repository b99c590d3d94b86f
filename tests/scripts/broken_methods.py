"""Methods from elsewhere that fail: when they are built, and while they learn."""

from typing import Any

import torch
from torch import Tensor

from vidssl.methods.simclr import SimCLR
from vidssl.views import Views


class Unbuildable(SimCLR):
    """Raises when it is built."""

    def __init__(self, encoder: Any, views: Views) -> None:
        raise RuntimeError("no wings")


class Stumbling(SimCLR):
    """Raises at its first step."""

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Never returns."""
        raise torch.OutOfMemoryError("far too large")
