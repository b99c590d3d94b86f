r"""The energy of an alignment: two depth views and a rotation between them -> how wrong it is, and what to mend.

P pairs, m points a view, k alignments in all, G pixels a side. Lengths in radii of the object.

    points a --R, t--> splat into view b [k,2,G,G] \
    points b ------------------------- [k,2,G,G] - what differs -> convolutions -\
                                                                                  perceptron -> energy [k]
    points b --R,t inverted--> splat into view a \                               /               correction of R and t
    points a ------------------------------------- what differs -> convolutions -                expected error

Both ways, since each view sees what the other cannot; as pictures, since a wrong rotation shows as surface where the
other view saw through (free space) as much as by distance. Render-and-compare corrections as in DeepIM (Li et al.,
ECCV 2018), here between two views of an unknown object instead of a view and its model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.rotation.config import EnergyConfig
from vidssl.rotation.network import Residual
from vidssl.rotation.registration import NEIGHBOURS, Stages, gicp_clouds, refine
from vidssl.rotation.registration import Clouds as Registrable
from vidssl.rotation.so3 import exp

PIXELS = 48  # G
PITCH = 0.047  # radii a pixel
POINTS = 1400  # m, drawn from each view
FAR = 90.0  # beyond any depth
# generalised ICP from where an alignment is: an object's radius counts as METRES, on points SPACING apart, with a reach
# of 1 cm (median error over hard pairs at 30-80 degrees .38°, as with 4 mm and two stages, in .8 of the time, and .95
# within 5° rather than .90)
METRES, SPACING, NARROW = 0.1, 0.005, ((0.01, 15, 1e-3),)


class Clouds(NamedTuple):
    """Points of P views about where each one's middle is believed to be, camera axes, radii."""

    points: Tensor
    """[P,m,3]"""
    valid: Tensor
    """bool [P,m]: views with few points are filled up"""


class Alignments(NamedTuple):
    """k alignments p_b = R p_a + t of views of `Clouds`."""

    pair: Tensor
    """int64 [k]: of which pair"""
    rotation: Tensor
    """[k,3,3]"""
    translation: Tensor
    """[k,3] radii"""
    score: Tensor
    """[k], of the proposal"""


class Judgement(NamedTuple):
    """What the network says of k alignments."""

    energy: Tensor
    """[k]: lower = better; comparable within a pair"""
    turn: Tensor
    """[k,3]: rotation vector, camera axes of b, radians: exp(turn) R is closer"""
    shift: Tensor
    """[k,3]: t + shift is closer, radii"""
    log_error: Tensor
    """[k]: logarithm of the expected error of R, degrees"""


