"""What the rotation networks see of a depth image: the object, cut out, at one size, about the middle of what is seen.

n views, H, W rows and columns, S side of a crop in pixels. Lengths in radii of the object: 1 = `radius` metres.

    depth [n,H,W] --mean of the pixels with a return--> origin --every step-th pixel about it--> points, mask [n,·,S,S]

A crop's pixels are a fixed length apart at the depth of the origin, whatever the camera: PITCH radii.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidssl.errors import VidsslError

SIZE = 96  # pixels; 96 * PITCH = 2.56 radii wide
PITCH = 1 / 37.5  # radii a pixel: the pixels of a camera of 300 px focal length that sees a radius of 0.1 m at 0.8 m


@dataclass(frozen=True)
class Crops:
    """n views cut out. Points are relative to `origin`, camera axes, in radii."""

    points: Tensor
    """float32 [n,3,S,S]; 0 where there is no return"""
    mask: Tensor
    """float32 [n,1,S,S]: 1 = a return"""
    origin: Tensor
    """float32 [n,3] metres, camera frame: the mean of the visible pixels, as a point"""
    radius: Tensor
    """float32 [n] metres"""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, which: Tensor | slice) -> "Crops":
        return Crops(self.points[which], self.mask[which], self.origin[which], self.radius[which])


def crop(depth: Tensor, K: Tensor, radius: Tensor | float, size: int = SIZE) -> Crops:
    """Cut the object out of each view.

    Args:
        depth: float32 [n,H,W] metres, 0 = no return, nothing but the object in view; at least one return a view.
        K: [3,3] intrinsics in pixels.
        radius: of the object, metres, [n] or one for all; need not be exact.
        size: S.

    Raises:
        VidsslError: a view without any return.
    """
    n = len(depth)
    device = depth.device
    radii = torch.as_tensor(radius, dtype=torch.float32, device=device).expand(n)
    seen = (depth > 0).float()
    count = seen.sum((1, 2))
    if (count == 0).any():
        raise VidsslError(f"depth[{int((count == 0).nonzero()[0])}]: empty, no pixel has a return")
    height, width = depth.shape[1:]
    columns, rows = (torch.arange(side, dtype=torch.float32, device=device) for side in (width, height))
    u, v = (seen.sum(1) @ columns) / count, (seen.sum(2) @ rows) / count
    z = depth.sum((1, 2)) / count
    K = K.to(device, torch.float32)
    focal, middle = K.diagonal()[:2], K[:2, 2]
    step = PITCH * radii[:, None] * focal / z[:, None]  # [n,2] pixels of the view a pixel of the crop
    offsets = torch.arange(size, device=device) - (size - 1) / 2
    across = (u[:, None] + step[:, :1] * offsets).round().long()  # [n,S]
    down = (v[:, None] + step[:, 1:] * offsets).round().long()
    inside = ((down >= 0) & (down < height))[:, :, None] & ((across >= 0) & (across < width))[:, None]
    which = torch.arange(n, device=device)[:, None, None]
    cut = depth[which, down.clamp(0, height - 1)[:, :, None], across.clamp(0, width - 1)[:, None]] * inside
    mask = (cut > 0).float()
    origin = torch.stack(((u - middle[0]) / focal[0] * z, (v - middle[1]) / focal[1] * z, z), dim=1)
    x = (across - middle[0])[:, None] / focal[0] * cut
    y = (down - middle[1])[:, :, None] / focal[1] * cut
    points = (torch.stack((x, y, cut), dim=1) - origin[:, :, None, None]) / radii[:, None, None, None]
    return Crops(points * mask[:, None], mask[:, None], origin, radii)


def cells(crops: Crops, side: int) -> tuple[Tensor, Tensor]:
    """Means over squares of side x side pixels: points [n,3,S/side,S/side] and the share of pixels with a return."""
    share = F.avg_pool2d(crops.mask, side)
    return F.avg_pool2d(crops.points, side) / share.clamp(min=1e-6), share


def cell_normals(points: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Normals of cells from their neighbours' places.

    Args:
        points: [n,3,s,s], `share` [n,1,s,s], as of `cells`.

    Returns:
        Unit normals [n,3,s,s] that face the camera, 0 where unknown, and 1 where known [n,1,s,s].
    """
    known = F.pad((share > 0.3).float(), (1, 1, 1, 1))
    padded = F.pad(points, (1, 1, 1, 1))
    here = known[:, :, 1:-1, 1:-1]
    across = _slope(padded[:, :, 1:-1], known[:, :, 1:-1])
    down = _slope(padded[:, :, :, 1:-1].transpose(2, 3), known[:, :, :, 1:-1].transpose(2, 3)).transpose(2, 3)
    normal = torch.linalg.cross(down, across, dim=1)
    length = normal.norm(dim=1, keepdim=True)
    found = here * (length > 1e-6)
    return normal / length.clamp(min=1e-6) * found, found


def _slope(points: Tensor, known: Tensor) -> Tensor:
    """Change of points [n,3,s,s+2] along the last axis: central where both neighbours are known, else one-sided."""
    before, here, after = points[..., :-2], points[..., 1:-1], points[..., 2:]
    left, right = known[..., :-2] > 0, known[..., 2:] > 0
    one = torch.where(right, after - here, torch.where(left, here - before, torch.zeros_like(here)))
    return torch.where(left & right, (after - before) / 2, one)
