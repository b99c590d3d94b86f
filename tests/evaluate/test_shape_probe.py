"""The probe of kinds: separable features are told apart, noise is not, objects stay apart; statistics by hand."""

import numpy as np
import pytest
import roma
import torch
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.evaluate.shape_probe import Views, shape_distances, shape_moments, shape_probe


def views(objects: int, told: float, seed: int, first: int = 0) -> Views:
    """Three views of each object, of two kinds in turn; the first feature is the kind times `told`, plus noise."""
    kinds = [("can", "mug")[(first + index) % 2] for index in range(objects) for _ in range(3)]
    noise = torch.randn(3 * objects, 4, generator=torch.Generator().manual_seed(seed))
    noise[:, 0] += told * torch.tensor([kind == "mug" for kind in kinds])
    return Views(noise, kinds, [f"thing {first + index}" for index in range(objects) for _ in range(3)])


def test_kinds_that_features_tell_are_found_and_others_not() -> None:
    told = shape_probe(views(20, 5.0, seed=0), views(20, 5.0, seed=1, first=20))
    assert told.accuracy.mean == told.right.mean() > 0.95  # half the distance, 2.5 deviations, is missed by 0.6%
    assert told.chance == 0.5
    noise = shape_probe(views(20, 0.0, seed=0), views(20, 0.0, seed=1, first=20))
    assert noise.accuracy.low < 0.5 < noise.accuracy.high
    assert abs(noise.balanced - noise.right.mean()) < 1e-12  # as many of each kind


def test_the_interval_resamples_objects_not_views() -> None:
    """All views of an object right or all wrong: the error is that of so many objects."""
    train = Views(torch.tensor([[0.0], [0.1], [1.0], [0.9]] * 5), ["a", "a", "b", "b"] * 5, [str(i) for i in range(20)])
    wrong = np.repeat(np.arange(20) % 4 == 0, 10)
    features = torch.from_numpy(np.where(wrong, 1.0, 0.0))[:, None]
    kinds = ["a"] * 200
    found = shape_probe(train, Views(features, kinds, [f"test {i // 10}" for i in range(200)]))
    assert found.accuracy.mean == 0.75
    assert found.accuracy.stderr == pytest.approx((0.75 * 0.25 / 20) ** 0.5, rel=0.05)


def test_mistakes_are_named() -> None:
    train, test = views(10, 1.0, seed=0), views(4, 1.0, seed=1, first=10)
    with pytest.raises(VidsslError, match=r"4 objects are in training and test, e\.g\. thing 0; split by object"):
        shape_probe(train, views(4, 1.0, seed=1))
    with pytest.raises(VidsslError, match="no training object is of kind jar; add some"):
        shape_probe(train, Views(test.features, ["jar"] * 12, test.objects))
    broken = test.features.clone()
    broken[3, 0] = float("nan")
    with pytest.raises(VidsslError, match="1 of 12 items have NaN"):
        shape_probe(train, Views(broken, test.kinds, test.objects))
    with pytest.raises(VidsslError, match="expected 12 kinds and objects"):
        shape_probe(train, Views(test.features, test.kinds[:3], test.objects))
    with pytest.raises(VidsslError, match=r"4 features in training, 3 in test"):
        shape_probe(train, Views(test.features[:, :3], test.kinds, test.objects))


def cloud(points: int = 400) -> Tensor:
    spread = torch.tensor([3.0, 2.0, 1.0])
    return torch.randn(2, points, 3, generator=torch.Generator().manual_seed(0)) * spread


def test_statistics_do_not_change_with_place_size_and_rotation() -> None:
    points = cloud()
    turn = roma.random_rotmat(generator=torch.Generator().manual_seed(1))
    other = 7 * points @ turn.mT + torch.tensor([0.0, 0.0, 9.0])
    torch.testing.assert_close(shape_moments(other), shape_moments(points), rtol=1e-3, atol=1e-4)
    assert (shape_distances(other) - shape_distances(points)).abs().sum(1).max() < 0.01  # pairs at a bin's edge


def test_d2_by_hand() -> None:
    """Two places, as many points at each: distance 0 for half of all pairs and 2, in units of the spread, for half."""
    points = torch.zeros(1, 64, 3)
    points[:, ::2, 0] = 2.0
    histogram = shape_distances(points, bins=8)[0]  # bins of half a unit: 2 is the lower edge of bin 4
    assert float(histogram.sum()) == pytest.approx(1.0)
    assert float(histogram[0]) == pytest.approx(0.5, abs=0.03)
    assert float(histogram[4]) == pytest.approx(0.5, abs=0.03)


def test_moments_by_hand() -> None:
    """A cross of 3 arms of lengths 3, 2, 1: covariance diag(9, 4, 1) / 3, divided by its trace 14 / 3."""
    arms = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]])
    found = shape_moments(arms.repeat(8, 1)[None])[0]
    torch.testing.assert_close(found[:3], (torch.tensor([9.0, 4, 1]) / 14).sqrt())
    torch.testing.assert_close(found[3:6], torch.zeros(3), atol=1e-5, rtol=0)  # it is its own mirror image
    torch.testing.assert_close(found[6:9], torch.full((3,), 3.0))  # a third of the points, at ±√3 deviations
    scale = (14 / 3) ** 0.5
    torch.testing.assert_close(found[9], torch.tensor(36 / 3 / scale**3))  # (27 + 8 + 1) / 3
    torch.testing.assert_close(found[10], torch.tensor(98 / 3 / scale**4))  # (81 + 16 + 1) / 3
