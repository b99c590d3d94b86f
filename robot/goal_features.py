"""Features of the goal picture that some environments show beside the camera image.

Letters: B parallel streams, H, W image sides, D feature dim.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.features import FeatureExtractor

GOAL = "goal"


def has_goal(space: gym.Space[Any]) -> bool:
    """Whether observations hold a goal picture: uint8 [H,W,3] under `goal`."""
    box = space.spaces.get(GOAL) if isinstance(space, gym.spaces.Dict) else None
    return isinstance(box, gym.spaces.Box) and box.dtype == np.uint8 and len(box.shape) == 3 and box.shape[2] == 3


class GoalFeatures:
    """Features of an observation's goal picture, encoded when it changes: float32 [D], of B streams [B,D].

    To an encoder that looks back the goal is a scene that stands still. Without a goal there are none: [0], [B,0].
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self._goal, self._features = np.zeros(0, np.uint8), np.zeros(0, np.float32)

    def __call__(self, observation: Any, streams: tuple[int, ...] = ()) -> np.ndarray:
        """`streams` is () for a single observation, (B,) for a batch."""
        if not (isinstance(observation, dict) and GOAL in observation):
            return np.zeros((*streams, 0), np.float32)
        goal = np.asarray(observation[GOAL])
        if not np.array_equal(goal, self._goal):
            still = np.expand_dims(goal, -4)  # a clip of one frame
            self._goal, self._features = goal.copy(), self._extractor.per_frame(still)[..., 0, :].cpu().numpy()
        return self._features
