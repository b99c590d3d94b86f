"""Environments as reinforcement learning takes them: training layouts one after another, observations as one vector.

Letters: D feature dim, P proprioception size.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .goal_features import GOAL, GoalFeatures, has_goal
from .pixels import PROPRIO, episode_seed, make_env
from .wrappers import FEATURES, FeatureObservation


def training_env(
    extractor: FeatureExtractor, env_id: str, size: int | None, seed: int, index: int, step: int
) -> gym.Env[np.ndarray, np.ndarray]:
    """Features (and proprioception, and the goal's features) as one vector in, actions -1..1 out.

    The episodes are the training layouts `index`, `index + step`, … of `seed`.

    Raises VidsslError as `make_env` and `FeatureVector` do.
    """
    env: gym.Env[Any, Any] = TrainingEpisodes(make_env(env_id, "train", size), seed, index, step)
    env = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return FeatureVector(FeatureObservation(env, extractor), extractor)


class FeatureVector(gym.ObservationWrapper[np.ndarray, Any, Any], gym.utils.RecordConstructorArgs):
    """Features and proprioception, as `FeatureObservation` gives them, side by side: float32 [D+P].

    Where the observations hold a goal picture its features come last: [D+P+D].

    Args:
        env: wrapped in `FeatureObservation`.
        extractor: encodes the goal.

    Raises VidsslError when the observations hold more than that: a policy would not see it.
    """

    def __init__(self, env: gym.Env[Any, Any], extractor: FeatureExtractor) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, extractor=extractor)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        parts = space.spaces if isinstance(space, gym.spaces.Dict) else {FEATURES: space}
        goals = {GOAL} if has_goal(space) else set()
        more = sorted(set(parts) - {FEATURES, PROPRIO} - goals)
        if more:
            raise VidsslError(
                f"the observations hold {', '.join(more)} beside image, proprio and a goal picture, which the policy "
                "would not see; leave them out by a wrapper, or learn by cloning or planning"
            )
        size = sum(gym.spaces.flatdim(part) for key, part in parts.items() if key != GOAL) + len(goals) * extractor.dim
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._goal = GoalFeatures(extractor)

    def observation(self, observation: Any) -> np.ndarray:
        """[D+P] or [D+P+D], features first."""
        if not isinstance(observation, dict):
            return observation
        proprio = [observation[PROPRIO]] if PROPRIO in observation else []
        return np.concatenate([observation[FEATURES], *proprio, self._goal(observation)]).astype(np.float32)


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
