"""What goes wrong with a robot's camera, as gymnasium wrappers: from a step of the episode on, at three severities.

    blackout  blackout                              no picture
    freeze    freeze                                the picture stands still
    blur      defocus, motion-blur
    occlusion dirt, hand                            on, and before, the lens
    light     dark, glare, dusk
    sensor    noise, white-balance, channel-swap, low-resolution: another camera, or a broken one
    terrain   terrain                               the ground itself is another: `NewTerrain`, of the rover's world

A corruption is a function of (name, severity, the episode's seed) alone. Sizes are in pixels of a 64-pixel image and
grow with the image. Severities go about from level 1 to level 5 of Hendrycks and Dietterich 2019 ("Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations") for small images, where that benchmark has the corruption.

Letters: H, W image sides.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError, unknown_name

from .pixels import IMAGE, camera_image, find_image

Image = NDArray[np.uint8]
Corrupt = Callable[[Image], Image]  # the true image of this tick uint8 [H,W,3] -> what the camera gives
Begin = Callable[[int, np.random.Generator, tuple[int, int]], Corrupt]  # severity 0..2, randomness, (H, W)
SEVERITIES = (1, 2, 3)
TERRAIN = "terrain"


def _bytes(values: NDArray[np.floating[Any]]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _blackout(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """1: every other frame is lost at random, 2: a dark noisy picture behind a cap, 3: all pixels 0."""

    def corrupt(image: Image) -> Image:
        if level == 0:
            return image if rng.random() < 0.5 else np.zeros_like(image)
        return _bytes(rng.normal(4, 3, image.shape)) if level == 1 else np.zeros_like(image)

    return corrupt


def _freeze(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """A frame is replaced by the one shown last: 1: half of them, 2: four of five, 3: all."""
    shown: list[Image] = []

    def corrupt(image: Image) -> Image:
        if not shown or rng.random() >= (0.5, 0.8, 1.0)[level]:
            shown[:] = [image.copy()]
        return shown[0].copy()

    return corrupt


def _defocus(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Gaussian blur of 0.8, 1.5 or 2.5 pixels."""
    sigma = (0.8, 1.5, 2.5)[level] * size[0] / 64
    reach = np.arange(-int(3 * sigma) - 1, int(3 * sigma) + 2)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    offsets = [(int(k), 0) for k in reach]

    def corrupt(image: Image) -> Image:
        rows = _blend(image.astype(np.float32), offsets, weights)
        return _bytes(_blend(rows, [(x, y) for y, x in offsets], weights))

    return corrupt


