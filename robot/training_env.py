"""Environments as reinforcement learning takes them: training layouts one after another, observations as one vector.

Letters: D feature dim, P proprioception size.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .pixels import PROPRIO, episode_seed, make_env
from .wrappers import FEATURES, FeatureObservation


def training_env(
    extractor: FeatureExtractor, env_id: str, size: int | None, seed: int, index: int, step: int
) -> gym.Env[np.ndarray, np.ndarray]:
    """Features and proprioception float32 [D+P] in, actions -1..1 out, training layouts `index`, `index + step`, ….

    Raises VidsslError as `make_env` and `FeatureVector` do.
    """
    env: gym.Env[Any, Any] = TrainingEpisodes(make_env(env_id, "train", size), seed, index, step)
    env = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return FeatureVector(FeatureObservation(env, extractor))


class FeatureVector(gym.ObservationWrapper[np.ndarray, Any, Any], gym.utils.RecordConstructorArgs):
    """Features and proprioception, as `FeatureObservation` gives them, side by side: float32 [D+P].

    Raises VidsslError when the observations hold more than that, such as a goal: a policy would not see it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if isinstance(space, gym.spaces.Dict):
            more = sorted(set(space.spaces) - {FEATURES, PROPRIO})
            if more:
                raise VidsslError(
                    f"the observations hold {', '.join(more)} beside image and proprio, which the policy would not "
                    "see; leave them out by a wrapper, or learn by cloning or planning"
                )
        size = gym.spaces.flatdim(space)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """[D+P], features first."""
        if not isinstance(observation, dict):
            return observation
        parts = [observation[FEATURES], *([observation[PROPRIO]] if PROPRIO in observation else [])]
        return np.concatenate(parts).astype(np.float32)


class TrainingEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Every reset starts the next training layout: `index`, `index + step`, … of `seed`, none of the test split.

    `info["is_success"]`, by which stable-baselines3 counts successes, is set at the end of an episode.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int, index: int, step: int) -> None:
        super().__init__(env)
        self._seed, self._index, self._step = seed, index, step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset to the next layout; `seed` is not used."""
        layout = episode_seed(self._seed, self._index % 100_000, "train")
        self._index += self._step
        return self.env.reset(seed=layout, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info = {**info, "is_success": bool(info.get("success", False))}
        return observation, reward, terminated, truncated, info
