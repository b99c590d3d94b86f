"""Point encoders: clouds `[B,P,3]` -> features `[B,D]`, whatever the order of the points.

    PointNet  each point by itself ──maximum over the points──> feature
    DGCNN     each point with its nearest neighbours, found anew in every layer ──maximum, mean──> feature

B clouds, P points, C channels, k neighbours, D feature dim.

A cloud is moved to its mean and scaled to root mean square distance 1 first: features tell the shape, not the place
nor the size, and metres or millimetres make no difference.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from vidssl.checkpoint import read_config, read_model
from vidssl.core.batch_norm import BatchNorm
from vidssl.errors import VidsslError, unknown_name

FEWEST_POINTS = 32
SLOPE = 0.2  # of leaky ReLU below 0, as in DGCNN's code


class PointNet(nn.Module):
    """`[B,P,3] -> [B,D]`: Qi, Su, Mo, Guibas 2017, "PointNet", arXiv 1612.00593, equation 1 and figure 2.

    The plain form: without the networks that turn input and features (section 4.2), which bring 1.7 points of
    accuracy on aligned models (their table 5); here objects come in any rotation. Published widths: 64, 64, 64, 128,
    1024.

    Args:
        dim: D.
        widths: of the layers before the last, shared by all points.
    """

    fewest = FEWEST_POINTS

    def __init__(self, dim: int = 256, widths: tuple[int, ...] = (64, 64, 128)) -> None:
        super().__init__()
        self.dim = dim
        layers = [_shared(before, after) for before, after in pairwise((3, *widths, dim))]
        self.points = nn.Sequential(*layers)

    def forward(self, points: Tensor) -> Tensor:
        """Features of clouds.

        Args:
            points: floating `[B,P,3]`, any unit, at least `fewest` points.

        Returns:
            `[B,D]`.

        Raises:
            VidsslError: another shape or type, too few points, NaN, or all points in one place.
        """
        unit = unit_clouds(check_points(points, self.fewest))
        return self.points(unit.flatten(0, 1)).unflatten(0, unit.shape[:2]).amax(1)


class DGCNN(nn.Module):
    """`[B,P,3] -> [B,D]`: Wang et al. 2019, "Dynamic graph CNN for learning on point clouds", arXiv 1801.07829.

    Edge convolutions (equation 8) on the graph of nearest neighbours in the feature space of each layer; all layers'
    features side by side, one more layer, maximum and mean over the points (figure 3). Published: k = 20 of 1024
    points, widths 64, 64, 128, 256.

    Neighbours at exactly the same distance as the k-th are chosen by their order.

    Args:
        dim: D, even: half of it maxima, half means.
        widths: of the edge convolutions.
        neighbours: k, the point itself among them.
    """

    def __init__(self, dim: int = 256, widths: tuple[int, ...] = (32, 64, 128), neighbours: int = 12) -> None:
        super().__init__()
        if dim % 2 or neighbours < 2:
            raise VidsslError(f"dgcnn: got dim={dim}, neighbours={neighbours}; give an even dim, 2 neighbours or more")
        self.dim = dim
        self.fewest = max(FEWEST_POINTS, neighbours)
        self.edges = nn.ModuleList(EdgeConv(before, after, neighbours) for before, after in pairwise((3, *widths)))
        self.points = _shared(sum(widths), dim // 2)

    def forward(self, points: Tensor) -> Tensor:
        """Features of clouds: as of `PointNet`."""
        x = unit_clouds(check_points(points, self.fewest))
        found = []
        for edge in self.edges:
            x = edge(x)
            found.append(x)
        joined = torch.cat(found, dim=2)
        pooled = self.points(joined.flatten(0, 1)).unflatten(0, joined.shape[:2])
        return torch.cat([pooled.amax(1), pooled.mean(1)], dim=1)


class EdgeConv(nn.Module):
    """`[B,P,C] -> [B,P,C']`: maximum over the neighbours j of θ(x_j − x_i) + φ x_i, then norm and leaky ReLU.

    Both maps are linear, so θ x_j is computed once a point rather than once an edge, and the norm comes after the
    maximum: the same function where the norm's scale is positive, with statistics over points instead of edges, and k
    times less to compute.
    """

    def __init__(self, before: int, after: int, neighbours: int) -> None:
        super().__init__()
        self.edge = nn.Linear(before, after, bias=False)  # θ
        self.own = nn.Linear(before, after, bias=False)  # φ
        self.norm = nn.Sequential(BatchNorm(after), nn.LeakyReLU(SLOPE))
        self.neighbours = neighbours

    def forward(self, x: Tensor) -> Tensor:
        """The next layer's features of the points."""
        clouds, points, _ = x.shape
        edge = self.edge(x)
        with torch.no_grad():  # only which neighbour is the maximum matters to the gradient
            near = torch.cdist(x, x).topk(self.neighbours, largest=False).indices  # [B,P,k]
            rows = (near + points * torch.arange(clouds, device=x.device)[:, None, None]).flatten()
            values = edge.flatten(0, 1).index_select(0, rows).unflatten(0, near.shape)  # [B,P,k,C']
            winner = near.gather(2, values.max(2).indices)  # [B,P,C']
        best = edge.gather(1, winner)
        return self.norm((best - edge + self.own(x)).flatten(0, 1)).unflatten(0, (clouds, points))


