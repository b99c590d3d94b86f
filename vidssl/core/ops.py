"""The loss core as `torch.library` operators, so that `torch.compile` takes them whole and autograd knows their slopes.

N anchors (queries), M keys, P positives an anchor, D feature dim.

    operator                        gives                                     CPU and others   CUDA
    vidssl::contrast                losses, and each one's slope to its query sweep            triton_contrast
    vidssl::contrast_key_gradient   the keys' gradient, by recomputing        sweep            triton_contrast
    vidssl::symmetric               losses where queries are the keys         -                triton_symmetric, half
    vidssl::symmetric_gradient      their gradient                            -                the tiles

    loss_i = lse_i − mean of the positives' scores;  slope_i = d loss_i / d query_i, whatever weight loss_i gets later:
    d query_i = weight_i slope_i,  d temperature = −Σ_i query_i · d query_i / temperature

The keys' gradient needs the weights. The sweep, when it is to give a mean, makes it at once (`early`), the scores being
there; else the backward calls the second operator. All arguments have been checked (`vidssl.core.pairs`).
"""

import math
from typing import Any

import torch
from torch import Tensor

from vidssl.core import triton_tiles
from vidssl.core.pairs import Pairs, Rules, sum_type
from vidssl.core.sweep import sweep, wide
from vidssl.errors import VidsslError

NO_SECOND_GRADIENT = (
    "info_nce, nt_xent and lse: gradients of gradients (create_graph=True) are not supported; "
    "use torch.nn.functional.cross_entropy on the whole table of scores for a gradient penalty"
)


