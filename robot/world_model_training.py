"""Training a world model on trajectories of a random policy, in two parts, and the planner made of it.

    1. encoder, states, scenes, predictor and inverse dynamics together, on few moments of many trajectories: what is
       slow is the encoder, and neighbouring frames tell it the same
    2. encoder and states stay; scene and predictor go on, on every moment of cached trajectories

Letters: B trajectories, T steps of each, D state dim, M landmarks.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from vidssl.encoders import FrameEncoder, build_encoder
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .cloning import check_on_cpu
from .landmarks import spread_out
from .random_walks import random_walks
from .world_model import ModelSize, Trajectories, Weights, WorldModel, world_model_loss

SPREAD_OVER = 8192  # states among which landmarks are chosen, at least, where as many are cached
BOUNDED = {"moments": "`length` + 1", "landmarks": f"`cached` * (`refine_length` + 1), up to {SPREAD_OVER}"}
Report = Callable[[str, int, dict[str, float]], None]  # part, step, values


@dataclass(frozen=True)
class WorldModelConfig:
    """Settings of the training; the same ones give the same model on the same number of threads.

    Attributes:
        encoder: a frame encoder's name, see `vidssl.encoders.ENCODERS`.
        image_size: side of the frames it works on, pixels.
        train_encoder: False leaves the encoder as it is: frozen from a run, or random.
        steps: optimiser steps of the first part, on `scenes` * `per_scene` trajectories of `length` steps each, seen at
            `moments` moments.
        refine_steps: of the second, on `cached` trajectories of `refine_length` steps.
        landmarks: M, spread out over the cached states.

    Raises VidsslError for numbers out of range.
    """

    encoder: str = "control"
    image_size: int = 64
    train_encoder: bool = True
    size: ModelSize = field(default_factory=ModelSize)
    weights: Weights = field(default_factory=Weights)
    steps: int = 2500
    scenes: int = 16
    per_scene: int = 3
    length: int = 8
    moments: int = 3
    learning_rate: float = 2e-3
    refine_steps: int = 6000
    refine_length: int = 12
    cached: int = 6000
    landmarks: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        states = min(SPREAD_OVER, self.cached * (self.refine_length + 1))
        ranges = {
            "image_size": (1, None),
            "steps": (0, None),
            "scenes": (1, None),
            "per_scene": (1, None),
            "length": (1, None),
            "moments": (2, self.length + 1),
            "refine_steps": (0, None),
            "refine_length": (1, None),
            "cached": (1, None),
            "landmarks": (1, states),
            "seed": (0, None),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                to = "" if high is None else f" and at most {high} ({BOUNDED[name]})"
                raise VidsslError(f"world model: {name} is {value}; needed: at least {low}{to}")
        if not self.learning_rate > 0:
            raise VidsslError(f"world model: learning_rate is {self.learning_rate}; needed: above 0")


def untrained(config: WorldModelConfig, frozen: FeatureExtractor | None = None) -> tuple[FeatureExtractor, WorldModel]:
    """An extractor and a world model with random weights around its encoder: a new one, or `frozen`, that of a run.

    Raises VidsslError for an unknown encoder, for one whose features need more than a single frame, and for one that is
    not on the CPU.
    """
    if frozen is not None:
        check_on_cpu(frozen, "world model")
    size = (config.image_size, config.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        extractor = frozen or _new_extractor(config, size)
        encoder = extractor.encoder
        if extractor.window is not None or encoder.past or extractor.context is not None:
            raise VidsslError(
                "a world model reads single frames, and this encoder looks at several; "
                "choose a frame encoder of colours, such as --encoder control"
            )
        model = WorldModel(encoder, 2, config.size)
    encoder.requires_grad_(config.train_encoder)
    return extractor, model


def _new_extractor(config: WorldModelConfig, size: tuple[int, int]) -> FeatureExtractor:
    encoder = build_encoder(config.encoder, size)
    if not isinstance(encoder, FrameEncoder):
        raise VidsslError(f"encoder {config.encoder!r}: a world model needs a frame encoder, such as --encoder control")
    facts = {"encoder": {"name": config.encoder, "dim": encoder.dim}, "method": {"name": "world-model"}}
    return FeatureExtractor(encoder, None, size, config={**facts, "training": asdict(config)})


def train_jointly(
    extractor: FeatureExtractor, model: WorldModel, config: WorldModelConfig, report: Report = lambda *_: None
) -> None:
    """The first part: trains encoder and model in place."""
    rng = np.random.default_rng([config.seed, 1])
    model.train()
    if not config.train_encoder:
        model.encoder.eval()  # batch norm keeps its statistics
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, config.learning_rate, weight_decay=1e-5)
    for step in range(config.steps):
        _set_rate(optimiser, config.learning_rate, step / config.steps)
        batch = random_walks(rng, extractor, config.scenes, config.per_scene, config.length, config.moments)
        loss, terms = world_model_loss(model, batch, config.weights)
        _descend(optimiser, loss, model)
        report("joint", step, terms)
    model.eval().requires_grad_(False)


def refine(
    extractor: FeatureExtractor, model: WorldModel, config: WorldModelConfig, report: Report = lambda *_: None
) -> Tensor:
    """The second part: trains scene and predictor in place; returns landmarks [M,D] among the states it has seen."""
    rng = np.random.default_rng([config.seed, 2])
    features, actions = cache(rng, extractor, model, config)  # [B,T+1,dim], [B,T,A]
    states = model.state(features)
    chosen = torch.nn.ModuleList([model.scene, model.predictor]).requires_grad_(True)
    optimiser = torch.optim.AdamW(chosen.parameters(), 1e-3, weight_decay=1e-5)
    for step in range(config.refine_steps):
        _set_rate(optimiser, 1e-3, step / config.refine_steps)
        rows = torch.from_numpy(rng.integers(len(actions), size=128))
        moment = torch.from_numpy(rng.integers(config.refine_length + 1, size=128))
        scene = model.scene(features[rows, moment])
        missed = model.rollout(states[rows, 0], actions[rows], scene) - states[rows, 1:]
        loss = config.weights.prediction * missed.square().mean()
        if config.weights.inverse:
            loss = loss + model.inverse(missed).square().mean()
        _descend(optimiser, loss, chosen)
        report("refine", step, {"prediction": float(loss.detach())})
    chosen.requires_grad_(False)
    seen = states.flatten(0, 1)
    return spread_out(seen[:: max(1, len(seen) // SPREAD_OVER)], config.landmarks)


@torch.no_grad()
def cache(
    rng: np.random.Generator, extractor: FeatureExtractor, model: WorldModel, config: WorldModelConfig
) -> tuple[Tensor, Tensor]:
    """Features [B,T+1,dim] of every moment of `config.cached` trajectories, each in a scene of its own; actions."""
    parts: list[Trajectories] = []
    features: list[Tensor] = []
    for start in range(0, config.cached, 32):
        count = min(32, config.cached - start)
        part = random_walks(rng, extractor, count, 1, config.refine_length, config.refine_length + 1)
        features.append(model.encoder(part.frames))
        parts.append(replace(part, frames=part.frames[:, :0]))
    return torch.cat(features), torch.cat([part.actions for part in parts])


def _set_rate(optimiser: torch.optim.Optimizer, rate: float, fraction: float) -> None:
    """Warm up for a twentieth, then fall along a cosine."""
    for group in optimiser.param_groups:
        group["lr"] = rate * min(1.0, (fraction + 1e-3) / 0.05) * (0.505 + 0.495 * math.cos(math.pi * fraction))


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, model: torch.nn.Module) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimiser.step()
