"""The training of a chunk head, on whatever its inputs are made from.

    model    [head] on cached features, or [head, encoder] end to end; its moving average is what is kept
    inputs   (model, frame indices, frame indices of goals) -> what the head is given

Letters: n frames of all demonstrations together, B samples, A action size, L past frames, K actions of a chunk,
I numbers that a chunk hangs on.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vidssl.core.ema import ema_, target_of
from vidssl.errors import VidsslError, unknown_name

from .chunk_head import CHUNK_HEADS, ChunkHead
from .cloning import CloningConfig, Demonstrations, split_episodes
from .controllers import unit_range

Inputs = Callable[[nn.ModuleList, Tensor, Tensor | None], Tensor]
WARMUP = 0.05  # share of the budget in which the learning rate rises


@dataclass(frozen=True)
class ChunkConfig:
    """Settings of a chunk head, its training and its use, the same for all arms."""

    head: Literal["flow", "l1"] = "flow"
    past: int = 2
    """L, frames that a decision hangs on"""
    horizon: int = 16
    """K, actions of a chunk"""
    execute: int = 8
    """how many of them are carried out before the next decision"""
    euler: int = 10
    """steps from noise to chunk"""
    relative: bool = False
    """actions are places, of which the first A numbers of proprioception are the present one, in the same units; the
    head then says how far from here (Push-T)"""
    width: int = 256
    blocks: int = 3
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 256
    average: float = 0.999
    """momentum of the moving average of the weights, reached after some steps"""
    holdout: float = 0.1
    """share of the episodes left out of the training, for the errors of `ChunkFit`"""
    seed: int = 0
    """of the weights, the training, and the noise that a controller starts each episode with"""

    def __post_init__(self) -> None:
        if self.head not in CHUNK_HEADS:
            raise unknown_name("chunk head", self.head, CHUNK_HEADS)
        counts = (self.past, self.execute, self.euler, self.blocks, self.batch_size)
        if min(counts) < 1 or self.execute > self.horizon:
            raise VidsslError(
                f"chunks: got past={self.past}, horizon={self.horizon}, execute={self.execute}, euler={self.euler}, "
                f"blocks={self.blocks}, batch_size={self.batch_size}; give 1 or more of each, execute up to horizon"
            )


@dataclass(frozen=True)
class ChunkBudget:
    """How long an arm trains: exactly one of optimiser steps (repeatable) and minutes of one core.

    Minutes are this process's processor time, encoding included, so that a busy machine is no disadvantage; the
    learning rate then follows that clock.
    """

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.minutes) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise VidsslError(f"give either steps or minutes, above 0, got steps={self.steps}, minutes={self.minutes}")

    def spent(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent; 1 or more when it is over."""
        return seconds / (60 * self.minutes) if self.minutes else step / (self.steps or 1)


@dataclass(frozen=True)
class ChunkFit:
    """How a training went.

    `error` is the mean distance, a number of the chunk, of sampled actions from the demonstrated ones on held-out
    episodes, in units in which actions go from -1 to 1; `constant_error` that of always choosing the mean chunk.
    `seconds` are of processor time.
    """

    steps: int
    error: float
    constant_error: float
    train_episodes: int
    heldout_episodes: int
    seconds: float


def past_rows(first: Tensor, rows: Tensor, length: int) -> Tensor:
    """The last `length` frames up to each of `rows` int64 [B] -> [B,length]; before an episode its first frame."""
    return torch.maximum(rows[:, None] + torch.arange(1 - length, 1), first[rows][:, None])


def last_rows(first: Tensor) -> Tensor:
    """Index of the last frame of each frame's episode, int64 [n], from that of the first [n]."""
    starts, episode = torch.unique(first, return_inverse=True)
    return torch.cat([starts[1:], starts.new_tensor([len(first)])])[episode] - 1


