"""Target networks, the queue of keys, and the numbers that tell collapse."""

import math

import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor, nn

from vidssl.core import world
from vidssl.core.ema import cosine_momentum, ema_, target_of
from vidssl.core.monitor import effective_rank, health, measured, measuring, spread
from vidssl.core.queue import Queue
from vidssl.errors import VidsslError


def test_a_target_follows_by_hand() -> None:
    source = nn.Linear(1, 1)
    target = target_of(source)
    with torch.no_grad():
        source.weight.fill_(3.0)
        target.weight.fill_(1.0)
    ema_(target, source, 0.75)
    assert target.weight.item() == 1.5  # 0.75 * 1 + 0.25 * 3
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert source.weight.item() == 3.0


def test_targets_of_many_parameters_follow_one_by_one() -> None:
    torch.manual_seed(0)
    source = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Linear(5, 1000))
    target = target_of(nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Linear(5, 1000)))
    expected = [
        mine.lerp(theirs, 1 - 0.99) for mine, theirs in zip(target.parameters(), source.parameters(), strict=True)
    ]
    ema_(target, source, 0.99)
    assert all(torch.equal(*pair) for pair in zip(target.parameters(), expected, strict=True))
    ema_(nn.Identity(), nn.Identity(), 0.99)
    with pytest.raises(RuntimeError):
        ema_(target, source[0], 0.99)


def test_momentum_rises_to_one() -> None:
    assert cosine_momentum(0.9, 0.0) == pytest.approx(0.9)
    assert cosine_momentum(0.9, 0.5) == pytest.approx(0.95)
    assert cosine_momentum(0.9, 1.0) == 1.0


def test_queue_overwrites_the_oldest() -> None:
    queue = Queue(4, 2)
    assert queue.labels.tolist() == [-1] * 4
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(4))
    for number in (1.0, 2.0, 3.0):
        queue.push(torch.full((2, 2), number), torch.tensor([1, 2]))
    assert queue.keys[:, 0].tolist() == [3.0, 3.0, 2.0, 2.0]
    queue.push(torch.arange(6.0)[:, None].expand(6, 2), 10 * torch.arange(6))  # more than it holds: the last four
    assert sorted(queue.keys[:, 0].tolist()) == [2.0, 3.0, 4.0, 5.0]
    assert queue.labels.tolist() == [10 * int(key) for key in queue.keys[:, 0]]
    with pytest.raises(VidsslError, match="got size 0"):
        Queue(0, 2)


def push_on_a_rank() -> Tensor:
    torch.manual_seed(0)
    queue = Queue(4, 1)
    queue.push(torch.tensor([[10.0 * world()[0]], [10.0 * world()[0] + 1]]), torch.zeros(2, dtype=torch.long))
    return queue.keys[:, 0]


def test_queues_of_all_ranks_hold_all_keys_in_rank_order() -> None:
    assert [keys.tolist() for keys in run_on_ranks(push_on_a_rank, 2)] == [[0.0, 1.0, 10.0, 11.0]] * 2


def test_effective_rank_by_hand() -> None:
    corners = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert float(effective_rank(corners)) == pytest.approx(2.0)  # two equal singular values
    assert float(effective_rank(corners[:2])) == pytest.approx(1.0)
    assert float(effective_rank(torch.ones(5, 3))) == 0.0
    uneven = corners * torch.tensor([3.0, 1.0, 0.0])  # shares 3/4 and 1/4
    assert float(effective_rank(uneven)) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))
    assert math.isnan(float(effective_rank(torch.full((3, 2), math.nan))))


def test_many_rows_are_thinned_and_wide_ones_agree_with_their_transpose() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(20, 300, generator=generator)
    singular = torch.linalg.svdvals((wide - wide.mean(0)).double())
    share = singular / singular.sum()
    assert float(effective_rank(wide)) == pytest.approx(float(torch.special.entr(share).sum().exp()), rel=1e-5)
    assert float(effective_rank(torch.randn(5000, 200, generator=generator))) < 128


def test_spread_by_hand_and_health() -> None:
    opposite = torch.tensor([[2.0, 0], [-1, 0]])
    assert float(spread(opposite)) == 1.0
    assert float(spread(torch.ones(2, 3, 4))) == pytest.approx(0.0, abs=1e-6)
    numbers = health(opposite, torch.ones(2, 3))
    assert sorted(numbers) == [
        *("embedding_rank", "embedding_scale", "embedding_spread", "feature_rank", "feature_spread")
    ]
    assert float(numbers["embedding_scale"]) == pytest.approx(0.0, abs=1e-6)
    assert float(numbers["embedding_spread"]) == pytest.approx(0.0, abs=1e-6)
    assert float(numbers["feature_spread"]) == 1.0


def test_what_costs_time_can_be_left_out() -> None:
    features = torch.randn(4, 3)
    with measuring(False):
        assert not measured()
        assert health(features, features) == {}
        with measuring(True):
            assert "feature_rank" in health(features)
        assert not measured()
    assert measured()
