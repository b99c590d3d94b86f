"""Controllers: what chooses the actions of an episode.

A controller is anything with `reset()` and `controller(observation) -> action`. The ones here: random actions, an
environment's privileged expert, and a cloned head on an encoder's features.

Letters: B parallel streams, D feature dim, P proprioception size, A action size.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from vidssl.checkpoint import write_tensors
from vidssl.errors import VidsslError, unknown_name
from vidssl.features import FeatureExtractor, load_encoder

from .pixels import camera_image, proprioception
from .spaces import Spaces


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

    Attributes:
        config: these arguments, and the head's `kind` in `HEADS`; `build_head(config)` makes the same head again.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size_in: int, actions: int, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.config = {"kind": "mlp", "size_in": size_in, "actions": actions, "hidden": hidden, "dropout": dropout}
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

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The inputs [D+P] or [B,D+P] of one tick -> actions, and what to give as `state` at the next one (None at
        the start of an episode). This head remembers nothing."""
        return self(x), None


HEADS: dict[str, Callable[..., Head]] = {"mlp": Head}


def build_head(config: dict[str, Any]) -> Head:
    """A head with fresh weights from the `config` of another; raises VidsslError for an unknown kind."""
    kind = config["kind"]
    if kind not in HEADS:
        raise unknown_name("head", kind, HEADS)
    return HEADS[kind](**{name: value for name, value in config.items() if name != "kind"})


def unit_range(x: Tensor, low: np.ndarray, high: np.ndarray) -> Tensor:
    """Numbers [...,A] in units of actions, scaled so that low..high is -1..1; -1 where low is high, as of a gripper
    that never moved."""
    width = torch.from_numpy(high - low)
    return 2 * (x - torch.from_numpy(low)) / torch.where(width > 0, width, 1) - 1


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
        self.spaces = Spaces(tuple(low.tolist()), tuple(high.tolist()), len(head.mean) - extractor.dim)
        self._memory: Any = None

    def fit_to(self, env: gym.Env[Any, Any]) -> "CloneController":
        """This policy with a stream of its own; raises VidsslError when the environment has other spaces."""
        self.spaces.check(env, "the cloned policy")
        return CloneController(self.extractor, self.head, self.low, self.high)

    def reset(self, batch: int | None = None) -> None:
        """A new episode, or B new ones."""
        self.extractor.reset(batch)
        self._memory = None

    @torch.inference_mode()
    def __call__(self, observation: Any) -> np.ndarray:
        features = self.extractor.step(camera_image(observation)).cpu()
        inputs = torch.cat([features, torch.from_numpy(proprioception(observation))], dim=-1)
        action, self._memory = self.head.step(inputs, self._memory)
        return self.low + (action.clamp(-1, 1).numpy() + 1) / 2 * (self.high - self.low)

    def save(self, folder: str | Path) -> None:
        """Write the policy to a folder; see `controller_files`. Raises VidsslError for an encoder without `config`."""
        from .controller_files import save_extractor, write_controller

        folder = Path(folder)
        save_extractor(folder / "encoder", self.extractor)
        write_tensors(folder / "head.safetensors", self.head.state_dict())
        write_controller(folder, "clone", {"head": self.head.config, "spaces": self.spaces.as_json()})

    @classmethod
    def load(cls, folder: str | Path) -> "CloneController":
        """The policy in a folder; raises VidsslError when it is missing, damaged or of another kind."""
        from .controller_files import read_controller, read_weights

        folder = Path(folder)
        content = read_controller(folder, "clone")
        try:
            head, spaces = build_head(content["head"]), Spaces.from_json(content["spaces"])
            head.load_state_dict(read_weights(folder / "head.safetensors"))
        except (KeyError, TypeError, RuntimeError) as error:
            raise VidsslError(f"{folder} is damaged ({error!r}); make the controller again") from error
        low, high = (np.array(side, np.float32) for side in (spaces.low, spaces.high))
        return cls(load_encoder(folder / "encoder"), head, low, high)
