"""What speaks for and against an alignment of two depth views, in numbers anyone can check.

k alignments, m points of a view. A point of one view, moved into the other, is one of

    on        the other view sees a surface there, at its depth         for
    before    the other view sees through it to something farther       against: it would have hidden that
    off       the other view sees nothing there, nor near it            against, unless the pixel was lost or covered
    behind    hidden by what the other view sees                        says nothing
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAME = 0.05  # radii: depths that differ by less are one surface
NEAR = 2.0  # pixels from the nearest return: nearer is a lost pixel rather than nothing
COUNT = 5  # numbers each way


@dataclass(frozen=True)
class View:
    """One depth view, ready to be asked what it sees at a place."""

    depth: Tensor
    """[H,W] metres; lost pixels with returns beside them are filled"""
    empty: Tensor
    """bool [H,W]: no return within NEAR pixels"""
    points: Tensor
    """[m,3] metres, camera frame"""
    K: Tensor
    """[3,3]"""


def make_view(depth: NDArray[np.float32], K: Tensor, points: Tensor) -> View:
    """A view from its depth image [H,W] and m of its points."""
    import cv2

    seen = (depth > 0).astype(np.float32)
    kernel = (3, 3)
    sums = cv2.boxFilter(depth, -1, kernel, normalize=False, borderType=cv2.BORDER_CONSTANT)
    counts = cv2.boxFilter(seen, -1, kernel, normalize=False, borderType=cv2.BORDER_CONSTANT)
    filled = np.where((seen == 0) & (counts > 1), sums / np.maximum(counts, 1), depth)
    away = cv2.distanceTransform(1 - seen.astype(np.uint8), cv2.DIST_L2, 3)
    return View(torch.from_numpy(filled), torch.from_numpy(away > NEAR), points, K)


def evidence(a: View, b: View, rotations: Tensor, translations: Tensor, radius: float) -> Tensor:
    """Numbers [k,2*COUNT] about alignments p_b = R p_a + t in the camera frame, [k,3,3] and [k,3] metres.

    Each way: the shares that are on, before and off; the mean distance in depth of those on or before, up to SAME; and
    that of those on, in units of SAME.
    """
    forth = a.points @ rotations.mT + translations[:, None]
    back = (b.points - translations[:, None]) @ rotations
    return torch.cat((_one_way(forth, b, radius), _one_way(back, a, radius)), dim=1)


def _one_way(points: Tensor, view: View, radius: float) -> Tensor:
    """[k,m,3] in the camera frame of a view -> [k,COUNT]."""
    height, width = view.depth.shape
    z = points[..., 2].clamp(min=1e-3)
    column = (points[..., 0] / z * view.K[0, 0] + view.K[0, 2]).round().long()
    row = (points[..., 1] / z * view.K[1, 1] + view.K[1, 2]).round().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = torch.where(inside, row * width + column, 0)
    surface = view.depth.flatten()[place]
    surface = torch.where(inside, surface, 0)
    empty = view.empty.flatten()[place] | ~inside
    known = surface > 0
    gap = (points[..., 2] - surface) / (radius * SAME)
    on, before = known & (gap.abs() < 1), known & (gap <= -1)
    distance = gap.abs().clamp(max=1)
    speaks, agrees = (on | before).float(), on.float()
    return torch.stack(
        (
            agrees.mean(dim=1),
            before.float().mean(dim=1),
            empty.float().mean(dim=1),
            (distance * speaks).sum(dim=1) / speaks.sum(dim=1).clamp(min=1),
            (distance * agrees).sum(dim=1) / agrees.sum(dim=1).clamp(min=1),
        ),
        dim=1,
    )
