"""Effective rank of features: a look at collapse that needs no labels."""

import numpy as np
import torch
from numpy.typing import ArrayLike

from vidssl.errors import VidsslError

EPSILON = 1e-7  # Garrido et al. add it to each p_k; 1e-7 suits float32 features


def rankme(features: ArrayLike | torch.Tensor, max_items: int = 4096) -> float:
    """RankMe: exp of the entropy of the normalised singular values (Garrido et al., ICML 2023, eq. 1-2).

    p_k = s_k / sum(s) + 1e-7 and RankMe = exp(-sum p_k log p_k), on the features as they are (not centred): 1 when all
    items lie on one line through zero, at most min(n, d) when all directions carry the same energy.

    Args:
        features: [n, d] real numbers, finite.
        max_items: more rows than this are thinned to evenly spread ones. The value can't exceed the number of rows,
            so compare only values from the same number of rows.

    Returns:
        The effective rank; 1.0 for features that are all zero.

    Raises:
        VidsslError: not a non-empty matrix, or not finite.
    """
    x = torch.as_tensor(features if isinstance(features, torch.Tensor) else np.asarray(features)).detach()
    if x.ndim != 2 or x.numel() == 0:
        raise VidsslError(f"rankme: expected features [items, dim], got shape {tuple(x.shape)}; flatten to a matrix")
    if len(x) > max_items:
        x = x[torch.linspace(0, len(x) - 1, max_items, device=x.device).round().long()]
    x = x.float()
    if not torch.isfinite(x).all():
        raise VidsslError("rankme: the features hold NaN or infinity; the encoder diverged or its input is broken")
    largest = x.abs().max()
    if largest == 0:
        return 1.0
    s = torch.linalg.svdvals(x / largest)  # the scale cancels in p; dividing keeps huge features finite
    p = s / s.sum() + EPSILON
    return float(torch.exp(-(p * p.log()).sum()))
