"""A depth view as signals on the sphere, so that a rotation of the object is a known linear map of them.

n views, S side of a crop, s = S/4 cells a side, C signals, L degree, D_l Wigner matrices.

    crop [n,2,S,S] -> convolutions -> what each cell says [2C,s,s] -> lifted to where its normal and its place point
                           |                                                                   + -> Z [C,(L+1)²]
                           '-> the whole view -> what it does not see, and where the object's middle is

A cell's part of Z turns with the object exactly: Z(R x) = D(R) Z(x) for what both views see. What one view does not
see is filled in from what the network knows of objects. Two views then fit under a rotation as well as their signals
correlate, score(R) = <Z_b, D(R) Z_a>: all rotations at once are one product with the Wigner matrices of a grid.

Correlation of spherical signals for relative pose: Esteves et al., "Cross-domain 3D equivariant image embeddings" (ICML
2019); distributions over SO(3) from spherical harmonics of an image: Klee et al., "Image to Sphere" (ICLR 2023).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.rotation.config import NetworkConfig
from vidssl.rotation.crops import SIZE, Crops, cell_normals, cells
from vidssl.rotation.harmonics import spherical_harmonics


class SphereNet(nn.Module):
    """Crops to spherical signals and the object's middle."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        half, quarter, eighth, last = config.widths
        harmonics = (config.degree + 1) ** 2
        self.stem = nn.Conv2d(8, half, 3, padding=1)  # 2 channels x 4 pixels
        self.quarter = nn.Sequential(nn.Conv2d(half, quarter, 3, 2, 1), nn.GroupNorm(8, quarter), nn.ReLU())
        self.eighth = nn.Sequential(nn.Conv2d(quarter, eighth, 3, 2, 1), nn.ReLU(), Residual(eighth))
        self.last = nn.Sequential(nn.Conv2d(eighth, last, 3, 2, 1), nn.ReLU(), Residual(last))
        self.fuse = nn.Conv2d(quarter + eighth + last, 128, 1)
        self.says = nn.Conv2d(128, 2 * config.signals, 1)
        self.whole = nn.Linear(last * (SIZE // 16) ** 2, config.hidden)
        self.unseen = nn.Linear(config.hidden, config.signals * harmonics)
        self.middle = nn.Linear(config.hidden, 3)
        self.weight = nn.Parameter(torch.zeros(config.degree + 1))  # of each degree, its logarithm
        self.scale = nn.Parameter(torch.tensor(3.0))  # of the scores, its logarithm

    def forward(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Signals [n,C,(L+1)²] of unit norm over both axes, and the object's middle [n,3] in radii from the origin."""
        x = torch.cat((crops.points[:, 2:], crops.mask), dim=1).contiguous(memory_format=torch.channels_last)
        quarter = self.quarter(F.relu(self.stem(F.pixel_unshuffle(x, 2))))
        eighth = self.eighth(quarter)
        last = self.last(eighth)
        whole = F.relu(self.whole(F.relu(last).flatten(1)))
        middle = self.middle(whole).float()
        levels = (quarter, F.interpolate(eighth, scale_factor=2.0), F.interpolate(last, scale_factor=4.0))
        says = self.says(F.relu(self.fuse(torch.cat(levels, dim=1)))).float().flatten(2)  # [n,2C,s²]
        lifted = self._lift(crops, says, middle.detach())
        unseen = self.unseen(whole).float().unflatten(1, (self.config.signals, -1))
        signals = (lifted + unseen) * self._weights()
        return signals / signals.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-6), middle

    def _lift(self, crops: Crops, says: Tensor, middle: Tensor) -> Tensor:
        """Each cell's sayings [n,2C,s²] spread as bumps in its normal's direction and its place's: [n,C,(L+1)²]."""
        with torch.autocast(says.device.type, enabled=False):
            points, share = cells(crops, 4)
            normals, known = cell_normals(points, share)
            places = F.normalize(points - middle[:, :, None, None], dim=1)
            by_normal, by_place = (
                spherical_harmonics(vectors.flatten(2).transpose(1, 2), self.config.degree)
                for vectors in (normals, places)
            )
            normal_says, place_says = (says * known.flatten(2) / 30).split(self.config.signals, dim=1)
            return normal_says @ by_normal + place_says @ by_place

    def _weights(self) -> Tensor:
        return torch.cat([w.exp().expand(2 * ell + 1) for ell, w in enumerate(self.weight)])


class Residual(nn.Module):
    """Two 3x3 convolutions, normalised before, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.second_norm, self.second = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n,width,s,s] -> the same."""
        inner = self.first(F.relu(self.first_norm(x)))
        return x + self.second(F.relu(self.second_norm(inner)))
