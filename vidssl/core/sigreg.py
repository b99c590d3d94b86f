"""SIGReg: embeddings made an isotropic Gaussian, one random direction at a time. Balestriero & LeCun 2025 (LeJEPA),
arXiv 2511.08544, section 4.

n rows of this rank, N of all ranks, D dims, K slices (unit directions), M + 1 knots.

Along a slice a the projections p = a·x should be N(0, 1), whose characteristic function is exp(−t²/2). Epps & Pulley
1983 measure how far the batch's own is from it:

    φ(t) = 1/N Σ_i exp(i t p_i)            T = N ∫ |φ(t) − exp(−t²/2)|² exp(−t²/2) dt

by the trapezoid rule on t = 0, δ, 2δ, …, Mδ = 3, doubled for negative t, where |φ| is the same. The knots are equally
spaced, so with z = exp(i δ p) the powers z^m are all that is needed: one sine and cosine a projection and M complex
products, forward as running powers, backward as a polynomial by Horner's rule. N·K numbers are kept, not N·K·M.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidssl.core.gather import all_reduce_sum
from vidssl.core.moments import exact, rows_of_all_ranks, wide
from vidssl.core.random import mix, uniform
from vidssl.errors import VidsslError

_STREAM = 0x736C69636573  # keeps the draws of slices apart from others made with the same step
_REACH = 3.0  # the last knot
# Projections whose powers are worked on at once: they stay in a CPU's cache; a GPU is slowed by small kernels instead.
_BLOCK, _BLOCK_ON_GPU = 2**16, 2**24


def sigreg(x: Tensor, step: Tensor, slices: int = 256, knots: int = 17) -> Tensor:
    """Mean of the Epps-Pulley statistic over random slices of the rows of all ranks.

    Its gradient vanishes as rows come together at the origin: add `variance_hinge` where that is to be feared.

    Args:
        x: [n, D].
        step: int64 scalar, the same on all ranks, which draws the slices: other ones at every step.
        slices: K; 256 to 1024 in the paper.
        knots: M + 1; 17 in the paper.

    Returns:
        Scalar, about 1.05 for a standard normal batch of any size, growing as N for others; float32 (float64 for
        float64 input), under autocast too. Differentiable once.

    Raises:
        VidsslError: fewer than 2 rows in all, fewer than 1 slice or 2 knots.
    """
    if slices < 1 or knots < 2:
        raise VidsslError(f"SIGReg: got {slices} slices and {knots} knots; at least 1 and 2")
    rows = rows_of_all_ranks(x, 2, "SIGReg")
    with exact(x):
        x = wide(x)
        spacing = _REACH / (knots - 1)
        sums = _PowerSums.apply(x @ directions(step, x.shape[1], slices).to(x), spacing, knots - 1)
        real, imaginary = all_reduce_sum(sums) / rows  # [M, K] each
        t = spacing * torch.arange(1, knots, dtype=x.dtype, device=x.device)  # at t = 0 both are 1
        gauss = (-t.square() / 2).exp()
        weight = 2 * spacing * gauss
        weight[-1] /= 2
        apart = (real - gauss[:, None]).square() + imaginary.square()
        return rows * (weight @ apart).mean()


def directions(step: Tensor, dim: int, count: int) -> Tensor:
    """Random unit vectors [D, K], columns uniform on the sphere (normal draws by Box & Muller 1958)."""
    keys = mix(_STREAM, step, torch.arange(count, device=step.device))
    radius, angle = (1 - uniform(keys, 2 * dim)).double().unflatten(1, (2, dim)).unbind(1)  # (0, 1]: a finite log
    normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
    return F.normalize(normal, dim=1).T


class _PowerSums(torch.autograd.Function):
    """Projections p [n, K] -> Σ_i exp(i m δ p_i) for m = 1 … M: [2, M, K], real and imaginary parts."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, spacing: float, powers: int) -> Tensor:
        ctx.save_for_backward(p)
        ctx.spacing = spacing
        sums = p.new_zeros(2, powers, p.shape[1])
        for block in p.split(_rows(p)):
            real, imaginary = _unit(block, spacing)
            c, s = real, imaginary
            for m in range(powers):
                if m:
                    c, s = c * real - s * imaginary, c * imaginary + s * real
                sums[0, m] += c.sum(0)
                sums[1, m] += s.sum(0)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """With g, h the gradients of the real and imaginary sums, the slope of p is, z = exp(iδp) on the unit circle,

            Σ_m mδ (h_m cos mδp − g_m sin mδp)  =  Re Σ_m mδ (h_m + i g_m) z^m

        a polynomial in z without constant term.
        """
        (p,) = ctx.saved_tensors
        powers = grad.shape[1]
        order = ctx.spacing * torch.arange(1, powers + 1, dtype=grad.dtype, device=grad.device)[:, None]
        g, h = grad * order  # [M, K] each
        slopes = []
        for block in p.split(_rows(p)):
            real, imaginary = _unit(block, ctx.spacing)
            a, b = h[-1].expand_as(block), g[-1].expand_as(block)
            for m in range(powers - 2, -1, -1):
                a, b = a * real - b * imaginary + h[m], a * imaginary + b * real + g[m]
            slopes.append(a * real - b * imaginary)
        return torch.cat(slopes), None, None


def _unit(p: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    angle = spacing * p
    return angle.cos(), angle.sin()


def _rows(p: Tensor) -> int:
    return max(1, (_BLOCK if p.device.type == "cpu" else _BLOCK_ON_GPU) // p.shape[1])
