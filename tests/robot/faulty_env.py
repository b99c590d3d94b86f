"""The tiny world with a fault by episode: 1 hangs, 2 raises, 3 kills its process; and a controller with faults too."""

import os
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np
import tiny_env

from vidssl.robot.pixels import episode_seed

FAULTS = {episode_seed(0, index, "test"): name for index, name in ((1, "hang"), (2, "raise"), (3, "crash"))}
SLEEPS, RAISES = (episode_seed(0, index, "test") for index in (4, 5))


class FaultyEnv(tiny_env.TinyEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.fault = FAULTS.get(seed or 0)
        observation, info = super().reset(seed=seed)
        self.dot = np.full(2, -0.7)  # so that every episode is longer than two steps
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.count == 2 and self.fault == "hang":
            time.sleep(1000)
        if self.count == 2 and self.fault == "raise":
            raise RuntimeError("the simulation diverged")
        if self.count == 2 and self.fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(action)


class Dies(tiny_env.TinyEnv):
    def __init__(self, **options: Any) -> None:
        os._exit(7)


class Left:
    """A controller that steers one way."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env: Any = env.unwrapped

    def reset(self) -> None:
        self.count = 0

    def __call__(self, observation: Any) -> np.ndarray:
        self.count += 1
        return np.array([-0.5, 0.1])


class Faulty(Left):
    """At its third step it sleeps on one layout, and raises on the next."""

    def __call__(self, observation: Any) -> np.ndarray:
        if self.count == 2 and self.env.np_random_seed == SLEEPS:
            time.sleep(1000)
        if self.count == 2 and self.env.np_random_seed == RAISES:
            raise ValueError("a corner case")
        return super().__call__(observation)


gym.register("Faulty-v0", FaultyEnv)
gym.register("Dies-v0", Dies)
