"""Checks of probe input, and folds that never share a group."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vidssl.errors import VidsslError

Features = ArrayLike | torch.Tensor
Groups = Sequence[object] | NDArray[np.generic] | None


def check_features(features: Features) -> torch.Tensor:
    """Features as float64 [n, d] on the CPU; a VidsslError for another shape, NaN or infinity."""
    x = torch.as_tensor(features if isinstance(features, torch.Tensor) else np.asarray(features)).detach()
    if x.ndim != 2 or x.numel() == 0:
        raise VidsslError(f"probe: expected features [items, dim], got shape {tuple(x.shape)}; average frames first")
    x = x.to("cpu", torch.float64)
    bad = ~torch.isfinite(x).all(dim=1)
    if bad.any():
        raise VidsslError(
            f"probe: {int(bad.sum())} of {len(x)} items have NaN or infinite features, first of all item"
            f" {int(bad.nonzero()[0])}; the encoder diverged or its input is broken"
        )
    return x


def check_groups(groups: Groups, n: int, folds: int) -> NDArray[np.int64]:
    """Group numbers [n]; None makes every item its own group. A VidsslError where disjoint folds can't be made."""
    if groups is not None and len(groups) != n:
        raise VidsslError(f"probe: {n} items but {len(groups)} groups; give one group an item")
    numbers = np.arange(n) if groups is None else np.unique([str(group) for group in groups], return_inverse=True)[1]
    count = len(np.unique(numbers))
    if folds < 2:
        raise VidsslError(f"probe: folds must be at least 2, got {folds}")
    if count < max(folds, 3):  # 3: with 2, a training set is one group, and nothing is left to select C on
        raise VidsslError(
            f"probe: {count} groups can't make {folds} group-disjoint folds; at least {max(folds, 3)} are needed:"
            " lower the folds, or add data of further groups (sources)"
        )
    return numbers.astype(np.int64)


def inner_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The groups [n] to cut inner folds by: every item its own where all are of one group, as can be in two folds."""
    return np.arange(len(groups)) if len(np.unique(groups)) < 2 else groups


@dataclass(frozen=True)
class Labels:
    """Class numbers [n] and the class names they stand for."""

    numbers: NDArray[np.int64]
    classes: tuple[str, ...]


def check_labels(labels: ArrayLike, groups: NDArray[np.int64]) -> Labels:
    """Labels as class numbers; a VidsslError for one class, a class of one group, or another length than `groups`."""
    given = np.asarray(labels)
    if given.shape != groups.shape:
        raise VidsslError(f"probe: expected {len(groups)} labels, one an item, got shape {given.shape}")
    classes, numbers = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise VidsslError(f"probe: all items have the label {classes[0]!s}; a probe needs two classes or more")
    for number, name in enumerate(classes):
        if len(np.unique(groups[numbers == number])) < 2:
            raise VidsslError(
                f"probe: class {name!s} occurs in one group only, so it can't be in training and test folds at once;"
                " leave the class out or add data of another group (source)"
            )
    return Labels(numbers.astype(np.int64), tuple(str(name) for name in classes))


def label_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each item [n]: group-disjoint, class shares alike where the groups allow it."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if np.bincount(labels).max() < folds:  # too few of every class to give each fold one
        return group_folds(groups, folds, seed)
    single = len(np.unique(groups)) == len(groups)  # then the grouped splitter gives the same, slowly
    splitter = (StratifiedKFold if single else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():  # a class with fewer items than folds is missing in some test folds: harmless here
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, test) in enumerate(splitter.split(labels[:, None], labels, None if single else groups)):
            fold[test] = number
    if len(np.unique(fold)) < folds:  # of few groups of uneven classes the splitter leaves a fold empty at times
        return group_folds(groups, folds, seed)
    return fold


def group_folds(groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each item [n]: group-disjoint, about equally many items each (groups in random order to the smallest)."""
    names, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    fold_of_group = np.empty(len(names), dtype=np.int64)
    filled = np.zeros(folds)
    for group in np.random.default_rng(seed).permutation(len(names)):
        fold_of_group[group] = filled.argmin()
        filled[fold_of_group[group]] += sizes[group]
    return fold_of_group[member]
