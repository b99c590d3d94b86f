"""Vision transformers on patches of a frame, or on tubes of space-time.

    clip [B,T,3,H,W] -> a grid of t x h x w tubes -> linear + position -> pre-norm blocks -> tokens [B,n,D] -> mean

The blocks are those of Dosovitskiy et al. 2021 (ViT), arXiv 2010.11929; tubes ("tubelets") of Arnab et al. 2021
(ViViT), arXiv 2103.15691, section 3.2. torchvision's ViT is tied to one square image size and a class token, and can't
leave tokens out. Positions are fixed sines and cosines of the place in the grid, so that size and length may vary.

B clips, T frames, H x W pixels, t x h x w tubes (n = t h w), P = pt*ph*pw pixels a tube, D feature dim, K kept tokens.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.encoders.clip import stream_step
from vidssl.encoders.frame import FRAME_MEAN, FRAME_STD, FrameEncoder
from vidssl.errors import VidsslError

PATCH = 8  # pixels: 8x8 patches of a 64x64 frame
TUBELET = 2  # frames
DIM, DEPTH, HEADS = 128, 4, 2


def positions(grid: Sequence[int], dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Places in a grid as sines and cosines: float32 [n, dim], the last axis of `grid` runs fastest.

    Each axis has an equal, even share of the numbers, sines first, at angles place * 10000^(-k / K) for k = 0 … K-1
    (Vaswani et al. 2017, section 3.5); numbers left over are zero. Made once for a device, so not to be written to;
    a graph that is being compiled or exported holds its own.
    """
    make = _positions if torch.compiler.is_compiling() else _kept_positions
    return make(tuple(grid), dim, torch.device(device))


def _positions(grid: tuple[int, ...], dim: int, device: torch.device) -> Tensor:
    pairs = dim // (2 * len(grid))
    rate = 10_000.0 ** (-torch.arange(pairs) / pairs)
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, len(grid))
    angles = places[:, :, None] * rate
    table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(table, (0, dim - 2 * pairs * len(grid))).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # made in the first evaluation, used in training too
def _kept_positions(grid: tuple[int, ...], dim: int, device: torch.device) -> Tensor:
    return _positions(grid, dim, device)


def patches(clips: Tensor, tube: tuple[int, int, int]) -> Tensor:
    """Cut clips into tubes of (pt, ph, pw) frames, rows and columns: `[B,T,3,H,W]` -> `[B,n,P,3]`.

    Raises:
        VidsslError: see `grid_of`.
    """
    (pt, ph, pw), (batch, frames, colours, height, width) = tube, clips.shape
    t, h, w = grid_of(frames, (height, width), tube)
    x = clips.reshape(batch, t, pt, colours, h, ph, w, pw)
    return x.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(batch, t * h * w, pt * ph * pw, colours)


def take(x: Tensor, keep: Tensor) -> Tensor:
    """The rows `keep` int64 `[B,K]` of `[B,n,…]` -> `[B,K,…]`."""
    return x[torch.arange(len(x), device=x.device)[:, None], keep]


