"""InfoNCE and its log-sum-exp, exact, without ever holding the N × M scores.

N anchors (queries), M keys, P positives an anchor, D feature dim, R anchors of a block.

               keys [M, D]                     s = query · key / temperature, a block of R rows at a time
            ┌───────────────────┐              e = exp(s), in place
    block 0 │ s [R, M]          │ ── e ──────> lse_i = log Σ_j e_ij        loss_i = lse_i − mean of the positives' s
    block 1 │                   │              d loss_i / d s_ij = e_ij / Σ_j e_ij − [j positive] / P
            └───────────────────┘              d query += (that) @ key,  d key += (that)ᵀ @ query

A mean over anchors knows every anchor's weight, 1/N, beforehand. So while a block's scores are still in the buffer both
gradients are taken from them: 3 matrix products (6 N M D operations) and one exponential a score, where recomputing the
scores in the backward costs 4 products and two. Predicted 0.75 of the recomputing form's time; seen 0.73 (CPU time of
one thread, fp32, N = M = 8192, D = 128). As shares of materialised cross-entropy: R = 64 0.55, R = 128 0.53, R = 256
0.51, R = 512 0.50; recomputing rows 0.70, recomputing 512 × 512 tiles that fit L2 0.63. Subtracting the row maximum,
needed at low temperature only, adds 0.01. When the weights come later (`lse`, `reduction="none"`) the backward sweeps
again.

Memory beside inputs and gradients: R × M scores, with R at most 256 on the CPU and 2048 on CUDA.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vidssl.core.pairs import Exclude, Pairs, make_pairs, sum_type
from vidssl.errors import VidsslError

__all__ = ["Exclude", "info_nce", "lse"]

_SAFE = 40.0  # with |s| + log(all factors) below it every intermediate stays within e^±80, inside float32's range


def info_nce(
    query: Tensor,
    key: Tensor,
    positives: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    exclude: Sequence[Exclude] = (),
    reduction: Literal["mean", "none"] = "mean",
    tile: int | None = None,
) -> Tensor:
    """InfoNCE: cross-entropy of finding each anchor's positives among all keys.

    With s_ij = query_i · key_j / temperature and P(i) the positives of anchor i, in nats:

        loss_i = log Σ_j exp(s_ij) − 1/|P(i)| Σ_{p in P(i)} s_ip

    The sum over j runs over all keys that no rule excludes, the positives included. One positive: van den Oord et al.
    2018, eq. 4. Several: the mean outside the logarithm, L_out of Khosla et al. 2020 (SupCon), eq. 2, with all of an
    anchor's positives in the denominator. Features are used as they come: normalise them first for cosine similarity.

    Args:
        query: [N, D] float32, float64, bfloat16 or float16; any strides. Half types are summed in float32.
        key: [M, D], same dtype and device. Without `requires_grad` its gradient costs nothing; the same for `query`.
        positives: int64 [N] or [N, P], indices into `key`; −1 pads rows of [N, P] that have fewer. One repeated in a
            row counts that often in the mean and once in the denominator.
        temperature: above 0; a one-element tensor may require a gradient.
        exclude: rules of `Exclude`; a pair that meets any of them leaves the denominator, unless it is a positive.
        reduction: `"mean"` over anchors, `"none"` for one loss an anchor (its backward recomputes the scores).
        tile: anchors whose scores are held at once, None for a choice by device and M.

    Returns:
        float32 (float64 for float64 input), scalar or [N]. Differentiable once.

    Raises:
        VidsslError: shapes, dtypes or devices that disagree, positives out of range, an anchor without a positive,
            temperature not above 0; a backward under `create_graph=True`. (On CUDA the checks read a few numbers back.)
    """
    if reduction not in ("mean", "none"):
        raise VidsslError(f'info_nce: reduction={reduction!r}; use "mean" or "none"')
    pairs = make_pairs(query, key, temperature, positives, exclude, tile)
    learned = temperature if isinstance(temperature, Tensor) else None
    return _Contrast.apply(query, key, learned, pairs, reduction == "mean", torch.is_grad_enabled())


def lse(
    query: Tensor,
    key: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    bias: Tensor | None = None,
    exclude: Sequence[Exclude] = (),
    tile: int | None = None,
) -> Tensor:
    """Log-sum-exp over keys of query · key / temperature + bias, by the same sweep as `info_nce`, whose arguments it has.

    Args:
        bias: [M], any floating type, a logarithmic weight of each key (the dual variable of log-domain Sinkhorn), added
            after the division by the temperature; −∞ leaves a key out. It gets no gradient.

    Returns:
        [N] float32 (float64 for float64 input), in nats, differentiable once; −∞ with zero gradient for an anchor whose
        keys are all excluded.

    Raises:
        VidsslError: as `info_nce`.
    """
    pairs = make_pairs(query, key, temperature, None, exclude, tile, bias)
    learned = temperature if isinstance(temperature, Tensor) else None
    return _Contrast.apply(query, key, learned, pairs, False, torch.is_grad_enabled())


class _Contrast(torch.autograd.Function):
    """One value an anchor, or their mean with its gradients made in the forward while the scores are there."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, learned: Tensor | None, pairs: Pairs, mean: bool, grad: bool
    ) -> Tensor:
        ctx.save_for_backward(query, key, learned)
        ctx.pairs, ctx.mean = pairs, mean
        early = mean and grad and any(ctx.needs_input_grad[:3])
        weight = torch.full((len(query),), 1 / len(query), dtype=sum_type(query), device=query.device)
        losses, made = _values_and_gradients(ctx, query, key, learned, weight if early else None)
        ctx.ready = made if early else None
        return losses.mean() if mean else losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # so it is in a backward under create_graph=True, and nowhere else
            raise VidsslError(
                "info_nce and lse: gradients of gradients (create_graph=True) are not supported; "
                "use torch.nn.functional.cross_entropy on the whole table of scores for a gradient penalty"
            )
        if ctx.ready is not None:
            made, ctx.ready = ctx.ready, None  # handed over, not copied; with retain_graph the next backward sweeps
            return *(None if x is None else x.mul_(grad) for x in made), None, None, None
        query, key, learned = ctx.saved_tensors
        weight = grad.expand(len(query)) / len(query) if ctx.mean else grad
        return *_values_and_gradients(ctx, query, key, learned, weight)[1], None, None, None


