"""The rotation probe: what it can read, what it cannot, and R² by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.evaluate.rotation_probe import Pairs, canonical, group_pairs, judge, r2, rotation_probe
from vidssl.rotation.so3 import exp, random_rotations


def poses(groups: int, seed: int) -> Tensor:
    """[groups,3,3,3]: a base pose and two up to 60 degrees off."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.nn.functional.normalize(torch.randn(groups, 2, 3, generator=generator), dim=-1)
    turns = exp(axes * torch.rand(groups, 2, 1, generator=generator) * math.radians(60))
    base = random_rotations(groups, generator)[:, None]
    return torch.cat([base, turns @ base], dim=1)


def pairs(groups: int, seed: int, told: bool) -> Pairs:
    """Features are the pose itself (nine numbers), or noise."""
    pose = poses(groups, seed)
    features = pose.flatten(2) if told else torch.randn(groups, 3, 9, generator=torch.Generator().manual_seed(seed))
    return group_pairs(features, pose, torch.arange(groups) + 10_000 * seed, (0, 60))


def test_a_probe_reads_poses_and_no_noise() -> None:
    told = rotation_probe(pairs(700, 0, True), pairs(100, 1, True), epochs=12, lr=3e-3, hidden=128)
    assert told.r2_vector > 0.7
    assert told.median < 0.5 * told.still
    assert told.errors.shape == (len(pairs(100, 1, True).a),)
    noise = rotation_probe(pairs(200, 0, False), pairs(100, 1, False), epochs=2, hidden=32)
    assert noise.r2_quaternion < 0.1
    assert noise.r2_nine < 0.1


def test_r2_by_hand() -> None:
    """Column 0: errors 1 + 1 over deviations 2 + 2, 0.5; column 1: exact, 1."""
    truth = torch.tensor([[0.0, 1.0], [2.0, 5.0], [1.0, 3.0], [1.0 - 2**0.5, 0.0], [1.0 + 2**0.5, 1.0]])
    spread = float((truth[:, 0] - 1).square().sum())  # 1 + 1 + 0 + 2 + 2
    found = truth.clone()
    found[:2, 0] += 1
    assert spread == pytest.approx(6)
    assert r2(found, truth) == pytest.approx((1 - 2 / 6 + 1) / 2)
    assert r2(truth.mean(0).expand_as(truth), truth) == pytest.approx(0, abs=1e-6)


def test_judging_the_truth_and_no_rotation() -> None:
    rotation = exp(torch.tensor([[0.0, 0.0, 0.1], [0.2, 0.0, 0.0], [0.0, 0.4, 0.0]]))
    right = judge(2 * rotation.flatten(1), rotation)  # the scale goes with the SVD
    assert right.median < 0.01
    assert right.r2_quaternion == pytest.approx(1, abs=1e-4)
    still = judge(torch.eye(3).flatten().expand(3, 9), rotation)
    assert still.median == pytest.approx(math.degrees(0.2), abs=1e-3)
    assert still.median == pytest.approx(still.still, abs=1e-4)


def test_quaternions_are_canonical() -> None:
    quaternions = canonical(random_rotations(200, torch.Generator().manual_seed(0)))
    assert float(quaternions[:, 3].min()) >= 0
    torch.testing.assert_close(quaternions.norm(dim=1), torch.ones(200))


def test_pairs_of_a_group_go_both_ways_within_the_range() -> None:
    pose = exp(torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [0.5, 0, 0]]]))
    features = torch.arange(3.0).view(1, 3, 1)
    found = group_pairs(features, pose, [4], (0, 10))  # 0.1 rad is 5.7 degrees, the others are above 22
    assert [found.a.tolist(), found.b.tolist()] == [[0, 1], [1, 0]]
    torch.testing.assert_close(found.views[found.b].flatten(), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found.rotation[0], pose[0, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.rotation[1], pose[0, 1].mT, atol=1e-6, rtol=0)
    assert found.object.tolist() == [4, 4]


def test_refusals() -> None:
    good, other = pairs(20, 0, True), pairs(20, 1, True)
    with pytest.raises(VidsslError, match="20 objects are in the training and in the test pairs; split by object"):
        rotation_probe(good, good)
    with pytest.raises(VidsslError, match="the test features hold NaN or infinity"):
        rotation_probe(good, replace(other, views=other.views / 0))
    with pytest.raises(VidsslError, match=r"expected test views \[v,d\]"):
        rotation_probe(good, replace(other, views=other.views[:, :5]))
    with pytest.raises(VidsslError, match="no two views are 170 to 180 degrees apart; widen the range"):
        group_pairs(torch.zeros(5, 3, 1), poses(5, 0), torch.arange(5), (170, 180))
