"""InfoNCE and its log-sum-exp, exact, without ever holding the N × M scores.

N anchors (queries), M keys, P positives an anchor, D feature dim.

    info_nce   anchors among keys        2 + 4 or 6 N M D operations forward and backward
    nt_xent    features among themselves; on CUDA the scores' symmetry halves the tiles: 4 N² D
    lse        the log-sum-exp alone, with logarithmic weights of the keys

    info_nce ── make_pairs: checks ── vidssl::contrast, an operator ──┬── sweep            by blocks, plain torch
                                      (vidssl.core.ops)               └── triton_contrast  kernels, on CUDA

The kernels take float32 (never as TF32), bfloat16 and float16 with D up to 512. The sweep takes the rest: float64,
wider features, other devices. Both are exact and hold O(N D) beside a block of scores.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vidssl.core import ops, triton_tiles
from vidssl.core.pairs import Exclude, Pairs, make_pairs
from vidssl.errors import VidsslError

__all__ = ["Exclude", "info_nce", "lse", "nt_xent"]


def info_nce(
    query: Tensor,
    key: Tensor,
    positives: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    exclude: Sequence[Exclude] = (),
    reduction: Literal["mean", "none"] = "mean",
    tile: int | None = None,
    deterministic: bool | None = None,
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
        tile: anchors whose scores the sweep holds at once, None for a choice by device and M; kernels do not ask.
        deterministic: the same bits each time on CUDA too, by tiles of fixed size and scatters that sort first; None
            for `torch.are_deterministic_algorithms_enabled()`.

    Returns:
        float32 (float64 for float64 input), scalar or [N]. Differentiable once.

    Raises:
        VidsslError: shapes, dtypes or devices that disagree, positives out of range, an anchor without a positive,
            temperature not above 0; a backward under `create_graph=True`. (On CUDA the checks read a few numbers back;
            inside `torch.compile` and CUDA graphs values are not checked, shapes are.)
    """
    mean = _is_mean("info_nce", reduction)
    return _contrast(query, key, make_pairs(query, key, temperature, positives, exclude, tile), mean, deterministic)


def nt_xent(
    features: Tensor,
    positives: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    exclude_self: bool = True,
    exclude: Sequence[Exclude] = (),
    reduction: Literal["mean", "none"] = "mean",
    tile: int | None = None,
    deterministic: bool | None = None,
) -> Tensor:
    """`info_nce` of features among themselves: NT-Xent, Chen et al. 2020 (SimCLR), eq. 1, for any positives.

    The kernels use that scores are symmetric: each pair of tiles is computed once, 4 N² D operations forward and
    backward (5 with `deterministic`), where `info_nce(features, features, …)` takes 8.

    Args:
        features: [N, D], each an anchor and a key; types as in `info_nce`.
        positives: int64 [N] or [N, P], indices into `features`; as in `info_nce`.
        temperature: as in `info_nce`.
        exclude_self: whether an anchor itself leaves its denominator (unless it is a positive).
        exclude: rules of `Exclude` whose query labels and key labels are the same tensor.
        reduction, tile, deterministic: as in `info_nce`.

    Returns:
        float32 (float64 for float64 input), scalar or [N]. Differentiable once.

    Raises:
        VidsslError: as `info_nce`; a rule with different labels for queries and keys.
    """
    mean = _is_mean("nt_xent", reduction)
    for rule in exclude:
        if rule.query is not rule.key:
            raise VidsslError(
                "nt_xent: a rule needs one tensor of labels for queries and keys, Exclude(labels, labels, …); "
                "use info_nce(features, features, …) for two"
            )
    if not triton_tiles.takes(features):
        own = torch.arange(len(features), device=features.device)
        rules = [*exclude, Exclude(own, own, "equal")] if exclude_self else exclude
        return _contrast(
            features, features, make_pairs(features, features, temperature, positives, rules, tile), mean, deterministic
        )
    pairs = make_pairs(features, features, temperature, positives, exclude, tile)
    assert pairs.positives is not None
    assert pairs.share is not None
    return ops.symmetric(
        features, pairs.temperature, pairs.positives, pairs.share, pairs.rules.key, pairs.rules.equal, exclude_self,
        mean, _is_deterministic(deterministic),
    )[0]  # fmt: skip


def lse(
    query: Tensor,
    key: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    bias: Tensor | None = None,
    exclude: Sequence[Exclude] = (),
    tile: int | None = None,
    deterministic: bool | None = None,
) -> Tensor:
    """Log-sum-exp over keys of query · key / temperature + bias, by the same means as `info_nce`, with its arguments.

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
    return _contrast(query, key, pairs, False, deterministic)


def _is_mean(name: str, reduction: str) -> bool:
    if reduction not in ("mean", "none"):
        raise VidsslError(f'{name}: reduction={reduction!r}; use "mean" or "none"')
    return reduction == "mean"


def _is_deterministic(deterministic: bool | None) -> bool:
    return torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic


def _contrast(query: Tensor, key: Tensor, pairs: Pairs, mean: bool, deterministic: bool | None) -> Tensor:
    """The operator on what has been checked; gradients nobody wants are not asked for."""
    grad = torch.is_grad_enabled()
    tau = pairs.temperature
    return ops.contrast(
        query, key, tau, pairs.positives, pairs.share, pairs.bias,
        *pairs.rules, pairs.rows, mean,
        grad and (query.requires_grad or tau.requires_grad), grad and key.requires_grad,
        _is_deterministic(deterministic),
    )[0]  # fmt: skip
