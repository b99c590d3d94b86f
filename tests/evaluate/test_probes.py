"""Probes on features whose answer is known, and on input that must be refused."""

import numpy as np
import pytest
import torch
from rich.console import Console

from vidssl.errors import VidsslError
from vidssl.evaluate.arms import Row
from vidssl.evaluate.folds import group_folds, label_folds
from vidssl.evaluate.probes import compare, knn_probe, linear_probe, pool
from vidssl.evaluate.ridge import compare_ridge, pool_ridge, ridge_r2
from vidssl.evaluate.tables import target_table, widest

PROBES = [linear_probe, knn_probe]


def sources(n_groups: int = 12, each: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """labels [n], groups [n]: both classes in every group."""
    return (
        np.tile(["no", "yes"], n_groups * each // 2),
        np.repeat(np.arange(n_groups), each),
        np.random.default_rng(seed),
    )


@pytest.mark.parametrize("probe", PROBES)
def test_separable_features_are_told_apart(probe) -> None:
    labels, groups, rng = sources()
    x = rng.normal(size=(72, 5)) + 6 * (labels == "yes")[:, None]
    result = probe(x, labels, groups)
    assert result.mean == 1
    assert result.balanced == 1
    assert result.stderr == 0
    assert result.chance == 0.5
    assert result.scores.shape == (3, 5)
    assert result.predictions.shape == (3, 72)
    assert result.classes == ("no", "yes")


@pytest.mark.parametrize("probe", PROBES)
def test_source_fingerprints_do_not_help(probe) -> None:
    """Groups of one class, features that name the group: a split by clip would give 1.0, ours must give chance."""
    groups = np.repeat(np.arange(20), 5)
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat([0, 1], 10))[groups]
    x = rng.normal(size=(20, 30))[groups] + 0.01 * rng.normal(size=(100, 30))
    honest = probe(x, labels, groups, k=3) if probe is knn_probe else probe(x, labels, groups)
    leaking = probe(x, labels, k=3) if probe is knn_probe else probe(x, labels)
    assert leaking.mean > 0.98
    assert honest.mean < 0.75
    assert honest.stderr > 0.05


@pytest.mark.parametrize("probe", PROBES)
def test_constant_and_wide_features_are_handled(probe) -> None:
    labels, groups, rng = sources()
    assert probe(np.ones((72, 4)), labels, groups).mean == pytest.approx(0.5, abs=0.1)
    x = rng.normal(size=(72, 2000)).astype(np.float32)
    x[:, :40] += 1.5 * (labels == "yes")[:, None]
    result = probe(torch.from_numpy(x), labels, groups)
    assert result.mean > 0.6


def test_scaling_and_rotating_features_changes_nothing_for_the_linear_probe() -> None:
    labels, groups, rng = sources()
    x = rng.normal(size=(72, 6)) + (labels == "yes")[:, None]
    scaled = 1000 * x * rng.uniform(0.1, 10, 6) + 7
    assert np.array_equal(linear_probe(x, labels, groups).predictions, linear_probe(scaled, labels, groups).predictions)


def test_knn_is_a_majority_vote_with_ties_to_the_nearer() -> None:
    # Opposite directions, +x is "b" and -x is "a"; 6 training items, 3 of each class. With k = 4 the own class gives
    # three at cosine 1, the other one at -1. With k = 6 the votes tie at 3 : 3, and nearness decides.
    labels, groups = np.array(["a", "b"] * 4), np.repeat(np.arange(4), 2)
    x = np.array([[-1.0], [1.0]] * 4)
    for k in (1, 4, 6):
        assert knn_probe(x, labels, groups, folds=4, seeds=(0,), k=k).mean == 1.0
    far = np.where(labels == "b", 1.0, -1.0) * np.array([1, 1, 1, 1, 1, 1, -1, 1])  # one "a" among the "b"s
    wrong = knn_probe(far[:, None], labels, groups, folds=4, seeds=(0,), k=3).predictions[0] != (labels == "b")
    assert wrong.tolist() == [False] * 6 + [True, False]  # outvoted everywhere, and itself taken for a "b"


def test_more_than_two_classes_and_seeds() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(4), 24)
    x = rng.normal(size=(96, 8)) + 3 * np.eye(8)[labels]
    result = linear_probe(x, labels, np.repeat(np.arange(24), 4), folds=4, seeds=(5, 6))
    assert result.mean > 0.8
    assert result.scores.shape == (2, 4)
    assert result.mean == pytest.approx((result.predictions == labels).mean())
    assert (result.predictions[0] != result.predictions[1]).any()  # the folds differ between seeds


