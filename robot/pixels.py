"""Environments seen through a camera: making them by id, finding the image and the proprioception in an observation.

A pixel environment observes a uint8 image [H,W,3], bare or as the entry `image` of a Dict; an entry `proprio`
(float [P]) is used when there is one.
"""

import importlib
import inspect
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError, unknown_name
from vidssl.rendering import load_triton_first

from .registration import register

IMAGE = "image"
PROPRIO = "proprio"
SPLITS = ("train", "test")


def find_image(space: gym.Space[Any]) -> gym.spaces.Box:
    """The image's Box, uint8 [H,W,3], of an observation space; raises VidsslError when there is none."""
    box = space.spaces.get(IMAGE) if isinstance(space, gym.spaces.Dict) else space
    if isinstance(box, gym.spaces.Box) and box.dtype == np.uint8 and len(box.shape) == 3 and box.shape[2] == 3:
        return box
    raise VidsslError(
        f"the observations hold no camera image: got {space}; needed: a uint8 Box [H,W,3], "
        f"or a Dict with such a Box under {IMAGE!r}. Wrap the environment so that it observes pixels"
    )


def camera_image(observation: Any) -> np.ndarray:
    """The uint8 image [H,W,3] of an observation (or [N,H,W,3] of a batch)."""
    return np.asarray(observation[IMAGE] if isinstance(observation, dict) else observation)


def proprioception(observation: Any) -> np.ndarray:
    """The float32 vector [P] (or [N,P]) of an observation; P = 0 when it has none."""
    if isinstance(observation, dict) and PROPRIO in observation:
        return np.asarray(observation[PROPRIO], np.float32)
    return np.zeros((*camera_image(observation).shape[:-3], 0), np.float32)


def control_box(env: gym.Env[Any, Any]) -> gym.spaces.Box:
    """The bounded, flat action Box [A] that cloning needs; raises VidsslError for another action space."""
    space = env.action_space
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return space
    raise VidsslError(f"actions must be a bounded Box [A] for recording and cloning, got {space}")


def episode_seed(seed: int, index: int, split: str) -> int:
    """The reset seed of episode `index`: even for train and odd for test, so the two never share a layout.

    Raises VidsslError for an unknown split, or an index beyond 99,999 (the next seed's range).
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if not 0 <= index < 100_000 or not 0 <= seed < 10_000:
        raise VidsslError(f"seed must be in 0..9999 and episodes below 100000, got seed {seed}, episode {index}")
    return 2 * (seed * 100_000 + index) + SPLITS.index(split)


def make_env(
    env_id: str, split: str, size: int | None = None, render_mode: str | None = None
) -> gym.Env[Any, gym.spaces.Box]:
    """Make a pixel environment by its gymnasium id.

    Args:
        env_id: e.g. `"vidssl/Rover-v0"`; `"module:Name-v0"` imports the module first.
        split: `"train"` or `"test"`, passed on when the environment has a parameter `split`. One without it still gets
            disjoint layouts from `episode_seed`.
        size: side of the square camera image in pixels; None leaves the environment's own.
        render_mode: `"rgb_array"` for third-person pictures.

    Raises VidsslError for an unknown id, an environment whose packages are not installed, one without an image or with
    other actions than a bounded Box [A], and for `size` when the environment has no such parameter.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    load_triton_first()  # environments of others bring renderers of their own
    parameters = _parameters(env_id)
    options: dict[str, Any] = {"split": split} if "split" in parameters else {}
    if size is not None:
        if "size" not in parameters:
            raise VidsslError(f"{env_id} has no parameter `size`; leave --size out to take the environment's own")
        options["size"] = size
    try:
        env = gym.make(env_id, render_mode=render_mode, disable_env_checker=True, **options)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise _not_installed(env_id, error) from error
    try:
        find_image(env.observation_space)
        control_box(env)
    except VidsslError:
        env.close()
        raise
    return env


def _parameters(env_id: str) -> set[str]:
    """Names of the parameters of the environment's constructor."""
    register()
    ours = sorted(name for name in gym.registry if name.startswith("vidssl/"))
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        message = f"{unknown_name('environment', env_id, ours)}; any other gymnasium id with camera images works too"
        raise VidsslError(f"{message} ({error})") from None
    try:
        create = gym.envs.registration.load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else None
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise _not_installed(env_id, error) from error
    return set(inspect.signature(create or spec.entry_point).parameters)  # type: ignore[arg-type]


def _not_installed(env_id: str, error: Exception) -> VidsslError:
    return VidsslError(f"{env_id} needs a package that is not installed ({error}); install it, or choose another --env")