@torch.library.custom_op("vidssl::contrast", mutates_args=())
def contrast(
    query: Tensor,
    key: Tensor,
    temperature: Tensor,
    positives: Tensor | None,
    share: Tensor | None,
    bias: Tensor | None,
    query_labels: Tensor,
    key_labels: Tensor,
    equal: int,
    rows: int,
    mean: bool,
    for_query: bool,
    for_key: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses [N] (lse, without positives) or their mean, and what their gradient needs; what is not made is empty.

    Returns:
        losses; slope [N, D] if `for_query`; early [M, D], the mean's gradient to the keys, if the sweep can make it;
        stats [2, N] and kept [N, P] of the kernels, for the second operator.
    """
    nothing = [query.new_empty(0, dtype=sum_type(query)) for _ in range(4)]
    if triton_tiles.takes(query):
        losses, slope, stats, kept = _contrast_by_kernels(
            query, key, temperature, positives, share, bias, Rules(query_labels, key_labels, equal), for_query,
            deterministic,
        )  # fmt: skip
        return losses.mean() if mean else losses, slope, nothing[0], stats, kept
    pairs = Pairs(temperature, rows, Rules(query_labels, key_labels, equal), positives, share, bias)
    weight = query.new_full((len(query),), 1 / len(query), dtype=sum_type(query)) if mean and for_key else None
    losses, made, d_key = sweep(query, key, pairs, for_query, weight)
    slope = nothing[0] if made is None else made
    early = nothing[1] if d_key is None else d_key
    return losses.mean() if mean else losses, slope, early, nothing[2], nothing[3]


@contrast.register_fake
def _(  # type: ignore[no-untyped-def]
    query, key, temperature, positives, share, bias, query_labels, key_labels, equal, rows, mean, for_query, for_key,
    deterministic,
):  # fmt: skip
    n, kind = query.shape[0], sum_type(query)
    kernels = triton_tiles.takes(query)
    wide_kept = kernels and positives is not None and len(query_labels) > 0
    return (
        query.new_empty(() if mean else (n,), dtype=kind),
        query.new_empty(query.shape if for_query else (0,), dtype=kind),
        query.new_empty(key.shape if mean and for_key and not kernels else (0,), dtype=kind),
        query.new_empty((2, n) if kernels else (0,), dtype=kind),
        query.new_empty(positives.shape if wide_kept else (0,), dtype=kind),
    )


@torch.library.custom_op("vidssl::contrast_key_gradient", mutates_args=())
def contrast_key_gradient(
    query: Tensor,
    key: Tensor,
    temperature: Tensor,
    positives: Tensor | None,
    share: Tensor | None,
    bias: Tensor | None,
    query_labels: Tensor,
    key_labels: Tensor,
    equal: int,
    rows: int,
    stats: Tensor,
    kept: Tensor,
    weight: Tensor,
    deterministic: bool,
) -> Tensor:
    """The gradient [M, D] of Σ_i weight_i loss_i to the keys, in the type of sums."""
    if not triton_tiles.takes(query):
        pairs = Pairs(temperature, rows, Rules(query_labels, key_labels, equal), positives, share, bias)
        d_key = sweep(query, key, pairs, False, weight)[2]
        assert d_key is not None
        return d_key
    from vidssl.core import triton_contrast

    query, key, rules = query.contiguous(), key.contiguous(), Rules(query_labels, key_labels, equal)
    weight, size = _weights(weight, temperature, query.dtype)
    d_key = triton_contrast.gradient_of_keys(
        query, key, temperature, bias, rules, stats[0], *_dense(weight, size, stats[1]), deterministic
    )
    if positives is not None and share is not None:
        positives, share = _sorted(positives, share)
        pull = _pull(share, kept) * (weight * size)[:, None]
        _scatter_add_(d_key, positives, pull, query, deterministic)
    return d_key


@contrast_key_gradient.register_fake
def _(  # type: ignore[no-untyped-def]
    query, key, temperature, positives, share, bias, query_labels, key_labels, equal, rows, stats, kept, weight,
    deterministic,
):  # fmt: skip
    return key.new_empty(key.shape, dtype=sum_type(key))


def _contrast_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, temperature, positives, share, bias, query_labels, key_labels, equal, rows, mean = inputs[:11]
    _, *made = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*made)
    ctx.save_for_backward(query, key, temperature, positives, share, bias, query_labels, key_labels, *made)
    ctx.options = (equal, rows, mean, inputs[-1])


def _contrast_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 14
    if torch.is_grad_enabled():  # so it is in a backward under create_graph=True, and nowhere else
        raise VidsslError(NO_SECOND_GRADIENT)
    equal, rows, mean, deterministic = ctx.options
    query, key, temperature, positives, share, bias, query_labels, key_labels, *made = ctx.saved_tensors
    slope, early, stats, kept = made
    for_query, for_key, for_temperature = ctx.needs_input_grad[:3]
    weight = (grad / len(query)).expand(len(query)) if mean else grad
    d_query = slope * weight[:, None] if for_query or for_temperature else None
    d_key = None
    if for_key:
        d_key = early * grad if early.numel() else contrast_key_gradient(
            query, key, temperature, positives, share, bias, query_labels, key_labels, equal, rows, stats, kept,
            weight.contiguous(), deterministic,
        )  # fmt: skip
    d_temperature = None
    if for_temperature and d_query is not None:
        d_temperature = _temperature_gradient(query, d_query, temperature)
    given = (
        d_query.to(query.dtype) if for_query and d_query is not None else None,
        d_key.to(key.dtype) if d_key is not None else None,
        d_temperature,
    )
    return *given, *[None] * 11


contrast.register_autograd(_contrast_backward, setup_context=_contrast_context)


@torch.library.custom_op("vidssl::symmetric", mutates_args=())
def symmetric(
    features: Tensor,
    temperature: Tensor,
    positives: Tensor,
    share: Tensor,
    labels: Tensor,
    equal: int,
    exclude_self: bool,
    mean: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [N] of features among themselves, or their mean; stats [2, N] and kept [N, P] for `symmetric_gradient`."""
    from vidssl.core import triton_contrast, triton_symmetric

    features, rules = features.contiguous(), Rules(labels, labels, equal)
    stats = triton_symmetric.forward(features, temperature, rules, exclude_self)
    losses, kept = triton_contrast.finish(
        features, features, temperature, *_sorted(positives, share), rules, exclude_self, stats, stats.new_empty(0)
    )
    return losses.mean() if mean else losses, stats, kept


@symmetric.register_fake
def _(  # type: ignore[no-untyped-def]
    features, temperature, positives, share, labels, equal, exclude_self, mean, deterministic
):
    n = len(features)
    return (
        share.new_empty(() if mean else (n,)),
        share.new_empty((2, n)),
        share.new_empty(positives.shape if exclude_self or len(labels) > 0 else (0,)),
    )


@torch.library.custom_op("vidssl::symmetric_gradient", mutates_args=())
def symmetric_gradient(
    features: Tensor,
    temperature: Tensor,
    positives: Tensor,
    share: Tensor,
    labels: Tensor,
    equal: int,
    exclude_self: bool,
    stats: Tensor,
    kept: Tensor,
    weight: Tensor,
    deterministic: bool,
) -> Tensor:
    """The gradient [N, D] float32 of Σ_i weight_i loss_i; with `deterministic` over all tiles, without atomics."""
    from vidssl.core import triton_contrast, triton_symmetric

    features, rules = features.contiguous(), Rules(labels, labels, equal)
    positives, share = _sorted(positives, share)
    weight, size = _weights(weight, temperature, features.dtype)
    dense = _dense(weight, size, stats[1])
    if deterministic or triton_symmetric.gradient_tile(features) is None:
        gradient = triton_contrast.gradient_of_keys(
            features, features, temperature, None, rules, stats[0], *dense, deterministic, True, exclude_self
        )
    else:
        gradient = triton_symmetric.gradient(features, temperature, rules, exclude_self, stats[0], *dense)
    pull = _pull(share, kept) * (weight * size)[:, None]
    for place in range(positives.shape[1]):
        gradient.addcmul_(features[positives[:, place]], pull[:, place, None])
    _scatter_add_(gradient, positives, pull, features, deterministic)
    return gradient


@symmetric_gradient.register_fake
def _(  # type: ignore[no-untyped-def]
    features, temperature, positives, share, labels, equal, exclude_self, stats, kept, weight, deterministic
):
    return share.new_empty(features.shape)


def _symmetric_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, temperature, positives, share, labels, equal, exclude_self, mean, deterministic = inputs
    _, *made = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*made)
    ctx.save_for_backward(features, temperature, positives, share, labels, *made)
    ctx.options = (equal, exclude_self, mean, deterministic)


