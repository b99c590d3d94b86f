"""Controllers: what chooses the actions of an episode.

A controller is anything with `reset()` and `controller(observation) -> action`. The ones here: random actions, an
environment's privileged expert, and a cloned head on an encoder's features.

Letters: B parallel streams, D feature dim, P proprioception size, A action size.
"""

import copy
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .pixels import camera_image, control_box, proprioception


class Controller(Protocol):
    """Chooses actions from observations, one episode after another."""

    def reset(self) -> None:
        """A new episode begins."""

    def __call__(self, observation: Any) -> np.ndarray:
        """The action float32 [A] for the observation of this tick."""


class RandomController:
    """Uniform random actions from the environment's own (seeded) action space: the floor of every table."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._space = env.action_space

    def reset(self) -> None:
        """Nothing to forget."""

    def __call__(self, observation: Any) -> np.ndarray:
        return np.asarray(self._space.sample(), np.float32)


class ExpertController:
    """The environment's own scripted expert, which sees the simulator's state: the ceiling of every table.

    Raises VidsslError when the environment has none.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        from .expert import expert_for

        self._env = env
        self._make = expert_for
        self._expert = expert_for(env)

    def reset(self) -> None:
        """A fresh expert: whatever it remembers belongs to one episode."""
        self._expert = self._make(self._env)

    def __call__(self, observation: Any) -> np.ndarray:
        return np.asarray(self._expert(observation, {}), np.float32)


class Head(nn.Module):
    """Inputs [n,D+P] -> actions [n,A] in -1..1: standardise, then an MLP with layer norm.

    Args:
        size_in: D+P.
        actions: A.
        hidden: width of the two hidden layers.
        dropout: share of units left out in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size_in: int, actions: int, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size_in))
        self.register_buffer("std", torch.ones(size_in))
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(size_in, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, actions),
        )

    def forward(self, x: Tensor) -> Tensor:
        # Bounded: an input that never varied in the demonstrations has a tiny spread, and must not explode later.
        return self.layers(((x - self.mean) / self.std).clamp(-10, 10))


class CloneController:
    """A cloned policy: one camera frame a tick through a streaming encoder, then the head.

    Works on single observations (image uint8 [H,W,3] -> action [A]) and, after `reset(batch=B)`, on batches.

    Args:
        extractor: the encoder; the controller streams through its own shallow copy.
        head: from cloning.
        low, high: float32 [A], the action range that -1..1 of the head stands for.
    """

    def __init__(self, extractor: FeatureExtractor, head: Head, low: np.ndarray, high: np.ndarray) -> None:
        self.extractor, self.head = copy.copy(extractor), head.eval()
        self.low, self.high = low, high

    def fit_to(self, env: gym.Env[Any, Any]) -> "CloneController":
        """This controller, checked against an environment; raises VidsslError when spaces differ."""
        box = control_box(env)
        if not (np.array_equal(box.low, self.low) and np.array_equal(box.high, self.high)):
            raise VidsslError(f"the policy was cloned for actions {self.low}..{self.high}, the environment takes {box}")
        size = self.extractor.dim + proprioception(env.observation_space.sample()).shape[-1]
        if size != len(self.head.mean):
            raise VidsslError(
                f"the policy was cloned on {len(self.head.mean)} inputs, encoder and environment give {size}; "
                "clone it again on demonstrations of this environment"
            )
        return self

    def reset(self, batch: int | None = None) -> None:
        """A new episode, or B new ones."""
        self.extractor.reset(batch)

    @torch.inference_mode()
    def __call__(self, observation: Any) -> np.ndarray:
        features = self.extractor.step(camera_image(observation)).cpu()
        inputs = torch.cat([features, torch.from_numpy(proprioception(observation))], dim=-1)
        action = self.head(inputs).clamp(-1, 1).numpy()
        return self.low + (action + 1) / 2 * (self.high - self.low)
