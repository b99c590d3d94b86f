"""Causal contexts: features `[B,T,D]` -> `[B,T,D']`, and the same numbers frame by frame through `step`.

B clips, T frames, D feature dim, D' context dim, H attention heads, W frames a layer looks back.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.moments import exact, wide
from vidssl.errors import VidsslError, unknown_name

State = list[Tensor] | None


class GRUContext(nn.Module):
    """The recurrent context of CPC (van den Oord et al. 2018, section 2.3): one GRU layer.

    It runs in the weights' own type: under autocast cuDNN's recurrent layers take float16, whatever type was asked for.
    """

    name = "gru"

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.gru = nn.GRU(dim_in, dim, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """`[B,T,D]` -> `[B,T,D']`; frame t sees frames 0..t."""
        with exact(features):
            return self.gru(wide(features))[0].to(features.dtype)

    def step(self, feature: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame: feature `[B,D]` and the state of the frame before (None at the start) -> (`[B,D']`, state)."""
        hidden = None if state is None else state[0].transpose(0, 1).contiguous()
        with exact(feature):
            context, hidden = self.gru(wide(feature)[:, None], hidden)
        return context[:, 0].to(feature.dtype), [hidden.transpose(0, 1)]

    def forget(self, state: State, rows: Tensor) -> State:
        """The state with the clips of `rows` (bool `[B]`) put back to the start."""
        return None if state is None else [state[0].masked_fill(rows[:, None, None], 0.0)]


class TransformerContext(nn.Module):
    """A causal transformer: pre-norm blocks whose attention looks back over the last `window` frames.

    Distance in time is told by a linear bias a head (ALiBi; Press et al. 2022), so nothing depends on absolute
    position and a stream may run for ever: the state holds the last `window - 1` inputs of every block.
    """

    name = "transformer"

    def __init__(self, dim_in: int, dim: int, layers: int = 2, heads: int = 4, window: int = 16) -> None:
        super().__init__()
        self.dim, self.window = dim, window
        self.project = nn.Linear(dim_in, dim)
        self.blocks = nn.ModuleList(_Block(dim, heads, window) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """`[B,T,D]` -> `[B,T,D']`; frame t sees frames up to t."""
        x = self.project(features)
        for block in self.blocks:
            x = block(x, x)
        return self.norm(x)

    def step(self, feature: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame: feature `[B,D]` and the state of the frame before (None at the start) -> (`[B,D']`, state).

        The state: frames seen, int64 `[B]`, and the last inputs of every block, `[B,W',D]` with W' < window.
        """
        x = self.project(feature)[:, None]
        count = x.new_ones(len(x), dtype=torch.long) if state is None else state[0] + 1
        new_state = [count]
        for i, block in enumerate(self.blocks):
            seen = x if state is None else torch.cat([state[i + 1], x], dim=1)
            new_state.append(seen[:, max(0, seen.shape[1] - self.window + 1) :])
            x = block(x, seen, count)
        return self.norm(x)[:, 0], new_state

    def forget(self, state: State, rows: Tensor) -> State:
        """The state with the clips of `rows` (bool `[B]`) put back to the start."""
        return None if state is None else [state[0].masked_fill(rows, 0), *state[1:]]


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.register_buffer("slope", 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads), persistent=False)

    def forward(self, x: Tensor, seen: Tensor, count: Tensor | None = None) -> Tensor:
        """x `[B,Tq,D]`: the last Tq frames of seen `[B,Tk,D]`, of which the last count `[B]` are real (None: all)."""
        asked, length = x.shape[1], seen.shape[1]
        query = self.query(self.norm_attention(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(self.norm_attention(seen)).chunk(2, dim=-1)
        key = key.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        value = value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        time = torch.arange(length, device=x.device)
        age = time[length - asked :, None] - time[None, :]
        slope: Tensor = self.slope  # type: ignore[assignment]
        bias = -slope[:, None, None] * age
        bias = bias.masked_fill((age < 0) | (age >= self.window), float("-inf"))
        if count is not None:
            bias = bias.masked_fill(age >= count[:, None, None, None], float("-inf"))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_mlp(x))


CONTEXTS: dict[str, Callable[[int, int], GRUContext | TransformerContext]] = {
    "gru": GRUContext,
    "transformer": TransformerContext,
}


def build_context(name: str, dim_in: int, dim: int) -> GRUContext | TransformerContext:
    """An untrained context by its name in `CONTEXTS`: features of `dim_in` -> contexts of `dim`, a multiple of 4."""
    if name not in CONTEXTS:
        raise unknown_name("context", name, CONTEXTS)
    if dim < 4 or dim % 4:
        raise VidsslError(f"context size: got {dim}; give a multiple of 4 (the transformer's heads)")
    return CONTEXTS[name](dim_in, dim)
