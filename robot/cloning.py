"""Behaviour cloning: demonstrations in, a controller out.

    frozen    frames -> encoder (once, whole episodes) -> cached features -> head trained on the features
    pixels    frames -> encoder -> head, everything trained from scratch on the same demonstrations

Both arms share the head, the loss (Huber on actions in -1..1), the optimiser (AdamW, one-cycle) and the choice of the
best weights on held-out episodes. Training sees the MP4-decoded camera images, a controller later sees raw ones; at the
recorder's quality the two differ by a few grey levels, alike for every arm.

Letters: n frames of all demonstrations together, D feature dim, P proprioception size, A action size, L window frames.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .controllers import CloneController, Head, unit_range
from .episodes import Episode, Recording
from .threads import one_thread

CONTEXT_WINDOW = 16  # frames a context is trained through in the pixels arm


@dataclass(frozen=True)
class Demonstrations:
    """All frames of a recording, one episode after the other.

    Attributes:
        frames: uint8 [n,H,W,3], decoded from the MP4s.
        proprio: float32 [n,P].
        action: float32 [n,A], the clean labels scaled to -1..1.
        first: int64 [n], index of the first frame of the same episode.
        low, high: float32 [A], the action range that -1..1 stands for.
    """

    frames: np.ndarray
    proprio: Tensor
    action: Tensor
    first: Tensor
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class CloningConfig:
    """Settings of the head and its training, the same for all arms."""

    hidden: int = 256
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 256
    holdout: float = 0.15
    """share of episodes held out to choose the best weights"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises VidsslError for a value out of its range."""
        ranges = {
            "hidden": (self.hidden >= 1, "at least 1"),
            "dropout": (0 <= self.dropout < 1, "0 to below 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "above 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "holdout": (0 <= self.holdout < 1, "0 to below 1"),
        }
        for name, (fits, allowed) in ranges.items():
            if not fits:
                raise VidsslError(f"cloning setting {name}: got {getattr(self, name)}; {allowed}")


@dataclass(frozen=True)
class Fit:
    """How a training went; losses are mean Huber losses on held-out episodes."""

    steps: int
    best_step: int
    loss: float
    constant_loss: float
    """of always predicting the mean action: what any clone must beat"""
    train_episodes: int
    heldout_episodes: int
    seconds: float


def first_episodes(recording: Recording, count: int | None = None) -> list[Episode]:
    """The first `count` episodes of a recording, by default all.

    Raises VidsslError when the recording has fewer, or fewer than one are asked for.
    """
    if count is not None and count < 1:
        raise VidsslError(f"demonstrations: got {count}; ask for at least 1")
    episodes = recording.episodes[:count]
    if len(episodes) < (count or 0):
        raise VidsslError(
            f"{recording.folder} holds {len(episodes)} demonstrations, {count} were asked for; "
            "ask for fewer, or record more (`vidssl record … --resume`; a LeRobot data set: into another folder)"
        )
    return episodes


def load_demonstrations(recording: Recording, count: int | None = None) -> Demonstrations:
    """Decode the first `count` episodes of a recording, by default all, into memory (12 kB a frame at 64x64).

    Raises VidsslError as `first_episodes` does.
    """
    episodes = first_episodes(recording, count)
    low, high = (np.asarray(recording.meta[key], np.float32) for key in ("action_low", "action_high"))
    action = np.concatenate([episode.action for episode in episodes])
    lengths = torch.tensor([episode.steps for episode in episodes])
    return Demonstrations(
        frames=np.concatenate([recording.frames(i) for i in range(len(episodes))]),
        proprio=torch.from_numpy(np.concatenate([episode.proprio for episode in episodes])),
        action=unit_range(torch.from_numpy(action), low, high),
        first=torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths),
        low=low,
        high=high,
    )


