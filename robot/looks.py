"""How the rover's world looks: textures, materials and daylight. Colours are RGB in [0,1] unless said otherwise.

Real-time shadows cost more than everything else in a software renderer, so the rocks' shadows are painted into the
ground's texture when a layout is written.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .rover_rocks import rock_bank
from .terrain import HALF, Floats, Layout

if TYPE_CHECKING:
    import mujoco

NEAR, FAR = 0.04, 80.0  # clipping planes of every camera, m
TEXELS = 512  # side of the ground's texture: 3.5 cm a texel
SAND, DUST = (0.74, 0.43, 0.27), (0.88, 0.62, 0.43)

LOOSE = (0.93, 0.72, 0.50)  # loose sand

_bare: list[NDArray[np.uint8]] = []

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """A time of day: sky from zenith to horizon, fog, what light comes from everywhere, and the sun's share.

    `sun` (lowest, highest) elevation in degrees: the layouts' 22 to 60 are spread over it. `tone` tints its light.
    """

    zenith: Colour
    horizon: Colour
    fog: Colour
    ambient: Colour
    sun: tuple[float, float]
    tone: Colour


DAYLIGHT = {
    "day": Light(
        (0.50, 0.45, 0.46), (0.95, 0.79, 0.61), (0.87, 0.71, 0.55), (0.34, 0.32, 0.32), (22.0, 60.0), (1.0, 1.0, 1.0)
    ),
    "dusk": Light(
        (0.16, 0.17, 0.26), (0.80, 0.42, 0.27), (0.52, 0.33, 0.28), (0.20, 0.18, 0.21), (5.0, 14.0), (0.95, 0.60, 0.42)
    ),
}
LAYOUT_SUN = (22.0, 60.0)  # elevations that layouts draw from, degrees
FOG = (9.0, 55.0)  # where fog begins and where it hides everything, m
STORM = (1.0, 13.0)  # the same where dust is 1
STORM_DUST = (0.78, 0.55, 0.38)  # its colour in full daylight


@dataclass(frozen=True)
class Weather:
    """Light and air. `daylight`: a key of DAYLIGHT; `dust` in the air, from 0 (clear) to 1 (storm)."""

    daylight: str = "day"
    dust: float = 0.0

    @property
    def light(self) -> Light:
        """Its colours."""
        return DAYLIGHT[self.daylight]

    @property
    def fog(self) -> Colour:
        """The colour that far things fade to: that of the dust, as bright as the day is."""
        clear = np.array(self.light.fog)
        storm = np.array(STORM_DUST) * clear.mean() / np.mean(DAYLIGHT["day"].fog)
        return _mix(self.light.fog, _colour(storm), self.dust)

    @property
    def ambient(self) -> Colour:
        """What light comes from everywhere: more of it where dust scatters the sun's."""
        return _mix(self.light.ambient, _colour(1.6 * np.array(self.light.ambient)), self.dust)

    @property
    def sight(self) -> tuple[float, float]:
        """Where fog begins and where it hides everything, m."""
        near, far = (a + self.dust * (b - a) for a, b in zip(FOG, STORM, strict=True))
        return near, far

    @property
    def sky(self) -> tuple[Colour, Colour]:
        """Zenith and horizon; dust veils both."""
        veil = min(1.0, 1.3 * self.dust)
        return _mix(self.light.zenith, self.fog, veil), _mix(self.light.horizon, self.fog, veil)

    def elevation(self, layout: Layout) -> float:
        """Of the sun above a layout, rad."""
        if self.daylight == "day":
            return float(layout.sun[1])
        low, high = np.deg2rad(self.light.sun)
        return float(np.interp(layout.sun[1], np.deg2rad(LAYOUT_SUN), (low, high)))


def _colour(values: Floats) -> Colour:
    red, green, blue = values.tolist()
    return red, green, blue


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    return one if share == 0 else _colour((1 - share) * np.array(one) + share * np.array(other))


