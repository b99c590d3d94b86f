"""Evaluated episodes played again from their seed and actions: for videos, and to save what the camera saw.

Evaluation itself keeps no images and renders nothing twice. T steps of an episode, H, W image sides.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError

from .episodes import Episode
from .pixels import camera_image, proprioception
from .rollout import EpisodeResult, Place


@dataclass(frozen=True)
class Moment:
    """One tick of a replayed episode: the third-person `scene` and the `camera` image, uint8 [h,w,3]; for a goal
    environment the picture of the `goal`."""

    step: int
    scene: np.ndarray
    camera: np.ndarray
    goal: np.ndarray | None = None


def replay(place: Place, episode: EpisodeResult) -> list[Moment]:
    """All moments of an episode, the first observation and the last included; none of one without a whole step.

    The step in which an episode broke off (an environment that raised or hung) is not repeated.
    """
    if episode.length == 0:
        return []
    env = place.make(render_mode="rgb_array")
    try:
        ticks = _ticks(env, episode)
        return [_moment(env, observation, step) for step, (observation, _) in enumerate(ticks)]
    finally:
        with suppress(Exception):
            env.close()


def record_again(place: Place, episodes: Iterable[EpisodeResult]) -> Iterator[tuple[list[np.ndarray], Episode]]:
    """The T camera images uint8 [H,W,3] on which an action was chosen, and the steps, of every episode that has any.

    Raises VidsslError when an episode comes out otherwise than it did: the environment is not repeatable.
    """
    env = place.make()
    try:
        for episode in episodes:
            if episode.length:
                yield _again(env, episode)
    finally:
        with suppress(Exception):
            env.close()


def _again(env: gym.Env[Any, Any], episode: EpisodeResult) -> tuple[list[np.ndarray], Episode]:
    frames, senses, rewards = [], [], []
    for observation, reward in _ticks(env, episode):
        frames.append(camera_image(observation).copy())
        senses.append(proprioception(observation).copy())
        rewards.append(reward)
    if math.fsum(rewards[1:]) != episode.episode_return:
        raise VidsslError(
            f"{place_name(env)}: the episode of seed {episode.seed} returned {episode.episode_return} when it was "
            f"evaluated and {math.fsum(rewards[1:])} when it was played again: this environment is not a function of "
            "its seed and the actions, so its episodes cannot be saved"
        )
    actions = episode.actions[: episode.length]
    saved = Episode(
        seed=episode.seed,
        action=actions,
        executed=actions,
        proprio=np.stack(senses[:-1]),
        reward=np.array(rewards[1:], np.float32),
        success=episode.success,
        failure=episode.failure,
    )
    return frames[:-1], saved


def _ticks(env: gym.Env[Any, Any], episode: EpisodeResult) -> Iterator[tuple[Any, float]]:
    """T + 1 observations, each with the reward that came with it (0 at the reset)."""
    observation, _ = env.reset(seed=episode.seed)
    yield observation, 0.0
    for action in episode.actions[: episode.length]:
        observation, reward, *_ = env.step(action)
        yield observation, float(reward)


def _moment(env: gym.Env[Any, Any], observation: Any, step: int) -> Moment:
    camera = camera_image(observation).copy()
    scene: Any = env.render()
    if not isinstance(scene, np.ndarray) or scene.dtype != np.uint8 or scene.ndim != 3 or scene.shape[2] != 3:
        scene = camera  # nothing but the camera can be seen
    goal = np.asarray(observation["goal"]) if isinstance(observation, dict) and "goal" in observation else None
    return Moment(step, scene.copy(), camera, goal if goal is not None and goal.ndim == 3 else None)


def place_name(env: gym.Env[Any, Any]) -> str:
    """What an environment is called in messages."""
    return env.spec.id if env.spec else type(env.unwrapped).__name__