def check_points(points: Tensor, fewest: int = FEWEST_POINTS) -> Tensor:
    """`points`, where they are clouds that an encoder can read.

    Raises:
        VidsslError: not floating `[B,P,3]`, fewer than `fewest` points, NaN or infinity, all points in one place.
    """
    if points.ndim != 3 or points.shape[2] != 3 or not points.is_floating_point() or len(points) == 0:
        raise VidsslError(
            f"points: expected float32 [B,P,3], got {str(points.dtype).removeprefix('torch.')} {tuple(points.shape)}; "
            "give one cloud as points[None]"
        )
    if points.shape[1] < fewest:
        raise VidsslError(f"points: got {points.shape[1]} points a cloud, at least {fewest} are needed")
    bad = ~torch.isfinite(points).all(2)
    if bool(bad.any()):
        cloud = int(bad.any(1).nonzero()[0])
        raise VidsslError(
            f"points: {int(bad[cloud].sum())} of {points.shape[1]} points of cloud {cloud} are NaN or infinite; "
            "leave out pixels without a return"
        )
    still = (points == points[:, :1]).all(2).all(1)
    if bool(still.any()):
        raise VidsslError(
            f"points: all points of cloud {int(still.nonzero()[0])} lie in one place; a shape has an extent"
        )
    return points


def unit_clouds(points: Tensor) -> Tensor:
    """Clouds `[B,P,3]` about their mean, of root mean square distance 1 from it."""
    centred = points - points.mean(1, keepdim=True)
    return centred / centred.square().sum(2).mean(1).sqrt()[:, None, None]


def _shared(before: int, after: int) -> nn.Sequential:
    """A layer that all points share: `[n, before] -> [n, after]`."""
    return nn.Sequential(nn.Linear(before, after, bias=False), BatchNorm(after), nn.LeakyReLU(SLOPE))


PointEncoder = PointNet | DGCNN
POINT_ENCODERS: dict[str, Callable[[int], PointEncoder]] = {"dgcnn": DGCNN, "pointnet": PointNet}


def build_point_encoder(name: str, dim: int = 256) -> PointEncoder:
    """An untrained point encoder; weights come from torch's global generator.

    Raises:
        VidsslError: unknown name (lists the valid ones).
    """
    if name not in POINT_ENCODERS:
        raise unknown_name("point encoder", name, POINT_ENCODERS)
    return POINT_ENCODERS[name](dim)


def load_point_encoder(run: str | Path) -> PointEncoder:
    """The point encoder of a run folder of `vidssl pretrain-points`, in eval mode, on the CPU.

    Raises:
        VidsslError: not such a folder, or one whose weights are missing or damaged.
    """
    config = read_config(run)
    if config.get("kind") != "points":
        raise VidsslError(f"{run} holds no point encoder; pass the --out folder of `vidssl pretrain-points`")
    encoder = build_point_encoder(config["encoder"]["name"], config["encoder"]["dim"])
    weights = read_model(run)
    encoder.load_state_dict({name.removeprefix("encoder."): w for name, w in weights.items()})
    return encoder.eval()