class AlignmentNet(nn.Module):
    """Clouds and alignments to judgements."""

    def __init__(self, config: EnergyConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EnergyConfig()
        half, quarter, eighth = config.widths
        self.stem = nn.Sequential(nn.Conv2d(20, half, 3, padding=1), nn.ReLU())  # 5 channels x 4 pixels
        self.quarter = nn.Sequential(nn.Conv2d(half, quarter, 3, 2, 1), nn.ReLU(), Residual(quarter))
        self.eighth = nn.Sequential(nn.Conv2d(quarter, eighth, 3, 2, 1), nn.ReLU(), Residual(eighth), nn.ReLU())
        self.view = nn.Sequential(nn.Linear(eighth * (PIXELS // 8) ** 2, config.hidden), nn.ReLU())
        self.both = nn.Sequential(
            nn.Linear(2 * config.hidden + 1, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 8)
        )

    def forward(self, a: Clouds, b: Clouds, tried: Alignments) -> Judgement:
        """Judge k alignments of P pairs of views."""
        seen = torch.cat(pictures(a, b, tried)).contiguous(memory_format=torch.channels_last)
        views = self.view(self.eighth(self.quarter(self.stem(F.pixel_unshuffle(seen, 2)))).flatten(1))
        in_b, in_a = views.float().chunk(2)
        out = self.both(torch.cat((in_b, in_a, tried.score[:, None]), dim=1)).float()
        return Judgement(-out[:, 0], 0.3 * out[:, 1:4], 0.2 * out[:, 4:7], out[:, 7])


def registered(clouds: Sequence[Registrable | None], tried: Alignments, stages: Stages = NARROW) -> Alignments:
    """Where generalised ICP ends from each alignment, between its pair's clouds (`registrable`); some 2 ms each.

    Alignments of pairs that can't be registered stay as they are.
    """
    rotations, shifts = tried.rotation.cpu().numpy(), METRES * tried.translation.cpu().numpy()
    ends = [
        (R, t) if (pair := clouds[i]) is None else refine(pair, R, t, stages)
        for i, R, t in zip(tried.pair.tolist(), rotations, shifts, strict=True)
    ]
    turned = torch.from_numpy(np.stack([rotation for rotation, _ in ends])).to(tried.rotation)
    moved = torch.from_numpy(np.stack([shift for _, shift in ends]) / METRES).to(tried.translation)
    return tried._replace(rotation=turned, translation=moved)


def registrable(a: Clouds, b: Clouds) -> list[Registrable | None]:
    """Each pair of views, ready for `registered`; None where one has next to no points."""
    return [
        None if min(len(one), len(other)) < NEIGHBOURS else gicp_clouds(one, other, SPACING)
        for one, other in zip(_metres(a), _metres(b), strict=True)
    ]


def _metres(views: Clouds) -> list[NDArray[np.float64]]:
    """The valid points of each view."""
    points, valid = (METRES * views.points).cpu().double().numpy(), views.valid.cpu().numpy()
    return [some[seen] for some, seen in zip(points, valid, strict=True)]


def joined(*several: Alignments) -> Alignments:
    """All of them, one after the other."""
    return Alignments(*(torch.cat(parts) for parts in zip(*several, strict=True)))


def corrected(tried: Alignments, said: Judgement) -> Alignments:
    """The alignments with what the network would mend."""
    return tried._replace(rotation=exp(said.turn) @ tried.rotation, translation=tried.translation + said.shift)


def pictures(a: Clouds, b: Clouds, tried: Alignments) -> tuple[Tensor, Tensor]:
    """For each alignment the views as b's camera sees them and as a's: [k,5,G,G] both: own depth and mask, the other's
    depth and mask, and the difference of depths (times 3) where both have one. Depth in radii about the middle."""
    with torch.autocast(a.points.device.type, enabled=False):
        R, t, pair = tried.rotation.float(), tried.translation.float(), tried.pair
        to_b = a.points[pair] @ R.transpose(1, 2) + t[:, None]
        to_a = (b.points[pair] - t[:, None]) @ R
        own_b, own_a = splat(*b)[pair], splat(*a)[pair]
        return _compared(own_b, splat(to_b, a.valid[pair])), _compared(own_a, splat(to_a, b.valid[pair]))


def _compared(own: Tensor, other: Tensor) -> Tensor:
    both = own[:, 1:] * other[:, 1:]
    return torch.cat((own, other, 3 * (other[:, :1] - own[:, :1]) * both), dim=1)


def splat(points: Tensor, valid: Tensor) -> Tensor:
    """The nearest point of each pixel, seen from afar: [k,m,3] and bool [k,m] -> depth and mask [k,2,G,G]."""
    column, row = ((points[..., axis] / PITCH + PIXELS / 2).floor().long() for axis in (0, 1))
    inside = valid & (column >= 0) & (column < PIXELS) & (row >= 0) & (row < PIXELS)
    place = torch.where(inside, row * PIXELS + column, PIXELS * PIXELS)  # one more place for all that is outside
    depth = points.new_full((len(points), PIXELS * PIXELS + 1), FAR)
    depth = depth.scatter_reduce(1, place, points[..., 2], "amin")[:, :-1]
    mask = (depth < FAR).to(depth.dtype)
    return torch.stack((depth * mask, mask), dim=1).unflatten(2, (PIXELS, PIXELS))


def draw_points(points: Tensor, mask: Tensor, generator: torch.Generator | None = None, count: int = POINTS) -> Clouds:
    """`count` points of each crop, [n,3,S,S] and [n,1,S,S] (`Crops`), about the crops' origins.

    Spread evenly over the visible pixels; drawn at random with a generator.
    """
    flat, valid = points.flatten(2).transpose(1, 2), mask.flatten(1) > 0
    if generator is None:  # the first `count` of each view in an order that is the same for all and looks random
        order = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0))
        rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
        priority = valid.float() - (rank / len(rank)).to(valid.device)
    else:
        priority = valid.float() + torch.rand(valid.shape, generator=generator).to(valid.device)
    chosen = priority.topk(min(count, flat.shape[1]), dim=1).indices
    return Clouds(flat.gather(1, chosen[:, :, None].expand(-1, -1, 3)), valid.gather(1, chosen))
