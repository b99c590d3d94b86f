"""What is known of other packages' environments: how they are made, seen and felt, and what ends an episode.

What a benchmark calls a success is kept:

    Push-T      coverage of the goal above 0.95 ends the episode; 300 steps; `info["score"]` is the coverage
    Meta-World  the first success ends the episode, as in `metaworld.evaluation`; 500 steps
    Fetch       always 50 steps, and the goal has to be reached at the last one (Andrychowicz et al. 2017, HER)
    others      what `info["success"]` or `info["is_success"]` says at the end; never, where neither is there

S side of the image in pixels, P size of the proprioception.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError, install_extra
from vidssl.rendering import load_mujoco

from . import meta_world
from .mujoco_camera import View

DETAIL = 0.006  # m; half a pixel of a 96-pixel image from 1.2 m
MUJOCO_PACKAGES = ("gymnasium_robotics", "metaworld")
EXTRA = install_extra("robots")

Senses = Callable[[Any], NDArray[Any]]


@dataclass(frozen=True)
class Benchmark:
    """What is known of a package's environments.

    Attributes:
        module: imported to register them; None when that is not needed.
        options: size S -> arguments of the constructor, without `render_mode`.
        view: the camera, for MuJoCo; None for the environment's own.
        place_goal: puts the goal's marker into the drawn scene without touching the physics.
        senses: observation -> what the robot's own sensors know [P]; never where objects or goals are.
        ends_on_success: the first success ends the episode.
        score: entry of `info` that is the graded success, 0 to 1.
    """

    module: str | None = None
    options: Callable[[int], Mapping[str, Any]] = field(default=lambda size: {})
    view: View | None = None
    place_goal: Callable[[Any], None] | None = None
    senses: Senses | None = None
    ends_on_success: bool = False
    score: str | None = None


def _fetch_senses(observation: Any) -> NDArray[Any]:
    """Gripper's position and velocity [3], fingers' positions and velocities [2], of 10 numbers or of 25 with an
    object's among them."""
    row = observation["observation"]
    return row if len(row) == 10 else np.concatenate([row[0:3], row[9:11], row[20:25]])


def _fetch_goal(bare: Any) -> None:
    bare.data.site("target0").xpos[:] = bare.goal


def _fetch(view: View) -> Benchmark:
    return Benchmark("gymnasium_robotics", view=view, place_goal=_fetch_goal, senses=_fetch_senses)


# By the beginning of the id; the first that fits.
BENCHMARKS: dict[str, Benchmark] = {
    "gym_pusht/": Benchmark(
        "gym_pusht",
        options=lambda size: {
            "obs_type": "pixels_agent_pos",
            "observation_width": size,
            "observation_height": size,
        },
        senses=lambda observation: observation["agent_pos"],
        score="coverage",
    ),
    # The view of Seo et al. 2022 (Masked World Models), which others have taken over.
    meta_world.PREFIX: Benchmark(
        "metaworld",
        view=View("corner2", position=(0.75, 0.075, 0.7), upside_down=True, detail=DETAIL),
        place_goal=meta_world.place_goal,
        senses=lambda observation: observation[:4],  # hand's position, gripper's opening
        ends_on_success=True,
    ),
    # The environment's own view is of the whole robot, with a goal of one pixel: these are of the workspace.
    "FetchSlide": _fetch(View(lookat=(1.5, 0.75, 0.4), distance=1.6, azimuth=120.0, elevation=-35.0, detail=DETAIL)),
    "Fetch": _fetch(View(lookat=(1.34, 0.75, 0.52), distance=1.2, azimuth=120.0, elevation=-30.0, detail=DETAIL)),
    "Adroit": Benchmark("gymnasium_robotics"),
    "Franka": Benchmark("gymnasium_robotics"),
    "HandManipulate": Benchmark("gymnasium_robotics", place_goal=lambda bare: bare._render_callback()),
    "HandReach": Benchmark("gymnasium_robotics", place_goal=lambda bare: bare._render_callback()),
}
OTHER = Benchmark()


def benchmark_of(env_id: str) -> Benchmark:
    """What is known of an environment by its id, a module in front of it left out."""
    name = env_id.rpartition(":")[2]
    return next((known for prefix, known in BENCHMARKS.items() if name.startswith(prefix)), OTHER)


def import_benchmark(env_id: str) -> None:
    """Import the package that registers an id, if it is a known one.

    Raises VidsslError naming the extra when the package is missing.
    """
    module = benchmark_of(env_id).module
    if module is None:
        return
    if module in MUJOCO_PACKAGES:
        load_mujoco()  # so that a missing GL library is told as such
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ImportError as error:
        raise VidsslError(f"{env_id} needs a package that is not installed ({error}); {EXTRA}") from error
    name = env_id.rpartition(":")[2]
    if name.startswith(meta_world.PREFIX):
        meta_world.register_task(name)