def _symmetric_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    if torch.is_grad_enabled():
        raise VidsslError(NO_SECOND_GRADIENT)
    equal, exclude_self, mean, deterministic = ctx.options
    features, temperature, positives, share, labels, stats, kept = ctx.saved_tensors
    weight = (grad / len(features)).expand(len(features)) if mean else grad
    gradient = symmetric_gradient(
        features, temperature, positives, share, labels, equal, exclude_self, stats, kept, weight.contiguous(),
        deterministic,
    )  # fmt: skip
    d_temperature = None
    if ctx.needs_input_grad[1]:  # half: features stand on both sides of a score
        d_temperature = _temperature_gradient(features, gradient, temperature) / 2
    return gradient.to(features.dtype), d_temperature, *[None] * 7


symmetric.register_autograd(_symmetric_backward, setup_context=_symmetric_context)


def _temperature_gradient(features: Tensor, gradient: Tensor, temperature: Tensor) -> Tensor:
    """Scores depend on query / τ alone, so d/dτ = −(query · d query) / τ."""
    slope = torch.dot(wide(features).flatten(), gradient.flatten())
    return (-slope / temperature).to(temperature.dtype).reshape(temperature.shape)


def _contrast_by_kernels(
    query: Tensor, key: Tensor, temperature: Tensor, positives: Tensor | None, share: Tensor | None,
    bias: Tensor | None, rules: Rules,
    for_query: bool, deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Losses, slope, stats and kept of `contrast`."""
    from vidssl.core import triton_contrast

    query, key = query.contiguous(), key.contiguous()
    stats, mean = triton_contrast.forward(query, key, temperature, bias, rules, for_query, deterministic)
    if positives is None or share is None:
        losses, kept = (stats[0] + stats[1].log2()) * math.log(2), mean.new_empty(0)
    else:
        losses, kept = triton_contrast.finish(
            query, key, temperature, *_sorted(positives, share), rules, False, stats, mean
        )
    return losses, mean.div_(temperature), stats, kept


def _sorted(positives: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's positives in order, so that repeats stand beside each other."""
    if positives.shape[1] == 1:
        return positives.contiguous(), share.contiguous()
    positives, order = positives.sort(1)
    return positives, share.gather(1, order)


def _weights(weight: Tensor, temperature: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Anchors' weights / τ as unit weights [N], at most 1 in size, and their common size.

    Rounded to the features' type: then a positive of probability 1 stays the same number when the kernel rounds it, and
    is cancelled whole by the positives' own term.
    """
    size = weight.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / size).to(dtype).float(), (size / temperature).float()  # the temperature may be float64


def _dense(weight: Tensor, size: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernels multiply exp2(score − shift) by, to be rounded, and the sums afterwards."""
    from vidssl.core.triton_contrast import PEAK

    return torch.where(total > 0, weight * PEAK / total, 0), size / PEAK


def _pull(share: Tensor, kept: Tensor) -> Tensor:
    """d loss_i / d score of each positive [N, P], beside what the sweep over all keys that are not excluded gives."""
    return kept - share if kept.numel() else -share


def _scatter_add_(out: Tensor, index: Tensor, pull: Tensor, rows: Tensor, deterministic: bool) -> None:
    """out[index[i, p]] += pull[i, p] × rows[i], for one place p after the other."""
    for place in range(index.shape[1]):
        values = rows * pull[:, place, None]
        if deterministic:
            out.index_put_((index[:, place],), values, accumulate=True)  # sorts first: no atomics
        else:
            out.index_add_(0, index[:, place], values)
