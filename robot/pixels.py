"""Environments seen through a camera: making them by id, finding the image and the proprioception in an observation.

A pixel environment observes a uint8 image [H,W,3], bare or as the entry `image` of a Dict; an entry `proprio`
(float [P]) is used when there is one. Environments of other packages are made into such by `third_party`.
"""

import importlib
import inspect
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError, unknown_name
from vidssl.rendering import load_triton_first
from vidssl.splits import SPLITS, check_split

from .benchmarks import OTHER, benchmark_of, import_benchmark
from .depth_pictures import DepthPictures, has_depth
from .registration import register
from .third_party import SIZE, PixelAdapter, ResizedImage, shows_scene

IMAGE = "image"
PROPRIO = "proprio"


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
    check_split(split)
    if not 0 <= index < 100_000 or not 0 <= seed < 10_000:
        raise VidsslError(f"seed must be in 0..9999 and episodes below 100000, got seed {seed}, episode {index}")
    return 2 * (seed * 100_000 + index) + SPLITS.index(split)


def make_env(
    env_id: str, split: str, size: int | None = None, render_mode: str | None = None
) -> gym.Env[Any, gym.spaces.Box]:
    """Make a pixel environment by its gymnasium id.

    Args:
        env_id: e.g. `"vidssl/Rover-v0"`, `"gym_pusht/PushT-v0"`, `"Meta-World/reach-v3"`, `"FetchReach-v4"`, or any
            other that observes an image, is a MuJoCo scene or renders pictures; `"module:Name-v0"` imports the module
            first.
        split: `"train"` or `"test"`, passed on when the environment has a parameter `split`. One without it still gets
            disjoint layouts from `episode_seed`.
        size: side of the square camera image in pixels; None for the environment's own, or 96 where it has none.
        render_mode: `"rgb_array"` for third-person pictures.

    Raises VidsslError for an unknown id, an environment whose packages are not installed, one that shows no image or
    takes other actions than a bounded Box [A], a size below 16, and a missing GL library.
    """
    check_split(split)
    if size is not None and size < 16:
        raise VidsslError(f"size: got {size}; the side of the camera image is at least 16 pixels")
    load_triton_first()  # environments of others bring renderers of their own
    import_benchmark(env_id)
    benchmark = benchmark_of(env_id)
    parameters = _parameters(env_id)
    options: dict[str, Any] = {"split": split} if "split" in parameters else {}
    if size is not None and "size" in parameters:
        options["size"] = size
    options |= benchmark.options(size or SIZE)
    env = _make(env_id, render_mode if benchmark is OTHER else "rgb_array", options)
    try:
        control_box(env)
        if _lacks_image(env) and not shows_scene(env) and "rgb_array" in env.metadata.get("render_modes", ()):
            env.close()
            env = _make(env_id, "rgb_array", options)
        if has_depth(env.observation_space):
            return DepthPictures(env)
        if _lacks_image(env):
            return PixelAdapter(env, benchmark, size or SIZE, render_mode)
        height, width = find_image(env.observation_space).shape[:2]
        return env if size is None or (height, width) == (size, size) else ResizedImage(env, size)
    except VidsslError:
        env.close()
        raise


def _lacks_image(env: gym.Env[Any, Any]) -> bool:
    try:
        find_image(env.observation_space)
    except VidsslError:
        return True
    return False


def _make(env_id: str, render_mode: str | None, options: dict[str, Any]) -> gym.Env[Any, Any]:
    try:
        return gym.make(env_id, render_mode=render_mode, disable_env_checker=True, **options)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise _not_installed(env_id, error) from error


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
        message = f"{unknown_name('environment', env_id, ours)}; any other gymnasium id that shows images works too"
        raise VidsslError(f"{message} ({error})") from None
    try:
        create = gym.envs.registration.load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else None
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise _not_installed(env_id, error) from error
    return set(inspect.signature(create or spec.entry_point).parameters)  # type: ignore[arg-type]


def _not_installed(env_id: str, error: Exception) -> VidsslError:
    return VidsslError(f"{env_id} needs a package that is not installed ({error}); install it, or choose another --env")
