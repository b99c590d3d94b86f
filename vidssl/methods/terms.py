"""What methods of several terms, or of prototypes, log: the collapse doctor reads it."""

import math

import torch
from torch import Tensor


def weigh(**terms: tuple[float, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of named terms `(weight, value)`, and what to log.

    Returns:
        The sum, and for every term `term_<name>`, its value unweighted, and `share_<name>`, its part in [0, 1] of the
        weighted terms' absolute values.
    """
    weighted = torch.stack([weight * value for weight, value in terms.values()])
    sizes = weighted.detach().abs()
    shares = sizes / sizes.sum().clamp_min(1e-12)
    metrics = {f"term_{name}": value.detach() for name, (_, value) in terms.items()}
    return weighted.sum(), metrics | {f"share_{name}": share for name, share in zip(terms, shares, strict=True)}


def assignment_health(probabilities: Tensor) -> dict[str, Tensor]:
    """How this rank's rows `[n, K]`, each a distribution over prototypes, use them; both numbers in [0, 1].

    Returns:
        `assignment_entropy`: the mean entropy of a row over log K; 1 when no row has a favourite.
        `assignment_usage`: the entropy of the mean row over log K; 0 when all rows choose the same prototype.
    """
    rows = probabilities.detach()
    full = math.log(rows.shape[1]) if rows.shape[1] > 1 else 1.0
    return {
        "assignment_entropy": torch.special.entr(rows).sum(1).mean() / full,
        "assignment_usage": torch.special.entr(rows.mean(0)).sum() / full,
    }
