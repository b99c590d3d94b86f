"""Continuous targets from frozen features: R² of a ridge regression on folds that never share a group.

n items (videos), d feature dim, m targets, S seeds (shuffles of the fold assignment).

A target may be unknown (NaN) for some items: it is then learned and judged on the others alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.evaluate.folds import Features, Groups, check_features, check_groups, group_folds, inner_groups
from vidssl.evaluate.intervals import Bootstrap, group_draws
from vidssl.evaluate.linear import INNER_FOLDS, STRENGTHS, Basis, fit_ridge, threads_for, with_ones

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RidgeResult:
    """Out-of-fold R² of a ridge regression.

    Attributes:
        mean: R² averaged over targets and seeds.
        stderr: standard error of `mean` by a bootstrap over groups, each item's squared error being its mean over
            seeds and the overall means of the targets held fixed.
        per_target: [m] R² of each target, mean over seeds.
        scores: [S, m] R² of each seed and target.
        errors: [S, n, m] squared out-of-fold errors, NaN where the target is unknown.
        spread: [n, m] squared deviations from the overall mean, NaN where the target is unknown.
        groups: [n] group numbers.
    """

    mean: float
    stderr: float
    per_target: Floats
    scores: Floats
    errors: Floats
    spread: Floats
    groups: NDArray[np.int64]


def ridge_r2(
    features: Features, targets: ArrayLike, groups: Groups = None, folds: int = 5, seeds: Sequence[int] = (0, 1, 2)
) -> RidgeResult:
    """R² of continuous targets by ridge regression on standardised frozen features, group-disjoint.

    R² = 1 - sum of squared out-of-fold errors / sum of squared deviations from the overall mean, over the items for
    which the target is known; it is 0 for a guess of the mean and negative for worse. Features are standardised on the
    training folds, and values beyond their range there are taken at its edge; the penalty is chosen per target by inner
    group-disjoint 5-fold validation on the training folds alone.

    Args:
        features: [n, d] real numbers.
        targets: [n] or [n, m] real numbers in any units; NaN where unknown.
        groups: [n] group of each item; None makes every item its own group.
        folds: at most the number of groups.
        seeds: S seeds of the fold assignment.

    Raises:
        VidsslError: NaN features, a constant target, too few groups in which it is known, lengths that differ.
    """
    x = check_features(features)
    y = _check_targets(targets, len(x))
    members = check_groups(groups, len(x), folds)
    if not seeds:
        raise VidsslError("ridge_r2: no seeds given; one at least, e.g. (0, 1, 2)")
    errors = y.new_full((len(seeds), *y.shape), torch.nan)
    with threads_for(x):
        for columns, rows in _known_alike(y):
            of_rows = _members_of(members, rows, columns, folds)
            for row, seed in enumerate(seeds):
                found = _errors(x[rows], y[rows][:, columns], of_rows, folds, seed)
                errors[row, rows[:, None], columns] = found
    return _result(errors.numpy(), ((y - y.nanmean(dim=0)) ** 2).numpy(), members)


def pool_ridge(results: Sequence[RidgeResult]) -> RidgeResult:
    """One result from several of the same items, e.g. of several random encoders: their errors are further seeds."""
    first = results[0]
    return _result(np.concatenate([result.errors for result in results]), first.spread, first.groups)


def compare_ridge(a: RidgeResult, b: RidgeResult) -> Bootstrap:
    """R² of a minus that of b, averaged over targets, on the same items; 95 % interval over resampled groups.

    Either may hold more seeds than the other (several random encoders): errors are paired by item.

    Raises:
        VidsslError: the two were not measured on the same items, targets and groups.
    """
    return Bootstrap.of(a.mean - b.mean, drawn_ridge_lead(a, b))


def drawn_ridge_lead(a: RidgeResult, b: RidgeResult) -> Floats:
    """[resamples] what `compare_ridge` compares, in each resample of the groups."""
    if not (np.array_equal(a.spread, b.spread, equal_nan=True) and np.array_equal(a.groups, b.groups)):
        raise VidsslError("compare_ridge: the two have other items, targets or groups; probe both on the same ones")
    return _drawn_r2(a.errors.mean(axis=0), a.spread, a.groups) - _drawn_r2(b.errors.mean(axis=0), b.spread, b.groups)


def ridge_part(pooled: RidgeResult, rows: slice) -> RidgeResult:
    """Some of the seeds alone, e.g. those of one of the networks that `pool_ridge` made one result of."""
    return _result(pooled.errors[rows], pooled.spread, pooled.groups)


def _result(errors: Floats, spread: Floats, groups: NDArray[np.int64]) -> RidgeResult:
    r2 = 1 - np.nansum(errors, axis=1) / np.nansum(spread, axis=0)
    stderr = float(_drawn_r2(errors.mean(axis=0), spread, groups).std(ddof=1))
    return RidgeResult(float(r2.mean()), stderr, r2.mean(axis=0), r2, errors, spread, groups)


def _drawn_r2(errors: Floats, spread: Floats, groups: NDArray[np.int64]) -> Floats:
    """R² averaged over targets in each draw of resampled groups; errors and spread [n, m], NaN where unknown."""
    member = np.unique(groups, return_inverse=True)[1]
    counts = group_draws(int(member.max()) + 1)  # [resamples, G]

    def sums(values: Floats) -> Floats:
        of_group = np.zeros((counts.shape[1], values.shape[1]))
        np.add.at(of_group, member, np.nan_to_num(values))
        return np.asarray(counts @ of_group)

    below = sums(spread)
    drawn = (below > 0).all(axis=1)  # a draw of groups that all lie at the mean has no R²
    return np.asarray((1 - sums(errors)[drawn] / below[drawn]).mean(axis=1))


def _check_targets(targets: ArrayLike, n: int) -> Tensor:
    y = torch.as_tensor(np.asarray(targets, dtype=np.float64))
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or len(y) != n:
        raise VidsslError(f"ridge_r2: expected targets [n] or [n, m] for {n} items, got shape {tuple(y.shape)}")
    if torch.isinf(y).any():
        raise VidsslError("ridge_r2: the targets hold infinity; leave those items out, or give NaN for unknown")
    for number, column in enumerate(y.T):
        known = column[~column.isnan()]
        if len(known) == 0 or known.max() == known.min():
            raise VidsslError(
                f"ridge_r2: target {number} has one value only or is NaN throughout; R² is not defined for it, leave it"
                " out"
            )
    return y


def _known_alike(y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(columns, rows): targets that are known for the same items, and those items."""
    patterns, number = torch.unique(~y.isnan(), dim=1, return_inverse=True)
    for place, pattern in enumerate(patterns.T):
        yield (number == place).nonzero().flatten(), pattern.nonzero().flatten()


