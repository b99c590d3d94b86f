"""Training a world model on trajectories of a random policy, in two parts, and the planner made of it.

    1. encoder, places, scenes, predictor and inverse dynamics together, on few moments of many trajectories: what is
       slow is the encoder, and neighbouring frames tell it the same
    2. encoder and places stay; scene and predictor go on, on every moment of cached trajectories

Letters: S scenes, P trajectories in each, T steps of each, D' channels of the encoder's map, M landmarks.
"""

import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidssl.encoders import FrameEncoder, build_encoder
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .cloning import check_on_cpu
from .landmarks import spread_out
from .planner_config import SPREAD_OVER, WorldModelConfig
from .random_walks import random_walks
from .world_model import WorldModel, world_model_loss

REFINE_RATE = 3e-3  # learning rate of the second part at its peak

Report = Callable[[str, int, dict[str, float]], None]  # part, step, values


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
                "a world model reads single frames, and these features are of several; choose a run of a frame encoder "
                "of colours without a context, or --model.encoder control"
            )
        model = WorldModel(encoder, 2, extractor.image_size, config.size)
    encoder.requires_grad_(config.train_encoder)
    return extractor, model


def _new_extractor(config: WorldModelConfig, size: tuple[int, int]) -> FeatureExtractor:
    encoder = build_encoder(config.encoder, size)
    if not isinstance(encoder, FrameEncoder):
        raise VidsslError(
            f"encoder {config.encoder!r}: a world model needs a frame encoder, such as --model.encoder control"
        )
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
    """The second part: trains scene and predictor in place; returns landmarks [M,2] among the places it has seen."""
    rng = np.random.default_rng([config.seed, 2])
    maps, places, actions = cache(rng, extractor, model, config)
    chosen = torch.nn.ModuleList([model.around, model.predictor]).requires_grad_(True)
    optimiser = torch.optim.AdamW(chosen.parameters(), REFINE_RATE, weight_decay=1e-5)
    for step in range(config.refine_steps):
        _set_rate(optimiser, REFINE_RATE, step / config.refine_steps)
        rows = torch.from_numpy(rng.integers(len(actions), size=config.refine_batch))
        seen_on = torch.from_numpy(rng.integers(config.cached_walks, size=config.refine_batch))
        scene = model.scene(maps[rows, seen_on].float())
        predicted = model.rollout(places[rows, :, 0], actions[rows], scene)
        loss = F.huber_loss(predicted, places[rows, :, 1:])
        _descend(optimiser, loss, chosen)
        report("refine", step, {"prediction": float(loss.detach())})
    chosen.requires_grad_(False)
    seen = places.flatten(0, 2)
    return spread_out(seen[:: max(1, len(seen) // SPREAD_OVER)], config.landmarks)


@torch.no_grad()
def cache(
    rng: np.random.Generator, extractor: FeatureExtractor, model: WorldModel, config: WorldModelConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `config.cached` scenes: maps float16 [S,P,D',h,w], one moment of each trajectory; places [S,P,T+1,2], all
    moments; actions [S,P,T,A]."""
    maps, places, actions = [], [], []
    walks, at_once = config.cached_walks, max(1, 32 // config.cached_walks)
    for start in range(0, config.cached, at_once):
        count = min(at_once, config.cached - start)
        part = random_walks(rng, extractor, count, walks, config.refine_length, config.refine_length + 1)
        seen = model.maps(part.frames)
        maps.append(seen[:, config.refine_length // 2].half().unflatten(0, (count, walks)))
        places.append(model.place(seen).unflatten(0, (count, walks)))
        actions.append(part.actions.unflatten(0, (count, walks)))
    return torch.cat(maps), torch.cat(places), torch.cat(actions)


def _set_rate(optimiser: torch.optim.Optimizer, rate: float, fraction: float) -> None:
    """Warm up for a twentieth, then fall along a cosine."""
    for group in optimiser.param_groups:
        group["lr"] = rate * min(1.0, (fraction + 1e-3) / 0.05) * (0.505 + 0.495 * math.cos(math.pi * fraction))


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, model: torch.nn.Module) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimiser.step()