def clone_features(
    extractor: FeatureExtractor, demos: Demonstrations, config: CloningConfig, steps: int = 1500
) -> tuple[CloneController, Fit]:
    """Clone on frozen features: the encoder sees every frame once, only the head is trained.

    All on one thread, like the episodes later, so the policy does not depend on the number of cores.

    Raises VidsslError for fewer than two demonstrations.
    """
    started = time.perf_counter()
    train, heldout = split_episodes(demos.first, config)
    with torch.random.fork_rng(devices=[]), one_thread():
        inputs = torch.cat([encode_episodes(extractor, demos), demos.proprio], dim=1)
        torch.manual_seed(config.seed)
        head = _new_head(inputs[train], demos, config)
        fit = _train(
            head, lambda rows: head(inputs[rows]), demos, train, heldout, config, steps, config.batch_size, started
        )
    return CloneController(extractor, head, demos.low, demos.high), fit


def clone_pixels(
    untrained: FeatureExtractor,
    demos: Demonstrations,
    config: CloningConfig,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int = 64,
) -> tuple[CloneController, Fit]:
    """Clone end to end: encoder (and context, where the extractor has one) and head learn from the actions alone.

    Args:
        untrained: the architecture and its starting weights; copied, not changed.
        steps: optimiser steps; the same steps give the same policy on the same number of torch threads.
        minutes: instead of steps: as many as fit in this time on this machine, measured on the first ones.
            `Fit.steps` says how many, to repeat the run exactly.

    Raises VidsslError unless exactly one of steps and minutes is given, and for an extractor that is not on the CPU.
    """
    check_on_cpu(untrained, "cloning from pixels")
    if (steps is None) == (minutes is None):
        raise VidsslError(f"give either steps or minutes for the pixels arm, got steps={steps}, minutes={minutes}")
    started = time.perf_counter()
    encoder = copy.deepcopy(untrained.encoder).requires_grad_(True)
    context = copy.deepcopy(untrained.context).requires_grad_(True) if untrained.context else None
    length = CONTEXT_WINDOW if context else encoder.past + 1
    train, heldout = split_episodes(demos.first, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        # The encoder's output scale is free to be learned, so only proprioception is standardised.
        inputs = torch.cat([torch.zeros(len(train), untrained.dim), demos.proprio[train]], dim=1)
        head = _new_head(inputs, demos, config)
        head.std[: untrained.dim] = 1
        model = nn.ModuleList([encoder, head] if context is None else [encoder, context, head])

        def predict(rows: Tensor) -> Tensor:
            window = rows[:, None] + torch.arange(1 - length, 1)
            window = torch.maximum(window, demos.first[rows][:, None])
            frames = torch.from_numpy(demos.frames[window.numpy()])
            features = encoder(untrained.prepare(frames))
            if context:
                features = context(features)
            features = features[:, -1] if untrained.window is None else features.mean(1)  # what a stream gives
            return head(torch.cat([features, demos.proprio[rows]], dim=1))

        if minutes is not None:
            steps = _steps_in(minutes * 60, model, predict, demos, train, batch_size, started)
        assert steps is not None
        fit = _train(model, predict, demos, train, heldout, config, steps, batch_size, started)
    trained = FeatureExtractor(
        encoder, context, untrained.image_size, untrained.fps, untrained.output, untrained.config
    )
    return CloneController(trained, head, demos.low, demos.high), fit


def encode_episodes(extractor: FeatureExtractor, demos: Demonstrations) -> Tensor:
    """Features float32 [n,D] of all frames, every episode encoded as a stream of its own."""
    starts = torch.unique(demos.first).tolist()
    ends = [*starts[1:], len(demos.first)]
    episodes = [extractor.per_frame(demos.frames[start:end]).cpu() for start, end in zip(starts, ends, strict=True)]
    return torch.cat(episodes)


def check_on_cpu(extractor: FeatureExtractor, what: str) -> None:
    """Raises VidsslError for an extractor on a GPU, where the tensors that `what` makes are not."""
    if extractor.device.type != "cpu":
        raise VidsslError(f'{what}: the encoder is on {extractor.device}; load it with device="cpu"')


def split_episodes(first: Tensor, config: CloningConfig) -> tuple[Tensor, Tensor]:
    """Frame indices (train, held out), split by whole episodes with `config.seed`.

    Raises VidsslError for fewer than two episodes.
    """
    episodes = torch.unique(first)
    if len(episodes) < 2:
        raise VidsslError(f"cloning needs at least 2 demonstrations (one is held out), got {len(episodes)}")
    count = min(max(1, round(config.holdout * len(episodes))), len(episodes) - 1)
    order = torch.randperm(len(episodes), generator=torch.Generator().manual_seed(config.seed))
    out = torch.isin(first, episodes[order[:count]])
    return torch.nonzero(~out)[:, 0], torch.nonzero(out)[:, 0]


def _new_head(inputs: Tensor, demos: Demonstrations, config: CloningConfig) -> Head:
    """A head that standardises as `inputs` [n,D+P] need it."""
    head = Head(inputs.shape[1], demos.action.shape[1], config.hidden, config.dropout)
    head.mean.copy_(inputs.mean(0))
    head.std.copy_(inputs.std(0).clamp_min(1e-4))
    return head


def _train(
    model: nn.Module,
    predict: Callable[[Tensor], Tensor],
    demos: Demonstrations,
    train: Tensor,
    heldout: Tensor,
    config: CloningConfig,
    steps: int,
    batch_size: int,
    started: float,
) -> Fit:
    """Train `model` in place to predict the actions of frame rows; it ends with its best weights on `heldout`."""
    if steps < 1:
        raise VidsslError(f"cloning: got {steps} optimiser steps; at least 1")
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    length = max(steps, 11)  # a warm-up of a tenth needs more than 10; shorter trainings see the curve's beginning
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=length, pct_start=0.1)
    generator = torch.Generator().manual_seed(config.seed)
    check_every = max(1, steps // 20)
    best, best_step, best_weights = float("inf"), 0, model.state_dict()
    for step in range(1, steps + 1):
        rows = train[torch.randint(len(train), (batch_size,), generator=generator)]
        model.train()
        optimiser.zero_grad(set_to_none=True)
        F.smooth_l1_loss(predict(rows), demos.action[rows], beta=0.5).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % check_every == 0 or step == steps:
            loss = _loss(model, predict, demos, heldout)
            if loss < best:
                best, best_step, best_weights = loss, step, copy.deepcopy(model.state_dict())
    if not math.isfinite(best):
        raise VidsslError(
            f"cloning: the loss on held-out demonstrations was never finite in {steps} steps; look for NaN or infinity "
            "in their actions and proprioception, or lower learning_rate"
        )
    model.load_state_dict(best_weights)
    model.eval()
    constant = F.smooth_l1_loss(demos.action[train].mean(0).expand(len(heldout), -1), demos.action[heldout], beta=0.5)
    episodes, others = (len(torch.unique(demos.first[rows])) for rows in (train, heldout))
    return Fit(steps, best_step, best, float(constant), episodes, others, time.perf_counter() - started)


@torch.no_grad()
def _loss(model: nn.Module, predict: Callable[[Tensor], Tensor], demos: Demonstrations, rows: Tensor) -> float:
    model.eval()
    total = sum(
        float(F.smooth_l1_loss(predict(part), demos.action[part], beta=0.5)) * len(part) for part in rows.split(256)
    )
    return total / len(rows)


def _steps_in(
    seconds: float,
    model: nn.Module,
    predict: Callable[[Tensor], Tensor],
    demos: Demonstrations,
    train: Tensor,
    batch_size: int,
    started: float,
) -> int:
    """How many training steps fit in the seconds since `started`; times a few, which leave no trace in the model or in
    the random numbers to come, so that as many steps asked for by number give the same policy."""
    weights = copy.deepcopy(model.state_dict())
    probe = 6
    times = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(probe):
            begun = time.perf_counter()
            rows = train[:batch_size]
            F.smooth_l1_loss(predict(rows), demos.action[rows]).backward()
            times.append(time.perf_counter() - begun)
    model.load_state_dict(weights)
    model.zero_grad(set_to_none=True)
    left = seconds - (time.perf_counter() - started)
    # A step also updates the weights, and every 20th of the way the held-out episodes are looked at: about a tenth.
    return max(20, int(left / (1.1 * sorted(times)[probe // 2])))