def chunks_from(demos: Demonstrations, rows: Tensor, config: ChunkConfig) -> Tensor:
    """What the head has to say at `rows` [B]: the K actions from there on, end to end [B,K*A].

    After an episode its last action. Actions are in -1..1; with `config.relative` they count from the present place.

    Raises VidsslError for relative actions where proprioception has fewer numbers than actions.
    """
    ahead = torch.minimum(rows[:, None] + torch.arange(config.horizon), last_rows(demos.first)[rows][:, None])
    actions = demos.action[ahead]
    if config.relative:
        size = actions.shape[-1]
        if demos.proprio.shape[1] < size:
            raise VidsslError(
                f"relative chunks: {size} numbers an action, but {demos.proprio.shape[1]} of proprioception, whose "
                "first ones should be the place that actions count from; use relative=False"
            )
        actions = actions - unit_range(demos.proprio[rows, :size], demos.low, demos.high)[:, None]
    return actions.flatten(1)


def later_rows(last: Tensor, rows: Tensor) -> Tensor:
    """A frame after each of `rows` [B] in its episode, all equally likely; the last frame has only itself."""
    left = last[rows] - rows
    return rows + (1 + (torch.rand(len(rows)) * left).long()).minimum(left)


def train_chunks(
    model: nn.ModuleList,
    inputs: Inputs,
    demos: Demonstrations,
    config: ChunkConfig,
    budget: ChunkBudget,
    *,
    batch_size: int,
    goals: bool,
    started: float,
) -> tuple[nn.ModuleList, ChunkFit]:
    """Train `model`, whose first part is the head; draws from torch's generator.

    There is no choice of a best step on held-out episodes: a flow's loss says little of the policy, so the last
    average counts.

    Args:
        started: `time.process_time()` when the arm began.

    Returns the moving average of the model, and how it went. Raises VidsslError for fewer than two demonstrations.
    """
    train, heldout = split_episodes(demos.first, CloningConfig(holdout=config.holdout, seed=config.seed))
    last, average = last_rows(demos.first), target_of(model)
    targets = chunks_from(demos, torch.arange(len(demos.first)), config)
    head: ChunkHead = model[0]  # type: ignore[assignment]
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    step = 0
    model.train()
    while (spent := budget.spent(step, time.process_time() - started)) < 1 or not step:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate(spent)
        rows = train[torch.randint(len(train), (batch_size,))]
        given = inputs(model, rows, later_rows(last, rows) if goals else None)
        loss = head.loss(given, targets[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        ema_(average, model, min(config.average, (1 + step) / (10 + step)))
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
    average.eval()
    fit = _measure(average, inputs, demos, train, heldout, config, goals)  # type: ignore[arg-type]
    return average, ChunkFit(step, *fit, seconds=time.process_time() - started)  # type: ignore[return-value]


def rate(spent: float) -> float:
    """Learning rate as a share of its peak: up in a line, then down by half a cosine."""
    return min(1.0, 0.02 + spent / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(spent, 1.0)))


@torch.no_grad()
def _measure(
    model: nn.ModuleList,
    inputs: Inputs,
    demos: Demonstrations,
    train: Tensor,
    heldout: Tensor,
    config: ChunkConfig,
    goals: bool,
) -> tuple[float, float, int, int]:
    """Errors of the model and of the mean chunk on held-out frames (every fourth), numbers of episodes."""
    head: ChunkHead = model[0]  # type: ignore[assignment]
    last, rows = last_rows(demos.first), heldout[::4]
    truth, mean = chunks_from(demos, rows, config), chunks_from(demos, train, config).mean(0)
    error = 0.0
    for part, true in zip(rows.split(256), truth.split(256), strict=True):
        given = inputs(model, part, later_rows(last, part) if goals else None)
        sampled = head.sample(given, torch.randn_like(true), config.euler)
        error += float((sampled - true).abs().mean()) * len(part)
    episodes = (len(torch.unique(demos.first[some])) for some in (train, heldout))
    return (error / len(rows), float((truth - mean).abs().mean()), *episodes)  # type: ignore[return-value]