def assets(weather: Weather) -> str:
    """The MJCF textures, materials and the mesh of the hills."""
    zenith, horizon = weather.sky
    return f"""
    <texture type="skybox" builtin="gradient" rgb1="{_rgb(zenith)}" rgb2="{_rgb(horizon)}" width="64" height="384"/>
    <texture name="ground" type="2d" builtin="flat" rgb1="{_rgb(SAND)}" width="{TEXELS}" height="{TEXELS}"/>
    <texture name="grain" type="2d" builtin="flat" rgb1="{_rgb(SAND)}" width="256" height="256"/>
    <material name="ground" texture="ground" specular="0" shininess="0"/>
    <texture name="rock" type="cube" builtin="flat" rgb1="0.95 0.95 0.95" mark="random" markrgb="0.7 0.68 0.66"
      random="0.2" width="48" height="48"/>
    <texture name="cells" type="2d" builtin="checker" rgb1="0.10 0.14 0.30" rgb2="0.14 0.20 0.40" width="64"
      height="64"/>
    <material name="plain" texture="grain" texrepeat="12 12" specular="0" shininess="0"/>
    <material name="hills" rgba="0.58 0.36 0.26 1" specular="0"/>
    <material name="rock" texture="rock" specular="0.05" shininess="0.1"/>
    <material name="beacon" rgba="0.05 0.85 1 1" emission="0.6" specular="0"/>
    <material name="band" rgba="1 1 1 1" emission="0.5" specular="0"/>
    <material name="hull" rgba="0.86 0.85 0.82 1" specular="0.3"/>
    <material name="panel" texture="cells" texrepeat="4 3" specular="0.6" shininess="0.6"/>
    <material name="metal" rgba="0.55 0.55 0.57 1" specular="0.4"/>
    <material name="tyre" rgba="0.17 0.17 0.18 1" specular="0.1"/>
    <material name="shade" rgba="0.10 0.05 0.03 0.35" specular="0"/>
    <material name="glass" rgba="0.05 0.05 0.08 1" specular="0.9" shininess="0.9"/>
    {_hills()}"""


def _rgb(colour: tuple[float, float, float]) -> str:
    return " ".join(map(str, colour))


def _hills() -> str:
    """A ring of hills 36 to 50 m away as one open mesh: foot, ridge and back, 120 slices."""
    slices = 120
    angle = np.arange(slices) * 2 * np.pi / slices
    rng = np.random.default_rng(4)
    ridge = sum(np.cos(k * angle + rng.uniform(-np.pi, np.pi)) * rng.uniform(0.3, 1) / k**0.7 for k in range(2, 24))
    ridge = 2.2 + 1.3 * ridge + 0.3 * rng.normal(size=slices)
    rings = [(36.0, np.full(slices, -0.5)), (43.0, np.clip(ridge, 0.2, 7.0)), (50.0, np.full(slices, -0.5))]
    points = np.concatenate([np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1) for r, z in rings])
    faces = []
    for ring in (0, slices):
        for k in range(slices):
            a, b = ring + k, ring + (k + 1) % slices
            faces += [(a, b + slices, b), (a, a + slices, b + slices)]
    flat = " ".join(f"{v:.3f}" for v in points.ravel())
    return f'<mesh name="hills" inertia="shell" vertex="{flat}" face="{" ".join(map(str, np.ravel(faces)))}"/>'


def _noise(side: int, coarsest: int, seed: int, falloff: float = 0.6) -> Floats:
    """[side,side] in [0,1]: tileable value noise, octaves from `coarsest` cells a side on, by band-limited spectra."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.normal(size=(side, side)))
    fy, fx = np.fft.fftfreq(side, 1 / side)[:, None], np.fft.rfftfreq(side, 1 / side)[None]
    radius = np.hypot(fx, fy)
    field = np.fft.irfft2(spectrum * (radius >= coarsest) / np.maximum(radius, 1) ** (1 + falloff), s=(side, side))
    rank = (field - field.mean()) / field.std()
    return np.clip(0.5 + rank / 5, 0, 1)


def _bare_ground() -> list[NDArray[np.uint8]]:
    """Four tileable grounds [TEXELS,TEXELS,3] without shadows, made once a process: sand, dust, grain and pebbles."""
    if not _bare:
        for seed in range(4):
            patches = _noise(TEXELS, 3, 10 + seed, 1.0)[..., None]
            light = 0.72 + 0.5 * _noise(TEXELS, 24, 20 + seed, -0.2)
            rng = np.random.default_rng(30 + seed)
            for y, x in rng.integers(TEXELS, size=(2600, 2)):
                h, w = rng.integers(1, 3, size=2)
                light[y : y + h, x : x + w] *= rng.uniform(0.5, 0.85)
            tone = patches * DUST + (1 - patches) * SAND
            _bare.append(np.clip(255 * tone * light[..., None], 0, 255).astype(np.uint8))
    return _bare


def paint_ground(layout: Layout, weather: Weather) -> NDArray[np.uint8]:
    """The ground's texture, uint8 [TEXELS,TEXELS,3]: column = x from -HALF to HALF, row = y from HALF to -HALF."""
    rng = np.random.default_rng([7, layout.number])
    texels = _bare_ground()[rng.integers(4)]
    texels = np.rot90(np.roll(texels, tuple(rng.integers(TEXELS, size=2)), axis=(0, 1)), int(rng.integers(4))).copy()
    if layout.sand is not None:
        _paint_sand(texels, layout.sand)
    _paint_shadows(texels, layout, weather.elevation(layout))
    return texels[::-1]


