"""Trajectories of a random policy in Two Rooms, made as fast as they are learned from.

What a robot put down anywhere sees when it acts at random: no labels, no goals, no demonstrations. Actions are
correlated in time, from not at all to nearly constant, and of all strengths. A third of the walks begins in or near the
door, which uniform starts seldom meet (in the data of eb_jepa and PLDM 35 % are made to cross the wall).

Letters: B trajectories, T actions of each, K moments at which the camera looks, A = 2 action size.
"""

import numpy as np
import torch

from vidssl.features import FeatureExtractor

from .rooms import (
    STEP,
    Floats,
    draw_agents,
    draw_doorways,
    draw_layouts,
    draw_places,
    draw_rooms,
    forbidden,
    move,
)
from .world_model import Trajectories

DOORWAY = 1 / 3  # share of walks that begin in or near the door
PERSISTENCE = (0.0, 0.7, 0.95)  # correlation of successive actions, one of these for each trajectory


def random_actions(rng: np.random.Generator, count: int, steps: int) -> Floats:
    """Actions [count,steps,2] in [-1,1]: autoregressive noise of first order, of one strength a trajectory."""
    keep = rng.choice(PERSISTENCE, count)[:, None]
    action = rng.normal(size=(count, 2))
    actions = np.empty((count, steps, 2))
    for t in range(steps):
        actions[:, t] = action
        action = keep * action + np.sqrt(1 - keep**2) * rng.normal(size=(count, 2))
    return np.clip(rng.uniform(0.3, 1.2, (count, 1, 1)) * actions, -1, 1)


def random_walks(
    rng: np.random.Generator,
    extractor: FeatureExtractor,
    scenes: int,
    per_scene: int,
    steps: int,
    moments: int,
    split: str = "train",
    size: int = 64,
) -> Trajectories:
    """`per_scene` trajectories in each of `scenes` random layouts, seen at 0 and at `moments` - 1 random later times.

    Args:
        rng: of layouts, starts and actions; it is moved on.
        extractor: whose preprocessing the frames get.
        size: side of the camera's pictures, pixels.
    """
    layouts = draw_layouts(rng, scenes, split).repeat(per_scene)
    times = np.array([0, *np.sort(rng.choice(np.arange(1, steps + 1), moments - 1, replace=False))])
    rooms, walls = draw_rooms(layouts, size), forbidden(layouts)
    places = draw_places(rng, layouts, rng.random(len(rooms)) < 0.5)
    places = np.where(rng.random((len(rooms), 1)) < DOORWAY, draw_doorways(rng, layouts), places)
    actions = random_actions(rng, len(rooms), steps)
    frames = np.empty((len(rooms), moments, size, size, 3), np.uint8)
    for t in range(steps + 1):
        if t in times:
            frames[:, np.searchsorted(times, t)] = draw_agents(rooms, places)
        if t < steps:
            places, _ = move(places, STEP * actions[:, t], walls)
    return Trajectories(
        extractor.prepare(torch.from_numpy(frames)),
        torch.from_numpy(times),
        torch.from_numpy(actions).float(),
        per_scene,
    )
