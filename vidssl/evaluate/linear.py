"""Linear models on standardised features, in a basis where they are cheap: softmax regression and ridge.

n items, d feature dim, r rank, K classes, P row subsets (inner folds), L regularisation strengths, Q = P L problems.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

INNER_FOLDS = 5  # for selecting C; fewer when the training folds hold fewer groups
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-4, 7))  # C on rows of mean squared length 1: 0.01 … 1000
CONSTANT = 1e-7  # a feature whose spread is below this share of its size is rounding noise, and is left out


@dataclass(frozen=True)
class Scaler:
    """Standardisation learnt on training items: (x - mean) / std; features constant there are dropped."""

    mean: Tensor
    std: Tensor
    keep: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> "Scaler":
        mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
        keep = std > CONSTANT * x.abs().amax(dim=0)
        return cls(mean[keep], std[keep], keep)

    def __call__(self, x: Tensor) -> Tensor:
        return (x[:, self.keep] - self.mean) / self.std


@dataclass(frozen=True)
class Basis:
    """Training rows rotated to their principal axes, exact for any L2-penalised linear model.

    Such a model's weights lie in the span of the training rows, so d > n costs no more than d = n. Rows are divided by
    sqrt(d) after standardising: their mean squared length is 1, and one grid of strengths suits every d.
    """

    train: Tensor  # [n, r], columns orthogonal
    test: Tensor  # [m, r]
    energy: Tensor  # [r] squared lengths of the columns of `train`

    @classmethod
    def fit(cls, train: Tensor, test: Tensor) -> "Basis":
        scaler = Scaler.fit(train)
        scale = max(int(scaler.keep.sum()), 1) ** 0.5
        x, y = scaler(train) / scale, scaler(test) / scale
        wide = x.shape[1] > x.shape[0]
        energy, axes = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
        top = energy > 1e-12 * energy.max() if len(energy) else energy > 0
        energy, axes = energy[top], axes[:, top]
        if wide:  # x = U S V': from U and S, V = x' U / S
            return cls(axes * energy.sqrt(), (y @ x.T) @ (axes / energy.sqrt()), energy)
        return cls(x @ axes, y @ axes, energy)


def fit_softmax(
    basis: Basis,
    labels: Tensor,
    classes: int,
    rows: Tensor,
    strengths: Tensor,
    tolerance: float = 1e-4,
    steps: int = 3000,
) -> Tensor:
    """Softmax regression for several row subsets and strengths at once.

    Minimises, for each subset p and strength C, sum over rows of the cross-entropy + |W|^2 / (2 C), with a free
    intercept. In the basis the Hessian is at most diag(energy) / 2 + 1 / C (Böhning 1992), so Nesterov's accelerated
    gradient with that diagonal as metric, restarted where it overshoots (O'Donoghue & Candès 2015), needs no step size.

    Args:
        basis: of n training rows.
        labels: [n] int64 in 0…K-1.
        classes: K.
        rows: [P, n] 1 where the row belongs to the subset, else 0.
        strengths: [L] values of C.
        tolerance: a problem is done when no entry of its gradient exceeds this times n.
        steps: at most so many.

    Returns:
        [P, L, r + 1, K] weights, the intercept last.
    """
    x = with_ones(basis.train)
    n, width = x.shape
    target = torch.nn.functional.one_hot(labels, classes).to(x)
    inside = rows.repeat_interleave(len(strengths), dim=0)[..., None]  # [Q, n, 1], Q = P L problems
    penalty = (1 / strengths).repeat(len(rows))[:, None, None].repeat(1, width, 1)
    penalty[:, -1] = 1e-6 * n  # next to free; keeps a class absent from a subset from running to -infinity
    metric = torch.cat([basis.energy, torch.tensor([float(n)]).to(x)])[:, None] / 2 + penalty  # [Q, r + 1, 1]
    result = x.new_zeros(len(inside), width, classes)
    open_ = torch.arange(len(inside))  # problems not solved yet
    weights = ahead = result.clone()
    momentum = x.new_ones(len(inside), 1, 1)
    for _ in range(steps):
        error = (scores(x, ahead).softmax(dim=-1) - target) * inside
        gradient = _transposed(x, error) + penalty * ahead
        going = gradient.abs().amax(dim=(1, 2)) > tolerance * n
        result[open_] = ahead
        if not going.any():
            break
        new = ahead - gradient / metric
        overshoot = (gradient * (new - weights)).sum(dim=(1, 2), keepdim=True) > 0
        momentum = torch.where(overshoot, 1.0, momentum)
        grown = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        ahead = new + torch.where(overshoot, 0.0, (momentum - 1) / grown) * (new - weights)
        weights, momentum = new, grown
        if going.sum() <= 0.8 * len(going):  # go on with the open ones alone
            open_, inside, penalty, metric = open_[going], inside[going], penalty[going], metric[going]
            weights, ahead, momentum = weights[going], ahead[going], momentum[going]
    return result.view(len(rows), len(strengths), width, classes)


def likeliest_strength(basis: Basis, labels: Tensor, classes: int, fold: ArrayLike) -> Tensor:
    """The C [1] of `STRENGTHS` under which rows left out of a fit are likeliest.

    Args:
        basis: of n training rows.
        labels: class numbers [n].
        classes: K.
        fold: the inner fold of each row [n].
    """
    folds = torch.as_tensor(np.asarray(fold))
    out = torch.stack([folds == part for part in folds.unique().tolist()])  # [P, n]
    strengths = torch.tensor(STRENGTHS, dtype=basis.train.dtype)
    fitted = fit_softmax(basis, labels, classes, (~out).to(basis.train), strengths)  # [P, L, r + 1, K]
    rows = with_ones(basis.train)
    likelihood = [
        scores(rows[part], weights).log_softmax(2)[:, torch.arange(int(part.sum())), labels[part]].sum(1)
        for part, weights in zip(out, fitted, strict=True)
    ]
    return strengths[torch.stack(likelihood).sum(0).argmax()].view(1)


def with_ones(x: Tensor) -> Tensor:
    """[n, r] -> [n, r + 1]: a column of ones for the intercept."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def scores(x: Tensor, weights: Tensor) -> Tensor:
    """[n, r + 1], [Q, r + 1, K] -> [Q, n, K] as one matrix product."""
    problems, width, classes = weights.shape
    flat = x @ weights.permute(1, 0, 2).reshape(width, -1)
    return flat.view(len(x), problems, classes).permute(1, 0, 2)


def _transposed(x: Tensor, error: Tensor) -> Tensor:
    """[n, r + 1], [Q, n, K] -> [Q, r + 1, K] as one matrix product."""
    problems, n, classes = error.shape
    flat = x.T @ error.permute(1, 0, 2).reshape(n, -1)
    return flat.view(x.shape[1], problems, classes).permute(1, 0, 2)


def fit_ridge(basis: Basis, targets: Tensor, rows: Tensor, strengths: Tensor) -> Tensor:
    """Ridge regression with a free intercept, in closed form, for several strengths on one row subset.

    Minimises |y - x w - b|^2 + |w|^2 / C over the rows where `rows` is true.

    Args:
        basis: of n training rows.
        targets: [n, K].
        rows: [n] bool.
        strengths: [L] values of C.

    Returns:
        [L, r + 1, K] weights, the intercept last.
    """
    x, y = basis.train[rows], targets[rows]
    middle, level = x.mean(dim=0), y.mean(dim=0)
    energy, axes = torch.linalg.eigh((x - middle).T @ (x - middle))
    moment = axes.T @ ((x - middle).T @ (y - level))
    weights = axes @ (moment / (energy.clamp_min(0) + 1 / strengths[:, None])[..., None])
    intercept = level - middle @ weights
    return torch.cat([weights, intercept[:, None]], dim=1)


@contextmanager
def threads_for(x: Tensor) -> Iterator[None]:
    """One torch thread while small features are probed: hundreds of tiny steps lose more to thread start than they
    gain, and beside data workers 10 times more. Large ones keep the threads they have."""
    before = torch.get_num_threads()
    try:
        if x.numel() < 8_000_000:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
