"""InfoNCE and its log-sum-exp by blocks of anchors, in plain torch: on the CPU, and wherever the kernels do not serve.

N anchors (queries), M keys, P positives an anchor, D feature dim, R anchors of a block.

               keys [M, D]                     s = query · key / temperature, a block of R rows at a time
            ┌───────────────────┐              e = exp(s), in place
    block 0 │ s [R, M]          │ ── e ──────> lse_i = log Σ_j e_ij        loss_i = lse_i − mean of the positives' s
    block 1 │                   │              d loss_i / d s_ij = e_ij / Σ_j e_ij − [j positive] / P
            └───────────────────┘              d loss_i / d query_i = (that) @ key / temperature
                                               d key += (weight_i × that)ᵀ @ query / temperature

An anchor's gradient to its own query needs no other anchor's weight, and a mean over anchors knows every weight, 1/N,
beforehand. So while a block's scores are still in the buffer both gradients are taken from them: 3 matrix products
(6 N M D operations) and one exponential a score, where recomputing the scores in the backward costs 4 products and
two. Predicted 0.75 of the recomputing form's time; seen 0.73 (CPU time of one thread, fp32, N = M = 8192, D = 128). As
shares of materialised cross-entropy: R = 64 0.55, R = 128 0.53, R = 256 0.51, R = 512 0.50; recomputing rows 0.70,
recomputing 512 × 512 tiles that fit L2 0.63. Subtracting the row maximum, needed at low temperature only, adds 0.01.
When the weights come later (`lse`, `reduction="none"`) the keys' gradient takes a second sweep.

Memory beside inputs and gradients: R × M scores, with R at most 256 on the CPU and 2048 on CUDA.
"""

import math

import torch
from torch import Tensor

from vidssl.core.pairs import Pairs, sum_type

_SAFE = 40.0  # with |s| + log(all factors) below it every intermediate stays within e^±80, inside float32's range


def sweep(
    query: Tensor, key: Tensor, pairs: Pairs, for_query: bool, key_weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses [N] (lse, without positives) and what is wanted of their gradients, all in the type of sums.

    Returns:
        losses; slope [N, D], row i being d loss_i / d query_i, if `for_query`; with a `key_weight` [N] the gradient
        [M, D] of Σ_i key_weight_i loss_i to the keys.
    """
    query, key, tau = wide(query), wide(key), pairs.temperature.item()
    losses = query.new_empty(len(query))
    slope = torch.empty_like(query) if for_query else None
    d_key = torch.zeros_like(key) if key_weight is not None else None
    buffer = query.new_empty(min(pairs.rows, len(query)), len(key))
    bounded = _bounded(query, key, pairs.bias, tau)
    with torch.autocast(query.device.type, enabled=False):
        for start in range(0, len(query), pairs.rows):
            rows = slice(start, start + pairs.rows)
            anchors = query[rows] / tau  # a new tensor: scaled in place below
            e = torch.mm(anchors, key.T, out=buffer[: len(anchors)])
            losses[rows], total = _exponentials_(e, pairs, rows, bounded)
            inverse = torch.where(total > 0, 1 / total, 0)[:, None]  # no keys left: nothing moves
            if slope is not None:
                torch.mm(e, key, out=slope[rows]).mul_(inverse / tau)
            if d_key is not None and key_weight is not None:
                d_key.addmm_(e.T, anchors.mul_(inverse * key_weight[rows, None]))
    return losses, slope, d_key


def wide(features: Tensor) -> Tensor:
    """Contiguous, in the type sums are made in; no copy where it is so already."""
    return features.to(sum_type(features)).contiguous()


def _exponentials_(e: Tensor, pairs: Pairs, rows: slice, bounded: bool) -> tuple[Tensor, Tensor]:
    """Turn a block's scores [R, M] in place into total_i × d loss_i / d s_ij; returns losses [R] and totals [R]."""
    if pairs.bias is not None:
        e.add_(pairs.bias)
    positive = None if pairs.positives is None else e.gather(1, pairs.positives[rows])
    pairs.rules.apply_(e, rows)
    if pairs.rules.number and positive is not None:
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


def _bounded(query: Tensor, key: Tensor, bias: Tensor | None, tau: float) -> bool:
    """Whether |query| |key| / τ + |bias| ≥ |s| is so small that exp(s) needs no row maximum (saves two passes).

    A fixed shift by the bound itself would underflow at low temperature, when all scores lie far below it.
    """
    longest_query = torch.linalg.vector_norm(query, dim=1).max() / tau
    longest_key = torch.linalg.vector_norm(key, dim=1).max()
    factors = math.log(len(key)) + longest_query.log1p() + longest_key.log1p()
    if bias is not None:
        factors = factors + bias.abs().max()
    return bool(longest_query * longest_key + factors < _SAFE)
