"""Numbers that a network can put out for a rotation, and back.

    kind           numbers   to a rotation                                        continuous
    "matrix"       9         closest rotation to the 3x3 matrix (SVD)             yes
    "6d"           6         first two columns, Gram-Schmidt, cross product       yes
    "quaternion"   4         w, x, y, z, normalised; half-space w ≥ 0             but for 180°, where w changes sign

The 9 numbers are the default (Levinson et al., NeurIPS 2020). The half-space quaternion is as good where rotations are
small (Geist et al., ICML 2024). 6D: Zhou et al., CVPR 2019.
"""

from collections.abc import Callable
from dataclasses import dataclass

import roma
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidssl.errors import VidsslError, unknown_name


@dataclass(frozen=True)
class Representation:
    """One way of writing rotations."""

    width: int
    """numbers a rotation"""
    to_rotation: Callable[[Tensor], Tensor]
    """[..., width] to [..., 3, 3]"""
    from_rotation: Callable[[Tensor], Tensor]
    """[..., 3, 3] to [..., width]"""


def to_rotation(x: Tensor, kind: str = "matrix") -> Tensor:
    """A network's numbers [..., width], of any size, to rotations [..., 3, 3].

    Values and gradients are finite for every input, also at 0° and 180°. Numbers that say nothing (all zero; "6d" with
    both columns on one line) give a matrix that needn't be a rotation, but for "matrix".

    Raises:
        VidsslError: an unknown kind, or another width.
    """
    chosen = _of(kind)
    if x.shape[-1:] != (chosen.width,):
        raise VidsslError(f"to_rotation: {kind!r} takes {chosen.width} numbers a rotation, got shape {tuple(x.shape)}")
    return chosen.to_rotation(x)


def from_rotation(rotation: Tensor, kind: str = "matrix") -> Tensor:
    """Rotations [..., 3, 3] to their numbers [..., width]; `to_rotation` gives the rotation back.

    Raises:
        VidsslError: an unknown kind, or another shape.
    """
    if rotation.shape[-2:] != (3, 3):
        raise VidsslError(f"from_rotation: expected rotations [..., 3, 3], got shape {tuple(rotation.shape)}")
    return _of(kind).from_rotation(rotation)


def _of(kind: str) -> Representation:
    if kind not in REPRESENTATIONS:
        raise unknown_name("representation", kind, REPRESENTATIONS)
    return REPRESENTATIONS[kind]


def _closest(x: Tensor) -> Tensor:
    found: Tensor = roma.special_procrustes(x.unflatten(-1, (3, 3)))
    return found


def _gram_schmidt(x: Tensor) -> Tensor:
    first = normalize(x[..., :3], dim=-1)
    second = normalize(x[..., 3:] - (first * x[..., 3:]).sum(dim=-1, keepdim=True) * first, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-1)


def _from_quaternion(x: Tensor) -> Tensor:
    found: Tensor = roma.unitquat_to_rotmat(normalize(x, dim=-1)[..., [1, 2, 3, 0]])  # roma has w last
    return found


def _half_space_quaternion(rotation: Tensor) -> Tensor:
    """The one of ±q with w > 0; at 180° (w = 0) the one whose first part that isn't 0 is positive."""
    quaternion = roma.rotmat_to_unitquat(rotation)[..., [3, 0, 1, 2]]
    first = (quaternion != 0).to(torch.int8).argmax(dim=-1, keepdim=True)
    return torch.where(quaternion.gather(-1, first) < 0, -quaternion, quaternion)


REPRESENTATIONS = {
    "matrix": Representation(9, _closest, lambda rotation: rotation.flatten(-2)),
    "6d": Representation(6, _gram_schmidt, lambda rotation: rotation[..., :2].transpose(-1, -2).flatten(-2)),
    "quaternion": Representation(4, _from_quaternion, _half_space_quaternion),
}
