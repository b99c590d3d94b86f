"""SIGReg against complex arithmetic in float64, its gradient by differences, and what it can't do."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidssl.core import sigreg, variance_hinge
from vidssl.core.moments import variance
from vidssl.core.sigreg import directions
from vidssl.errors import VidsslError

STEP = torch.tensor(11)


def gaussian(n: int = 200, dim: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain(x: Tensor, step: Tensor, slices: int, knots: int = 17) -> Tensor:
    """The definition, with the N × K × M table of complex exponentials."""
    p = x.double() @ directions(step, x.shape[1], slices)
    t = torch.linspace(0, 3, knots, dtype=torch.float64)
    own = torch.exp(1j * p[..., None] * t).mean(0)
    squares = (own - torch.exp(-(t**2) / 2)).abs() ** 2
    return (2 * len(x) * torch.trapezoid(squares * torch.exp(-(t**2) / 2), t)).mean()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.2, 0.0), (1.0, 2.0), (30.0, 0.0)])
def test_against_the_definition(scale: float, shift: float) -> None:
    x = (scale * gaussian(dtype=torch.float64) + shift).requires_grad_()
    got, expected = sigreg(x, STEP, 40), plain(x, STEP, 40)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (got, expected)))
    torch.testing.assert_close(sigreg(x.float(), STEP, 40).double(), expected, rtol=1e-4, atol=0)


def test_two_rows_on_one_knot_by_hand() -> None:
    # One dim, so the slice is ±1; knots 0 and 3. Rows ±1: φ(3) = cos 3, and at 0 nothing is apart. With N = 2 and the
    # trapezoid's 3/2, both signs of t: T = 2 · 2 · 3/2 · (cos 3 − e^(−9/2))² e^(−9/2).
    expected = 6 * (math.cos(3) - math.exp(-4.5)) ** 2 * math.exp(-4.5)
    assert float(sigreg(torch.tensor([[1.0], [-1.0]]), STEP, 1, 2)) == pytest.approx(expected, rel=1e-5)


def test_gradient_by_differences() -> None:
    x = gaussian(5, 3, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda x: sigreg(x, STEP, 4), x)
    torch.autograd.gradcheck(lambda x: sigreg(x, STEP, 3, 2), x)


def test_a_gaussian_batch_is_where_it_is_least() -> None:
    # N E|φ − φ0|² = 1 − exp(−t²) for normal rows: 2 ∫ (1 − e^(−t²)) e^(−t²/2) over [0, 3] is 1.053, whatever N.
    for n in (64, 512):
        value = torch.stack([sigreg(gaussian(n, seed=seed), STEP) for seed in range(8)]).mean()
        assert abs(float(value) - 1.053) < 0.25
        for other in (0.5 * gaussian(n), gaussian(n) + 1, 3 * gaussian(n), 0 * gaussian(n)):
            assert sigreg(other, STEP) > 2 * value


def test_slices_are_unit_and_of_the_step() -> None:
    one = directions(STEP, 3, 4000)
    torch.testing.assert_close(one.norm(dim=0), torch.ones(4000).double())
    # Uniform on the sphere: mean 0 and covariance 1/3, with standard errors of 0.009 and about 0.005.
    assert one.mean(1).abs().max() < 0.04
    assert (one @ one.T / 4000 - torch.eye(3) / 3).abs().max() < 0.03
    assert torch.equal(directions(STEP, 3, 40), one[:, :40])
    assert not torch.equal(directions(STEP + 1, 3, 40), one[:, :40])


def test_its_gradient_vanishes_at_collapse_and_the_hinge_does_not() -> None:
    """Rows within 0.01 of the origin are pushed apart a tenth as hard as within 0.1; by the hinge, as hard."""

    def push(scale: float, hinge: bool) -> float:
        x = (scale * gaussian()).requires_grad_()
        loss = variance_hinge(variance(x), eps=1e-8) if hinge else sigreg(x, STEP)
        return float(torch.autograd.grad(loss, x)[0].norm())

    assert push(0.01, hinge=False) == pytest.approx(0.1 * push(0.1, hinge=False), rel=0.1)
    assert push(0.01, hinge=True) == pytest.approx(push(0.1, hinge=True), rel=0.01)
    assert push(0.0, hinge=False) < 1e-6


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, result.numel() if isinstance(result, Tensor) else 0)
        return result


def test_the_table_of_knots_is_never_made() -> None:
    x = gaussian(2000, 4).requires_grad_()
    with Largest() as largest:
        sigreg(x, STEP, 100).backward()
    assert largest.numbers == 2000 * 100


def test_mixed_precision_leaves_statistics_alone() -> None:
    x = gaussian()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = sigreg(x, STEP)
    assert torch.equal(mixed, sigreg(x, STEP))
    torch.testing.assert_close(sigreg(x.bfloat16(), STEP), sigreg(x, STEP), rtol=0.05, atol=0)


def test_refusals() -> None:
    with pytest.raises(VidsslError, match="SIGReg: got a batch of 1, it needs 2 or more; raise --batch-size"):
        sigreg(torch.zeros(1, 3), STEP)
    for slices, knots in ((0, 17), (8, 1)):
        with pytest.raises(VidsslError, match=r"SIGReg: got \d+ slices and \d+ knots; at least 1 and 2"):
            sigreg(torch.zeros(4, 3), STEP, slices, knots)
