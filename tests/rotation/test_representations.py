"""Representations: there and back, the closest rotation, gradients where others break."""

from math import pi

import pytest
import torch
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.rotation.representations import REPRESENTATIONS, from_rotation, to_rotation
from vidssl.rotation.so3 import exp, geodesic, random_rotations

KINDS = list(REPRESENTATIONS)
EYE = torch.eye(3, dtype=torch.float64)


def draw(count: int) -> Tensor:
    return random_rotations(count, torch.Generator().manual_seed(0), torch.float64)


def numbers(kind: str, count: int = 20) -> Tensor:
    width = REPRESENTATIONS[kind].width
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def special() -> Tensor:
    """No rotation, half turns about the axes and about others, and almost those."""
    vectors = [(0, 0, 0), (pi, 0, 0), (0, pi, 0), (0, 0, pi), (0.6 * pi, 0, 0.8 * pi), (1e-9, 0, 0), (0, pi - 1e-9, 0)]
    return exp(torch.tensor(vectors, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str) -> None:
    for rotations in (draw(50), special(), draw(6).reshape(2, 3, 3, 3)):
        torch.testing.assert_close(to_rotation(from_rotation(rotations, kind), kind), rotations, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_any_numbers_give_rotations_whatever_their_size(kind: str) -> None:
    x = numbers(kind)
    found = to_rotation(x, kind)
    torch.testing.assert_close(found @ found.mT, EYE.expand(20, 3, 3))
    assert (torch.linalg.det(found) > 0).all()
    torch.testing.assert_close(to_rotation(7 * x, kind), found)


def test_matrix_gives_the_closest_rotation() -> None:
    x = numbers("matrix")
    matrix = x.unflatten(-1, (3, 3))
    found = (to_rotation(x) - matrix).norm(dim=(1, 2))
    for others in (draw(500), exp(0.01 * numbers("matrix")[:, :3]) @ to_rotation(x)):
        assert (found <= (others[:, None] - matrix).norm(dim=(2, 3)).amin(dim=0) + 1e-9).all()


def test_six_numbers_are_columns() -> None:
    x = torch.tensor([2.0, 0, 0, 5, 3, 0])  # the second loses its part along the first
    torch.testing.assert_close(to_rotation(x, "6d"), torch.eye(3))
    quarter = exp(torch.tensor([0.0, 0.0, pi / 2]))
    torch.testing.assert_close(from_rotation(quarter, "6d"), torch.tensor([0.0, 1, 0, -1, 0, 0]), atol=1e-6, rtol=0)


def test_quaternions_lie_in_the_half_space() -> None:
    found = from_rotation(torch.cat((draw(500), special())), "quaternion")
    assert (found[:, 0] >= 0).all()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(507, dtype=torch.float64))
    half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))  # about y
    torch.testing.assert_close(from_rotation(half_turn, "quaternion"), torch.tensor([0.0, 0, 1, 0]))
    # 60° about x: cos 30°, sin 30°
    sixty = exp(torch.tensor([pi / 3, 0, 0]))
    torch.testing.assert_close(from_rotation(sixty, "quaternion"), torch.tensor([3**0.5 / 2, 0.5, 0, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str) -> None:
    assert torch.autograd.gradcheck(lambda x: to_rotation(x, kind), (numbers(kind, 4).requires_grad_(),))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_0_and_180_degrees_are_finite(kind: str) -> None:
    for truth in (EYE.expand(7, 3, 3), special()):
        x = from_rotation(special(), kind).requires_grad_()
        geodesic(to_rotation(x, kind), truth).sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        rotations = special().requires_grad_()
        from_rotation(rotations, kind).sum().backward()
        assert rotations.grad is not None
        assert torch.isfinite(rotations.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_zeros_are_finite(kind: str) -> None:
    x = torch.zeros(1, REPRESENTATIONS[kind].width, requires_grad=True)
    found = to_rotation(x, kind)
    found.square().sum().backward()
    assert torch.isfinite(found).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_unknown_kinds_and_other_widths_are_refused() -> None:
    with pytest.raises(VidsslError, match="unknown representation 'euler'; the representations here are: 6d, matrix"):
        to_rotation(torch.zeros(3), "euler")
    with pytest.raises(VidsslError, match="'6d' takes 6 numbers a rotation, got shape"):
        to_rotation(torch.zeros(2, 9), "6d")
    with pytest.raises(VidsslError, match=r"expected rotations \[..., 3, 3\]"):
        from_rotation(torch.zeros(2, 9))
