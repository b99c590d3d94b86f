"""Numbers that tell a healthy representation from a collapsed one, taken at the steps that are logged."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 128  # of a batch, at most, whose singular values are taken: under a millisecond
_measured = ContextVar("measured", default=True)


@contextmanager
def measuring(on: bool) -> Iterator[None]:
    """A block in which metrics that cost time, or make a GPU wait, are taken or left out of what a loss returns."""
    token = _measured.set(on)
    try:
        yield
    finally:
        _measured.reset(token)


def measured() -> bool:
    """Whether to take metrics that cost time: yes, but in a block of `measuring(False)`."""
    return _measured.get()


def spread(features: Tensor) -> Tensor:
    """How far unit features `[..., D]` scatter about their mean: 0 when all agree (collapse), 1 when they cancel out.

    The root mean square distance of x / |x| from its mean over all leading axes.
    """
    unit = F.normalize(features.detach().flatten(0, -2).float(), dim=-1)
    return (unit - unit.mean(0)).square().sum(1).mean().sqrt()


def effective_rank(features: Tensor) -> Tensor:
    """How many directions centred features `[..., D]` use: exp of the entropy of their singular values' shares.

    Roy & Vetterli 2007, "The effective rank"; at most the number of rows less one. RankMe (Garrido et al. 2023) is the
    same without centring. Of more than 128 rows, 128 spread evenly are taken. 0 when all rows are equal.
    """
    rows = features.detach().flatten(0, -2)
    if len(rows) > ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, ROWS, device=rows.device).round().long()]
    rows = rows.double()
    rows = rows - rows.mean(0)
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    gram = gram.cpu()  # small, and eigenvalues in float64 are slow on a GPU
    if not bool(torch.isfinite(gram).all()):
        return gram.new_tensor(float("nan"))
    share = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    total = share.sum()
    share = share / total.clamp_min(1e-300)
    return torch.where(total > 0, torch.special.entr(share).sum().exp(), 0.0).float()


def health(features: Tensor, embeddings: Tensor | None = None) -> dict[str, Tensor]:
    """What the collapse doctor reads: spread and effective rank of what is exported and of what the loss sees.

    Args:
        features: `[..., D]` of this rank's batch, from the encoder (or context) that a run exports.
        embeddings: `[..., E]`, what the loss compares, before normalisation (a projector's output).

    Returns:
        Scalars `feature_spread`, `feature_rank` and, with embeddings, `embedding_spread`, `embedding_rank` and
        `embedding_scale`, the root mean square distance of a number of an embedding from its mean: what a loss that
        does not normalise can shrink to nothing while directions still differ. Nothing where metrics that cost time
        are left out, see `measuring`.
    """
    if not measured():
        return {}
    numbers = {"feature_spread": spread(features), "feature_rank": effective_rank(features)}
    if embeddings is not None:
        rows = embeddings.detach().flatten(0, -2).float()
        scale = (rows - rows.mean(0)).square().mean().sqrt()
        numbers |= {"embedding_spread": spread(embeddings), "embedding_rank": effective_rank(embeddings)}
        numbers["embedding_scale"] = scale
    return numbers
