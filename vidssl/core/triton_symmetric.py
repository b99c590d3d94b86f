# mypy: allow-untyped-defs
"""NT-Xent's passes as Triton kernels: features against themselves, so that scores are symmetric and half the tiles do.

N features (each an anchor and a key), D feature dim, T blocks of R features; a program holds block i.

              j → 0 1 2 3 4        Block i takes blocks i, i + 1, … i + T/2, counted around the corner: each pair of
        i = 0     ■ □ □            blocks is met once and all programs have the same work, whatever a triangle's corner
        i = 1       ■ □ □          leaves. (T even: i and i + T/2 meet in the lower half's programs.)
        i = 2         ■ □ □
        i = 3     □     ■ □        forward    a tile's exponentials are summed along rows for i, along columns for j
        i = 4     □ □     ■        gradient   (G + Gᵀ) Z along rows for i, along columns for j

Column sums of a tile go to a slot of their program, each with the maximum it was taken with; a second kernel merges the
slots in their order. A launch is for at most SLOTS programs, which bounds the slots. The gradient adds up by atomics;
where the same bits are wanted `triton_contrast.key_gradient` computes all tiles instead, with no atomics.

Operations: forward N² D, gradient 3 N² D (4 without atomics).
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from vidssl.core.pairs import Rules
from vidssl.core.triton_contrast import finite, load_rows, log2_scale, raw_scores
from vidssl.core.triton_tiles import INTERPRETED, Tiles, block_dim, on_device, precision

SLOTS = 256


@triton.jit
def partners(block, blocks):
    """How many of the blocks after `block` it takes."""
    return tl.where((blocks % 2 == 0) & (block >= blocks // 2), blocks // 2 - 1, blocks // 2)


@triton.jit
def symmetric_forward(
    Z, TAU, LABELS, SHIFTS, TOTALS, n, dim, blocks, first,
    BLOCK_D: tl.constexpr, RULES: tl.constexpr, EQUAL: tl.constexpr, SELF: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fills this program's slot [N]: maximum (log 2) and Σ exp2(score − maximum) over what it has seen of each row."""
    slot = tl.program_id(0)
    block = first + slot
    rows = block * BLOCK + tl.arange(0, BLOCK)
    scale = log2_scale(tl.load(TAU))
    z = load_rows(Z, rows, n, dim, BLOCK_D, EVEN)
    raw = raw_scores(z, z, rows, rows, n, n, LABELS, LABELS, RULES, EQUAL, EVEN, PRECISION)
    if SELF:
        raw = tl.where(rows[:, None] == rows[None, :], float("-inf"), raw)
    top = tl.max(raw, 1) * scale
    total = tl.sum(tl.exp2(tl.fma(raw, scale, -finite(top)[:, None])), 1)
    for step in range(1, partners(block, blocks) + 1):
        columns = ((block + step) % blocks) * BLOCK + tl.arange(0, BLOCK)
        other = load_rows(Z, columns, n, dim, BLOCK_D, EVEN)
        raw = raw_scores(z, other, rows, columns, n, n, LABELS, LABELS, RULES, EQUAL, EVEN, PRECISION)
        if not EVEN:
            raw = tl.where((rows < n)[:, None], raw, float("-inf"))
        higher = tl.maximum(top, tl.max(raw, 1) * scale)
        shift = finite(higher)
        total = total * tl.exp2(top - shift) + tl.sum(tl.exp2(tl.fma(raw, scale, -shift[:, None])), 1)
        top = higher
        shift = finite(tl.max(raw, 0) * scale)
        at = slot.to(tl.int64) * n + columns
        tl.store(SHIFTS + at, shift, mask=columns < n)
        tl.store(TOTALS + at, tl.sum(tl.exp2(tl.fma(raw, scale, -shift[None, :])), 0), mask=columns < n)
    at = slot.to(tl.int64) * n + rows
    tl.store(SHIFTS + at, finite(top), mask=rows < n)
    tl.store(TOTALS + at, total, mask=rows < n)