def _motion_blur(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Smeared over 5, 9 or 15 pixels along a line, within 30 degrees of the horizontal."""
    length = max(2, round((5, 9, 15)[level] * size[0] / 64))
    angle = rng.uniform(-np.pi / 6, np.pi / 6)
    reach = np.arange(length) - (length - 1) / 2
    offsets = [(round(k * np.sin(angle)), round(k * np.cos(angle))) for k in reach]
    return lambda image: _bytes(_blend(image.astype(np.float32), offsets, np.ones(length)))


def _blend(image: NDArray[np.float32], offsets: list[tuple[int, int]], weights: NDArray[Any]) -> NDArray[np.float32]:
    """Weighted mean of the image shifted by offsets (rows, columns); its edges are repeated outward."""
    pad = max(max(abs(y), abs(x)) for y, x in offsets)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    for (y, x), weight in zip(offsets, weights / weights.sum(), strict=True):
        total += np.float32(weight) * padded[pad + y : pad + y + height, pad + x : pad + x + width]
    return total


def _dirt(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Brown specks on the lens, soft-edged and half see-through: on about 5, 15 or 30 % of the picture."""
    y, x = np.mgrid[: size[0], : size[1]]
    cover = np.zeros(size)
    while (cover > 0.4).mean() < (0.05, 0.15, 0.30)[level]:
        row, column = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        radius = rng.uniform(2.0, 5.0) * size[0] / 64
        cover = np.maximum(cover, 0.85 * np.clip(1.5 - np.hypot(y - row, x - column) / radius, 0, 1))
    return _covered(cover, np.array([70.0, 55.0, 40.0]))


def _hand(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Something smooth of a skin's colour before the lens, in from one side over 15, 35 or 65 % of the picture."""
    share = (0.15, 0.35, 0.65)[level]
    y, x = np.mgrid[: size[0], : size[1]]
    angle = rng.uniform(-np.pi, np.pi)
    depth = (y - size[0] / 2) * np.sin(angle) + (x - size[1] / 2) * np.cos(angle)
    wave = 3 * np.sin(((x - y) * 0.5 + rng.uniform(0, 6)) * 64 / size[0]) * size[0] / 64
    depth = depth + wave
    return _covered(np.clip((np.quantile(depth, share) - depth) / 2, 0, 1), np.array([150.0, 105.0, 85.0]))


def _covered(cover: NDArray[Any], colour: NDArray[Any]) -> Corrupt:
    """A colour [3] over the picture, as dense as `cover` [H,W] in 0..1."""
    alpha = cover[..., None]
    return lambda image: _bytes((1 - alpha) * image + alpha * colour)


def _dark(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Brightness times 0.6, 0.4 or 0.2."""
    return _scaled(np.full(3, (0.6, 0.4, 0.2)[level]))


def _glare(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Overexposed: brightness times 1.4, 1.8 or 2.5, cut off at white."""
    return _scaled(np.full(3, (1.4, 1.8, 2.5)[level]))


def _dusk(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Darker and bluer, shadows deeper (gamma)."""
    gain = (np.array([0.75, 0.8, 0.95]), np.array([0.5, 0.6, 0.8]), np.array([0.25, 0.35, 0.55]))[level]
    gamma = (1.1, 1.3, 1.6)[level]
    return lambda image: _bytes(255 * gain * (image / 255) ** gamma)


def _white_balance(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Red up and blue down by 10, 20 or 35 %, or the other way round."""
    shift = (0.10, 0.20, 0.35)[level] * rng.choice([-1, 1])
    return _scaled(np.array([1 + shift, 1.0, 1 - shift]))


def _scaled(gain: NDArray[Any]) -> Corrupt:
    return lambda image: _bytes(image * gain)


def _noise(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Gaussian noise of 8, 16 or 32 grey levels, new in every frame."""
    return lambda image: _bytes(image + rng.normal(0, (8, 16, 32)[level], image.shape))


def _channel_swap(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """1: green and blue, 2: red and green, 3: red and blue change places."""
    order = ([0, 2, 1], [1, 0, 2], [2, 1, 0])[level]
    return lambda image: np.ascontiguousarray(image[..., order])


def _low_resolution(level: int, rng: np.random.Generator, size: tuple[int, int]) -> Corrupt:
    """Square pixels of twice, three or four times the side."""
    side = max(2, round((2, 3, 4)[level] * size[0] / 64))

    def corrupt(image: Image) -> Image:
        padded = np.pad(image, ((0, -size[0] % side), (0, -size[1] % side), (0, 0)), mode="edge")
        height, width = padded.shape[:2]
        coarse = padded.reshape(height // side, side, width // side, side, 3).mean(axis=(1, 3), keepdims=True)
        whole = np.broadcast_to(coarse, (height // side, side, width // side, side, 3)).reshape(padded.shape)
        return _bytes(whole[: size[0], : size[1]])

    return corrupt


CAMERA: dict[str, Begin] = {
    "blackout": _blackout,
    "freeze": _freeze,
    "defocus": _defocus,
    "motion-blur": _motion_blur,
    "dirt": _dirt,
    "hand": _hand,
    "dark": _dark,
    "glare": _glare,
    "dusk": _dusk,
    "noise": _noise,
    "white-balance": _white_balance,
    "channel-swap": _channel_swap,
    "low-resolution": _low_resolution,
}
GROUPS = {
    "blackout": ("blackout",),
    "freeze": ("freeze",),
    "blur": ("defocus", "motion-blur"),
    "occlusion": ("dirt", "hand"),
    "light": ("dark", "glare", "dusk"),
    "sensor": ("noise", "white-balance", "channel-swap", "low-resolution"),
    "terrain": (TERRAIN,),
}
CORRUPTIONS = (*CAMERA, TERRAIN)


def episode_randomness(name: str, severity: int, seed: int) -> np.random.Generator:
    """What draws an episode's corruption: its first step, then the corruption itself."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), severity])


def corrupt_frames(
    frames: Image, name: str, severity: int, seed: int, start: int | tuple[int, int] = 0
) -> tuple[Image, int]:
    """What `CorruptedCamera` shows of an episode whose true frames uint8 [T,H,W,3] are known, and its first step.

    The same as driving it again, for a driver that does not look.
    """
    rng = episode_randomness(name, severity, seed)
    first, last = start if isinstance(start, tuple) else (start, start)
    began_at = int(rng.integers(first, last + 1))
    corrupt = CAMERA[name](severity - 1, rng, frames.shape[1:3])
    shown = [corrupt(frame) if step >= began_at else frame for step, frame in enumerate(frames)]
    return np.stack(shown), began_at


class FromAStep(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs, ABC):
    """Something begins at a step of every episode, which is drawn where a range is given.

    Attributes:
        began_at: the first step of this episode whose observation is corrupted; step 0 is what `reset` returns.
        steps: taken in this episode.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, severity: int, start: int | tuple[int, int]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, name=name, severity=severity, start=start)
        gym.Wrapper.__init__(self, env)
        first, last = start if isinstance(start, tuple) else (start, start)
        if severity not in SEVERITIES:
            raise VidsslError(f"severity: got {severity!r}; choose from {', '.join(map(str, SEVERITIES))}")
        if not 0 <= first <= last:
            raise VidsslError(f"start: got {start!r}; a step from 0 on, or a range (first, last) of such")
        self.name, self.severity = name, severity
        self.began_at = self.first = first
        self._last = last
        self.steps = 0
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the same seed gives the same corruption from the same step on."""
        if seed is not None:
            self._rng = episode_randomness(self.name, self.severity, seed)
        self.began_at = int(self._rng.integers(self.first, self._last + 1))
        self.steps = 0
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin(observation)
        return self._seen(observation, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; the info says `corrupted`, whether this observation is."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        observation, info = self._seen(observation, info)
        return observation, reward, terminated, truncated, info

    def _seen(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        corrupted = self.steps >= self.began_at
        return self._change(observation) if corrupted else observation, info | {"corrupted": corrupted}

    @abstractmethod
    def _begin(self, observation: Any) -> None:
        """An episode has begun with this observation."""

    @abstractmethod
    def _change(self, observation: Any) -> Any:
        """The observation as it is from that step on."""


class CorruptedCamera(FromAStep):
    """An environment whose camera goes wrong.

    Args:
        env: observations are an image uint8 [H,W,3], or a Dict with an `image`.
        name: a key of `CAMERA`.
        severity: 1 (mild) to 3 (strong).
        start: step from which on, or a range (first, last) that an episode's step is drawn from by its seed.

    Raises VidsslError for an environment without images, an unknown name, a severity or start out of range.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, severity: int = 2, start: int | tuple[int, int] = 0) -> None:
        if name not in CAMERA:
            raise unknown_name("camera corruption", name, CAMERA)
        find_image(env.observation_space)
        super().__init__(env, name, severity, start)
        self._corrupt: Corrupt

    def _begin(self, observation: Any) -> None:
        height, width = camera_image(observation).shape[:2]
        self._corrupt = CAMERA[self.name](self.severity - 1, self._rng, (height, width))

    def _change(self, observation: Any) -> Any:
        image = self._corrupt(camera_image(observation))
        return {**observation, IMAGE: image} if isinstance(observation, dict) else image
