"""How well frozen features of point clouds tell kinds of objects: a linear probe trained on some, judged on others.

    features of training objects --standardised, softmax regression--> kinds of the test objects' views

Beside it, what needs no learning: `shape_distances` (D2) and `shape_moments` of the same clouds.

n views, P points, K kinds, Q strengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.encoders.points import check_points, unit_clouds
from vidssl.errors import VidsslError
from vidssl.evaluate.folds import check_features, check_groups, check_labels, label_folds
from vidssl.evaluate.intervals import Bootstrap, group_bootstrap
from vidssl.evaluate.linear import INNER_FOLDS, Basis, fit_softmax, likeliest_strength, scores, threads_for, with_ones

FARTHEST = 4.0  # of D2's histogram, in units of the cloud's root mean square distance from its mean


@dataclass(frozen=True)
class Views:
    """Features of views, what they show, and of which object.

    Attributes:
        features: `[n,d]`.
        kinds: `[n]` class of each.
        objects: `[n]` the object of each, by any name.
    """

    features: Tensor
    kinds: Sequence[str]
    objects: Sequence[str]


@dataclass(frozen=True)
class ShapeProbeResult:
    """What a probe makes of test objects.

    Attributes:
        accuracy: share of test views whose kind is right, with a 95 % interval over test objects.
        balanced: mean of the kinds' recalls.
        chance: share of the commonest kind among the test views, what guessing it gives.
        strength: C, chosen on the training objects.
        right: bool `[n]`, which test views.
    """

    accuracy: Bootstrap
    balanced: float
    chance: float
    strength: float
    right: NDArray[np.bool_]


def shape_probe(train: Views, test: Views) -> ShapeProbeResult:
    """Softmax regression on standardised features of the training objects, judged on the test objects.

    C is the one of 11 values with the highest likelihood in an object-disjoint 5-fold validation on the training
    objects alone. The interval is a bootstrap over test objects: it covers their choice, not a new training.

    Raises:
        VidsslError: NaN features, lengths or widths that differ, an object on both sides, a test kind that training
            lacks, one kind, too few objects.
    """
    x, y = check_features(train.features), check_features(test.features)
    if x.shape[1] != y.shape[1]:
        raise VidsslError(f"shape probe: {x.shape[1]} features in training, {y.shape[1]} in test; use one encoder")
    if not len(y) == len(test.kinds) == len(test.objects):
        raise VidsslError(
            f"shape probe: expected {len(y)} kinds and objects of the test views, got {len(test.kinds)} and "
            f"{len(test.objects)}"
        )
    if both := set(train.objects) & set(test.objects):
        raise VidsslError(
            f"shape probe: {len(both)} objects are in training and test, e.g. {min(both)}; split by object"
        )
    if unseen := set(test.kinds) - set(train.kinds):
        raise VidsslError(f"shape probe: no training object is of kind {', '.join(sorted(unseen))}; add some")
    groups = check_groups(train.objects, len(x), 2)
    labels = check_labels(train.kinds, groups)
    truth = torch.tensor([labels.classes.index(kind) for kind in test.kinds])
    with threads_for(x):
        basis, known, number = Basis.fit(x, y), torch.as_tensor(labels.numbers), len(labels.classes)
        strength = likeliest_strength(basis, known, number, label_folds(labels.numbers, groups, INNER_FOLDS, seed=0))
        weights = fit_softmax(basis, known, number, x.new_ones(1, len(x)), strength)
        right = (scores(with_ones(basis.test), weights[0])[0].argmax(1) == truth).numpy()
    recalls = [right[truth.numpy() == kind].mean() for kind in truth.unique().tolist()]
    return ShapeProbeResult(
        accuracy=group_bootstrap(right, list(test.objects)),
        balanced=float(np.mean(recalls)),
        chance=float(truth.bincount().max() / len(truth)),
        strength=float(strength),
        right=right,
    )


def shape_distances(points: Tensor, bins: int = 64, pairs: int = 4096, seed: int = 0) -> Tensor:
    """D2 of clouds: the histogram of distances of random pairs of points.

    Osada, Funkhouser, Chazelle, Dobkin 2002, "Shape distributions", section 3; here of the visible side, in units of
    the cloud's root mean square distance from its mean. No rotation changes it.

    Args:
        points: float `[n,P,3]`.
        bins: of equal width from 0 to 4.
        pairs: drawn of the P² pairs, the same for all clouds.
        seed: of the pairs.

    Returns:
        `[n,bins]`, shares that sum to 1.
    """
    unit = unit_clouds(check_points(points))
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(unit.shape[1], (2, pairs), generator=generator)
    distance = (unit[:, first] - unit[:, second]).norm(dim=2)
    place = (distance * (bins / FARTHEST)).long().clamp_max(bins - 1)
    return torch.zeros(len(unit), bins).scatter_add_(1, place, torch.ones_like(distance)) / pairs


def shape_moments(points: Tensor) -> Tensor:
    """Moments of clouds about their mean that no rotation changes.

    The square roots of the covariance's eigenvalues, greatest first; along each of those axes the size of the third
    and the fourth standardised moment; the third and fourth moment of the distance from the mean.

    Args:
        points: float `[n,P,3]`.

    Returns:
        `[n,11]`.
    """
    unit = unit_clouds(check_points(points))
    values, axes = torch.linalg.eigh(unit.mT @ unit / unit.shape[1])
    values, axes = values.flip(1).clamp_min(1e-12), axes.flip(2)
    along = (unit @ axes) / values.sqrt()[:, None]
    third, fourth = along.pow(3).mean(1).abs(), along.pow(4).mean(1)
    distance = unit.norm(dim=2)
    apart = torch.stack([distance.pow(3).mean(1), distance.pow(4).mean(1)], dim=1)
    return torch.cat([values.sqrt(), third, fourth, apart], dim=1)