@triton.jit
def merge_slots(SHIFTS, TOTALS, SHIFT, TOTAL, n, slots, BLOCK: tl.constexpr):
    """Merges slots [slots, N] in their order into SHIFT and TOTAL [N]; a total of 0 is an empty sum."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mine = columns < n
    total = tl.load(TOTAL + columns, mask=mine, other=0.0)
    top = tl.where(total == 0, float("-inf"), tl.load(SHIFT + columns, mask=mine, other=0.0))
    at = columns.to(tl.int64)
    for _ in range(slots):
        more = tl.load(TOTALS + at, mask=mine, other=0.0)
        peak = tl.where(more == 0, float("-inf"), tl.load(SHIFTS + at, mask=mine, other=0.0))
        higher = tl.maximum(top, peak)
        total = total * tl.exp2(top - finite(higher)) + more * tl.exp2(peak - finite(higher))
        top = higher
        at += n
    tl.store(SHIFT + columns, finite(top), mask=mine)
    tl.store(TOTAL + columns, total, mask=mine)


@triton.jit
def symmetric_gradient(
    Z, TAU, LABELS, SHIFT, WEIGHT, FACTOR, OUT, n, dim, blocks,
    BLOCK_D: tl.constexpr, RULES: tl.constexpr, EQUAL: tl.constexpr, SELF: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """OUT [N, D] += factor (G + Gᵀ) Z, with G_ij = weight_i exp2(score_ij − shift_i)."""
    PARTS: tl.constexpr = BLOCK_R // BLOCK_C
    block = tl.program_id(0)
    rows = block * BLOCK_R + tl.arange(0, BLOCK_R)
    dims = tl.arange(0, BLOCK_D)
    scale = log2_scale(tl.load(TAU))
    factor = tl.load(FACTOR)
    z = load_rows(Z, rows, n, dim, BLOCK_D, EVEN)
    row_shift = tl.load(SHIFT + rows, mask=rows < n, other=0.0)
    row_weight = tl.load(WEIGHT + rows, mask=rows < n, other=0.0)
    out = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for step in range(0, (partners(block, blocks) + 1) * PARTS):
        columns = ((block + step // PARTS) % blocks) * BLOCK_R + (step % PARTS) * BLOCK_C + tl.arange(0, BLOCK_C)
        other = load_rows(Z, columns, n, dim, BLOCK_D, EVEN)
        shift = tl.load(SHIFT + columns, mask=columns < n, other=0.0)
        weight = tl.load(WEIGHT + columns, mask=columns < n, other=0.0)
        raw = raw_scores(z, other, rows, columns, n, n, LABELS, LABELS, RULES, EQUAL, EVEN, PRECISION)
        if not EVEN:
            raw = tl.where((rows < n)[:, None], raw, float("-inf"))
        if SELF:
            raw = tl.where(rows[:, None] == columns[None, :], float("-inf"), raw)
        g = tl.exp2(tl.fma(raw, scale, -row_shift[:, None])) * row_weight[:, None]
        g += tl.exp2(tl.fma(raw, scale, -shift[None, :])) * weight[None, :]
        g = g.to(z.dtype)
        out = tl.dot(g, other, out, input_precision=PRECISION)
        if step >= PARTS:  # the block on the diagonal is symmetric in itself: its rows are all of it
            d_other = tl.dot(tl.trans(g), z, input_precision=PRECISION) * factor
            at = OUT + columns.to(tl.int64)[:, None] * dim + dims[None, :]
            tl.atomic_add(at, d_other, mask=(columns < n)[:, None] & (dims < dim)[None, :], sem="relaxed")
    at = OUT + rows.to(tl.int64)[:, None] * dim + dims[None, :]
    tl.atomic_add(at, out * factor, mask=(rows < n)[:, None] & (dims < dim)[None, :], sem="relaxed")


def forward_tile(features: Tensor) -> Tiles:
    """Square tiles of the forward."""
    if INTERPRETED:
        return Tiles(16, 16, 1, 1)
    wide = block_dim(features.shape[1])
    if features.dtype == torch.float32:
        return Tiles(16, 16, 8, 2) if wide == 512 else Tiles(32, 32, 8, 2)
    return Tiles(128, 128, 8, 3) if wide <= 128 else Tiles(64, 64, 4, 2)


def gradient_tile(features: Tensor) -> Tiles | None:
    """Tiles of the gradient; None where two blocks of sums do not fit into registers."""
    if INTERPRETED:
        return Tiles(16, 8, 1, 1)
    wide = block_dim(features.shape[1])
    if wide == 512 or (wide == 256 and features.dtype == torch.float32):
        return None
    if features.dtype == torch.float32:
        return Tiles(32, 32, 8, 2)
    return Tiles(128, 64, 8, 2) if wide <= 128 else Tiles(64, 64, 8, 2)


def forward(features: Tensor, tau: Tensor, rules: Rules, own: bool) -> Tensor:
    """Stats [2, N] float32: the shift (log 2) and Σ exp2(score − shift) of each row; `own` leaves out the diagonal."""
    n, dim = features.shape
    tile = forward_tile(features)
    blocks = triton.cdiv(n, tile.rows)
    stats = features.new_zeros((2, n), dtype=torch.float32)
    with on_device(features):
        for first in range(0, blocks, SLOTS):
            programs = min(SLOTS, blocks - first)
            slots = features.new_zeros((2, programs, n), dtype=torch.float32)
            symmetric_forward[(programs,)](
                features, tau, rules.key, *slots, n, dim, blocks, first, **_constants(features, rules, own),
                BLOCK=tile.rows, **tile.options(),
            )  # fmt: skip
            grid = (triton.cdiv(n, 128),)
            merge_slots[grid](*slots, *stats, n, programs, BLOCK=128, num_warps=4, enable_fp_fusion=True)
    return stats


def gradient(
    features: Tensor, tau: Tensor, rules: Rules, own: bool, shift: Tensor, weight: Tensor, factor: Tensor
) -> Tensor:
    """(G + Gᵀ) Z [N, D] float32 by atomics; the caller has seen that `gradient_tile` has one."""
    n, dim = features.shape
    tile = gradient_tile(features)
    assert tile is not None
    blocks = triton.cdiv(n, tile.rows)
    out = features.new_zeros((n, dim), dtype=torch.float32)
    with on_device(features):
        symmetric_gradient[(blocks,)](
            features, tau, rules.key, shift, weight, factor, out, n, dim, blocks, **_constants(features, rules, own),
            BLOCK_R=tile.rows, BLOCK_C=tile.columns, **tile.options(),
        )  # fmt: skip
    return out


def _constants(features: Tensor, rules: Rules, own: bool) -> dict[str, int | bool | str]:
    n, dim = features.shape
    return {
        "BLOCK_D": block_dim(dim),
        "RULES": rules.number,
        "EQUAL": rules.equal,
        "SELF": own,
        "EVEN": n % 128 == 0 and dim == block_dim(dim),  # 128: the largest tile
        "PRECISION": precision(features),
    }
