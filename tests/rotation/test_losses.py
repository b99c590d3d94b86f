"""Losses and metrics of rotation by hand, on symmetric shapes, and their gradients at 0 and 180 degrees."""

from collections.abc import Callable
from math import pi, sqrt

import pytest
import torch
from torch import Tensor

from vidssl.rotation.losses import add_s_loss, chamfer_loss, geodesic_loss, shape_match_loss
from vidssl.rotation.metrics import add, add_s, chamfer, degrees_apart, turn
from vidssl.rotation.so3 import exp, random_rotations

# four corners of a square about z, its group of symmetries has quarter turns about z
SQUARE = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)[None]
POINT_LOSSES = [shape_match_loss, add_s_loss, chamfer_loss]
Loss = Callable[[Tensor, Tensor], Tensor]


def about(axis: int, degrees: float) -> Tensor:
    vector = torch.zeros(1, 3, dtype=torch.float64)
    vector[0, axis] = degrees * pi / 180
    return exp(vector)


def cloud(count: int = 30) -> Tensor:
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def losses() -> list[Loss]:
    points = cloud()
    return [geodesic_loss, *(lambda r, s, loss=loss: loss(r, s, points) for loss in POINT_LOSSES)]


def test_values_by_hand() -> None:
    turned = about(2, 30)
    # each corner moves along a chord of 2 sin 15°, and its nearest other one is its own
    chord = 2 * torch.sin(torch.tensor(pi / 12)).item()
    assert degrees_apart(turned, EYE).item() == pytest.approx(30)
    assert geodesic_loss(turned, EYE).item() == pytest.approx(pi / 6)
    assert add(turned, EYE, SQUARE).item() == pytest.approx(chord)
    assert add_s(turned, EYE, SQUARE).item() == pytest.approx(chord)
    assert shape_match_loss(turned, EYE, SQUARE).item() == pytest.approx(chord**2 / 2)
    assert chamfer_loss(turned, EYE, SQUARE).item() == pytest.approx(2 * chord**2)


def test_a_symmetry_costs_nothing_but_in_angle() -> None:
    quarter = about(2, 90)
    for loss in POINT_LOSSES:
        assert loss(quarter, EYE, SQUARE).item() == pytest.approx(0, abs=1e-12)
    assert add(quarter, EYE, SQUARE).item() == pytest.approx(sqrt(2))
    assert degrees_apart(quarter, EYE).item() == pytest.approx(90)


def test_metrics_do_not_depend_on_the_frame() -> None:
    a, b, common = (random_rotations(5, torch.Generator().manual_seed(i), torch.float64) for i in range(3))
    points = cloud()
    for metric in (add, add_s):
        torch.testing.assert_close(metric(common @ a, common @ b, points), metric(a, b, points))
    torch.testing.assert_close(chamfer(turn(a, points), points), chamfer(points, turn(a, points)))
    assert (add_s(a, b, points) <= add(a, b, points)).all()


def test_chamfer_of_clouds_of_other_sizes_by_hand() -> None:
    first = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    second = torch.tensor([[0.0, 0, 2.0]])
    # there: (4 + 5) / 2; back: 4
    assert chamfer(first, second).item() == pytest.approx(8.5)


def test_one_shape_a_rotation() -> None:
    rotations = random_rotations(2, torch.Generator().manual_seed(0), torch.float64)
    shapes = torch.stack((cloud(), 2 * cloud()))
    each = torch.stack([shape_match_loss(r[None], EYE, s) for r, s in zip(rotations, shapes, strict=True)])
    torch.testing.assert_close(shape_match_loss(rotations, EYE.expand(2, 3, 3), shapes), each.mean())


@pytest.mark.parametrize("loss", losses())
@pytest.mark.parametrize("degrees", [0.0, 1e-7, 180 - 1e-7, 180.0])
def test_gradients_at_0_and_180_degrees_are_finite(loss: Loss, degrees: float) -> None:
    for dtype in (torch.float32, torch.float64):
        estimate = about(0, degrees).to(dtype).requires_grad_()
        loss(estimate.double(), EYE).backward()
        assert estimate.grad is not None
        assert torch.isfinite(estimate.grad).all()


@pytest.mark.parametrize("loss", losses())
def test_gradcheck_and_descent(loss: Loss) -> None:
    vector = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: loss(exp(v), EYE), (vector,))
    before = loss(exp(vector), EYE)
    (gradient,) = torch.autograd.grad(before, vector)
    assert loss(exp(vector - 1e-3 * gradient), EYE) < before
