"""Goal-conditioned cloning: a policy that goes for what a picture shows.

    demonstration  f0 f1 f2 f3 f4 f5 f6 f7        at f2 the head is told the features of a later frame, f5 say: the
                         x--------goal            demonstrator was on the way there, whatever the task was

Every later frame is equally likely, drawn anew each time a frame is trained on (hindsight: Andrychowicz et al. 2017,
arXiv 1707.01495, strategy "future"; for cloning Ghosh et al. 2021, "GCSL", arXiv 1912.06088). The head and its training
are those of `chunks`.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.features import FeatureExtractor

from .chunk_controller import GOAL, ChunkController
from .chunk_training import ChunkBudget, ChunkConfig, ChunkFit
from .chunks import clone_chunks
from .cloning import Demonstrations
from .pixels import IMAGE, find_image


def clone_to_goals(
    extractor: FeatureExtractor, demos: Demonstrations, config: ChunkConfig, budget: ChunkBudget
) -> tuple[ChunkController, ChunkFit]:
    """A policy that wants a goal picture: `ChunkController.set_goal`, or the entry `goal` of the observation.

    Raises VidsslError for fewer than two demonstrations.
    """
    return clone_chunks(extractor, demos, config, budget, goals=True)


def last_frames(demos: Demonstrations) -> np.ndarray:
    """How each demonstration ended, uint8 [episodes,H,W,3]: goal pictures that were reached."""
    starts = np.unique(demos.first.numpy())
    return demos.frames[np.append(starts[1:], len(demos.first)) - 1]


class GoalPicture(gym.ObservationWrapper[Any, Any, Any]):
    """An environment whose observations also hold `goal`, the same picture uint8 [H,W,3] all the time."""

    def __init__(self, env: gym.Env[Any, Any], picture: np.ndarray) -> None:
        super().__init__(env)
        self._picture = picture
        space = env.observation_space
        entries = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {IMAGE: find_image(space)}
        self.observation_space = gym.spaces.Dict({**entries, GOAL: gym.spaces.Box(0, 255, picture.shape, np.uint8)})

    def observation(self, observation: Any) -> dict[str, Any]:
        """The observation with the goal picture."""
        entries = observation if isinstance(observation, dict) else {IMAGE: observation}
        return {**entries, GOAL: self._picture}
