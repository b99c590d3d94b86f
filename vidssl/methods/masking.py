"""Masks over the places of a grid, the same at all times of a clip, and the network that fills them in.

    time 0     time 1     …           what is masked is masked for the whole clip: a still place can't be copied from
    x x . x    x x . x                the frame before (Tong et al. 2022, section 3.3; Bardes et al. 2024, section 3.2)
    . x x x    . x x x

B clips, n = t h w tokens in a grid of t times and h x w places, K kept, M = n - K masked, D token dim.
"""

import torch
from torch import Tensor, nn

from vidssl.core.random import uniform
from vidssl.encoders.vit import Block, positions
from vidssl.errors import VidsslError

Grid = tuple[int, int, int]


def split(scores: Tensor, kept: int, times: int) -> tuple[Tensor, Tensor]:
    """Tokens of the `kept` places of lowest score, and those of the others, at every time.

    Args:
        scores: `[B, h*w]`.
        kept: places to keep, the same number for every clip, so that a batch stays a tensor.
        times: t.

    Returns:
        Token numbers int64 `[B, t*kept]` and `[B, t*(h*w - kept)]`.
    """
    places = scores.shape[1]
    order = scores.argsort(dim=1, stable=True)
    tokens = order[:, None] + places * torch.arange(times, device=order.device)[:, None]
    return tokens[:, :, :kept].flatten(1), tokens[:, :, kept:].flatten(1)


def blocks(keys: Tensor, places: tuple[int, int], count: int, area: float, stream: int) -> Tensor:
    """How the places are masked by `count` blocks: scores `[B, h*w]`, below 1 outside all blocks and from 1 up inside.

    A block covers `area` of the h x w places, with width / height log-uniform in [3/4, 3/2], anywhere (V-JEPA, section
    3.2). Within and without, scores are uniform: `split` by them to fill up at random where blocks overlap.
    """
    h, w = places
    draws = uniform(keys, 3 * count + h * w, stream)
    aspect, top, left = draws[:, : 3 * count].unflatten(1, (3, count)).unbind(1)
    ratio = 0.75 * 2.0**aspect
    height = (area * h * w / ratio).sqrt().round().clamp(1, h)
    width = (area * h * w * ratio).sqrt().round().clamp(1, w)
    top, left = (top * (h - height + 1)).floor(), (left * (w - width + 1)).floor()
    row, column = torch.arange(h, device=keys.device), torch.arange(w, device=keys.device)
    in_rows = (row >= top[..., None]) & (row < (top + height)[..., None])  # [B,count,h]
    in_columns = (column >= left[..., None]) & (column < (left + width)[..., None])
    inside = (in_rows[..., :, None] & in_columns[..., None, :]).any(1)
    return inside.flatten(1) + draws[:, 3 * count :]


def kept_places(share: float, grid: Grid) -> int:
    """`share` of the places of a grid, rounded, at least one kept and one masked."""
    places = grid[1] * grid[2]
    return min(max(1, round(share * places)), places - 1)


class Predictor(nn.Module):
    """From the tokens of kept places, something at each of the masked: a narrow transformer over both.

    Args:
        dim: D.
        out: numbers predicted a token.
        width: of the transformer; a multiple of 64, the size of a head.
        depth: blocks.
    Raises:
        VidsslError: another width, no block.
    """

    def __init__(self, dim: int, out: int, width: int, depth: int) -> None:
        super().__init__()
        if width < 1 or width % 64 or depth < 1:
            raise VidsslError(
                f"predictor: got width={width}, depth={depth}; give a multiple of 64, and 1 or more blocks"
            )
        self.width = width
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, out)

    def forward(self, tokens: Tensor, keep: Tensor, masked: Tensor, grid: Grid) -> Tensor:
        """Tokens `[B,K,D]` of the places `keep` int64 `[B,K]`, asked for `masked` int64 `[B,M]` -> `[B,M,out]`."""
        position = positions(grid, self.width, tokens.device)
        known = self.embed(tokens) + position[keep]
        x = torch.cat([known, self.mask_token + position[masked]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x[:, tokens.shape[1] :]))