def _values_and_gradients(
    ctx: Any, query: Tensor, key: Tensor, learned: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Values [N]; with a weight [N], the gradients of Σ weight_i value_i to query, key and temperature where needed.

    They are in the type of sums: autograd rounds them to the type of half inputs, after its own scaling.
    """
    for_query, for_key, for_temperature = ctx.needs_input_grad[:3]
    wanted = (for_query or for_temperature, for_key)
    values, d_query, d_key = _sweep(query, key, ctx.pairs, weight, wanted)
    d_temperature = None
    if for_temperature and d_query is not None and learned is not None:
        # Scores depend on query / τ alone, so d/dτ = −(query · d query) / τ.
        slope = -torch.dot(_wide(query).flatten(), d_query.flatten()) / ctx.pairs.tau
        d_temperature = slope.to(learned).reshape(learned.shape)
    return values, (d_query if for_query else None, d_key, d_temperature)


def _sweep(
    query: Tensor, key: Tensor, pairs: Pairs, weight: Tensor | None, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses [N] (lse, without positives); with a weight [N], the wanted gradients of Σ_i weight_i loss_i."""
    query, key = _wide(query), _wide(key)
    losses = query.new_empty(len(query))
    d_query = torch.empty_like(query) if weight is not None and wanted[0] else None
    d_key = torch.zeros_like(key) if weight is not None and wanted[1] else None
    buffer = query.new_empty(min(pairs.rows, len(query)), len(key))
    bounded = _bounded(query, key, pairs)
    with torch.autocast(query.device.type, enabled=False):
        for start in range(0, len(query), pairs.rows):
            rows = slice(start, start + pairs.rows)
            anchors = query[rows] / pairs.tau  # a new tensor: scaled in place below
            e = torch.mm(anchors, key.T, out=buffer[: len(anchors)])
            if pairs.bias is not None:
                e.add_(pairs.bias)
            losses[rows], total = _exponentials_(e, pairs, rows, bounded)
            if weight is None:
                continue
            scale = torch.where(total > 0, weight[rows] / total, 0)[:, None]  # no keys left: nothing moves
            if d_query is not None:
                torch.mm(e, key, out=d_query[rows]).mul_(scale / pairs.tau)
            if d_key is not None:
                d_key.addmm_(e.T, anchors.mul_(scale))
    return losses, d_query, d_key


def _exponentials_(e: Tensor, pairs: Pairs, rows: slice, bounded: bool) -> tuple[Tensor, Tensor]:
    """Turn a block's scores [R, M] in place into total_i × d loss_i / d s_ij; returns losses [R] and totals [R]."""
    positive = None if pairs.positives is None else e.gather(1, pairs.positives[rows])
    for rule in pairs.exclude:
        rule.apply_(e, rows)
    if pairs.exclude and positive is not None:
        e.scatter_(1, pairs.positives[rows], positive)  # type: ignore[index]  # a positive is never excluded
    shift = e.new_zeros(len(e))
    if not bounded:
        shift = e.amax(1)
        shift = torch.where(shift == -math.inf, 0, shift)  # all excluded: −∞ − −∞ would be NaN
        e.sub_(shift[:, None])
    total = e.exp_().sum(1)
    if pairs.positives is None or pairs.share is None or positive is None:
        return total.log() + shift, total
    share = pairs.share[rows]
    mean = (positive * share).sum(1)
    # Unshifted, log(total) − mean would be a small difference of large numbers when the positive dominates.
    losses = (total * (-mean).exp()).log() if bounded else total.log() + (shift - mean)
    e.scatter_add_(1, pairs.positives[rows], share * -total[:, None])
    return losses, total


def _bounded(query: Tensor, key: Tensor, pairs: Pairs) -> bool:
    """Whether |query| |key| / τ + |bias| ≥ |s| is so small that exp(s) needs no row maximum (saves two passes).

    A fixed shift by the bound itself would underflow at low temperature, when all scores lie far below it.
    """
    longest_query = torch.linalg.vector_norm(query, dim=1).max() / pairs.tau
    longest_key = torch.linalg.vector_norm(key, dim=1).max()
    factors = math.log(len(key)) + longest_query.log1p() + longest_key.log1p()
    if pairs.bias is not None:
        factors = factors + pairs.bias.abs().max()
    return bool(longest_query * longest_key + factors < _SAFE)


def _wide(features: Tensor) -> Tensor:
    """Contiguous, in the type sums are made in; no copy where it is so already."""
    return features.to(sum_type(features)).contiguous()
