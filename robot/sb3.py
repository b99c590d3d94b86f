"""Reinforcement learning by stable-baselines3 on frozen features.

    advised   image ─> FeatureObservation ─> [features, proprio] ─> PPO or SAC     features, not images, go into replay
    inside    image, proprio ─> policy( FrozenFeatures ─> … )                      for code that hands images to SB3

stable-baselines3 trains a features extractor unless told otherwise: it is in the optimiser, goes into training mode,
and PPO's orthogonal initialisation even overwrites its weights. None of this reaches a `FrozenFeatures`.

Letters: n observations, H, W image sides, D feature dim, P proprioception size, A action size.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from vidssl.errors import VidsslError, install_extra, unknown_name
from vidssl.features import FeatureExtractor

from .pixels import IMAGE, make_env
from .policies import CLIP, PolicyController, PolicyNet
from .spaces import Spaces
from .threads import one_thread
from .training_env import training_env

try:
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
except ImportError as error:
    raise VidsslError(
        f"policies by reinforcement learning need stable-baselines3 ({error}); {install_extra('rl')}"
    ) from error


class FrozenFeatures(BaseFeaturesExtractor):
    """A features extractor of stable-baselines3 that stays as it is: frozen, in eval mode, one for actor and critics.

    >>> PPO("MultiInputPolicy", env, policy_kwargs={
    ...     "features_extractor_class": FrozenFeatures, "features_extractor_kwargs": {"extractor": enc}})

    It has no parameters and no submodules as far as torch and stable-baselines3 can see, so there is nothing to train,
    to initialise or to average. Single frames are encoded, as they come from a replay buffer: an encoder that looks
    back (motion, context, clips) can't be used here and wants `FeatureObservation`, the advised way anyhow.

    Args:
        observation_space: an image Box, or a Dict with an `image`; what else the Dict holds is appended, flattened.
        extractor: the encoder, of single frames.
        normalized: images arrive in [0, 1], as stable-baselines3 gives them; False with `normalize_images=False`.

    Raises VidsslError for a space without an image, and an encoder that looks back.
    """

    def __init__(self, observation_space: gym.Space[Any], extractor: FeatureExtractor, normalized: bool = True) -> None:
        if extractor.encoder.past or extractor.context is not None:
            raise VidsslError(
                "FrozenFeatures encodes single frames, as they come out of a replay buffer, and this encoder looks "
                "back; wrap the environment in vidssl.robot.wrappers.FeatureObservation instead"
            )
        parts = observation_space.spaces if isinstance(observation_space, gym.spaces.Dict) else {}
        channels_last = _channels_last(parts.get(IMAGE, observation_space))
        others = [key for key in parts if key != IMAGE]
        sizes = [gym.spaces.flatdim(parts[key]) for key in others]
        super().__init__(observation_space, extractor.dim + sum(sizes))
        self._extractor, self._others = copy.copy(extractor), others
        self._channels_last, self._normalized = channels_last, normalized

    def forward(self, observations: Any) -> Tensor:
        """float images [n,3,H,W] or [n,H,W,3], alone or in a dict -> float32 [n, D + the others' sizes]."""
        image: Tensor = observations[IMAGE] if isinstance(observations, dict) else observations
        frames = image if self._channels_last else image.movedim(-3, -1)
        frames = (frames * (255 if self._normalized else 1)).round()
        if len(frames) and float(frames.max()) > 255:
            raise VidsslError("FrozenFeatures: images above 1; give normalized=False where normalize_images=False")
        features = self._extractor(frames.byte()[:, None])[:, 0].to(image.device)
        return torch.cat([features, *(observations[key].flatten(1) for key in self._others)], dim=1)


def _channels_last(image: Any) -> bool:
    """Whether an image space is [H,W,3]; stable-baselines3 mostly turns it into [3,H,W] before an extractor sees it."""
    if isinstance(image, gym.spaces.Box) and image.dtype == np.uint8 and len(image.shape) == 3 and 3 in image.shape:
        return image.shape[0] != 3
    raise VidsslError(
        f"FrozenFeatures: the observations hold no uint8 camera image [H,W,3], alone or under {IMAGE!r}: got {image}"
    )


@dataclass(frozen=True)
class LearningConfig:
    """What and how long a policy learns. Other settings are stable-baselines3's own defaults.

    `hidden` are the widths of the hidden layers of policy and critics, `envs` the environments stepped in turn."""

    algorithm: str = "ppo"
    steps: int = 100_000
    envs: int = 4
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    gamma: float = 0.99
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How learning stands: steps done; mean return and share of successes of the last 100 episodes (None: none yet)."""

    step: int
    mean_return: float | None
    success_rate: float | None


def check_learning(config: LearningConfig) -> None:
    """Raises VidsslError for an unknown algorithm and numbers out of range."""
    if config.algorithm not in ALGORITHMS:
        raise unknown_name("algorithm", config.algorithm, ALGORITHMS)
    if config.steps < 1 or config.envs < 1 or not config.hidden or min(config.hidden) < 1:
        raise VidsslError(
            f"need at least 1 step, 1 environment and 1 hidden layer of at least 1 unit, got steps {config.steps}, "
            f"envs {config.envs}, hidden {list(config.hidden)}"
        )


def train_policy(
    extractor: FeatureExtractor,
    env_id: str,
    config: LearningConfig,
    size: int | None = None,
    progress: Callable[[Progress], None] = lambda state: None,
) -> PolicyController:
    """Learn a policy on the features of `extractor` in the training layouts of an environment.

    Args:
        extractor: frozen; every environment streams through it.
        env_id, size: see `pixels.make_env`.
        progress: told after every step of the environments.

    Raises VidsslError for an unknown algorithm, numbers out of range, and environments that `make_env` or
    `FeatureVector` refuse.
    """
    check_learning(config)
    bare = make_env(env_id, "train", size)
    spaces = Spaces.of(bare)
    bare.close()

    def env(index: int) -> gym.Env[Any, Any]:
        return Monitor(training_env(extractor, env_id, size, config.seed, index, config.envs))

    thunks: list[Callable[[], gym.Env[Any, Any]]] = [partial(env, index) for index in range(config.envs)]
    with one_thread(), torch.random.fork_rng(devices=[]):
        venv = VecNormalize(DummyVecEnv(thunks), norm_reward=config.algorithm == "ppo", clip_obs=CLIP)
        try:
            model = ALGORITHMS[config.algorithm](venv, config)
            model.learn(config.steps, callback=_Report(progress), log_interval=None)
            net = policy_net(model, venv)
        finally:
            venv.close()
    return PolicyController(extractor, net, spaces)


def policy_net(model: "PPO | SAC", venv: VecNormalize) -> PolicyNet:
    """The deterministic policy of a model in plain torch, with the standardisation of its inputs.

    The actions of the model's environment must be -1..1.
    """
    if isinstance(model, SAC):
        hidden, last, squash = model.actor.latent_pi, model.actor.mu, True
    else:
        hidden, last, squash = model.policy.mlp_extractor.policy_net, model.policy.action_net, False
    layers = [layer for layer in (*hidden.children(), last) if isinstance(layer, nn.Linear)]
    widths = [layer.out_features for layer in layers]
    activation = "relu" if any(isinstance(layer, nn.ReLU) for layer in hidden.children()) else "tanh"
    net = PolicyNet(layers[0].in_features, widths[-1], widths[:-1], activation, squash)
    ours = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    for mine, learned in zip(ours, layers, strict=True):
        mine.load_state_dict(learned.state_dict())
    statistics: Any = venv.obs_rms
    net.mean.copy_(torch.from_numpy(statistics.mean))
    net.std.copy_(torch.from_numpy(np.sqrt(statistics.var + venv.epsilon)))
    return net.requires_grad_(False)


def _ppo(venv: VecNormalize, config: LearningConfig) -> PPO:
    rollout = max(2, min(2048, config.steps) // config.envs)
    arms: dict[str, Any] = {"pi": list(config.hidden), "vf": list(config.hidden)}
    return PPO(
        "MlpPolicy",
        venv,
        learning_rate=config.learning_rate,
        n_steps=rollout,
        batch_size=_divisor(rollout * config.envs, 64),
        gamma=config.gamma,
        policy_kwargs={"net_arch": arms},
        seed=config.seed,
        device="cpu",
    )


def _sac(venv: VecNormalize, config: LearningConfig) -> SAC:
    return SAC(
        "MlpPolicy",
        venv,
        learning_rate=config.learning_rate,
        buffer_size=max(min(config.steps, 200_000), config.envs),
        learning_starts=min(1000, config.steps // 10),
        train_freq=1,
        gradient_steps=config.envs,  # one a step of an environment, as with a single one
        gamma=config.gamma,
        policy_kwargs={"net_arch": list(config.hidden)},
        seed=config.seed,
        device="cpu",
    )


def _divisor(total: int, wanted: int) -> int:
    """The largest divisor of `total` up to `wanted`, at least 2: a batch size that leaves no short batch over."""
    return max((size for size in range(2, wanted + 1) if total % size == 0), default=total)


ALGORITHMS: dict[str, Callable[[VecNormalize, LearningConfig], Any]] = {"ppo": _ppo, "sac": _sac}


class _Report(BaseCallback):
    """Tells `progress` how learning stands."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        super().__init__()
        self._progress = progress

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        successes = self.model.ep_success_buffer or ()
        mean = float(np.mean(returns)) if returns else None
        rate = float(np.mean(successes)) if successes else None
        self._progress(Progress(self.num_timesteps, mean, rate))
        return True


def write_learning(path: Path, rows: list[Progress]) -> None:
    """The learning curve as JSON lines: step, mean_return, success_rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
