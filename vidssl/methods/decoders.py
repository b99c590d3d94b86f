"""From an encoder's map back to pixels.

B clips, K frames, D' channels of a map, h x w its cells, C channels of a picture, H x W its pixels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.errors import VidsslError

TILE = 4  # pixels


def upsampler(channels: int, cells: tuple[int, int], target: tuple[int, int], width: int) -> tuple[nn.Sequential, int]:
    """Maps `[N,D',h,w]`, doubled as often as brings them next to `target` cells, and the channels they have then.

    A doubling is a 3x3 convolution and a pixel shuffle; channels halve with each, down to `width` (or D', if less).
    """
    layers: list[nn.Module] = []
    for left in reversed(range(max(0, round(math.log2(target[0] / cells[0]))))):
        after = min(width * 2**left, channels)
        layers += [nn.Conv2d(channels, 4 * after, 3, padding=1), nn.PixelShuffle(2), nn.GroupNorm(4, after), nn.SiLU()]
        channels = after
    return nn.Sequential(*layers), channels


def resampled(maps: Tensor, target: tuple[int, int]) -> Tensor:
    """Maps `[N,C,h,w]` with `target` cells, bilinear; themselves where they have them."""
    if maps.shape[-2:] == target:
        return maps
    return F.interpolate(maps, target, mode="bilinear", align_corners=False)


class PixelDecoder(nn.Module):
    """Maps `[B,K,D',h,w]` -> pictures `[B,K,C,H,W]`, painted in tiles of 4x4 pixels.

        map ──3x3 and pixel shuffle, doubled until a cell is a tile──┐
        pictures that didn't go through the map, cut into tiles ─────┴─> 3x3 ─> 3x3 ─> tiles ─> picture

    No convolution works at full size (Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an
    Efficient Sub-Pixel Convolutional Neural Network", arXiv 1609.05158): on small pictures those would cost several
    times what the encoder does.

    Args:
        channels: D'.
        cells: (h, w).
        size: (H, W), multiples of 4; where a cell isn't 4, 8, 16 or 32 pixels, the last map is resampled.
        channels_out: C.
        skip: channels of the pictures that the last layers also see; 0 for none.
        width: channels of a tile.

    Raises:
        VidsslError: a size that tiles don't fill.
    """

    def __init__(
        self,
        channels: int,
        cells: tuple[int, int],
        size: tuple[int, int],
        channels_out: int,
        skip: int = 0,
        width: int = 64,
    ) -> None:
        super().__init__()
        if size[0] % TILE or size[1] % TILE:
            raise VidsslError(f"frames of {size[0]}x{size[1]} aren't multiples of {TILE} pixels; change --size")
        self.tiles = (size[0] // TILE, size[1] // TILE)
        self.up, channels = upsampler(channels, cells, self.tiles, width)
        seen = skip * TILE**2
        self.mix = nn.Sequential(nn.Conv2d(channels + seen, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU())
        self.out = nn.Conv2d(width + seen, channels_out * TILE**2, 3, padding=1)

    def forward(self, maps: Tensor, skip: Tensor | None = None) -> Tensor:
        """`[B,K,D',h,w]` and, where it was asked for, the pictures that K frames share `[B,S,H,W]` -> `[B,K,C,H,W]`."""
        x = resampled(self.up(maps.flatten(0, 1)), self.tiles)
        seen = x[:, :0]
        if skip is not None:
            seen = F.pixel_unshuffle(skip, TILE).repeat_interleave(maps.shape[1], 0).to(x.dtype)
        x = self.mix(torch.cat([x, seen], dim=1))
        x = self.out(torch.cat([x, seen], dim=1))
        return F.pixel_shuffle(x, TILE).unflatten(0, maps.shape[:2])
