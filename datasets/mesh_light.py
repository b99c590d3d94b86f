"""Shading of ray-cast views: Lambert's law and ambient light, on objects painted with smooth colours.

p surface points, w waves of the paint.

The paint is a sum of a few plane waves over the object's own coordinates, so it is continuous, has no texture map to
load, stays on the object when that turns, and tells its sides apart: a view without depth shows how the object is
turned.
"""

from dataclasses import dataclass
from typing import Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError

Floats = NDArray[np.float32]

WAVES = 4  # plane waves a colour
FREQUENCY = 2.5  # radians per object radius, standard deviation of each wave's components
DARKEST, BRIGHTEST = 0.15, 1.0  # range of the paint


@dataclass(frozen=True)
class Light:
    """One lamp, far away, and light from everywhere."""

    towards: tuple[float, float, float] = (-0.4, -0.6, -0.7)
    """from the object to the lamp, camera axes (y down, z forward); any length but 0"""
    ambient: float = 0.35
    """share of the light that comes from everywhere, 0 to 1"""
    paint: int = 0
    """seed of the objects' colours, which depend on this and the object's name"""

    def __post_init__(self) -> None:
        if not np.linalg.norm(self.towards) > 0 or not 0 <= self.ambient <= 1 or self.paint < 0:
            raise VidsslError(
                f"light: got towards {self.towards}, ambient {self.ambient}, paint {self.paint}; towards must have a "
                "length, ambient lie in 0 … 1, and paint be 0 or more"
            )

    @classmethod
    def random(cls, rng: np.random.Generator, paint: int = 0) -> Self:
        """A lamp anywhere on the camera's side of the object (within about 80° of the camera), ambient 0.2 to 0.5."""
        height = rng.uniform(0.2, 1.0)  # uniform on the sphere: of the cosine, not of the angle
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(1 - height**2)
        towards = (float(reach * np.cos(angle)), float(reach * np.sin(angle)), -float(height))
        return cls(towards, float(rng.uniform(0.2, 0.5)), paint)


def paint_colours(places: Floats, name: str, seed: int) -> Floats:
    """Colours of places on an object.

    Args:
        places: float32 [p,3], the object's own frame, in units of its radius.
        name: of the object; other names have other colours.
        seed: of the paint.

    Returns:
        float32 [p,3] RGB in 0.15 … 1, smooth in `places`.
    """
    rng = np.random.default_rng([seed, crc32(name.encode())])
    waves = rng.normal(0, FREQUENCY, (3, WAVES, 3)).astype(np.float32)  # colour, wave, axis
    phases = rng.uniform(0, 2 * np.pi, (3, WAVES)).astype(np.float32)
    colours = np.sin(np.einsum("pa,cwa->pcw", places, waves, optimize=True) + phases).mean(2) * np.sqrt(WAVES)
    bright = 1 / (1 + np.exp(-2 * colours))
    return (DARKEST + (BRIGHTEST - DARKEST) * bright).astype(np.float32)


def shade(normals: Floats, places: Floats, name: str, light: Light) -> NDArray[np.uint8]:
    """RGB of surface points: paint x (ambient + (1 - ambient) max(0, normal . lamp)).

    Args:
        normals: float32 [p,3], unit, camera frame.
        places: float32 [p,3], as `paint_colours`.
        name: of the object; other names have other colours.
        light: the lamp.

    Returns:
        uint8 [p,3].
    """
    lamp = np.asarray(light.towards, np.float32) / np.float32(np.linalg.norm(light.towards))
    lit = light.ambient + (1 - light.ambient) * np.maximum(normals @ lamp, 0)
    return np.round(255 * paint_colours(places, name, light.paint) * lit[:, None]).astype(np.uint8)
