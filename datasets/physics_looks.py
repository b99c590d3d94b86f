"""What the physics videos look like: groups of objects and scenes, and their textures. Colours are RGB in [0, 1].

A group has its own objects (two of each shape) and its own scenes, drawn for it alone. So folds that no group crosses
are disjoint in objects and in scenes.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .physics_motion import Body, Floats

GROUND_TEXELS, FACE_TEXELS, SKY_TEXELS = 256, 32, 32
SCENES = 2  # a group
OBJECTS_STREAM, SCENES_STREAM = 1, 2  # set the draws of a group apart from those of its videos

Colour = tuple[float, float, float]
Texels = NDArray[np.uint8]


@dataclass(frozen=True)
class Thing:
    """An object: its body and its texture, texels uint8 [6 FACE_TEXELS, FACE_TEXELS, 3] (the faces of a cube)."""

    body: Body
    texels: Texels


@dataclass(frozen=True)
class Scene:
    """Where a video is set.

    Attributes:
        ground: texels uint8 [GROUND_TEXELS, GROUND_TEXELS, 3] of a square of 2 m.
        sky: texels uint8 [6 SKY_TEXELS, SKY_TEXELS, 3].
        sun: direction of the light, a unit vector [3] downwards.
        light, ambient: colours of the light.
        clutter: distractors behind the motion: (geom type name, position [3], half sizes [3], colour).
    """

    ground: Texels
    sky: Texels
    sun: Floats
    light: Colour
    ambient: Colour
    clutter: tuple[tuple[str, Floats, Floats, Colour], ...]


def make_things(seed: int, group: int) -> list[Thing]:
    """The objects of a group, a function of seed and group."""
    rng = np.random.default_rng([seed, OBJECTS_STREAM, group])
    return [Thing(_body(rng, shape), _cube(rng)) for shape in ("sphere", "cylinder", "box") for _ in range(2)]


def make_scene(seed: int, group: int, number: int) -> Scene:
    """One of the scenes of a group, a function of seed, group and number."""
    rng = np.random.default_rng([seed, SCENES_STREAM, group, number])
    azimuth, elevation = np.deg2rad(rng.uniform(-160, -20)), np.deg2rad(rng.uniform(35, 70))  # behind the camera
    sun = -np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    brightness = rng.uniform(0.5, 0.75)
    return Scene(
        ground=_texels(_pattern(rng, GROUND_TEXELS, cells=4), *_two_colours(rng, 0.35)),
        sky=_sky(rng),
        sun=sun,
        light=tuple(brightness * rng.uniform(0.8, 1.0, 3)),
        ambient=tuple(rng.uniform(0.35, 0.5) * rng.uniform(0.85, 1.0, 3)),
        clutter=tuple(_distractor(rng) for _ in range(3)),
    )


def _body(rng: np.random.Generator, shape: str) -> Body:
    radius = float(rng.uniform(0.18, 0.36))
    low, high = (float(value) for value in radius * rng.uniform(0.65, 1.1, 2))
    half = {"sphere": (radius,) * 3, "cylinder": (radius, radius, low), "box": (radius, low, high)}[shape]
    return Body(shape, half)


def _distractor(rng: np.random.Generator) -> tuple[str, Floats, Floats, Colour]:
    kind = str(rng.choice(["box", "cylinder", "sphere"]))
    half = rng.uniform(0.15, 0.5, 3)
    if kind != "box":
        half[1] = half[0]
    half[2] = half[0] if kind == "sphere" else half[2]
    return kind, np.array([rng.uniform(-3.5, 3.5), rng.uniform(1.5, 4.0), half[2]]), half, _colour(rng)


# Textures


def _colour(rng: np.random.Generator, saturation: float = 1.0, low: float = 0.25) -> Colour:
    return colorsys.hsv_to_rgb(rng.random(), saturation * rng.uniform(0.4, 1.0), rng.uniform(low, 1.0))


def _two_colours(rng: np.random.Generator, saturation: float) -> tuple[Colour, Colour]:
    """A colour and a clearly lighter or darker one of its kind."""
    first = np.array(_colour(rng, saturation, 0.4))
    second = first * rng.uniform(0.5, 0.8) + (0.0 if rng.random() < 0.5 else 0.2)
    return tuple(first), tuple(np.clip(second, 0, 1))


def _pattern(rng: np.random.Generator, side: int, cells: int) -> Floats:
    """[side, side] in [0, 1]: checks, stripes, dots or clouds, `cells` periods a side; tileable."""
    u, v = np.meshgrid(*[(np.arange(side) + 0.5) / side * cells] * 2)
    kind = rng.integers(4)
    if kind == 0:
        return ((np.floor(u) + np.floor(v)) % 2).astype(float)
    if kind == 1:
        return np.asarray(((u if rng.random() < 0.5 else u + v) % 1 < 0.5).astype(float))
    if kind == 2:
        return np.asarray((np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.33).astype(float))
    return _clouds(rng, side, cells)


def _clouds(rng: np.random.Generator, side: int, coarsest: int) -> Floats:
    """[side, side] in [0, 1]: tileable noise with a falling spectrum."""
    spectrum = np.fft.rfft2(rng.normal(size=(side, side)))
    radius = np.hypot(np.fft.fftfreq(side, 1 / side)[:, None], np.fft.rfftfreq(side, 1 / side)[None])
    field = np.fft.irfft2(spectrum * (radius >= coarsest / 2) / np.maximum(radius, 1) ** 1.7, s=(side, side))
    return np.clip(0.5 + field / field.std() / 4, 0, 1)


def _texels(share: Floats, first: Colour, second: Colour) -> Texels:
    mixed = share[..., None] * np.array(first) + (1 - share[..., None]) * np.array(second)
    return np.asarray(255 * mixed, np.uint8)


def _cube(rng: np.random.Generator) -> Texels:
    """Six faces of one pattern in a strong and a contrasting colour, so that turning shows."""
    first = _colour(rng, 1.0, 0.7)
    second = tuple(1 - np.array(first)) if rng.random() < 0.3 else (0.95, 0.95, 0.95)
    face = _texels(_pattern(rng, FACE_TEXELS, cells=2), first, second)
    return np.tile(face, (6, 1, 1))


def _sky(rng: np.random.Generator) -> Texels:
    """A backdrop of one pale colour with soft clouds."""
    face = _texels(_clouds(rng, SKY_TEXELS, 2), _colour(rng, 0.5, 0.7), _colour(rng, 0.5, 0.5))
    return np.tile(face, (6, 1, 1))
