"""Rotations as a space: draws, grids, angles between them, exponential and logarithm.

n, m rotations; a rotation is a matrix [3,3], active, right-handed; angles in radians.
"""

from math import pi, sqrt

import numpy as np
import roma
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vidssl.errors import VidsslError

# the positive root of psi⁴ = psi + 4, the second constant of the super-Fibonacci spirals; the first is √2
PSI = 1.533751168755204288118041


def exp(rotvec: Tensor) -> Tensor:
    """Rotation vectors [..., 3] (axis times angle in radians) to rotations [..., 3, 3]; smooth at the zero vector."""
    # through quaternions: the gradient of roma.rotvec_to_rotmat is off by 2 at 1e-6 rad, where it changes formula
    return roma.unitquat_to_rotmat(roma.rotvec_to_unitquat(rotvec))


def log(rotation: Tensor) -> Tensor:
    """Rotations [..., 3, 3] to rotation vectors [..., 3] of length 0…π; at π either sign of the axis is right."""
    return roma.rotmat_to_rotvec(rotation)


def random_rotations(
    count: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """[count, 3, 3] uniform on SO(3): quaternions uniform on the sphere (normalised Gaussian 4-vectors)."""
    quaternion = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return roma.unitquat_to_rotmat(quaternion).to(dtype)


def grid(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[count, 3, 3] rotations spread evenly over SO(3), for any count.

    Super-Fibonacci spirals (Alexa, CVPR 2022, algorithm 1). The distance of a random rotation to the nearest of them
    is about 7.3° in the mean, at most 13°, for 5,000 rotations, and shrinks as count^(-1/3).

    Raises:
        VidsslError: count below 1.
    """
    if count < 1:
        raise VidsslError(f"grid: got {count} rotations; at least 1")
    s = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (s / count).sqrt(), (1 - s / count).sqrt()
    alpha, beta = 2 * pi * s / sqrt(2), 2 * pi * s / PSI
    quaternion = torch.stack((inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos()), dim=-1)
    return roma.unitquat_to_rotmat(quaternion).to(dtype)


def nearest(rotations: Tensor, among: Tensor) -> Tensor:
    """For each of [n, 3, 3] the place int64 [n] of the closest (smallest angle) of [m, 3, 3]; needs n·m floats."""
    return (rotations.flatten(-2) @ among.flatten(-2).T).argmax(dim=-1)  # tr(AᵀB) = 1 + 2 cos(angle)


def angle(rotation: Tensor) -> Tensor:
    """The angle [...] of rotations [..., 3, 3] in radians, 0…π, with finite gradients everywhere.

    atan2(|v|, (tr R - 1)/2) with 2v the axial vector of R - Rᵀ: exact near 0 and near π, where acos of the trace loses
    half the digits and has an infinite gradient. At exactly 0 and π, where the angle has a corner, the gradient is 0.
    """
    skew = torch.stack(
        (
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ),
        dim=-1,
    )
    square = skew.square().sum(dim=-1)
    corner = square == 0
    sine = torch.where(corner, 0.0, torch.where(corner, 1.0, square).sqrt() / 2)
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1) / 2
    return torch.atan2(sine, cosine)


def geodesic(first: Tensor, second: Tensor) -> Tensor:
    """The angle [...] in radians, 0…π, of the rotation between [..., 3, 3] and [..., 3, 3]; gradients as of `angle`."""
    return angle(first.transpose(-1, -2) @ second)


def check_rotation(rotation: ArrayLike, name: str = "rotation", tolerance: float = 1e-3) -> NDArray[np.float32]:
    """Rotations as float32 [..., 3, 3].

    Args:
        rotation: what a caller passed.
        name: how the message calls it.
        tolerance: largest entry of |RᵀR - 1| that rounding may leave.

    Raises:
        VidsslError: other shape, numbers not finite, scaled or sheared, or a reflection.
    """
    matrix = np.asarray(rotation, dtype=np.float32)
    if matrix.ndim < 2 or matrix.shape[-2:] != (3, 3):
        raise VidsslError(f"{name}: expected rotation matrices [..., 3, 3], got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise VidsslError(f"{name}: got NaN or infinity; every entry of a rotation lies in [-1, 1]")
    wide = matrix.astype(np.float64)
    off = float(np.abs(np.swapaxes(wide, -1, -2) @ wide - np.eye(3)).max(initial=0))
    if off > tolerance:
        raise VidsslError(
            f"{name}: not a rotation, RᵀR is off the unit matrix by {off:.3g}; pass orthonormal matrices"
            " (vidssl.rotation.representations.to_rotation makes the closest one)"
        )
    if (np.linalg.det(wide) < 0).any():
        raise VidsslError(f"{name}: a reflection (determinant -1), not a rotation; the frames must be right-handed")
    return matrix