class Transformer(nn.Module):
    """Tubes in, tokens out: `[N,n,P*3]` -> `[N,n,D]`; D / heads numbers a head, hidden layer of 4 D."""

    def __init__(self, numbers: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(numbers, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.apply(_initialise)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens of tubes at `position` `[n,D]` or `[N,n,D]`; mask bool `[N,1,n,n]`: who looks at whom (None: all)."""
        x = self.embed(x) + position  # in float32, mixed precision or not
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class Block(nn.Module):
    """A pre-norm block of self-attention and a perceptron: `[N,n,D]` -> `[N,n,D]`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        heads = self.query_key_value(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [N,heads,n,D/heads]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_mlp(x))


class FrameViT(FrameEncoder):
    """A transformer on the patches of every frame by itself: `[B,T,3,H,W]` in [0, 1] -> `[B,T,D]`, mean of the tokens.

    Attributes:
        patch_pixels: (1, ph, pw).
    """

    def __init__(self, size: tuple[int, int], dim: int = DIM, depth: int = DEPTH, heads: int = HEADS) -> None:
        super().__init__(
            _FrameTrunk(dim, depth, heads), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), dim, "colour"
        )
        self.size, self.patch_pixels = _checked(size), (1, PATCH, PATCH)

    def grid(self, frames: int) -> tuple[int, int, int]:
        """Tokens of clips of `frames` frames at the encoder's size: (t, h, w)."""
        return grid_of(frames, self.size, self.patch_pixels)

    def tokens(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of clips, in the order of the grid: `[B,T,3,H,W]` in [0, 1] -> `[B,n,D]`.

        Args:
            clips: as for `forward`.
            keep: int64 `[B,K]`, tokens to compute; the others are left out from the first layer on. Gives `[B,K,D]`.
        """
        if keep is None:
            return self.maps(clips).movedim(2, -1).flatten(1, 3)
        x = patches((clips - FRAME_MEAN) / FRAME_STD, self.patch_pixels).flatten(2)
        h, w = clips.shape[-2] // PATCH, clips.shape[-1] // PATCH
        frame, place = keep // (h * w), keep % (h * w)
        same = (frame[:, :, None] == frame[:, None, :])[:, None]  # tokens look at those of their own frame
        transformer: Transformer = self.trunk.transformer  # type: ignore[assignment]
        return transformer(take(x, keep), positions((h, w), self.dim, x.device)[place], same)


class _FrameTrunk(nn.Module):
    """Frames `[N,3,H,W]`, normalised -> `[N,D,h,w]`."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.transformer = Transformer(3 * PATCH**2, dim, depth, heads)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        cut = patches(x[:, None], (1, PATCH, PATCH)).flatten(2)
        tokens = self.transformer(cut, positions((h, w), self.transformer.norm.normalized_shape[0], x.device))
        return tokens.mT.unflatten(-1, (h, w))


class VideoViT(nn.Module):
    """A space-time transformer, every tube sees every other: `[B,T,3,H,W]` in [0, 1] -> `[B,T/2,D]`, mean over space.

    A clip with an odd number of frames has its first frame shown twice (an image is a still clip of two frames).

    Attributes:
        dim: D.
        patch_pixels: (pt, ph, pw).
        window: frames that streaming looks back over, the newest included.
        past: window - 1.
    """

    def __init__(
        self, size: tuple[int, int], dim: int = DIM, depth: int = DEPTH, heads: int = HEADS, window: int = 8
    ) -> None:
        super().__init__()
        self.size, self.dim, self.window, self.past = _checked(size), dim, window, window - 1
        self.patch_pixels = (TUBELET, PATCH, PATCH)
        self.transformer = Transformer(3 * TUBELET * PATCH**2, dim, depth, heads)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of every time of the grid: `[B,T,3,H,W]` in [0, 1] -> `[B,t,D]`."""
        return self.maps(clips).mean((-2, -1))

    def maps(self, clips: Tensor) -> Tensor:
        """Tokens in their places: `[B,T,3,H,W]` in [0, 1] -> `[B,t,D,h,w]`."""
        clips = torch.cat([clips[:, : -clips.shape[1] % TUBELET], clips], dim=1)
        t, h, w = _grid(clips, self.patch_pixels)
        return self.tokens(clips).unflatten(1, (t, h, w)).movedim(-1, 2)

    def grid(self, frames: int) -> tuple[int, int, int]:
        """Tokens of clips of `frames` frames at the encoder's size: (t, h, w).

        Raises:
            VidsslError: an odd number of frames.
        """
        return grid_of(frames, self.size, self.patch_pixels)

    def tokens(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of clips, in the order of the grid: `[B,T,3,H,W]` in [0, 1] -> `[B,n,D]`.

        Args:
            clips: T even.
            keep: int64 `[B,K]`, tokens to compute; the others are left out from the first layer on. Gives `[B,K,D]`.

        Raises:
            VidsslError: an odd number of frames, or a size that isn't a multiple of the patch.
        """
        x = patches((clips - FRAME_MEAN) / FRAME_STD, self.patch_pixels).flatten(2)
        grid = _grid(clips, self.patch_pixels)
        position = positions(grid, self.dim, x.device)
        if keep is None:
            return self.transformer(x, position)
        return self.transformer(take(x, keep), position[keep])

    def step(self, frame: Tensor, before: Tensor | None) -> Tensor:
        """A stream's newest frame `[B,3,H,W]` and up to window-1 before it `[B,W,3,H,W]` -> `[B,D]`: `stream_step`."""
        return stream_step(self, self.window, frame, before)


def grid_of(frames: int, size: tuple[int, int], tube: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tubes of a clip in time, height and width: (t, h, w).

    Raises:
        VidsslError: the frames, or their size, are no multiple of the tube's.
    """
    (pt, ph, pw), (height, width) = tube, size
    if frames % pt:
        raise VidsslError(
            f"tokens: clips of {frames} frames can't be cut into tubes of {pt} frames; set --frames to a multiple"
        )
    if height % ph or width % pw:
        raise VidsslError(
            f"tokens: frames of {height}x{width} can't be cut into patches of {ph}x{pw}; set --size to a multiple"
        )
    return frames // pt, height // ph, width // pw


def _grid(clips: Tensor, tube: tuple[int, int, int]) -> tuple[int, int, int]:
    return grid_of(clips.shape[1], (clips.shape[-2], clips.shape[-1]), tube)


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] % PATCH or size[1] % PATCH:
        raise VidsslError(
            f"frame size: got {size[0]}x{size[1]}, vit cuts frames into {PATCH}x{PATCH} patches; "
            f"set --size to a multiple of {PATCH}"
        )
    return size


def _initialise(module: nn.Module) -> None:
    """Xavier's uniform weights and no biases, as in He et al. 2022 (MAE), appendix A.1."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
