"""Distances between two poses of a shape, which a symmetry of the shape leaves alone, and between two rotations.

p points of a shape's model, about its middle, in any unit of length; q points of another cloud.
"""

import torch
from torch import Tensor

from vidssl.rotation.so3 import geodesic


def degrees_apart(estimate: Tensor, truth: Tensor) -> Tensor:
    """The angle [...] in degrees, 0…180, between rotations [..., 3, 3]."""
    return geodesic(estimate, truth).rad2deg()


def add(estimate: Tensor, truth: Tensor, points: Tensor) -> Tensor:
    """Average distance [...] between the points as each of two rotations turns them (Hinterstoisser et al., ACCV 2012).

    Args:
        estimate, truth: [..., 3, 3].
        points: [..., p, 3].
    """
    return (turn(estimate, points) - turn(truth, points)).norm(dim=-1).mean(dim=-1)


def add_s(estimate: Tensor, truth: Tensor, points: Tensor) -> Tensor:
    """ADD-S [...]: from each point as the truth turns it, the mean distance to the nearest as the estimate turns them.

    0 for a rotation off by a symmetry of the points, so that symmetric objects can be judged (Xiang et al., PoseCNN,
    RSS 2018, section IV-B). Arguments as of `add`; holds p² numbers a rotation.
    """
    return distances(turn(truth, points), turn(estimate, points)).amin(dim=-1).mean(dim=-1)


def chamfer(first: Tensor, second: Tensor) -> Tensor:
    """Chamfer distance [...] of clouds [..., p, 3] and [..., q, 3]: mean squared nearest distance, there plus back."""
    square = distances(first, second).square()
    return square.amin(dim=-1).mean(dim=-1) + square.amin(dim=-2).mean(dim=-1)


def turn(rotation: Tensor, points: Tensor) -> Tensor:
    """Points [..., p, 3] turned by rotations [..., 3, 3]."""
    return points @ rotation.transpose(-1, -2)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """[..., p, q] between clouds; not by the inner-product formula, whose rounding hides short distances."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
