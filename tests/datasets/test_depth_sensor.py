"""The noise model of a depth camera, part by part."""

import numpy as np
import pytest

from vidssl.datasets.depth_sensor import CLEAN, HARD, DepthSensor, fly, hidden, quantise
from vidssl.errors import VidsslError


def only(**parts: float) -> DepthSensor:
    return DepthSensor(**({"noise": 0.0, "dropout": 0.0, "stripe": 0.0} | parts))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def views(value: float = 0.8, count: int = 4) -> np.ndarray:
    """A square of returns in the middle of each view."""
    depth = np.zeros((count, 128, 128), np.float32)
    depth[:, 14:114, 14:114] = value
    return depth


def test_the_benchmarks_sensors() -> None:
    assert DepthSensor(noise=0.001, dropout=0.15, stripe=0.3, quantisation=0, flying=0, growth=0) == HARD
    depth = views()
    clean = CLEAN(depth, rng())
    np.testing.assert_array_equal(clean, depth)
    assert clean is not depth


def test_noise_has_the_stated_deviation_and_grows_with_the_square() -> None:
    seen = views() > 0
    off = only(noise=0.001)(views(), rng())[seen] - np.float32(0.8)
    assert abs(off.std() - 0.001) < 0.00003  # of 40,000 draws: 0.35% standard error
    assert abs(off.mean()) < 0.00003
    off = only(noise=0.001, growth=0.0005)(views(2.0), rng())[seen] - np.float32(2)
    assert abs(off.std() - 0.003) < 0.00009  # 0.001 + 0.0005 * 2 * 2
    assert (only(noise=10.0)(views(), rng()) >= 0).all()


def test_dropout_loses_its_share() -> None:
    lost = only(dropout=0.15)(views(), rng())
    assert abs((lost[views() > 0] == 0).mean() - 0.15) < 0.007
    np.testing.assert_array_equal(lost[lost > 0], np.float32(0.8))
    assert (only(dropout=1.0)(views(), rng()) == 0).all()


def test_disparity_steps_by_hand() -> None:
    # step 0.1 / m: 1 / 0.83 = 1.2048 -> 1.2 -> 0.8333; 1 / 4.1 = 0.2439 -> 0.2 -> 5; 1 / 25 = 0.04 -> 0: no return
    depths = np.array([0.83, 1 / 1.2, 4.1, 25.0, 0.0], np.float32)[None, None]
    steps = only(quantisation=0.1)(depths, rng())
    np.testing.assert_allclose(steps, [[[1 / 1.2, 1 / 1.2, 5.0, 0.0, 0.0]]], rtol=1e-6)
    # f = 600 px, b = 0.05 m, 1/8 px: 1/240 per metre, so about z^2 / 240 = 2.7 mm between depths at 0.8 m
    near = np.unique(quantise(np.linspace(0.79, 0.81, 1000, dtype=np.float32), 1 / 240))
    np.testing.assert_allclose(np.diff(near), 0.8**2 / 240, rtol=0.04)


def test_a_stripe_is_straight_and_hides_a_uniform_share() -> None:
    seen = views(count=1)[0] > 0
    shares = []
    for seed in range(60):
        mask = hidden(seen, 0.3, rng(seed))
        assert not (mask & ~seen).any()
        copy = rng(seed)
        share, _, angle = copy.uniform(0, 0.3), copy.uniform(), copy.uniform(0, np.pi)
        assert mask.sum() == round(share * 10_000)
        shares.append(share)
        for lines in (mask, mask.T):  # any line meets a stripe in one piece
            assert (np.abs(np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) <= 2).all()
        # the hidden and the seen on either side are parted by two parallel lines
        y, x = np.nonzero(seen)
        across = x * np.cos(angle) + y * np.sin(angle)
        within = mask[y, x]
        if within.any():
            between = (across > across[within].min()) & (across < across[within].max())
            assert within[between].all()
    assert max(shares) <= 0.3
    assert abs(np.mean(shares) - 0.15) < 0.04
    assert not hidden(np.zeros((4, 4), bool), 0.3, rng()).any()


def test_only_the_views_named_have_a_stripe() -> None:
    depth = views()
    striped = only(stripe=0.5)(depth, rng(), np.array([True, False, True, False]))
    gone = ((depth > 0) & (striped == 0)).sum((1, 2))
    assert gone[[1, 3]].sum() == 0
    assert gone[[0, 2]].min() > 0
    assert (((depth > 0) & (only(stripe=0.5)(depth, rng()) == 0)).sum((1, 2)) > 0).all()


def test_flying_pixels_by_hand() -> None:
    #          own 0.5   own 0.5   own 1.0   none     own 0.5, 0.505: no edge between them
    row = [[[0.5, 0.5, 1.0, 0.0, 0.0], [0.5, 0.5, 1.0, 0.0, 0.0]]]
    flown = np.stack([fly(np.array(row, np.float32), 1.0, rng(seed))[0, 0] for seed in range(200)])
    np.testing.assert_array_equal(flown[:, [0, 3, 4]], np.tile(np.float32([0.5, 0, 0]), (200, 1)))
    assert 0.5 <= flown[:, 1].min() < 0.52  # between its own surface and the one behind
    assert 0.98 < flown[:, 1].max() <= 1.0
    assert 1.0 <= flown[:, 2].min() < 1.002  # between its own surface and 5 cm behind it
    assert 1.048 < flown[:, 2].max() <= 1.05
    flat = np.array([[[0.5, 0.505, 0.51]]], np.float32)
    np.testing.assert_array_equal(fly(flat, 1.0, rng()), flat)


def test_flying_is_a_share_of_the_edge() -> None:
    depth = views()
    flown = only(flying=0.25)(depth, rng())
    moved = flown != depth
    edge = depth > 0
    edge[:, 15:113, 15:113] = False  # 4 views x 396 pixels around the square
    assert not (moved & ~edge).any()
    assert abs(moved.sum() / edge.sum() - 0.25) < 0.04


def test_all_together_keeps_shape_input_and_emptiness_and_repeats() -> None:
    sensor = DepthSensor(quantisation=0.001, flying=0.5, growth=0.001)
    depth = views()
    first, again = sensor(depth, rng(3)), sensor(depth, rng(3))
    np.testing.assert_array_equal(depth, views())
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert (first[depth == 0] == 0).all()
    assert (first != sensor(depth, rng(4))).any()
    np.testing.assert_array_equal(sensor(np.zeros((2, 8, 6), np.float32), rng()), np.zeros((2, 8, 6)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DepthSensor(dropout=1.5), "dropout is a share, 0 to 1; got 1.5"),
        (lambda: DepthSensor(stripe=-0.1), "stripe is a share"),
        (lambda: DepthSensor(flying=float("nan")), "flying is a share"),
        (lambda: DepthSensor(noise=-0.001), "noise must be 0 or more"),
        (lambda: DepthSensor(quantisation=float("inf")), "quantisation must be"),
        (
            lambda: HARD(np.zeros((4, 4), np.float32), rng()),
            r"expected depth \[n,S,S\] and striped \[n\], got \(4, 4\)",
        ),
        (lambda: HARD(views(), rng(), np.array([True])), r"and \(1,\)"),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        call()
