"""Heads that predict a chunk of actions at once: by conditional flow matching, or by regression as its baseline.

    inputs ──embed──┐
    time τ ─────────┴─> c ──scale and shift──> blocks ──> velocity of the chunk    flow: noise -> chunk in a few steps
    chunk at time τ ─────────────────────────────┘                                 l1: no noise, no time, one step

People who solve a task twice do it in two ways; a regression answers with the mean of both, which may be neither. A
flow answers with one of them. Flow matching and not diffusion: the same network and as plain a loss, but straight
paths, which a handful of Euler steps follow (Lipman et al. 2023, "Flow Matching for Generative Modeling", arXiv
2210.02747; for actions Black et al. 2024, "π0", arXiv 2410.24164).

B samples, I numbers that a chunk hangs on, C numbers of a chunk, W width.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.errors import unknown_name

TIME = 64  # numbers that say what time it is
FASTEST = 100.0  # radians per unit of time, the quickest of its sines


class ChunkHead(nn.Module, ABC):
    """What both heads share: standardised inputs `[B,I]` and a chunk `[B,C]` in, as many numbers out.

    Args:
        size_in: I.
        size_out: C.
        width: W.
        blocks: residual blocks, each told of the inputs by scale and shift (FiLM).
        dropout: share of the units left out in training, inputs included.
    """

    name: ClassVar[str]
    mean: Tensor
    std: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, size_in: int, size_out: int, width: int = 256, blocks: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        self.size_out = size_out
        sizes = {"size_in": size_in, "size_out": size_out, "width": width, "blocks": blocks}
        self.config: dict[str, Any] = {"kind": self.name, **sizes, "dropout": dropout}
        self.register_buffer("mean", torch.zeros(size_in))
        self.register_buffer("std", torch.ones(size_in))
        self.register_buffer("centre", torch.zeros(size_out))
        self.register_buffer("scale", torch.ones(size_out))
        self.embed = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(size_in, width), nn.LayerNorm(width), nn.SiLU()),
            *(nn.Dropout(dropout), nn.Linear(width, width)),
        )
        self.time = nn.Sequential(nn.Linear(TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(size_out, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size_out))

    def standardise(self, inputs: Tensor, chunks: Tensor) -> None:
        """Take mean and spread from inputs `[n,I]` and chunks `[n,C]`; what does not vary keeps a floor under it."""
        self.mean.copy_(inputs.mean(0))
        self.std.copy_(inputs.std(0).clamp_min(1e-4))
        self.centre.copy_(chunks.mean(0))
        self.scale.copy_(chunks.std(0).clamp_min(1e-3))

    def loss(self, inputs: Tensor, chunk: Tensor) -> Tensor:
        """What to minimise, mean over inputs `[B,I]` and true chunks `[B,C]`; draws from torch's generator."""
        return self.loss_of(self.condition(inputs), (chunk - self.centre) / self.scale)

    def sample(self, inputs: Tensor, noise: Tensor, steps: int) -> Tensor:
        """A chunk `[B,C]` each for inputs `[B,I]`, from standard normal noise `[B,C]` in Euler steps."""
        return self.sample_of(self.condition(inputs), noise, steps) * self.scale + self.centre

    @abstractmethod
    def loss_of(self, condition: Tensor, chunk: Tensor) -> Tensor:
        """The loss, of inputs embedded `[B,W]` and standardised chunks `[B,C]`."""

    @abstractmethod
    def sample_of(self, condition: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Standardised chunks `[B,C]`."""

    def condition(self, inputs: Tensor) -> Tensor:
        """Inputs `[B,I]` -> `[B,W]`; bounded, so that nothing unseen explodes."""
        return self.embed(((inputs - self.mean) / self.std).clamp(-10, 10))

    def velocity(self, condition: Tensor, chunk: Tensor, time: Tensor) -> Tensor:
        """`[B,W]`, chunks on their way `[B,C]`, their times `[B]` in 0..1 -> `[B,C]`."""
        c = F.silu(condition + self.time(waves(time)))
        x = self.enter(chunk) + condition
        for block in self.blocks:
            x = block(x, c)
        return self.leave(x)


class FlowHead(ChunkHead):
    """Noise e at time 0 moves along a learned velocity to a chunk a at time 1; along the straight line, a - e."""

    name = "flow"

    def loss_of(self, condition: Tensor, chunk: Tensor) -> Tensor:
        """E |v((1 - τ) e + τ a, τ) - (a - e)|², τ uniform (Lipman et al., eq. 23 with σ = 0)."""
        noise, time = torch.randn_like(chunk), torch.rand(len(chunk))
        between = torch.lerp(noise, chunk, time[:, None])
        return F.mse_loss(self.velocity(condition, between, time), chunk - noise)

    def sample_of(self, condition: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Euler's method from time 0 to 1."""
        chunk = noise
        for step in range(steps):
            chunk = chunk + self.velocity(condition, chunk, torch.full((len(chunk),), step / steps)) / steps
        return chunk


class RegressionHead(ChunkHead):
    """The same network asked once for the chunk, by mean absolute error: the deterministic baseline."""

    name = "l1"

    def loss_of(self, condition: Tensor, chunk: Tensor) -> Tensor:
        """E |f(inputs) - a|."""
        return F.l1_loss(self.sample_of(condition, chunk, 1), chunk)

    def sample_of(self, condition: Tensor, noise: Tensor, steps: int) -> Tensor:
        """The chunk; neither noise nor steps play a part."""
        return self.velocity(condition, torch.zeros_like(noise), noise.new_zeros(len(noise)))


class _Block(nn.Module):
    """x + perceptron(norm(x) scaled and shifted by c): `[B,W]`; starts with no scale and no shift."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.modulate(c).chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


def waves(time: Tensor) -> Tensor:
    """Times `[B]` in 0..1 -> sines and cosines `[B,TIME]`, from quick to slow."""
    rate = FASTEST * torch.exp(-math.log(1000.0) * torch.arange(TIME // 2) / (TIME // 2))
    angle = time[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


CHUNK_HEADS: dict[str, type[ChunkHead]] = {head.name: head for head in (FlowHead, RegressionHead)}


def build_chunk_head(config: dict[str, Any]) -> ChunkHead:
    """A head with fresh weights from the `config` of another; raises VidsslError for an unknown kind."""
    if config["kind"] not in CHUNK_HEADS:
        raise unknown_name("chunk head", config["kind"], CHUNK_HEADS)
    return CHUNK_HEADS[config["kind"]](**{name: value for name, value in config.items() if name != "kind"})
