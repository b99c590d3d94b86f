"""The group's axioms, the grid's evenness, angles and their gradients at 0 and π."""

from math import pi

import numpy as np
import pytest
import torch

from vidssl.errors import VidsslError
from vidssl.rotation.so3 import angle, check_rotation, exp, geodesic, grid, log, nearest, random_rotations

EYE = torch.eye(3, dtype=torch.float64)


def draw(count: int, seed: int = 0) -> torch.Tensor:
    return random_rotations(count, torch.Generator().manual_seed(seed), torch.float64)


def about_x(radians: float) -> torch.Tensor:
    return exp(torch.tensor([radians, 0.0, 0.0], dtype=torch.float64))


def test_draws_form_a_group() -> None:
    a, b, c = draw(50, 0), draw(50, 1), draw(50, 2)
    for rotation in (a, a @ b, a.mT):
        torch.testing.assert_close(rotation @ rotation.mT, EYE.expand(50, 3, 3))
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close((a @ b) @ c, a @ (b @ c))
    torch.testing.assert_close(a.mT @ a, EYE.expand(50, 3, 3))


def test_geodesic_is_a_metric_that_rotations_keep() -> None:
    a, b, c = draw(200, 0), draw(200, 1), draw(200, 2)
    torch.testing.assert_close(geodesic(a, b), geodesic(b, a))
    torch.testing.assert_close(geodesic(c @ a, c @ b), geodesic(a, b))
    torch.testing.assert_close(geodesic(a @ c, b @ c), geodesic(a, b))
    assert (geodesic(a, c) <= geodesic(a, b) + geodesic(b, c) + 1e-12).all()
    assert geodesic(a, a).max() < 1e-7


def test_uniform_draws_have_the_density_of_angles() -> None:
    # the angle of a uniform rotation has the density (1 - cos t)/π: its mean is π/2 + 2/π = 126.5°
    assert angle(draw(20000)).mean().item() == pytest.approx(pi / 2 + 2 / pi, abs=0.02)


@pytest.mark.parametrize("radians", [1e-12, 1e-8, 1e-4, 1.0, pi - 1e-4, pi - 1e-8, pi])
def test_angles_are_exact_near_0_and_half_a_turn(radians: float) -> None:
    # sin of a double next to π is off by 1e-16
    assert angle(about_x(radians)).item() == pytest.approx(radians, rel=1e-9, abs=1e-15)


def test_exp_and_log_undo_each_other() -> None:
    vectors = torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors *= (torch.rand(100, 1, dtype=torch.float64) * 3.1) / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(log(exp(vectors)), vectors)
    torch.testing.assert_close(exp(log(draw(100))), draw(100))
    # a quarter turn about z takes x to y
    quarter = exp(torch.tensor([0.0, 0.0, pi / 2], dtype=torch.float64))
    torch.testing.assert_close(quarter @ EYE[0], EYE[1])


@pytest.mark.parametrize("radians", [0.0, 1e-9, 1e-3, pi - 1e-3, pi - 1e-9, pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_0_and_180_degrees_are_finite(radians: float, dtype: torch.dtype) -> None:
    axis = torch.tensor([0.6, 0.0, 0.8], dtype=dtype)
    first = draw(1).to(dtype).requires_grad_()
    second = (first.detach() @ exp(radians * axis)).requires_grad_()
    geodesic(first, second).sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    for gradient in (first.grad, second.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.norm() <= 2


@pytest.mark.parametrize("radians", [0.0, 1e-9, 1e-6, 1.0, pi - 1e-6])
def test_gradients_of_exp_and_log_are_finite(radians: float) -> None:
    vector = (radians * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)).requires_grad_()
    found = log(exp(vector))
    torch.testing.assert_close(found, vector, atol=1e-9, rtol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), vector)
    torch.testing.assert_close(gradient, torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)


def test_gradient_of_the_same_rotation_is_zero() -> None:
    rotation = EYE.clone().requires_grad_()
    angle(rotation).backward()
    assert rotation.grad is not None
    assert not rotation.grad.any()


@pytest.mark.parametrize("radians", [1e-2, 1.0, 3.0, pi - 1e-2])
def test_gradcheck(radians: float) -> None:
    first = draw(2, 3).requires_grad_()
    second = (first.detach() @ exp(radians * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64))).requires_grad_()
    assert torch.autograd.gradcheck(geodesic, (first, second))


def test_the_angle_falls_at_unit_rate_along_its_own_axis() -> None:
    for radians in (1e-6, 1.0, pi - 1e-6):
        turn = torch.tensor(radians, dtype=torch.float64, requires_grad=True)
        rotation = exp(torch.stack((turn * 0, turn, turn * 0)))
        (slope,) = torch.autograd.grad(angle(rotation), turn)
        assert slope.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("count", "mean"), [(500, 16.0), (5000, 7.5)])
def test_grid_covers_evenly(count: int, mean: float) -> None:
    rotations, queries = grid(count, torch.float64), draw(2000)
    torch.testing.assert_close(rotations @ rotations.mT, EYE.expand(count, 3, 3))
    place = nearest(queries, rotations)
    distance = geodesic(queries, rotations[place]).rad2deg()
    assert distance.mean() < mean
    assert distance.max() < 2.2 * mean
    brute = geodesic(queries[:20, None], rotations[None]).argmin(dim=1)
    torch.testing.assert_close(place[:20], brute)
    # no bias: the mean of an even grid is the zero matrix
    assert rotations.mean(dim=0).abs().max() < 5e-3


def test_grid_of_nothing_is_refused() -> None:
    with pytest.raises(VidsslError, match="grid: got 0 rotations"):
        grid(0)


def test_rotations_pass_the_check() -> None:
    rotations = random_rotations(10).numpy()
    found = check_rotation(rotations)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rotations)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(4), r"goal: expected rotation matrices \[..., 3, 3\], got shape \(4, 4\)"),
        (np.full((3, 3), np.nan), "goal: got NaN"),
        (np.eye(3) * 1.01, "goal: not a rotation, RᵀR is off the unit matrix by 0.0201"),
        (np.diag([1, 1, -1]), "goal: a reflection"),
    ],
)
def test_what_is_no_rotation_is_named(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        check_rotation(matrix, "goal")
