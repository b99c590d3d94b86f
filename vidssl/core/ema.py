"""Target networks that follow by an exponential moving average."""

import copy
import math

import torch
from torch import Tensor, nn


def target_of(module: nn.Module) -> nn.Module:
    """A copy of `module` that takes no gradient; `ema_` moves it."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """target ← momentum · target + (1 − momentum) · source, parameter by parameter, in place.

    Buffers are left alone: batch norm's running statistics belong to the batches a network has seen itself.
    """
    mine: list[Tensor] = list(target.parameters())
    theirs: list[Tensor] = list(source.parameters())
    if mine or theirs:
        torch._foreach_lerp_(mine, theirs, 1 - momentum)  # a GPU is asked once, not once a parameter


def cosine_momentum(base: float, progress: float) -> float:
    """From `base` at progress 0 to 1 at progress 1 by half a cosine: Grill et al. 2020 (BYOL), section 3.3.

    In the paper's first version that is section 3.2.
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