def test_compare_is_paired_and_pool_averages() -> None:
    labels, groups, rng = sources()
    x = rng.normal(size=(72, 5)) + 1.0 * (labels == "yes")[:, None]
    good, bad = linear_probe(x, labels, groups), linear_probe(rng.normal(size=(72, 5)), labels, groups)
    lead = compare(good, bad)
    assert lead.mean == pytest.approx(good.mean - bad.mean)
    assert lead.low < lead.mean < lead.high
    assert lead.low > 0
    same = compare(good, good)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    both = pool([good, bad])
    assert both.mean == pytest.approx((good.mean + bad.mean) / 2)
    assert both.predictions.shape == (6, 72)
    with pytest.raises(VidsslError, match="other items"):
        compare(good, linear_probe(x, labels, groups[::-1]))


@pytest.mark.parametrize("probe", PROBES)
def test_bad_input_is_refused(probe) -> None:
    labels, groups, rng = sources()
    x = rng.normal(size=(72, 3))
    broken = x.copy()
    broken[4, 1] = np.nan
    cases = [
        ((broken, labels, groups), "1 of 72 items have NaN"),
        ((x, labels[:5], groups), "72 labels"),
        ((x, labels, groups[:5]), "72 items but 5 groups"),
        ((x, np.zeros(72), groups), "two classes"),
        ((x, labels, groups // 4), "3 groups can't make 5"),
        ((x, np.where(groups == 0, "rare", "common"), groups), "class rare occurs in one group"),
        ((x[:, 0], labels, groups), r"got shape \(72,\)"),
    ]
    for arguments, message in cases:
        with pytest.raises(VidsslError, match=message):
            probe(*arguments)
    with pytest.raises(VidsslError, match="no seeds"):
        probe(x, labels, groups, seeds=())
    with pytest.raises(VidsslError, match="k = 0; at least 1"):
        knn_probe(x, labels, groups, k=0)


def test_neighbours_where_one_group_is_most_of_the_data() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), [60, 2, 2, 2, 2])
    labels = np.array(["yes", "no"] * 34)
    x = rng.normal(size=(68, 3)) + 4.0 * (labels == "yes")[:, None]
    assert knn_probe(x, labels, groups).mean > 0.7  # in one fold 8 items are left to learn from, fewer than k


def test_two_folds_may_leave_one_group_to_choose_by() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), [30, 30, 30])
    labels = np.array(["yes", "no"] * 45)
    x = rng.normal(size=(90, 3)) + 3.0 * (labels == "yes")[:, None]
    assert linear_probe(x, labels, groups, folds=2).mean > 0.9
    told = ridge_r2(x, (labels == "yes").astype(float), groups, folds=2)
    assert np.mean(told.mean) > 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_are_disjoint_in_groups_and_complete(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 15, 100)
    labels = rng.integers(0, 2, 100)
    for fold in (label_folds(labels, groups, 4, seed), group_folds(groups, 4, seed)):
        assert set(fold) == {0, 1, 2, 3}
        assert all(len(set(fold[groups == group])) == 1 for group in set(groups))


def test_no_fold_is_empty() -> None:
    """Of these groups scikit-learn's stratified splitter leaves a fold empty."""
    groups = np.repeat(np.arange(5), [15, 3, 2, 2, 4])
    labels = np.array([int(label) for label in "10111110011100101011000111"])
    fold = label_folds(labels, groups, 5, 0)
    assert set(fold) == {0, 1, 2, 3, 4}
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))


