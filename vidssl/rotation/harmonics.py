"""Real spherical harmonics, and the matrices by which a rotation of the sphere acts on them.

n vectors or rotations, L largest degree, l degree, m order -l…l, p sample points of the sphere.
The harmonics of degree l stand at places l²…(l+1)²-1, by order:

    place    0    1  2  3   4  5  6  7  8   …
    l, m    0,0  1,-1 1,0 1,1  2,-2 …  2,2
"""

from functools import lru_cache
from math import factorial, pi, sqrt

import torch
from torch import Tensor

from vidssl.errors import VidsslError


def spherical_harmonics(vectors: Tensor, degree: int) -> Tensor:
    """Orthonormal real spherical harmonics of unit vectors: [..., 3] -> [..., (degree+1)²].

    Orthonormal on the sphere of area 4π, without the Condon-Shortley sign; Y_1 is √(3/4π)·(y, z, x). They are
    polynomials of x, y and z (recurrences of the Legendre functions, Press et al., Numerical Recipes, section 6.7),
    so that gradients are smooth at the poles too.

    Raises:
        VidsslError: a negative degree, or the last axis isn't 3.
    """
    if degree < 0 or vectors.shape[-1] != 3:
        raise VidsslError(
            f"spherical_harmonics: expected unit vectors [..., 3] and a degree of 0 or more, got {tuple(vectors.shape)}"
            f" and degree {degree}"
        )
    return torch.stack(_harmonics(vectors, degree), dim=-1)


def _harmonics(vectors: Tensor, degree: int) -> list[Tensor]:
    """(degree+1)² harmonics [...] of vectors [..., 3]."""
    x, y, z = vectors.unbind(-1)
    found: list[Tensor] = [x] * (degree + 1) ** 2
    cosine, sine = torch.ones_like(x), torch.zeros_like(x)  # of m·azimuth, times sin(polar angle)^m
    for m in range(degree + 1):
        for ell, legendre in enumerate(_legendre(z, m, degree), start=m):
            scale = sqrt((2 * ell + 1) / (4 * pi) * factorial(ell - m) / factorial(ell + m))
            if m == 0:
                found[ell * ell + ell] = scale * legendre
            else:
                found[ell * ell + ell + m] = sqrt(2) * scale * legendre * cosine
                found[ell * ell + ell - m] = sqrt(2) * scale * legendre * sine
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine
    return found


def _legendre(z: Tensor, m: int, degree: int) -> list[Tensor]:
    """P_l^m(z) / (1-z²)^(m/2) for l = m…degree, without the sign (-1)^m."""
    start = float(factorial(2 * m) // (2**m * factorial(m)))  # (2m-1)!!
    found = [torch.full_like(z, start)]
    if degree > m:
        found.append((2 * m + 1) * z * found[0])
    for ell in range(m + 2, degree + 1):
        found.append(((2 * ell - 1) * z * found[-1] - (ell + m - 1) * found[-2]) / (ell - m))
    return found


def wigner(rotations: Tensor, degree: int) -> list[Tensor]:
    """Real Wigner matrices: for l = 0…degree D_l [n, 2l+1, 2l+1] with Y_l(R x) = D_l(R) Y_l(x).

    D_l is orthogonal and D_l(RS) = D_l(R) D_l(S). Each is read off the harmonics of rotated sample points by an exact
    least-squares fit, whose matrix is computed once in float64: a polynomial of R, with smooth gradients everywhere.

    Args:
        rotations: [n, 3, 3], on any device; the result has its dtype.
        degree: L, 0…20 or so; 5,000 rotations to degree 10 take a fraction of a second on one core.

    Raises:
        VidsslError: a negative degree, or not [n, 3, 3].
    """
    if degree < 0 or rotations.ndim != 3 or rotations.shape[-2:] != (3, 3):
        raise VidsslError(
            f"wigner: expected rotations [n, 3, 3] and a degree of 0 or more, got {tuple(rotations.shape)}"
            f" and degree {degree}"
        )
    points, fits = _samples(degree, rotations.device, rotations.dtype)
    rotated = points @ rotations.transpose(-1, -2)  # [n, p, 3]
    harmonics = torch.stack(_harmonics(rotated, degree), dim=1)  # [n, (L+1)², p]
    return [harmonics[:, ell * ell : (ell + 1) ** 2] @ fit for ell, fit in enumerate(fits)]


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # made in the first evaluation, used in training too
def _samples(degree: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Points [p, 3] spread over half the sphere, and for each l the right inverse [p, 2l+1] of Y_l at them.

    Half the sphere is enough, as Y_l(-x) = ±Y_l(x); p is about twice the 2L+1 that there must be, for conditioning.
    """
    count = 2 * (2 * degree + 1)
    step = torch.arange(count, dtype=torch.float64) + 0.5
    z = step / count
    azimuth = step * (pi * (3 - sqrt(5)))  # golden angle
    radius = (1 - z * z).sqrt()
    points = torch.stack((radius * azimuth.cos(), radius * azimuth.sin(), z), dim=-1)
    harmonics = spherical_harmonics(points, degree)
    fits = [torch.linalg.pinv(harmonics[:, ell * ell : (ell + 1) ** 2]).T for ell in range(degree + 1)]
    return points.to(device, dtype), [fit.to(device, dtype) for fit in fits]
