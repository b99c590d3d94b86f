"""A policy trained by reinforcement learning, as a controller: encoder, standardised inputs, a perceptron.

It is made by `sb3.train_policy` and needs stable-baselines3 no more.

Letters: n observations, D feature dim, P proprioception size, A action size.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from vidssl.checkpoint import write_tensors
from vidssl.errors import VidsslError, unknown_name
from vidssl.features import FeatureExtractor, load_encoder

from .goal_features import GoalFeatures, has_goal
from .pixels import camera_image, proprioception
from .spaces import Spaces

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
CLIP = 10.0  # standardised inputs are held within this many deviations, in training too


class PolicyNet(nn.Module):
    """Inputs [n,D+P], or [n,D+P+D] with a goal, -> actions [n,A] in -1..1: standardise, then a perceptron.

    Args:
        size_in: D+P or D+P+D.
        actions: A.
        hidden: widths of the hidden layers.
        activation: between them, a key of `ACTIVATIONS`.
        squash: end with tanh (SAC), not by cutting off at -1 and 1 (PPO).

    Attributes:
        config: these arguments; `PolicyNet(**config)` makes the same network again.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size_in: int, actions: int, hidden: Sequence[int], activation: str, squash: bool) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.config = {
            "size_in": size_in,
            "actions": actions,
            "hidden": list(hidden),
            "activation": activation,
            "squash": squash,
        }
        self.squash = squash
        self.register_buffer("mean", torch.zeros(size_in))
        self.register_buffer("std", torch.ones(size_in))
        layers: list[nn.Module] = []
        for before, after in zip([size_in, *hidden], hidden, strict=False):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear([size_in, *hidden][-1], actions))

    def forward(self, inputs: Tensor) -> Tensor:
        actions = self.layers(((inputs - self.mean) / self.std).clamp(-CLIP, CLIP))
        return actions.tanh() if self.squash else actions.clamp(-1, 1)


class PolicyController:
    """A policy on frozen features, without its exploration: the mean action of what it learned.

    Args:
        extractor: the encoder; the controller streams through its own shallow copy.
        net: the policy.
        spaces: of the environment it was trained in.
    """

    def __init__(self, extractor: FeatureExtractor, net: PolicyNet, spaces: Spaces) -> None:
        self.extractor, self.net, self.spaces = copy.copy(extractor), net.eval(), spaces
        self._goal = GoalFeatures(self.extractor)
        self._low, self._high = (np.array(side, np.float32) for side in (spaces.low, spaces.high))

    def fit_to(self, env: gym.Env[Any, Any]) -> "PolicyController":
        """This policy with a stream of its own; raises VidsslError when the environment has other spaces."""
        self.spaces.check(env, "the policy")
        goal = has_goal(env.observation_space)
        if (self.net.config["size_in"] == 2 * self.extractor.dim + self.spaces.proprio) != goal:
            raise VidsslError(
                f"the policy was made for an environment with{'out' if goal else ''} a goal picture, this one has "
                f"{'one' if goal else 'none'}; make another policy for this environment, or choose its own --env"
            )
        return PolicyController(self.extractor, self.net, self.spaces)

    def reset(self, batch: int | None = None) -> None:
        """A new episode, or B new ones."""
        self.extractor.reset(batch)

    @torch.inference_mode()
    def __call__(self, observation: Any) -> np.ndarray:
        features = self.extractor.step(camera_image(observation)).cpu()
        others = (proprioception(observation), self._goal(observation, features.shape[:-1]))
        action = self.net(torch.cat([features, *map(torch.from_numpy, others)], dim=-1)).numpy()
        return self._low + (action + 1) / 2 * (self._high - self._low)

    def save(self, folder: str | Path) -> None:
        """Write the policy to a folder; see `controller_files`. Raises VidsslError for an encoder without `config`."""
        from .controller_files import save_extractor, write_controller

        folder = Path(folder)
        save_extractor(folder / "encoder", self.extractor)
        write_tensors(folder / "policy.safetensors", self.net.state_dict())
        write_controller(folder, "sb3", {"policy": self.net.config, "spaces": self.spaces.as_json()})

    @classmethod
    def load(cls, folder: str | Path) -> "PolicyController":
        """The policy in a folder; raises VidsslError when it is missing, damaged or of another kind."""
        from .controller_files import read_controller, read_weights

        folder = Path(folder)
        content = read_controller(folder, "sb3")
        try:
            net, spaces = PolicyNet(**content["policy"]), Spaces.from_json(content["spaces"])
            net.load_state_dict(read_weights(folder / "policy.safetensors"))
        except (KeyError, TypeError, RuntimeError) as error:
            raise VidsslError(f"{folder} is damaged ({error!r}); train the policy again") from error
        return cls(load_encoder(folder / "encoder"), net, spaces)
