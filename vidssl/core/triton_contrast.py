# mypy: allow-untyped-defs
"""InfoNCE's passes over the scores as Triton kernels; what each computes stands in `vidssl.core.ops`.

N anchors (queries), M keys, P positives an anchor, D feature dim; R rows and C columns of a tile of scores.

    forward       a program holds R queries, runs over all keys     S = Q Kᵀ        ─ exp ─> E      4 N M D operations
                  (flash attention whose values are the keys)       mean_i = Σ_j E_ij k_j / Σ_j E_ij
    finish        a program holds R queries, runs over positives    gathers them, merges excluded ones back    no N M
    key gradient  a program holds R keys, runs over all queries     S = K Qᵀ        ─ exp ─> E      4 N M D operations
                                                                    d k_j = Σ_i weight_i E_ji q_i

The query's gradient follows from the mean without another pass, since d lse_i / d q_i = mean_i / τ whatever weight
the anchor gets later. So forward and backward together are 8 N M D operations, no program writes where another does,
and the sums have a fixed order: the same bits each time for the same tiles.

Scores are kept as raw dot products; `raw * scale` is in units of log 2, so that the exponential is one exp2. With half
types E is rounded to the inputs' type before the second product: in the forward its values reach 1 in every row, in the
backward they are probabilities times `PEAK`, which keeps those of 10^-9 exact in float16.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from vidssl.core.pairs import Rules
from vidssl.core.triton_tiles import block_dim, launch, on_device, precision

LN2 = tl.constexpr(0.6931471805599453)
PEAK = 2.0**14  # the sum of two probabilities times this is below float16's 65,504


@triton.jit
def log2_scale(tau):
    """What turns dot products into scores in units of log 2: log2(e) / τ."""
    return (1.4426950408889634 / tau.to(tl.float64)).to(tl.float32)


@triton.jit
def load_rows(base, rows, count, dim, BLOCK_D: tl.constexpr, EVEN: tl.constexpr):
    """Rows of a contiguous [count, dim], zero outside."""
    columns = tl.arange(0, BLOCK_D)
    at = base + rows.to(tl.int64)[:, None] * dim + columns[None, :]
    return tl.load(at) if EVEN else tl.load(at, mask=(rows < count)[:, None] & (columns < dim)[None, :], other=0.0)


@triton.jit
def store_rows(base, rows, count, dim, values, BLOCK_D: tl.constexpr):
    """Write values [R, BLOCK_D] to the rows of a [count, dim] table; what lies outside it is left out."""
    columns = tl.arange(0, BLOCK_D)
    at = base + rows.to(tl.int64)[:, None] * dim + columns[None, :]
    tl.store(at, values, mask=(rows < count)[:, None] & (columns < dim)[None, :])


@triton.jit
def raw_scores(
    left, right, rows, columns, n_rows, n_columns, ROW_LABELS, COLUMN_LABELS,
    RULES: tl.constexpr, EQUAL: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Dot products [R, C] of two tiles; −∞ where a rule excludes the pair or the column is past the end.

    Bit r of EQUAL says that rule r excludes equal labels, otherwise different ones.
    """
    raw = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    for rule in tl.static_range(RULES):
        row_labels = tl.load(ROW_LABELS + rule * n_rows + rows, mask=rows < n_rows, other=0)
        column_labels = tl.load(COLUMN_LABELS + rule * n_columns + columns, mask=columns < n_columns, other=0)
        if (EQUAL >> rule) & 1:
            raw = tl.where(row_labels[:, None] == column_labels[None, :], float("-inf"), raw)
        else:
            raw = tl.where(row_labels[:, None] == column_labels[None, :], raw, float("-inf"))
    if not EVEN:
        raw = tl.where((columns < n_columns)[None, :], raw, float("-inf"))
    return raw


