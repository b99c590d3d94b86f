"""Scripted experts of other packages' environments; they read the observations that `PixelAdapter` keeps to itself."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .meta_world import PREFIX

FETCH_STEP = 0.05  # m that the gripper is asked to move by an action of 1
FETCH_GAIN = 0.5  # share of the way to the goal asked for in a step; the gripper takes some steps to follow


class MetaWorldExpert:
    """Meta-World's own scripted policy of the task, which is told where the object and the goal are."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from metaworld.policies import ENV_POLICY_MAP
        assert env.spec is not None
        self._env = env
        policies: dict[str, Any] = ENV_POLICY_MAP
        self._policy = policies[env.spec.id.removeprefix(PREFIX)]()

    def __call__(self, obs: object, info: dict[str, Any]) -> NDArray[np.float32]:
        """The action float32 [4]; `obs` and `info` are not looked at."""
        with warnings.catch_warnings():  # that it asks for more than 1, which is then cut off
            warnings.simplefilter("ignore")
            action = self._policy.get_action(self._env.get_wrapper_attr("raw_observation"))
        return np.clip(action, -1, 1).astype(np.float32)


class FetchReachExpert:
    """Moves the gripper straight to the goal: a proportional controller on the true distance."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env = env

    def __call__(self, obs: object, info: dict[str, Any]) -> NDArray[np.float32]:
        """The action float32 [4]; `obs` and `info` are not looked at."""
        seen = self._env.get_wrapper_attr("raw_observation")
        way = seen["desired_goal"] - seen["achieved_goal"]
        return np.clip(np.append(FETCH_GAIN * way / FETCH_STEP, 0.0), -1, 1).astype(np.float32)
