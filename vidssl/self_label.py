"""Self-labelling: clusters of frozen features become pseudo-labels, confident ones teach the next round's.

n items, V views of each (windows, augmentations), d feature dim, K classes.

    features [n,V,d] ──k-means──> labels, confidence ──┬──> keep the confident ──> head on all their views ──┐
                                                       └──── over class shares <──── mean of its softmax <───┘  rounds

A head that must say the same about every view of an item labels better than the clusters it learned from (Van
Gansbeke et al. 2020, SCAN, section 2.3; here on frozen features). Classes of unequal size break both steps: k-means
cuts a large class in two and joins small ones, and from round to round the large ones swallow the small. Against it:

 adjust  a head's probabilities are divided by the kept pseudo-classes' shares to this power before they decide on
         labels and on what is kept next (post-hoc logit adjustment, Menon et al. 2021, section 4.1; 0 does nothing)
 join    so many small clusters a class are joined bottom-up by Ward's distance between their centres, each counted
         once: a large class is many near centres, a small one a few, and both become one (1 is plain k-means)

Which one helps depends on the data. Balanced accuracy after 3 rounds, with features of two long-tailed sets:

                                             neither   adjust 1   join 5   join 5, adjust 1/2
    digits, pixels, 10 classes, 20 : 1         0.536      0.505    0.575                0.573
    physics videos (seed 1), 6 classes, 10:1   0.430      0.479    0.371                0.421

(6 and 8 draws of the tail, standard errors 0.01 to 0.02.) Keeping the same share of every pseudo-class and drawing all
equally often does as adjust 1 does: 0.505 and 0.473.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.errors import VidsslError

FEWEST = 5  # items a class
COMPONENTS = 64  # principal axes that are clustered
STEPS, BATCH, RATE, HIDDEN, DROPOUT = 300, 256, 2e-3, 256, 0.5  # of the head's training

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Round:
    """The pseudo-labels after a round.

    Attributes:
        labels: [n] in 0 … K-1.
        confidence: [n] in [0, 1]: of the clusters 1 - distance to the nearest over that to the second, of a head the
            largest probability.
        kept: [n] whether the next round learns from the item.
    """

    labels: Labels
    confidence: NDArray[np.float64]
    kept: NDArray[np.bool_]


def self_label(
    features: Tensor,
    classes: int,
    rounds: int = 3,
    keep: float = 0.6,
    adjust: float = 1.0,
    join: int = 1,
    seed: int = 0,
) -> list[Round]:
    """Pseudo-labels of every round; the first are those of the clusters.

    Args:
        features: float [n,V,d].
        classes: K, at least 2.
        rounds: heads trained after the clusters, 0 or more.
        keep: share of the items a head learns from, in (0, 1].
        adjust: power of the logit adjustment, 0 to 1.
        join: small clusters a class, 1 or more.
        seed: of k-means and the heads.

    Returns:
        rounds + 1 results.

    Raises:
        VidsslError: shapes or numbers that don't fit, NaN features, or too few items.
    """
    if features.ndim != 3 or not torch.isfinite(features).all():
        raise VidsslError(f"self_label: expected finite features [n,V,d], got shape {tuple(features.shape)}")
    if classes < 2 or rounds < 0 or not 0 < keep <= 1:
        raise VidsslError(
            f"self_label: got {classes} classes, {rounds} rounds, keep {keep}; at least 2, 0, and over 0 to 1"
        )
    if not 0 <= adjust <= 1 or join < 1:
        raise VidsslError(f"self_label: got adjust {adjust}, join {join}; 0 to 1, and at least 1")
    if len(features) < (least := max(FEWEST, join) * classes):
        raise VidsslError(f"self_label: {len(features)} items are too few for {classes} classes; {least} at the least")
    x = (features - features.mean(dim=(0, 1))) / features.std(dim=(0, 1)).clamp_min(1e-6)
    labels, confidence = cluster(x.mean(dim=1).double().numpy(), classes, join, seed)
    found = [Round(labels, confidence, confident(confidence, keep))]
    for number in range(rounds):
        last = found[-1]
        chances = _head(x, last, classes, seed + number).double().numpy()
        chances = adjusted(chances, last.labels[last.kept], adjust)
        labels, confidence = chances.argmax(axis=1), chances.max(axis=1)
        found.append(Round(labels, confidence, confident(confidence, keep)))
    return found


def cluster(x: NDArray[np.float64], classes: int, join: int, seed: int) -> tuple[Labels, NDArray[np.float64]]:
    """K clusters of rows [n,d] by direction in their principal axes: labels [n] and confidence [n]."""
    from sklearn.cluster import AgglomerativeClustering, KMeans
    from sklearn.decomposition import PCA

    z = PCA(min(COMPONENTS, *x.shape), random_state=seed).fit_transform(x)
    z /= np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
    centres = KMeans(join * classes, n_init=10, random_state=seed).fit(z).cluster_centers_
    member = AgglomerativeClustering(classes).fit_predict(centres) if join > 1 else np.arange(classes)
    far = np.linalg.norm(z[:, None] - centres, axis=2)  # [n,M]
    far = np.stack([far[:, member == k].min(axis=1) for k in range(classes)], axis=1)  # [n,K]
    nearest = np.sort(far, axis=1)
    return far.argmin(axis=1), 1 - nearest[:, 0] / nearest[:, 1].clip(1e-12)


def confident(confidence: NDArray[np.float64], keep: float) -> NDArray[np.bool_]:
    """[n] the `keep` share of highest confidence, rounded up."""
    kept = np.zeros(len(confidence), bool)
    kept[np.argsort(-confidence, kind="stable")[: int(np.ceil(keep * len(confidence)))]] = True
    return kept


def adjusted(chances: NDArray[np.float64], learned: Labels, power: float) -> NDArray[np.float64]:
    """Probabilities [n,K] over the shares that the K classes have in `learned` to a power; rows add up to 1."""
    count = np.bincount(learned, minlength=chances.shape[1]).clip(1)
    raised = chances / (count / count.sum()) ** power
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _head(x: Tensor, last: Round, classes: int, seed: int) -> Tensor:
    """Probabilities [n,K] of a head trained on the kept items, averaged over the views."""
    rows = torch.from_numpy(np.flatnonzero(last.kept))
    labels = torch.from_numpy(last.labels)[rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Sequential(
            torch.nn.Linear(x.shape[2], HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(HIDDEN, classes),
        )
        optimiser = torch.optim.AdamW(head.parameters(), RATE, weight_decay=1e-2)
        for _ in range(STEPS):
            drawn = torch.randint(len(rows), (BATCH,))
            view = torch.randint(x.shape[1], (BATCH,))
            loss = torch.nn.functional.cross_entropy(head(x[rows[drawn], view]), labels[drawn])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.inference_mode():
            head.eval()
            return torch.stack([head(view).softmax(dim=1) for view in x.unbind(1)]).mean(dim=0)


# Judging, where the classes are known


@dataclass(frozen=True)
class Agreement:
    """How well labels without names agree with known classes.

    Attributes:
        accuracy: share of items in the class that their label stands for; of the one-to-one assignments of labels to
            classes it is the one with the highest share (Hungarian method).
        balanced: mean over classes of the share of their items with their label; assigned for the highest mean.
        nmi: normalised mutual information (arithmetic mean of the entropies).
    """

    accuracy: float
    balanced: float
    nmi: float


def agreement(labels: Labels, truth: Sequence[object] | NDArray[np.generic]) -> Agreement:
    """Compare labels [n] with known classes [n]."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
    from sklearn.metrics import normalized_mutual_info_score

    known = np.unique(np.asarray(truth), return_inverse=True)[1]
    if len(known) != len(labels) or len(known) == 0:
        raise VidsslError(f"agreement: {len(labels)} labels for {len(known)} items with a known class; one each")
    counts = np.zeros((int(labels.max()) + 1, int(known.max()) + 1))
    np.add.at(counts, (labels, known), 1)
    recalls = counts / counts.sum(axis=0)
    best, fair = linear_sum_assignment(-counts), linear_sum_assignment(-recalls)
    return Agreement(
        float(counts[best].sum() / len(labels)),
        float(recalls[fair].sum() / recalls.shape[1]),
        float(normalized_mutual_info_score(known, labels)),
    )


def long_tailed(truth: Sequence[str], ratio: float, seed: int) -> list[int]:
    """Which items make a labelled set long-tailed: class r of K keeps the share ratio^(-r / (K - 1)), in random order.

    The rule of Cui et al. 2019 (class-balanced loss), section 5.1, `ratio` being the largest over the smallest class.

    Args:
        truth: n classes.
        ratio: at least 1.
        seed: of the order of the classes and of which items stay.
    """
    classes = sorted(set(truth))
    if ratio < 1 or len(classes) < 2:
        raise VidsslError(f"long_tailed: got a ratio of {ratio} and {len(classes)} classes; at least 1 and 2")
    rng = np.random.default_rng(seed)
    names = np.asarray(truth)
    kept: list[int] = []
    most = min(int((names == name).sum()) for name in classes)
    for rank, number in enumerate(rng.permutation(len(classes))):
        items = np.flatnonzero(names == classes[number])
        kept += rng.choice(items, max(1, round(most * ratio ** (-rank / (len(classes) - 1)))), replace=False).tolist()
    return sorted(kept)
