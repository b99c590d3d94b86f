"""Numbers that tell a healthy representation from a collapsed one, cheap enough for every step."""

from torch import Tensor
from torch.nn import functional as F


def spread(features: Tensor) -> Tensor:
    """How far unit features `[..., D]` scatter about their mean: 0 when all agree (collapse), 1 when they cancel out.

    The root mean square distance of x / |x| from its mean over all leading axes.
    """
    unit = F.normalize(features.detach().flatten(0, -2).float(), dim=-1)
    return (unit - unit.mean(0)).square().sum(1).mean().sqrt()
