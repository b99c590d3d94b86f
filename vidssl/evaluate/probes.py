"""Classification probes of frozen features: linear and nearest neighbours, on folds that never share a group.

n items (videos), d feature dim, S seeds (shuffles of the fold assignment), F folds.

Clips of one camera, scene or layout look alike, so a split by clip measures how well the features recognise the place.
All folds here, also the inner ones that select the regularisation, keep each group on one side. Every item is in
exactly one test fold a seed, and accuracies are pooled over these out-of-fold predictions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.evaluate.folds import (
    Features,
    Groups,
    Labels,
    check_features,
    check_groups,
    check_labels,
    inner_groups,
    label_folds,
)
from vidssl.evaluate.intervals import Bootstrap, group_bootstrap, group_means
from vidssl.evaluate.linear import (
    INNER_FOLDS,
    Basis,
    Scaler,
    fit_softmax,
    likeliest_strength,
    scores,
    threads_for,
    with_ones,
)

# (training features, labels, groups, test features) -> predicted class numbers of the test items
Predict = Callable[[Tensor, Labels, NDArray[np.int64], Tensor], Tensor]


@dataclass(frozen=True)
class ProbeResult:
    """Out-of-fold predictions of a classification probe and their accuracy.

    Attributes:
        mean: accuracy over all items, mean over seeds.
        stderr: standard error of `mean` by a bootstrap over groups, each item's score being its mean over seeds. It
            covers the choice of test groups for the probes as they were trained, not a new draw of training data.
        scores: [S, F] accuracy of each test fold.
        balanced: mean of the classes' recalls, mean over seeds.
        chance: share of the largest class, what guessing gives.
        predictions: [S, n] predicted class numbers.
        labels: [n] true class numbers.
        groups: [n] group numbers.
        classes: names of the classes.
    """

    mean: float
    stderr: float
    scores: NDArray[np.float64]
    balanced: float
    chance: float
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]

    @property
    def item_scores(self) -> NDArray[np.float64]:
        """[n] share of seeds in which the item was predicted correctly."""
        return np.asarray((self.predictions == self.labels).mean(axis=0))


def linear_probe(
    features: Features, labels: ArrayLike, groups: Groups = None, folds: int = 5, seeds: Sequence[int] = (0, 1, 2)
) -> ProbeResult:
    """Softmax regression on standardised frozen features, group-disjoint, regularised by inner validation.

    Features are standardised on the training folds. The strength C of the L2 penalty is, for each test fold, the one
    of 11 values with the lowest cross-entropy in an inner group-disjoint 5-fold validation on the training folds alone.

    Args:
        features: [n, d] real numbers.
        labels: [n] class of each item (strings or integers).
        groups: [n] group of each item; None makes every item its own group.
        folds: F, at most the number of groups.
        seeds: S seeds of the fold assignment.

    Raises:
        VidsslError: NaN features, one class, too few groups, lengths that differ.
    """
    return _classify(_linear_predictions, features, labels, groups, folds, seeds)


def knn_probe(
    features: Features,
    labels: ArrayLike,
    groups: Groups = None,
    folds: int = 5,
    seeds: Sequence[int] = (0, 1, 2),
    k: int = 10,
) -> ProbeResult:
    """k nearest neighbours by cosine of standardised features, majority vote, group-disjoint.

    Features are standardised on the training folds. Ties go to the class whose neighbours are nearer in sum.

    Args:
        features, labels, groups, folds, seeds: as for `linear_probe`, whose folds are the same.
        k: neighbours; all training items where a training set has fewer.

    Raises:
        VidsslError: as `linear_probe`; k out of range.
    """

    if k < 1:
        raise VidsslError(f"knn_probe: got k = {k}; at least 1")

    def predict(train: Tensor, labels: Labels, groups: NDArray[np.int64], test: Tensor) -> Tensor:
        scaler = Scaler.fit(train)
        unit = [torch.nn.functional.normalize(scaler(x), dim=1) for x in (test, train)]
        near = (unit[0] @ unit[1].T).topk(min(k, len(train)), dim=1)
        votes = torch.nn.functional.one_hot(torch.as_tensor(labels.numbers)[near.indices], len(labels.classes))
        nearness = (votes * near.values[..., None]).sum(dim=1) / (4 * k)  # within ±1/4: decides ties only
        return (votes.sum(dim=1) + nearness).argmax(dim=1)

    return _classify(predict, features, labels, groups, folds, seeds)


def compare(a: ProbeResult, b: ProbeResult) -> Bootstrap:
    """Accuracy of a minus that of b on the same items and folds, with a 95 % interval over resampled groups.

    Either may hold more seeds than the other (several random encoders): scores are paired by item.

    Raises:
        VidsslError: the two were not measured on the same items and groups.
    """
    return Bootstrap.of(a.mean - b.mean, drawn_lead(a, b))


def drawn_lead(a: ProbeResult, b: ProbeResult) -> NDArray[np.float64]:
    """[RESAMPLES] what `compare` compares, in each resample of the groups."""
    if not (np.array_equal(a.labels, b.labels) and np.array_equal(a.groups, b.groups)):
        raise VidsslError(
            "compare: the two probes have other items or groups; probe both on the same labels and groups"
        )
    return group_means(a.item_scores - b.item_scores, a.groups)


def part(pooled: ProbeResult, rows: slice) -> ProbeResult:
    """Some of the seeds alone, e.g. those of one of the networks that `pool` made one result of."""
    labels = Labels(pooled.labels, pooled.classes)
    return _result(pooled.predictions[rows], pooled.scores[rows], labels, pooled.groups)


def pool(results: Sequence[ProbeResult]) -> ProbeResult:
    """One result from several of the same items, e.g. of several random encoders: their predictions are further seeds.

    Raises:
        VidsslError: nothing given, or the results differ in items or groups.
    """
    if not results:
        raise VidsslError("pool: no results given")
    first = results[0]
    for other in results[1:]:
        compare(first, other)  # raises when they are not of the same items
    labels = Labels(first.labels, first.classes)
    predictions = np.concatenate([result.predictions for result in results])
    return _result(predictions, np.concatenate([result.scores for result in results]), labels, first.groups)


def _classify(
    predict: Predict,
    features: Features,
    labels: ArrayLike,
    groups: Groups,
    folds: int,
    seeds: Sequence[int],
) -> ProbeResult:
    """Out-of-fold predictions of `predict` for every seed."""
    x = check_features(features)
    members = check_groups(groups, len(x), folds)
    known = check_labels(labels, members)
    if not seeds:
        raise VidsslError("probe: no seeds given; one at least, e.g. (0, 1, 2)")
    predictions = np.empty((len(seeds), len(x)), dtype=np.int64)
    accuracy = np.empty((len(seeds), folds))
    with threads_for(x):
        for row, seed in enumerate(seeds):
            fold = label_folds(known.numbers, members, folds, seed)
            for number in range(folds):
                train, test = fold != number, fold == number
                seen = Labels(known.numbers[train], known.classes)
                predictions[row, test] = predict(x[train], seen, members[train], x[test])
                accuracy[row, number] = (predictions[row, test] == known.numbers[test]).mean()
    return _result(predictions, accuracy, known, members)


def _result(
    predictions: NDArray[np.int64], accuracy: NDArray[np.float64], labels: Labels, groups: NDArray[np.int64]
) -> ProbeResult:
    right = predictions == labels.numbers
    over_groups = group_bootstrap(right.mean(axis=0), groups)
    recalls = [right[:, labels.numbers == number].mean() for number in range(len(labels.classes))]
    return ProbeResult(
        mean=over_groups.mean,
        stderr=over_groups.stderr,
        scores=accuracy,
        balanced=float(np.mean(recalls)),
        chance=float(np.bincount(labels.numbers).max() / len(labels.numbers)),
        predictions=predictions,
        labels=labels.numbers,
        groups=groups,
        classes=labels.classes,
    )


def _linear_predictions(train: Tensor, labels: Labels, groups: NDArray[np.int64], test: Tensor) -> Tensor:
    """Select C on the training items, refit on all of them, predict class numbers [m] of the test items."""
    basis = Basis.fit(train, test)
    y, classes = torch.as_tensor(labels.numbers), len(labels.classes)
    groups = inner_groups(groups)
    inner = label_folds(labels.numbers, groups, min(INNER_FOLDS, len(np.unique(groups))), seed=0)
    best = likeliest_strength(basis, y, classes, inner)
    weights = fit_softmax(basis, y, classes, rows=torch.ones(1, len(y)).to(train), strengths=best)
    return scores(with_ones(basis.test), weights[0])[0].argmax(dim=-1)
