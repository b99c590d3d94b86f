"""Pictures for environments that observe depth alone, as `vidssl/Reorient-v0` does. S side of the image in pixels."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

DEPTH, GOAL = "depth", "goal"
NEAR, FAR = 0.68, 0.92  # m, the range that the greys are spread over: an object of radius 0.1 m at 0.8 m


class DepthPictures(gym.ObservationWrapper[Any, Any, Any]):
    """Depth as grey pictures: `image` and `goal` uint8 [S,S,3], near is bright, 0 is no return.

    The depths in metres stay as `depth` and `goal_depth` float32 [S,S]; other entries are as they were.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """`env`: observes `depth` and `goal`, float32 [S,S] in metres."""
        super().__init__(env)
        spaces = dict(env.observation_space.spaces)  # type: ignore[attr-defined]
        depth = spaces[DEPTH]
        picture = gym.spaces.Box(0, 255, (*depth.shape, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            spaces | {"image": picture, GOAL: picture, f"{GOAL}_{DEPTH}": spaces[GOAL]}
        )

    def observation(self, observation: Any) -> Any:
        """The observation with its pictures."""
        goal = observation[GOAL]
        return observation | {"image": grey(observation[DEPTH]), GOAL: grey(goal), f"{GOAL}_{DEPTH}": goal}


def has_depth(space: gym.Space[Any]) -> bool:
    """Whether a space holds depth of now and of a goal, and no image."""
    return isinstance(space, gym.spaces.Dict) and {DEPTH, GOAL} <= set(space.spaces) and "image" not in space.spaces


def grey(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Depth [S,S] in metres -> uint8 [S,S,3]: 255 at 0.68 m, 1 at 0.92 m and beyond, 0 where there is no return."""
    level = 1 + 254 * np.clip((FAR - depth) / (FAR - NEAR), 0, 1)
    return np.repeat(np.where(depth > 0, level, 0).round().astype(np.uint8)[..., None], 3, axis=-1)
