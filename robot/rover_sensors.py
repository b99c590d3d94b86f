"""Imperfect sensors of the rover: camera, depth and proprioception, with noise that is a function of layout and step.

    camera          exposure off and swinging; shot noise grows with the root of the light, read noise is the same
                    everywhere (1000 electrons full well, 4 of read noise), so dark pictures are noisier
    depth           stereo: the error grows with the square of the distance; some pixels give no return
    proprioception  white noise, and an offset an episode
    dust            specks before the camera; depth loses far returns

Each strength is a factor: 0 off, 1 a plain cheap sensor, 3 a bad one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FULL_WELL = 1000.0  # electrons of the brightest pixel
READ = 4.0  # electrons
GAMMA = 2.2
STOPS = 0.15  # of the exposure: spread of its offset, and how far it swings within an episode
STEREO = 0.004  # spread of depth at 1 m, 1/m: it is STEREO * z²
LOST = 0.02  # share of depth pixels without return
# Of proprioception (wheels left and right m/s, roll, pitch rad, yaw rate rad/s): spread a step, and of the offset.
WHITE = np.array([0.02, 0.02, 0.01, 0.01, 0.03])
OFFSET = np.array([0.01, 0.01, 0.015, 0.015, 0.02])
SPECKS = 0.02  # dust specks a pixel of a 64x64 picture where dust is 1


@dataclass(frozen=True)
class Sensors:
    """How bad the sensors are; see the module. All zeros: perfect ones, and nothing is drawn at random."""

    camera: float = 0.0
    depth: float = 0.0
    proprio: float = 0.0
    dust: float = 0.0
    dust_colour: tuple[float, float, float] = (0.8, 0.6, 0.4)

    def see(self, image: NDArray[np.uint8], layout: int, step: int) -> NDArray[np.uint8]:
        """What the camera makes of a picture uint8 [H,W,3]."""
        if self.dust > 0:
            image = self._specks(image, _random(1, layout, step))
        if self.camera > 0:
            image = self._expose(image, layout, step)
        return image

    def range(self, depth: NDArray[np.float32], layout: int, step: int, farthest: float) -> NDArray[np.float32]:
        """What the depth sensor makes of distances float32 [H,W] up to `farthest` m; 0 = no return."""
        if self.depth == 0 and self.dust == 0:
            return depth
        rng = _random(2, layout, step)
        noise, luck = rng.standard_normal(depth.shape, np.float32), rng.random(depth.shape, np.float32)
        measured = depth * (1 + np.float32(self.depth * STEREO) * depth * noise)
        seen = (luck > self.depth * LOST) & (luck < np.exp(-0.1 * self.dust * depth)) & (measured > 0) & (depth > 0)
        return np.where(seen, np.minimum(measured, np.float32(farthest)), np.float32(0))

    def feel(self, proprio: NDArray[np.float32], layout: int, step: int) -> NDArray[np.float32]:
        """What the wheel encoders and the inertial unit make of float32 [5]."""
        if self.proprio == 0:
            return proprio
        offset = OFFSET * _random(3, layout).standard_normal(5)
        white = WHITE * _random(4, layout, step).standard_normal(5)
        return (proprio + self.proprio * (offset + white)).astype(np.float32)

    def _expose(self, image: NDArray[np.uint8], layout: int, step: int) -> NDArray[np.uint8]:
        noise = _random(5, layout, step).standard_normal(image.shape, np.float32)
        light = (_LINEAR * np.float32(2 ** (self.camera * STOPS * _exposure(layout, step))))[image]
        spread = np.float32(self.camera) * np.sqrt(light / FULL_WELL + (READ / FULL_WELL) ** 2)
        light = np.clip(light + spread * noise, 0, 1)
        levels: NDArray[np.uint8] = _LEVELS[(light * (len(_LEVELS) - 1)).astype(np.int32)]
        return levels

    def _specks(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        image, side = image.copy(), image.shape[0]
        count = rng.poisson(self.dust * SPECKS * 64 * 64)
        bright = np.minimum(255, 280 * np.array(self.dust_colour))
        places, opacity = rng.random((count, 2)), rng.uniform(0.2, 0.8, count)
        for (y, x), size, cover in zip(places, rng.uniform(0.5, 2.0, count) * side / 64, opacity, strict=True):
            reach = max(1, round(size))
            row, column = int(y * side), int(x * side)
            patch = image[row : row + reach, column : column + reach]
            patch[:] = ((1 - cover) * patch + cover * bright).astype(np.uint8)
        return image


_LINEAR = (np.arange(256, dtype=np.float32) / 255) ** np.float32(GAMMA)  # light of a grey level
_LEVELS = np.round(255 * np.linspace(0, 1, 4096) ** (1 / GAMMA)).astype(np.uint8)  # grey level of a light


def _random(sensor: int, layout: int, step: int = 0) -> np.random.Generator:
    return np.random.default_rng([0x6E6F697365, sensor, layout, step])


def _exposure(layout: int, step: int) -> float:
    """Offset of the episode plus a slow swing, in units of STOPS."""
    rng = _random(6, layout)
    offset, period, phase = rng.standard_normal(), rng.uniform(20, 60), rng.uniform(0, 2 * np.pi)
    return float(offset + np.sin(2 * np.pi * step / period + phase))
