"""Harmonics against closed forms and integrals; Wigner matrices against their defining properties."""

from math import pi, sqrt

import pytest
import torch
from torch.nn.functional import normalize

from vidssl.errors import VidsslError
from vidssl.rotation.harmonics import spherical_harmonics, wigner
from vidssl.rotation.so3 import exp, random_rotations

DEGREE = 10


def directions(count: int) -> torch.Tensor:
    return normalize(torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)


def draw(count: int, seed: int) -> torch.Tensor:
    return random_rotations(count, torch.Generator().manual_seed(seed), torch.float64)


def test_harmonics_have_their_closed_forms() -> None:
    vectors = directions(20)
    x, y, z = vectors.unbind(-1)
    found = spherical_harmonics(vectors, 3)
    expected = {
        0: torch.full_like(x, sqrt(1 / (4 * pi))),
        1: sqrt(3 / (4 * pi)) * y,
        2: sqrt(3 / (4 * pi)) * z,
        3: sqrt(3 / (4 * pi)) * x,
        4: sqrt(15 / (4 * pi)) * x * y,
        6: sqrt(5 / (16 * pi)) * (3 * z * z - 1),
        8: sqrt(15 / (16 * pi)) * (x * x - y * y),
        9: sqrt(35 / (32 * pi)) * y * (3 * x * x - y * y),
        12: sqrt(7 / (16 * pi)) * (5 * z**3 - 3 * z),
    }
    for place, values in expected.items():
        torch.testing.assert_close(found[:, place], values)


def test_harmonics_are_orthonormal_on_the_sphere() -> None:
    # exact quadrature of a product of two degree-10 harmonics: Gauss-Legendre in z, equal steps in azimuth
    legendre = torch.linalg.eigh(
        torch.diag(b := torch.tensor([n / sqrt(4 * n * n - 1) for n in range(1, 12)], dtype=torch.float64), 1)
        + torch.diag(b, -1)
    )  # Golub-Welsch: nodes are the eigenvalues, weights twice the squares of the first components
    z, weights = legendre.eigenvalues, 2 * legendre.eigenvectors[0] ** 2
    azimuth = torch.arange(24, dtype=torch.float64) * (2 * pi / 24)
    radius = (1 - z * z).sqrt()[:, None]
    vectors = torch.stack((radius * azimuth.cos(), radius * azimuth.sin(), z[:, None].expand(-1, 24)), dim=-1)
    found = spherical_harmonics(vectors, DEGREE).reshape(-1, 121)
    weight = (weights[:, None] * (2 * pi / 24)).expand(-1, 24).reshape(-1, 1)
    torch.testing.assert_close(found.T @ (weight * found), torch.eye(121, dtype=torch.float64))


def test_harmonics_turn_with_the_vectors() -> None:
    rotations, vectors = draw(5, 0), directions(30)
    for ell, block in enumerate(wigner(rotations, DEGREE)):
        part = slice(ell * ell, (ell + 1) ** 2)
        turned = spherical_harmonics(vectors @ rotations.mT, DEGREE)[..., part]  # [5, 30, 2l+1]
        torch.testing.assert_close(turned, spherical_harmonics(vectors, DEGREE)[..., part] @ block.mT)


@pytest.mark.parametrize("degree", [0, 1, DEGREE, 16])
def test_wigner_matrices_are_orthogonal_and_a_homomorphism(degree: int) -> None:
    a, b = draw(40, 1), draw(40, 2)
    blocks = zip(wigner(a, degree), wigner(b, degree), wigner(a @ b, degree), wigner(a.mT, degree), strict=True)
    for ell, (of_a, of_b, of_both, of_inverse) in enumerate(blocks):
        assert of_a.shape == (40, 2 * ell + 1, 2 * ell + 1)
        torch.testing.assert_close(of_a @ of_b, of_both)
        torch.testing.assert_close(of_a.mT, of_inverse)
        torch.testing.assert_close(of_a @ of_a.mT, torch.eye(2 * ell + 1, dtype=torch.float64).expand_as(of_a))


def test_wigner_of_nothing_and_of_one_degree() -> None:
    for block in wigner(torch.eye(3, dtype=torch.float64)[None], DEGREE):
        torch.testing.assert_close(block[0], torch.eye(block.shape[-1], dtype=torch.float64))
    rotation = draw(1, 3)
    swap = [1, 2, 0]  # Y_1 is (y, z, x)
    torch.testing.assert_close(wigner(rotation, 1)[1], rotation[:, swap][:, :, swap])


def test_trace_is_the_character() -> None:
    # tr D_l = sin((2l+1) t/2) / sin(t/2), whatever the axis
    turn = torch.tensor(1.1, dtype=torch.float64)
    axis = normalize(torch.tensor([0.3, -0.5, 0.7], dtype=torch.float64), dim=0)
    for ell, block in enumerate(wigner(exp(turn * axis)[None], DEGREE)):
        assert block[0].trace().item() == pytest.approx((torch.sin((ell + 0.5) * turn) / torch.sin(turn / 2)).item())


def test_float32_is_good_to_1e_5_and_follows_the_input() -> None:
    rotations = draw(100, 4)
    for exact, single in zip(wigner(rotations, DEGREE), wigner(rotations.float(), DEGREE), strict=True):
        assert single.dtype == torch.float32
        assert (single - exact).abs().max() < 1e-5


def test_gradients_are_smooth_at_the_poles_and_at_the_identity() -> None:
    pole = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: spherical_harmonics(x, 4), (pole,))
    eye = torch.eye(3, dtype=torch.float64)[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda r: wigner(r, 3)[3], (eye,))


def test_wrong_shapes_and_degrees_are_refused() -> None:
    with pytest.raises(VidsslError, match=r"spherical_harmonics: expected unit vectors"):
        spherical_harmonics(torch.zeros(4, 2), 3)
    with pytest.raises(VidsslError, match="degree -1"):
        spherical_harmonics(torch.zeros(4, 3), -1)
    with pytest.raises(VidsslError, match=r"wigner: expected rotations \[n, 3, 3\]"):
        wigner(torch.eye(3), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tables_first_made_in_an_evaluation_serve_training(dtype: torch.dtype) -> None:
    rotations = random_rotations(2, torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        wigner(rotations, 3)
    rotations.requires_grad_()
    sum(block.sum() for block in wigner(rotations, 3)).backward()
    assert rotations.grad is not None