def paint_plain(model: "mujoco.MjModel") -> None:
    """The texture of the plain around the arena, in the mean colours of the ground."""
    texture = model.texture("grain")
    side = int(model.tex_width[texture.id])
    tone = (np.array(SAND) + DUST) / 2 * (0.72 + 0.5 * _noise(side, 4, 5, 0.3)[..., None])
    model.tex_data[texture.adr[0] : texture.adr[0] + side * side * 3] = (255 * tone).astype(np.uint8).ravel()


def _paint_sand(texels: NDArray[np.uint8], sand: Floats) -> None:
    """Lay pale, finely rippled sand over texels [TEXELS,TEXELS,3] in place, as opaque as the ground is loose."""
    cell = (np.arange(TEXELS) + 0.5) * len(sand) / TEXELS - 0.5
    low = np.clip(np.floor(cell).astype(int), 0, len(sand) - 2)
    share = np.clip(cell - low, 0, 1)
    rows = sand[low] * (1 - share)[:, None] + sand[low + 1] * share[:, None]  # [TEXELS,G]
    cover = 0.85 * (rows[:, low] * (1 - share) + rows[:, low + 1] * share)[..., None]
    y, x = np.mgrid[:TEXELS, :TEXELS]
    bend = 5.0 * np.sin(2 * np.pi * (x + 0.6 * y) / 171)
    ripple = 0.93 + 0.07 * np.sin(2 * np.pi * (0.35 * x + y + bend) / 9)[..., None]
    texels[:] = ((1 - cover) * texels + cover * 255 * np.array(LOOSE) * ripple).astype(np.uint8)


def _paint_shadows(texels: NDArray[np.uint8], layout: Layout, elevation: float) -> None:
    """Darken texels [TEXELS,TEXELS,3], row = y from -HALF, in place where rocks throw their shadows."""
    scale = TEXELS / (2 * HALF)
    azimuth = layout.sun[0]
    away = -np.array([np.cos(azimuth), np.sin(azimuth)])
    for k, xy in zip(layout.rock, layout.rock_xy, strict=True):
        rock = rock_bank()[k]
        reach = rock.vertices[:, 2].max() / np.tan(elevation)
        centre, half = xy + away * reach / 2, rock.radius + reach / 2 + 0.2
        low = np.clip(np.floor((centre - half + HALF) * scale).astype(int), 0, TEXELS)
        high = np.clip(np.ceil((centre + half + HALF) * scale).astype(int), 0, TEXELS)
        x = (np.arange(low[0], high[0]) + 0.5) / scale - HALF - xy[0]
        y = ((np.arange(low[1], high[1]) + 0.5) / scale - HALF - xy[1])[:, None]
        along, across = x * away[0] + y * away[1], x * away[1] - y * away[0]
        # A disc swept from the rock to its shadow's end, narrowing: distance to its edge in metres, soft over 12 cm.
        t = np.clip(along / reach, 0, 1)
        gap = np.hypot(along - t * reach, across) - rock.radius * (1 - 0.35 * t)
        dark = 0.5 * np.clip(0.5 - gap / 0.12, 0, 1)[..., None]
        patch = texels[low[1] : high[1], low[0] : high[0]]
        patch[:] = (patch * (1 - dark)).astype(np.uint8)


def write_daylight(model: "mujoco.MjModel", data: "mujoco.MjData", layout: Layout, weather: Weather) -> None:
    """Sun, ground texture and the hills' orientation of a layout."""
    azimuth, elevation = layout.sun[0], weather.elevation(layout)
    toward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    model.light_dir[0] = -toward
    tint = layout.tint * weather.light.tone * (1 - 0.5 * weather.dust)
    model.light_diffuse[0] = 0.75 * tint
    model.light_specular[0] = 0.25 * tint
    texture = model.texture("ground")
    model.tex_data[texture.adr[0] : texture.adr[0] + TEXELS * TEXELS * 3] = paint_ground(layout, weather).ravel()
    yaw = 3 * azimuth
    data.mocap_quat[-1] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
