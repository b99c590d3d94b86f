"""Intervals against published figures and by hand."""

import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.evaluate.intervals import group_bootstrap, paired_difference, wilson


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[int], list[int]]:
    return [1] * (both + only_a) + [0] * (only_b + neither), [1] * both + [0] * only_a + [1] * only_b + [0] * neither


# Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_is_symmetric_and_stays_in_range() -> None:
    for successes in range(8):
        low, high = wilson(successes, 7)
        assert 0 <= low < high <= 1
        assert wilson(7 - successes, 7) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(VidsslError, match="wilson"):
        wilson(successes, n)


# (20, 12, 2, 16): Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10. (14, 5, 0, 22): Altman et al.,
# Statistics with Confidence (2000), table 6.2. (1, 1, 7, 12): Fagerland et al., Statistical Analysis of Contingency
# Tables (2017), chapter 8.
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((20, 12, 2, 16), (0.2, 0.0562, 0.3292)),
        ((14, 5, 0, 22), (0.122, 0.011, 0.226)),
        ((1, 1, 7, 12), (-0.286, -0.507, -0.026)),
    ],
)
def test_paired_difference_gives_the_published_intervals(
    table: tuple[int, int, int, int], expected: tuple[float, float, float]
) -> None:
    assert paired_difference(*outcomes(*table)) == pytest.approx(expected, abs=6e-4)


def test_paired_difference_of_unanimous_arms_keeps_a_width() -> None:
    diff, low, high = paired_difference([1] * 5, [0] * 5)
    assert (diff, high) == (1.0, 1.0)
    assert low < 0.5  # five of five say little
    diff, low, high = paired_difference([True] * 5, [True] * 5)
    assert diff == 0
    assert low < -0.3
    assert high > 0.3


def test_paired_difference_of_an_arm_with_itself_has_positive_correlation() -> None:
    arm = [1, 0] * 50
    _, low, high = paired_difference(arm, arm)
    _, low_apart, high_apart = paired_difference(arm, arm[::-1])  # outcomes always opposite
    assert high - low < 0.5 * (high_apart - low_apart)


def test_paired_difference_refuses_other_values() -> None:
    with pytest.raises(VidsslError, match="0 or 1"):
        paired_difference([0.5, 1], [0, 1])
    with pytest.raises(VidsslError, match="same trials"):
        paired_difference([0, 1, 1], [0, 1])


def test_bootstrap_of_independent_items_has_the_textbook_error() -> None:
    x = np.random.default_rng(3).normal(size=400)
    got = group_bootstrap(x, np.arange(400))
    assert got.mean == pytest.approx(x.mean())
    assert got.stderr == pytest.approx(x.std() / 20, rel=0.05)
    assert got.low == pytest.approx(got.mean - 1.96 * got.stderr, abs=0.01)
    assert got == group_bootstrap(x, np.arange(400))


def test_bootstrap_counts_groups_not_items() -> None:
    x = np.random.default_rng(3).normal(size=40)
    once = group_bootstrap(x, np.arange(40))
    tenfold = group_bootstrap(np.repeat(x, 10), np.repeat(np.arange(40), 10))  # copies add no information
    assert tenfold.stderr == pytest.approx(once.stderr, rel=1e-6)


def test_bootstrap_refuses_other_lengths() -> None:
    with pytest.raises(VidsslError, match="one group a value"):
        group_bootstrap([1.0, 2.0], ["a"])
