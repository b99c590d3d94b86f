import math

import pytest
import torch

from vidssl.core import koleo
from vidssl.errors import VidsslError


def test_four_points_on_a_line_by_hand() -> None:
    # At 0, 1, 3, 8 the nearest neighbours are 1, 1, 2 and 5 away: −log(1·1·2·5) / 4.
    x = torch.tensor([[0.0, 7.0], [1.0, 7.0], [3.0, 7.0], [8.0, 7.0]])
    torch.testing.assert_close(koleo(x), torch.tensor(-math.log(10) / 4))


@pytest.mark.parametrize("n", [5, 1100])  # the second takes several blocks
def test_against_all_distances(n: int) -> None:
    x = torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") + torch.eye(n) * 1e9
    expected = -distance.min(1).values.log().mean()
    torch.testing.assert_close(koleo(x, eps=0.0), expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (koleo(x, eps=0.0), expected)))


def test_equal_rows_have_a_finite_loss_and_gradient() -> None:
    x = torch.ones(3, 2).requires_grad_()
    loss = koleo(x)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(-0.5 * math.log(1e-8)))
    assert x.grad.tolist() == [[0.0, 0.0]] * 3


def test_mixed_precision_leaves_distances_alone() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = koleo(x)
    assert torch.equal(mixed, koleo(x))


def test_one_row_has_no_neighbour() -> None:
    with pytest.raises(VidsslError, match="KoLeo: got a batch of 1, it needs 2 or more; raise --batch-size"):
        koleo(torch.zeros(1, 3))
