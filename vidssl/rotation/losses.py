"""Losses between estimated and true rotations: means over a batch, scalars, with finite gradients at 0° and 180°.

B rotations of a batch, p points of a shape's model, about its middle. A loss in squared lengths is small for an object
of 0.1 m: divide the points by its radius, or weigh the loss.
"""

from torch import Tensor

from vidssl.rotation.metrics import add_s, chamfer, distances, turn
from vidssl.rotation.so3 import geodesic


def geodesic_loss(estimate: Tensor, truth: Tensor) -> Tensor:
    """Mean angle in radians, 0…π, between [B, 3, 3] and [B, 3, 3]."""
    return geodesic(estimate, truth).mean()


def shape_match_loss(estimate: Tensor, truth: Tensor, points: Tensor) -> Tensor:
    """Half the mean squared distance from each estimated point to the nearest true one; blind to symmetries.

    ShapeMatch-Loss (Xiang et al., PoseCNN, RSS 2018, equation 7), there with quaternions.

    Args:
        estimate, truth: [B, 3, 3].
        points: [p, 3] or [B, p, 3], one shape for each.
    """
    return distances(turn(estimate, points), turn(truth, points)).square().amin(dim=-1).mean() / 2


def add_s_loss(estimate: Tensor, truth: Tensor, points: Tensor) -> Tensor:
    """Mean ADD-S, in the points' unit; arguments as of `shape_match_loss`."""
    return add_s(estimate, truth, points).mean()


def chamfer_loss(estimate: Tensor, truth: Tensor, points: Tensor) -> Tensor:
    """Mean Chamfer distance between the points as each rotation turns them; arguments as of `shape_match_loss`."""
    return chamfer(turn(estimate, points), turn(truth, points)).mean()