def _members_of(members: NDArray[np.int64], rows: Tensor, columns: Tensor, folds: int) -> NDArray[np.int64]:
    """Group numbers of some items, checked: enough of them for the folds."""
    try:
        return check_groups(members[rows.numpy()], len(rows), folds)
    except VidsslError as error:
        raise VidsslError(f"target {int(columns[0])} is known for {len(rows)} items only: {error}") from error


def _errors(x: Tensor, y: Tensor, groups: NDArray[np.int64], folds: int, seed: int) -> Tensor:
    """Squared out-of-fold errors [n, m]."""
    fold = group_folds(groups, folds, seed)
    errors = torch.empty_like(y)
    for number in range(folds):
        train, test = torch.as_tensor(fold != number), torch.as_tensor(fold == number)
        # A unit that was all but silent on the training items may fire on a test item, and would throw its prediction
        # anywhere: a linear probe interpolates, so what lies beyond the training items' range is taken at its edge.
        within = x[test].clamp(x[train].amin(dim=0), x[train].amax(dim=0))
        basis = Basis.fit(x[train], within)
        weights = _best(basis, y[train], groups[fold != number])
        errors[test] = (with_ones(basis.test) @ weights - y[test]) ** 2
    return errors


def _best(basis: Basis, y: Tensor, groups: NDArray[np.int64]) -> Tensor:
    """[r + 1, m] weights, the penalty chosen per target by inner validation."""
    strengths = torch.tensor(STRENGTHS, dtype=y.dtype)
    groups = inner_groups(groups)
    inner = torch.as_tensor(group_folds(groups, min(INNER_FOLDS, len(np.unique(groups))), seed=0))
    loss = y.new_zeros(len(strengths), y.shape[1])
    for number in range(int(inner.max()) + 1):
        held_out = inner == number
        weights = fit_ridge(basis, y, rows=~held_out, strengths=strengths)  # [L, r + 1, m]
        loss += ((with_ones(basis.train)[held_out] @ weights - y[held_out]) ** 2).sum(dim=1)
    weights = fit_ridge(basis, y, rows=torch.ones(len(y), dtype=torch.bool), strengths=strengths)
    return weights.gather(0, loss.argmin(dim=0).view(1, 1, -1).expand(1, weights.shape[1], -1))[0]
