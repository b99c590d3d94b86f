"""Environments of other packages, seen through one camera: `Dict(image uint8 [S,S,3], proprio float32 [P])`.

    gymnasium id --benchmarks.py--> options, camera, senses, when an episode ends
    the environment's observation, whatever it is --PixelAdapter--> image and proprio, success, failure, score

S side of the image in pixels, P size of the proprioception.
"""

from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError

from .benchmarks import Benchmark
from .mujoco_camera import MujocoCamera, is_mujoco

SIZE = 96  # side of the image when none is asked for
PICTURE = 480  # side of `render()`'s picture of a MuJoCo scene

Image = NDArray[np.uint8]


class PixelAdapter(gym.Wrapper[Any, Any, Any, Any]):
    """Any environment as `Dict(image, proprio)`; no entry `proprio` where nothing is known of the robot's sensors.

    Args:
        env: what is observed is an image under `pixels`, or MuJoCo's scene is drawn, or `render()` is resized.
        benchmark: what is known of it.
        size: side of the square image, pixels.

    Attributes:
        raw_observation: the environment's own last observation, for experts.

    Raises VidsslError when the environment can show nothing.
    """

    def __init__(self, env: gym.Env[Any, Any], benchmark: Benchmark, size: int, render_mode: str | None) -> None:
        super().__init__(env)
        self._benchmark, self._size, self._mode = benchmark, size, render_mode
        self._camera: MujocoCamera | None = None
        self.raw_observation: Any = None
        if is_mujoco(env.unwrapped) and not _has_pixels(env.observation_space):
            self._camera = MujocoCamera(env.unwrapped, benchmark.view, max(size, PICTURE if render_mode else 0))
        elif not _has_pixels(env.observation_space):
            _check_renders(env)
        self.observation_space = self._space(env.observation_space)

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """As asked for: the environment may have been made with another one, to be seen at all."""
        return self._mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; what is drawn and what happens follows from the seed."""
        self.raw_observation, info = self.env.reset(seed=seed, options=options)
        return self._observe(), {**info, "success": False, "failure": None}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; `info` gets `success`, `failure` ("time-out" or None) and, where there is one, `score`."""
        self.raw_observation, reward, terminated, truncated, info = self.env.step(action)
        success = bool(info.get("success", info.get("is_success", False)))
        terminated = bool(terminated) or (success and self._benchmark.ends_on_success)
        late = bool(truncated) and not terminated and not success
        info = {**info, "success": success, "failure": "time-out" if late else None}
        if self._benchmark.score is not None:
            info["score"] = float(np.clip(info[self._benchmark.score], 0, 1))
        return self._observe(), float(reward), terminated, bool(truncated), info

    def render(self) -> Any:
        """The picture for videos, uint8 [h,w,3]; None without a render mode."""
        if self._mode is None:
            return None
        return self.env.render() if self._camera is None else self._take(self._camera, PICTURE)

    def close(self) -> None:
        """Close camera and environment."""
        if self._camera is not None:
            self._camera.close()
        super().close()

    def _space(self, observed: gym.Space[Any]) -> gym.spaces.Dict:
        spaces: dict[str, gym.Space[Any]] = {"image": gym.spaces.Box(0, 255, (self._size, self._size, 3), np.uint8)}
        if self._benchmark.senses is not None:
            low, high = (self._benchmark.senses(_bound(observed, side)) for side in ("low", "high"))
            spaces["proprio"] = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        return gym.spaces.Dict(spaces)

    def _observe(self) -> dict[str, NDArray[Any]]:
        observation = {"image": self._image()}
        if self._benchmark.senses is None:
            return observation
        return observation | {"proprio": np.array(self._benchmark.senses(self.raw_observation), np.float32)}

    def _image(self) -> Image:
        if _has_pixels(self.env.observation_space):
            return resized(self.raw_observation["pixels"], self._size)
        if self._camera is not None:
            return self._take(self._camera, self._size)
        return resized(np.asarray(self.env.render()), self._size)

    def _take(self, camera: MujocoCamera, size: int) -> Image:
        bare: Any = self.env.unwrapped
        if self._benchmark.place_goal is not None:
            self._benchmark.place_goal(bare)
        return camera(size)


class ResizedImage(gym.ObservationWrapper[Any, Any, Any]):
    """An environment that observes `image` (bare or in a Dict), with that image at another size."""

    def __init__(self, env: gym.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        self._size = size
        box = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        space = env.observation_space
        self.observation_space = (
            gym.spaces.Dict({**space.spaces, "image": box}) if isinstance(space, gym.spaces.Dict) else box
        )

    def observation(self, observation: Any) -> Any:
        """The observation with its image resized."""
        if isinstance(observation, dict):
            return {**observation, "image": resized(observation["image"], self._size)}
        return resized(observation, self._size)


def resized(image: Image, size: int) -> Image:
    """uint8 [h,w,3] -> uint8 [size,size,3], averaging over areas; an oblong picture is squeezed, nothing is cut off."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def shows_scene(env: gym.Env[Any, Any]) -> bool:
    """Whether an environment can be seen without its own `render()`."""
    return _has_pixels(env.observation_space) or is_mujoco(env.unwrapped)


def _check_renders(env: gym.Env[Any, Any]) -> None:
    """Render once; raises VidsslError when that gives no picture."""
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    if env.render_mode != "rgb_array":
        modes = env.metadata.get("render_modes") or "none"
        raise VidsslError(
            f"{name}: the observations hold no camera image, and it cannot render any either (render modes: {modes}; "
            "needed: 'rgb_array'). Wrap the environment so that it observes pixels"
        )
    try:
        env.reset(seed=0)
        picture: Any = env.render()
    except gym.error.DependencyNotInstalled as error:
        raise VidsslError(f"{name} needs a package that is not installed to render its pictures: {error}") from error
    if getattr(picture, "dtype", None) != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise VidsslError(f"{name}: render() gave {type(picture).__name__}, needed: a uint8 picture [h,w,3]")


def _has_pixels(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Dict) and isinstance(space.spaces.get("pixels"), gym.spaces.Box)


def _bound(space: gym.Space[Any], side: str) -> Any:
    """Lowest or highest observation of a space, in the observation's own structure."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _bound(part, side) for key, part in space.items()}
    return getattr(space, side)
