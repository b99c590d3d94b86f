"""The options of `vidssl/Rover-v0`, checked: what world, what weather, what sensors."""

from dataclasses import dataclass, replace

from vidssl.errors import VidsslError, unknown_name
from vidssl.splits import check_split

from .looks import DAYLIGHT, Weather
from .rover_sensors import Sensors
from .rover_worlds import DIFFICULTIES, MOST_SAND, STEEPEST, World

RENDER_MODES = ["rgb_array"]
WORST = 10.0  # strength of sensor noise that can be asked for


@dataclass(frozen=True)
class Options:
    """What the environment is made of, after its checks."""

    world: World
    weather: Weather
    sensors: Sensors


def conditions(
    difficulty: str,
    slope: float | None,
    sand: float | None,
    daylight: str,
    dust: float,
    noise: tuple[float, float, float],
) -> Options:
    """World, weather and sensors; see `RoverEnv` for the arguments. `noise`: of camera, depth and proprioception.

    Raises VidsslError for unknown names and numbers out of range.
    """
    if difficulty not in DIFFICULTIES:
        raise unknown_name("difficulty", difficulty, DIFFICULTIES)
    if daylight not in DAYLIGHT:
        raise unknown_name("daylight", daylight, DAYLIGHT)
    world = DIFFICULTIES[difficulty]
    if slope is not None:
        world = replace(world, slope=_within("slope", slope, STEEPEST, "degrees"))
    if sand is not None:
        world = replace(world, sand=_within("sand", sand, MOST_SAND, "of the ground"))
    camera, depth, proprio = (
        _within(f"{name}_noise", value, WORST, "times a plain sensor's")
        for name, value in zip(("camera", "depth", "proprio"), noise, strict=True)
    )
    weather = Weather(daylight, _within("dust", dust, 1.0, "(a storm)"))
    return Options(world, weather, Sensors(camera, depth, proprio, weather.dust, weather.fog))


def _within(name: str, value: float, most: float, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise VidsslError(f"{name}: got {value!r}; from 0 to {most:g} {unit}")
    return float(value)


def check_view(
    split: str, size: int, max_steps: int | None, render_mode: str | None, render_size: tuple[int, int]
) -> None:
    """Raises VidsslError for unknown names, and sizes and numbers out of range."""
    check_split(split)
    if not isinstance(size, int) or not 16 <= size <= 512:
        raise VidsslError(f"size: got {size!r}; the side of the camera image is a whole number from 16 to 512 pixels")
    if max_steps is not None and max_steps < 1:
        raise VidsslError(f"max_steps: got {max_steps!r}; at least 1")
    if len(render_size) != 2 or not all(16 <= side <= 2048 for side in render_size):
        raise VidsslError(f"render_size: got {render_size!r}; give height and width, each from 16 to 2048 pixels")
    if render_mode not in (None, *RENDER_MODES):
        raise unknown_name("render mode", str(render_mode), RENDER_MODES)