def test_ridge_finds_linear_targets_and_only_those() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 5)
    x = rng.normal(size=(100, 8))
    targets = np.stack([x @ rng.normal(size=8), 100 * rng.normal(size=100)], axis=1)
    result = ridge_r2(x, targets, groups)
    assert result.per_target[0] > 0.99
    assert -0.3 < result.per_target[1] < 0.1
    assert result.scores.shape == (3, 2)
    assert result.mean == pytest.approx(result.per_target.mean())
    assert 0 < result.stderr < 0.3
    assert pool_ridge([result, result]).mean == pytest.approx(result.mean)
    assert ridge_r2(x, targets[:, 0]).mean > 0.99


def test_ridge_of_constant_features_is_no_better_than_the_mean() -> None:
    rng = np.random.default_rng(0)
    result = ridge_r2(np.ones((40, 3)), rng.normal(size=40))
    assert -0.2 < result.mean <= 0


def test_ridge_refuses_bad_targets() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(VidsslError, match="one value only"):
        ridge_r2(x, np.ones(20))
    with pytest.raises(VidsslError, match="20 items"):
        ridge_r2(x, np.ones(19))
    with pytest.raises(VidsslError, match="NaN"):
        ridge_r2(x, np.full(20, np.nan))
    with pytest.raises(VidsslError, match="infinity"):
        ridge_r2(x, np.full(20, np.inf))
    few = np.where(np.arange(20) < 4, np.arange(20), np.nan)
    with pytest.raises(VidsslError, match=r"target 0 is known for 4 items only: .* 4 groups can't make 5"):
        ridge_r2(x, few)


def test_an_unknown_target_is_probed_on_the_items_that_have_it() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 5)
    x = rng.normal(size=(100, 8))
    full, part = x @ rng.normal(size=8) + rng.normal(size=100), x @ rng.normal(size=8) + rng.normal(size=100)
    known = rng.random(100) < 0.6
    both = ridge_r2(x, np.stack([full, np.where(known, part, np.nan)], axis=1), groups)
    assert both.per_target[0] == pytest.approx(ridge_r2(x, full, groups).mean)
    assert both.per_target[1] == pytest.approx(ridge_r2(x[known], part[known], groups[known]).mean)
    assert np.isnan(both.errors[0, :, 1]).tolist() == (~known).tolist()
    assert 0 < both.stderr < 0.2


def test_comparison_of_r2_is_paired() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 5)
    x = rng.normal(size=(100, 8))
    y = x @ rng.normal(size=8) + rng.normal(size=100)
    y[::7] = np.nan
    good, bad = ridge_r2(x, y, groups), ridge_r2(rng.normal(size=(100, 8)), y, groups, seeds=(0, 1))
    lead = compare_ridge(good, bad)
    assert lead.mean == pytest.approx(good.mean - bad.mean)
    assert lead.low < lead.mean < lead.high
    assert lead.low > 0.3
    same = compare_ridge(good, good)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    with pytest.raises(VidsslError, match="other items, targets or groups"):
        compare_ridge(good, ridge_r2(x, y + 1e-3 * rng.normal(size=100), groups))


def test_a_unit_that_fires_on_test_items_only_cannot_ruin_r2() -> None:
    """Feature 1 is silent but for a whisper in one group and a shout in another: R² stays what feature 0 gives."""
    generator = np.random.default_rng(0)
    signal = generator.normal(size=60)
    whisper = np.zeros(60)
    whisper[0:6], whisper[54:60] = 1e-3 * generator.normal(size=6), 1e3
    groups = np.repeat(np.arange(10), 6)
    target = signal + 0.1 * generator.normal(size=60)
    alone = ridge_r2(signal[:, None], target, groups).mean
    both = ridge_r2(np.stack([signal, whisper], axis=1), target, groups).mean
    assert alone > 0.95
    assert abs(both - alone) < 0.1


def test_a_table_of_many_targets_keeps_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    names = [f"target number {k}" for k in range(9)]
    ridge = ridge_r2(rng.normal(size=(20, 2)), rng.normal(size=(20, 9)), seeds=(0,))
    table = target_table([Row(name, 2, 1.0, None, None, ridge) for name in ("mine", "frame differences")], names)
    Console(width=widest(table)).print(table)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("mine", "frame differences", *names))
