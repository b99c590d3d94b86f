"""Numbers from outcomes, checked by hand and against every possible sign."""

from itertools import product
from math import comb

import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.robot.evaluate import EpisodeResult, compare, summary
from vidssl.robot.outcomes import sign_flip_p


def episode(seed: int, success: bool, score: float | None = None) -> EpisodeResult:
    return EpisodeResult(seed, success, None if success else "border", None, 0.0, 2, np.zeros((2, 2)), score)


def test_mcnemar_by_hand() -> None:
    # 8 pairs disagree, 7 one way: 2 (C(8,0) + C(8,1)) / 2^8 = 18/256
    assert sign_flip_p([1] * 7 + [-1] + [0] * 20) == pytest.approx(18 / 256)
    for b, c in ((0, 0), (1, 0), (5, 0), (3, 3), (30, 12)):
        n = b + c
        tail = sum(comb(n, k) for k in range(min(b, c) + 1)) / 2**n
        assert sign_flip_p([1] * b + [-1] * c) == pytest.approx(min(1.0, 2 * tail))


def test_sign_flips_of_several_trials_a_layout_against_all_signs() -> None:
    differences = np.array([3, -1, 2, 0, 2, 1, -2])
    sums = np.array([np.dot(signs, differences) for signs in product((-1, 1), repeat=len(differences))])
    assert sign_flip_p(differences) == pytest.approx((np.abs(sums) >= abs(differences.sum())).mean())


def test_compare_tells_the_p_value() -> None:
    a = [episode(i, True) for i in range(8)]
    b = [episode(i, i > 6) for i in range(8)]
    assert compare(a, b)["p"] == pytest.approx(2 / 2**7)
    assert compare(b, a)["p"] == compare(a, b)["p"]
    assert compare(a, a)["p"] == 1
    assert compare(a * 3, b * 3)["p"] == compare(a, b)["p"], "seeds that agree are no further evidence"


def test_scores() -> None:
    results = [episode(i, False, score) for i, score in enumerate((0.0, 0.5, 0.85, 0.97))]
    score = summary(results)["score"]
    assert score["mean"] == pytest.approx(0.58)
    assert score["interval_95"][0] < 0.58 < score["interval_95"][1]
    assert [part["share"] for part in score["at_least"].values()] == [0.25, 0.5]
    assert list(score["at_least"]) == ["0.95", "0.8"]
    assert "score" not in summary([episode(0, True)])
    broken = [*results, episode(9, False)]  # one that ended before its first step
    assert summary(broken)["score"]["mean"] == pytest.approx(0.58 * 4 / 5)


def test_several_seeds_without_a_failure_still_have_an_interval() -> None:
    all_, none = ([episode(i, good, float(good)) for i in range(4)] for good in (True, False))
    for arm in (all_, none):
        assert summary(arm * 3)["interval_95"] == summary(arm)["interval_95"]
        assert summary(arm * 3)["score"]["at_least"] == summary(arm)["score"]["at_least"]
    once = compare(all_, none)
    assert 0 < once["low_95"] < 1 == once["difference"]
    for a, b in ((all_ * 3, none * 3), (all_ * 3, none), (all_, none * 3)):
        assert compare(a, b) == once, "layouts driven once are paired with every round"
    with pytest.raises(VidsslError, match="different layouts"):
        compare(all_ * 2, none[:3])
