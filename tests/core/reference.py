"""InfoNCE the plain way, in float64 with the whole table of scores: what the core is compared with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidssl.core import Exclude


def naive_lse(scores: Tensor, exclude: Sequence[Exclude], keep: Tensor | None = None) -> Tensor:
    out = torch.zeros_like(scores, dtype=torch.bool)
    for rule in exclude:
        same = rule.query[:, None] == rule.key[None, :]
        out |= same if rule.when == "equal" else ~same
    if keep is not None:
        out &= ~keep
    return torch.stack([row[~gone].logsumexp(0) for row, gone in zip(scores, out, strict=True)])


def naive_losses(
    query: Tensor, key: Tensor, positives: Tensor, temperature: float | Tensor, exclude: Sequence[Exclude] = ()
) -> Tensor:
    """[N] float64, one anchor after another."""
    scores = query.double() @ key.double().T / temperature
    lists = [[j for j in row if j >= 0] for row in positives.reshape(len(query), -1).tolist()]
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for i, row in enumerate(lists):
        keep[i, row] = True
    means = torch.stack([scores[i, row].mean() for i, row in enumerate(lists)])
    return naive_lse(scores, exclude, keep) - means
