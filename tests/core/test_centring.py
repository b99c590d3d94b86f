import pytest
import torch

from vidssl.core import Centring
from vidssl.errors import VidsslError


def test_centre_by_hand() -> None:
    # From 0 with momentum 3/4: after the mean (4, 8) a quarter of it, (1, 2); after the mean (1, −2) it is (1, 1).
    centring = Centring(2, momentum=0.75)
    assert centring(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]
    centring.update(torch.tensor([[3.0, 8.0], [5.0, 8.0]]))
    assert centring.centre.tolist() == [1.0, 2.0]
    assert centring(torch.ones(1, 2)).tolist() == [[0.0, -1.0]]
    centring.update(torch.tensor([[1.0, -2.0]], requires_grad=True))
    assert centring.centre.tolist() == [1.0, 1.0]
    assert list(centring.state_dict()) == ["centre"]


def test_half_scores_move_a_float_centre() -> None:
    centring = Centring(2, momentum=0.0)
    centring.update(torch.full((3, 2), 1.5, dtype=torch.bfloat16))
    assert centring.centre.dtype == torch.float32
    assert centring.centre.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("momentum", [1.0, -0.1])
def test_momentum_out_of_range(momentum: float) -> None:
    with pytest.raises(VidsslError, match=r"centring: got momentum .*; choose one in \[0, 1\)"):
        Centring(2, momentum)
