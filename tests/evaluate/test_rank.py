"""RankMe on features whose effective rank is known."""

import numpy as np
import pytest
import torch

from vidssl.errors import VidsslError
from vidssl.evaluate.rank import rankme


def test_orthogonal_directions_of_equal_energy_count_fully() -> None:
    assert rankme(torch.eye(8)) == pytest.approx(8, rel=1e-4)


def test_value_by_hand() -> None:
    # singular values 3 and 1: p = 3/4, 1/4; exp(-(3/4 log 3/4 + 1/4 log 1/4)) = 4 / 3^(3/4) = 1.7548
    assert rankme(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e30, 1e-30])
def test_constant_features_have_rank_one(value: float) -> None:
    assert rankme(torch.full((20, 6), value)) == pytest.approx(1, abs=1e-4)


def test_scale_does_not_matter_and_many_rows_are_thinned() -> None:
    x = torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    assert rankme(1000 * x) == pytest.approx(rankme(x), rel=1e-4)
    assert 9 < rankme(x, max_items=100) <= 10


def test_bad_features_are_refused() -> None:
    with pytest.raises(VidsslError, match="NaN"):
        rankme(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(VidsslError, match=r"\(4,\)"):
        rankme(torch.zeros(4))
