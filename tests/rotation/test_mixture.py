"""Mixtures over rotations: total probability, gradients at the corners, what is expected of them."""

import math

import pytest
import torch

from vidssl.rotation.mixture import RotationMixture, log_normaliser
from vidssl.rotation.so3 import exp, random_rotations


def about_z(degrees: float) -> torch.Tensor:
    return exp(torch.tensor([0.0, 0.0, math.radians(degrees)], dtype=torch.float64))


@pytest.mark.parametrize("width", [0.01, 0.1, 0.7, 3.0])
def test_normaliser_against_a_sum(width: float) -> None:
    theta = (torch.arange(200_000, dtype=torch.float64) + 0.5) * math.pi / 200_000
    total = ((1 - theta.cos()) / math.pi * (-theta / width).exp()).mean() * math.pi
    torch.testing.assert_close(log_normaliser(torch.tensor(width, dtype=torch.float64)), total.log(), rtol=1e-6, atol=0)


def test_density_integrates_to_one() -> None:
    centres = random_rotations(2, torch.Generator().manual_seed(0), torch.float64)[None]
    mixture = RotationMixture(centres, torch.tensor([[0.3, 0.7]]).log().double(), torch.tensor([[0.3, 0.6]]).double())
    drawn = random_rotations(100_000, torch.Generator().manual_seed(1), torch.float64)
    many = RotationMixture(*(x.expand(len(drawn), *x.shape[1:]) for x in vars(mixture).values()))
    assert float(many.log_density(drawn).exp().mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 30.0, 179.9999, 180.0])
def test_density_has_a_finite_gradient_everywhere(degrees: float) -> None:
    centre = about_z(degrees).requires_grad_()
    mixture = RotationMixture(centre[None, None], torch.zeros(1, 1).double(), torch.full((1, 1), 0.2).double())
    mixture.log_density(torch.eye(3, dtype=torch.float64)[None]).sum().backward()
    assert centre.grad is not None
    assert torch.isfinite(centre.grad).all()
    assert float(centre.grad.norm()) < 10


def test_best_is_where_the_density_is_highest() -> None:
    """Two wide components close by outweigh, at their centres, a lighter one; a narrow one outweighs both."""
    centres = torch.stack([about_z(0), about_z(10), about_z(120)])[None]
    weights = torch.tensor([[0.3, 0.35, 0.35]]).double().log()
    wide = torch.full((1, 3), 0.3).double()
    assert RotationMixture(centres, weights, wide).best().tolist() == [1]
    narrow = torch.tensor([[0.3, 0.3, 0.05]]).double()
    assert RotationMixture(centres, weights, narrow).best().tolist() == [2]


def test_expected_angle_of_one_component_against_draws() -> None:
    """Angles with the density (1 − cos θ) e^(−θ/s): a root mean square of √12 s where s is small."""
    width = 0.03
    theta = (torch.arange(100_000, dtype=torch.float64) + 0.5) * math.pi / 100_000
    share = (1 - theta.cos()) * (-theta / width).exp()
    rms = float(((share * theta.square()).sum() / share.sum()).sqrt())
    mixture = RotationMixture(about_z(50)[None, None], torch.zeros(1, 1), torch.tensor([[width]]))
    assert float(mixture.expected_angle(about_z(50)[None])) == pytest.approx(rms, rel=0.02)
