"""Self-labelling: clusters that are there are found, confident items are chosen, labels are judged by hand."""

import numpy as np
import pytest
import torch

from vidssl.errors import VidsslError
from vidssl.self_label import Round, _head, adjusted, agreement, cluster, confident, long_tailed, self_label


def blobs(sizes: list[int], spread: float, views: int = 3, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """features [n,V,16] about orthogonal centres, truth [n]: views differ as items of a class do."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = 4 * np.eye(16)[: len(sizes)]
    items = centres[truth] + spread * rng.normal(size=(len(truth), 16))
    seen = items[:, None] + spread * rng.normal(size=(len(truth), views, 16))
    return torch.from_numpy(seen).float(), truth


@pytest.mark.parametrize(("adjust", "join"), [(0.0, 1), (1.0, 4)])
def test_separate_classes_are_labelled_without_error(adjust: float, join: int) -> None:
    features, truth = blobs([40, 40, 40], spread=0.3)
    rounds = self_label(features, 3, rounds=1, adjust=adjust, join=join)
    assert len(rounds) == 2
    for result in rounds:
        assert agreement(result.labels, truth).accuracy == 1.0
        assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
    assert rounds[0].kept.sum() == pytest.approx(0.6 * 120, abs=3)


def test_a_head_corrects_labels_it_did_not_learn_from() -> None:
    features, truth = blobs([60, 60, 60], spread=0.8)
    wrong = np.random.default_rng(0).random(180) < 0.25
    labels = np.where(wrong, (truth + 1) % 3, truth)
    chances = _head(features, Round(labels, np.where(wrong, 0.1, 0.9), ~wrong), classes=3, seed=0).numpy()
    assert chances.sum(axis=1) == pytest.approx(np.ones(180))
    assert (chances.argmax(axis=1) == truth)[wrong].mean() > 0.95


def test_a_large_class_is_cut_by_k_means_and_kept_whole_by_joining() -> None:
    scores = np.empty((3, 2))
    for seed in range(3):
        features, truth = blobs([300, 30, 20], spread=0.5, seed=seed)
        x = features.mean(dim=1).double().numpy()
        scores[seed] = [agreement(cluster(x, 3, join, seed)[0], truth).balanced for join in (1, 5)]
    assert (scores[:, 0] < 0.6).all()
    assert (scores[:, 1] > 0.99).all()


def test_confident_items_by_hand() -> None:
    sure = np.array([0.9, 0.1, 0.7, 0.6, 0.5])
    assert np.flatnonzero(confident(sure, 0.4)).tolist() == [0, 2]
    assert np.flatnonzero(confident(sure, 0.41)).tolist() == [0, 2, 3]
    assert confident(sure, 1.0).all()


def test_adjustment_by_hand() -> None:
    # shares 0.8 and 0.2; to the power 1/2 their ratio is 2, so odds of 3 : 2 become 3 : 4
    found = adjusted(np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([0, 0, 0, 0, 1]), 0.5)
    assert found == pytest.approx(np.array([[3 / 7, 4 / 7], [9 / 11, 2 / 11]]))
    assert adjusted(np.array([[0.7, 0.3]]), np.array([0, 0, 1]), 0.0) == pytest.approx(np.array([[0.7, 0.3]]))


def test_agreement_by_hand() -> None:
    # label 7 holds 6 a and 1 b, label 2 holds 2 a and 1 b: a -> 7, b -> 2 gives (6 + 1) / 10, recalls 6/8 and 1/2
    labels = np.array([7] * 7 + [2] * 3)
    truth = ["a"] * 6 + ["b"] + ["a"] * 2 + ["b"]
    found = agreement(labels, truth)
    assert found.accuracy == pytest.approx(0.7)
    assert found.balanced == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert agreement(np.array([1, 1, 0, 0]), ["x", "x", "y", "y"]).nmi == pytest.approx(1)
    with pytest.raises(VidsslError, match="2 labels for 1 items"):
        agreement(np.array([0, 1]), ["a"])


def test_a_tail_by_hand() -> None:
    truth = ["a"] * 90 + ["b"] * 90 + ["c"] * 100
    part = long_tailed(truth, 9.0, seed=1)
    counts = sorted([truth[item] for item in part].count(name) for name in "abc")
    assert counts == [10, 30, 90]  # 90, 90 / 3, 90 / 9
    assert part == sorted(set(part))
    assert part == long_tailed(truth, 9.0, seed=1)
    orders = {tuple(sorted("abc", key=[truth[i] for i in long_tailed(truth, 9.0, seed)].count)) for seed in range(8)}
    assert len(orders) > 1
    with pytest.raises(VidsslError, match=r"ratio of 0.5"):
        long_tailed(truth, 0.5, seed=0)


def test_labels_are_a_function_of_features_and_seed() -> None:
    features, _ = blobs([30, 30], spread=1.0)
    one, other = (self_label(features, 2, rounds=1, seed=3)[-1] for _ in range(2))
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.confidence, other.confidence)


def test_wrong_input_is_answered() -> None:
    features, _ = blobs([10, 10], spread=1.0)
    for arguments, words in [
        ((features[:, 0], 2), r"expected finite features \[n,V,d\]"),
        ((features * torch.nan, 2), "finite"),
        ((features, 1), "got 1 classes"),
        ((features, 2, -1), "-1 rounds"),
        ((features, 2, 1, 0.0), "keep 0.0"),
        ((features, 2, 1, 0.5, 2.0), "adjust 2.0"),
        ((features, 2, 1, 0.5, 1.0, 0), "join 0"),
        ((features, 5), "20 items are too few for 5 classes; 25"),
    ]:
        with pytest.raises(VidsslError, match=words):
            self_label(*arguments)