@triton.jit
def finite(top):
    """A maximum fit to be subtracted: 0 where nothing is left, as −∞ − −∞ would be NaN."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def contrast_forward(
    Q, K, TAU, BIAS, Q_LABELS, K_LABELS, SHIFT, TOTAL, MEAN, n, m, dim,
    BLOCK_D: tl.constexpr, RULES: tl.constexpr, EQUAL: tl.constexpr, BIASED: tl.constexpr, EVEN: tl.constexpr,
    WANT_MEAN: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Row maximum (log 2), Σ exp2(score − maximum) [N]; the softmax-weighted mean of the keys [N, D] where wanted."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    tau = tl.load(TAU)
    scale = log2_scale(tau)
    q = load_rows(Q, rows, n, dim, BLOCK_D, EVEN)
    top = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    mean = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for start in range(0, m, BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        k = load_rows(K, columns, m, dim, BLOCK_D, EVEN)
        raw = raw_scores(q, k, rows, columns, n, m, Q_LABELS, K_LABELS, RULES, EQUAL, EVEN, PRECISION)
        if BIASED:
            raw += (tl.load(BIAS + columns, mask=columns < m, other=0.0) * tau).to(tl.float32)[None, :]
        higher = tl.maximum(top, tl.max(raw, 1) * scale)
        shift = finite(higher)
        rescale = tl.exp2(top - shift)
        e = tl.exp2(tl.fma(raw, scale, -shift[:, None]))
        total = total * rescale + tl.sum(e, 1)
        if WANT_MEAN:
            mean = tl.dot(e.to(k.dtype), k, mean * rescale[:, None], input_precision=PRECISION)
        top = higher
    tl.store(SHIFT + rows, finite(top), mask=rows < n)
    tl.store(TOTAL + rows, total, mask=rows < n)
    if WANT_MEAN:
        store_rows(MEAN, rows, n, dim, mean / tl.where(total == 0, 1.0, total)[:, None], BLOCK_D)


@triton.jit
def key_gradient(
    Q, K, TAU, BIAS, Q_LABELS, K_LABELS, SHIFT, WEIGHT, FACTOR, OUT, n, m, dim,
    BLOCK_D: tl.constexpr, RULES: tl.constexpr, EQUAL: tl.constexpr, BIASED: tl.constexpr, EVEN: tl.constexpr,
    SYMMETRIC: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out_j = factor Σ_i weight_i exp2(score_ij − shift_i) q_i [M, D].

    SYMMETRIC: the queries are the keys, each anchor of its own row too: adds weight_j exp2(score_ij − shift_j).
    """
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    tau = tl.load(TAU)
    scale = log2_scale(tau)
    k = load_rows(K, rows, m, dim, BLOCK_D, EVEN)
    if BIASED:
        bias = (tl.load(BIAS + rows, mask=rows < m, other=0.0) * tau).to(tl.float32)
    if SYMMETRIC:
        own_shift = tl.load(SHIFT + rows, mask=rows < m, other=0.0)
        own_weight = tl.load(WEIGHT + rows, mask=rows < m, other=0.0)
    out = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for start in range(0, n, BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        q = load_rows(Q, columns, n, dim, BLOCK_D, EVEN)
        shift = tl.load(SHIFT + columns, mask=columns < n, other=0.0)
        weight = tl.load(WEIGHT + columns, mask=columns < n, other=0.0)
        raw = raw_scores(k, q, rows, columns, m, n, K_LABELS, Q_LABELS, RULES, EQUAL, EVEN, PRECISION)
        if BIASED:
            raw += bias[:, None]
        if SELF:
            raw = tl.where(rows[:, None] == columns[None, :], float("-inf"), raw)
        e = tl.exp2(tl.fma(raw, scale, -shift[None, :])) * weight[None, :]
        if SYMMETRIC:
            e += tl.exp2(tl.fma(raw, scale, -own_shift[:, None])) * own_weight[:, None]
        out = tl.dot(e.to(q.dtype), q, out, input_precision=PRECISION)
    store_rows(OUT, rows, m, dim, out * tl.load(FACTOR), BLOCK_D)


@triton.jit
def gather_positive(
    q, K, POSITIVES, Q_LABELS, K_LABELS, rows, place, n, m, dim, width,
    BLOCK_D: tl.constexpr, RULES: tl.constexpr, EQUAL: tl.constexpr, SELF: tl.constexpr,
):  # fmt: skip
    """An anchor's positive number `place`: its key, its dot product, and whether it is to be put back, being excluded.

    One that is repeated is put back once; sorting a row's positives puts the repeats beside each other.
    """
    mine = rows < n
    at = rows.to(tl.int64) * width + place
    index = tl.load(POSITIVES + at, mask=mine, other=0)
    columns = tl.arange(0, BLOCK_D)
    there = K + index[:, None] * dim + columns[None, :]
    k = tl.load(there, mask=mine[:, None] & (columns < dim)[None, :], other=0.0).to(tl.float32)
    left_out = index < 0  # of the right shape, and false
    for rule in tl.static_range(RULES):
        anchor_label = tl.load(Q_LABELS + rule * n + rows, mask=mine, other=0)
        key_label = tl.load(K_LABELS + rule * m + index, mask=mine, other=0)
        if (EQUAL >> rule) & 1:
            left_out = left_out | (anchor_label == key_label)
        else:
            left_out = left_out | (anchor_label != key_label)
    if SELF:
        left_out = left_out | (index == rows)
    before = tl.load(POSITIVES + at - 1, mask=mine & (place > 0), other=-1)
    return k, tl.sum(q * k, 1), left_out & (before != index)


@triton.jit
def contrast_finish(
    Q, K, TAU, POSITIVES, SHARE, Q_LABELS, K_LABELS, SHIFT, TOTAL, MEAN, KEPT, LOSS, n, m, dim, width,
    BLOCK_D: tl.constexpr, RULES: tl.constexpr, EQUAL: tl.constexpr, SELF: tl.constexpr,
    WANT_MEAN: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Losses [N] from the sums over keys, and their slope to the scores of the positives.

    Rewrites SHIFT and TOTAL with the excluded positives put back; writes their probabilities to KEPT [N, P]; turns MEAN
    into mean − mean of the positives (the loss's gradient to the query, times τ).
    """
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    mine = rows < n
    scale = log2_scale(tl.load(TAU))
    q = load_rows(Q, rows, n, dim, BLOCK_D, False).to(tl.float32)
    shift = tl.load(SHIFT + rows, mask=mine, other=0.0)
    dense = tl.load(TOTAL + rows, mask=mine, other=1.0)
    total = dense
    if RULES > 0 or SELF:
        top = tl.where(dense == 0, float("-inf"), shift)
        for place in range(width):
            _, raw, back = gather_positive(
                q, K, POSITIVES, Q_LABELS, K_LABELS, rows, place, n, m, dim, width, BLOCK_D, RULES, EQUAL, SELF
            )
            score = tl.where(back, raw * scale, float("-inf"))
            higher = tl.maximum(top, score)
            total = total * tl.exp2(top - finite(higher)) + tl.exp2(score - finite(higher))
            top = higher
        dense = dense * tl.exp2(shift - finite(top))
        shift = finite(top)
        tl.store(SHIFT + rows, shift, mask=mine)
        tl.store(TOTAL + rows, total, mask=mine)
    excess = tl.zeros([BLOCK_R], tl.float32)  # mean of the positives' scores, above the shift
    slope = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    if WANT_MEAN:
        slope += load_rows(MEAN, rows, n, dim, BLOCK_D, False) * (dense / total)[:, None]
    for place in range(width):
        k, raw, back = gather_positive(
            q, K, POSITIVES, Q_LABELS, K_LABELS, rows, place, n, m, dim, width, BLOCK_D, RULES, EQUAL, SELF
        )
        at = rows.to(tl.int64) * width + place
        share = tl.load(SHARE + at, mask=mine, other=0.0)
        above = tl.fma(raw, scale, -shift)
        excess += share * above
        pull = -share
        if RULES > 0 or SELF:
            kept = tl.where(back, tl.exp2(above) / total, 0.0)
            tl.store(KEPT + at, kept, mask=mine)
            pull += kept
        slope += pull[:, None] * k
    tl.store(LOSS + rows, (tl.log2(total) - excess) * LN2, mask=mine)
    if WANT_MEAN:
        store_rows(MEAN, rows, n, dim, slope, BLOCK_D)


def forward(
    query: Tensor, key: Tensor, tau: Tensor, bias: Tensor | None, rules: Rules, want_mean: bool, fixed: bool
) -> tuple[Tensor, Tensor]:
    """Stats [2, N] (shift and total) and mean [N, D] (empty when not wanted) of `contrast_forward`, float32."""
    (n, dim), m = query.shape, len(key)
    stats = query.new_empty((2, n), dtype=torch.float32)
    mean = query.new_empty((n, dim) if want_mean else (0,), dtype=torch.float32)
    launch(
        contrast_forward, n, fixed,
        query, key, tau, key if bias is None else bias, rules.query, rules.key, *stats, mean, n, m, dim,
        **_constants(query, rules, bias, n, m), WANT_MEAN=want_mean,
    )  # fmt: skip
    return stats, mean


def finish(
    query: Tensor, key: Tensor, tau: Tensor, positives: Tensor, share: Tensor, rules: Rules, own: bool,
    stats: Tensor, mean: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Losses [N] and kept [N, P] (empty without exclusions); `stats` and `mean` are brought up to date.

    `positives` [N, P] has each row sorted; `own` excludes pairs of equal index.
    """
    (n, dim), m, width = query.shape, len(key), positives.shape[1]
    losses = stats.new_empty(n)
    kept = stats.new_empty((n, width) if rules.number or own else (0,))
    rows = 16
    with on_device(query):
        contrast_finish[(triton.cdiv(n, rows),)](
            query, key, tau, positives, share, rules.query, rules.key, *stats, mean, kept, losses, n, m, dim, width,
            BLOCK_D=block_dim(dim), RULES=rules.number, EQUAL=rules.equal, SELF=own, WANT_MEAN=mean.numel() > 0,
            BLOCK_R=rows, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return losses, kept


def gradient_of_keys(
    query: Tensor, key: Tensor, tau: Tensor, bias: Tensor | None, rules: Rules, shift: Tensor, weight: Tensor,
    factor: Tensor, fixed: bool, symmetric: bool = False, own: bool = False,
) -> Tensor:  # fmt: skip
    """`key_gradient` [M, D] in float32; `symmetric` and `own` are its SYMMETRIC and SELF."""
    (n, dim), m = query.shape, len(key)
    out = query.new_empty((m, dim), dtype=torch.float32)
    launch(
        key_gradient, m, fixed,
        query, key, tau, key if bias is None else bias, rules.query, rules.key, shift, weight, factor, out, n, m, dim,
        **_constants(query, rules, bias, n, m), SYMMETRIC=symmetric, SELF=own,
    )  # fmt: skip
    return out


def _constants(query: Tensor, rules: Rules, bias: Tensor | None, n: int, m: int) -> dict[str, Any]:
    dim = query.shape[1]
    return {
        "BLOCK_D": block_dim(dim),
        "RULES": rules.number,
        "EQUAL": rules.equal,
        "BIASED": bias is not None,
        "EVEN": n % 128 == 0 and m % 128 == 0 and dim == block_dim(dim),  # 128: the largest tile
        "PRECISION": precision(query),
    }
