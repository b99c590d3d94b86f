"""Colours apart from brightness: CIE Lab, the quantised ab plane, palettes of clips.

N pictures, H x W pixels, Q bins of the ab plane, B clips, n colours of a clip, K of its palette.
"""

import torch
from torch import Tensor

GRID = 10.0  # side of a bin of the ab plane, Zhang et al. 2016, section 2.1

# IEC 61966-2-1 (sRGB) to CIE XYZ, white D65
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))


def lab(rgb: Tensor) -> Tensor:
    """sRGB `[...,3,H,W]` in [0, 1] -> CIE Lab of the same shape: L in [0, 100], a and b about -110 to 110."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = rgb.new_tensor(_XYZ)
    matrix = matrix / matrix.sum(1, keepdim=True)  # white is (1, 1, 1)
    # A sum, not a product of matrices, which autocast would round to half precision.
    x, y, z = (matrix[:, :, None, None] * linear.unsqueeze(-4)).sum(-3).unbind(-3)

    def f(t: Tensor) -> Tensor:
        return torch.where(t > (6 / 29) ** 3, t.clamp_min(1e-3) ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)

    fx, fy, fz = f(x), f(y), f(z)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=-3)


def gamut_bins() -> Tensor:
    """Centres of the bins of the ab plane, 10 x 10 each, that hold a colour of the sRGB cube: float32 `[Q,2]`."""
    level = torch.linspace(0, 1, 65)
    cube = torch.cartesian_prod(level, level, level).T[:, None]  # [3,1,65^3]
    ab = lab(cube)[1:, 0].T
    return (ab / GRID).round().unique(dim=0) * GRID


@torch.no_grad()
def palettes(colours: Tensor, count: int, rounds: int = 5) -> tuple[Tensor, Tensor]:
    """The `count` colours that sum up each clip, by k-means, and which of them each place has.

    Begins with colours far apart (each the farthest from those before it) and draws nothing by chance, so a clip's
    palette depends on the clip alone.

    Args:
        colours: `[B,n,2]`, ab of a clip's places.
        count: K.
        rounds: of Lloyd's iteration.

    Returns:
        Palettes `[B,K,2]` and int64 `[B,n]`, numbers into them.
    """
    clips = torch.arange(len(colours), device=colours.device)
    centres = colours.mean(1, keepdim=True)
    nearest = torch.full_like(colours[..., 0], float("inf"))
    for _ in range(count):
        nearest = nearest.minimum((colours - centres[:, -1:]).square().sum(-1))
        centres = torch.cat([centres, colours[clips, nearest.argmax(1)][:, None]], dim=1)
    centres = centres[:, 1:]
    for _ in range(rounds):
        label = _distances(colours, centres).argmin(-1)
        sums = torch.zeros_like(centres).scatter_add_(1, label[..., None].expand(-1, -1, 2), colours)
        sizes = torch.zeros_like(centres[..., 0]).scatter_add_(1, label, torch.ones_like(colours[..., 0]))
        centres = torch.where(sizes[..., None] > 0, sums / sizes[..., None].clamp_min(1), centres)
    return centres, _distances(colours, centres).argmin(-1)


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squares `[B,n,K]`, less what is the same for all centres."""
    return torch.baddbmm(centres.square().sum(-1)[:, None], points, centres.mT, alpha=-2)
