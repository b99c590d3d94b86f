"""Thresholds on episodes: worked by hand, and kept in simulation."""

import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.robot.conformal import conformal_threshold, poisson_interval


def test_by_hand() -> None:
    # 9 episodes of 360 s: a tenth of an hour each. Two alarms an hour are 0.2 an episode: k = floor(0.2 * 10) = 2.
    found = conformal_threshold([1, 2, 3, 4, 5, 6, 7, 8, 9], [3600] * 9, fps=10, rate=2.0)
    assert (found.value, found.rank, found.episodes, found.hours) == (8, 2, 9, pytest.approx(0.9))
    assert found.promised == pytest.approx(2.0)  # 2 / 10 an episode
    assert found.kept
    assert found.likely > found.promised


def test_too_little_calibration_is_told() -> None:
    found = conformal_threshold([1, 5, 3], [100] * 3, fps=10, rate=1.0)
    assert found.value == 5
    assert not found.kept
    assert found.promised == pytest.approx((1 / 4) / (10 / 3600))


def test_promise_is_kept_by_heavy_tails() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        maxima = rng.standard_cauchy(120)
        found = conformal_threshold(maxima[:100], [360] * 100, fps=10, rate=10.0)  # 0.01 h: k = floor(0.1 * 101)
        rates.append((maxima[100:] > found.value).mean() / 0.01)
    assert found.rank == 10
    assert np.mean(rates) == pytest.approx(found.promised, rel=0.1)


def test_poisson_interval_against_its_tables() -> None:
    # Garwood's table: 0 events up to 3.689, 5 events 1.623 to 11.668.
    assert poisson_interval(0, 2.0) == (0.0, pytest.approx(3.689 / 2, abs=1e-3))
    assert poisson_interval(5, 1.0) == (pytest.approx(1.623, abs=1e-3), pytest.approx(11.668, abs=1e-3))


@pytest.mark.parametrize(
    "arguments",
    [([], [], 10, 1), ([1.0], [0], 10, 1), ([np.inf], [5], 10, 1), ([1.0], [5], 10, 0), ([1.0], [5, 6], 10, 1)],
)
def test_mistakes(arguments: tuple) -> None:
    with pytest.raises(VidsslError, match="calibration: got"):
        conformal_threshold(*arguments)
    with pytest.raises(VidsslError, match="some time"):
        poisson_interval(1, 0)
