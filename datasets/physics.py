"""Generated videos of falling, bouncing, rolling, sliding, colliding and swinging objects, with the truth about them.

    FOLDER/fall/000000.mp4 …     one subfolder a scenario, MP4, T frames
    FOLDER/targets.csv           path, gravity, speed, friction, restitution, distance, time_to_contact
    FOLDER/groups.csv            path, source: no two sources share an object or a scene
    FOLDER/physics.json          the settings, so that an interrupted generation goes on

Video i is a function of the settings and i alone. An empty cell: the number does not apply to what happens.
"""

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidssl.checkpoint import replacing
from vidssl.errors import VidsslError

from .generated import claim
from .physics_looks import SCENES, Scene, Thing, make_scene, make_things
from .physics_motion import SCENARIOS, Floats, Motion, mean_speed

if TYPE_CHECKING:
    from .physics_world import Stage, View

TARGETS = {
    "gravity": "m/s²; where it varies and acts on what is seen",
    "speed": "m/s, mean over the clip of the (striking) object's centre",
    "friction": "Coulomb's coefficient; of what slides",
    "restitution": "speed of parting over speed of approach; of what bounces or collides",
    "distance": "m from the camera to the object's centre, mean over the frames",
    "time_to_contact": "s from the first frame to the first contact with ground or other object, if the clip shows it",
}
VIDEO_STREAM = 3


@dataclass(frozen=True)
class PhysicsSpec:
    """What is generated, apart from how much: T frames of size x size pixels, fps frames a second, G groups."""

    frames: int = 48
    size: int = 64
    fps: float = 24.0
    groups: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size % 2 or not 16 <= self.size <= 512:
            raise VidsslError(f"size: got {self.size}; an even number from 16 to 512 pixels")
        if self.frames < 2 or self.groups < 1 or self.seed < 0:
            raise VidsslError(f"got frames {self.frames}, groups {self.groups}, seed {self.seed}; at least 2, 1 and 0")
        if not (self.fps > 0 and 0.5 <= self.seconds <= 4):
            raise VidsslError(
                f"got {self.frames} frames at {self.fps:g} frames/s; the scenes are made for clips of 0.5 to 4 s:"
                " change frames or fps"
            )

    @property
    def times(self) -> Floats:
        """Seconds of the frames, [T]."""
        return np.arange(self.frames) / self.fps

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.frames - 1) / self.fps


@dataclass(frozen=True)
class PhysicsVideo:
    """Everything about one video but its pixels. `truth`: by the names in `TARGETS`, without those that don't apply."""

    name: str
    group: int
    motion: Motion
    things: list[Thing]
    scene: Scene
    view: "View"
    truth: dict[str, float]


def make_video(spec: PhysicsSpec, index: int) -> PhysicsVideo:
    """Video `index`: scenarios take turns, and after each round of them the groups do."""
    names = list(SCENARIOS)
    scenario, group = names[index % len(names)], index // len(names) % spec.groups
    rng = np.random.default_rng([spec.seed, VIDEO_STREAM, index])
    things = _things(spec.seed, group)
    motion = SCENARIOS[scenario](rng, [thing.body for thing in things], spec.seconds)
    scene = _scene(spec.seed, group, int(rng.integers(SCENES)))
    view = _view(rng, motion, spec.times)
    path = motion.paths[0](spec.times)
    truth = motion.truth | {
        "speed": mean_speed(motion.paths[0], spec.seconds),
        "distance": float(np.linalg.norm(path - view.position, axis=1).mean()),
    }
    cast = [next(thing for thing in things if thing.body is body) for body in motion.bodies]
    return PhysicsVideo(f"{scenario}/{index:06d}.mp4", group, motion, cast, scene, view, truth)


@cache
def _things(seed: int, group: int) -> list[Thing]:
    return make_things(seed, group)


@cache
def _scene(seed: int, group: int, number: int) -> Scene:
    return make_scene(seed, group, number)


def _view(rng: np.random.Generator, motion: Motion, times: Floats) -> "View":
    """From about the side; the middle of the motion's height is near the middle of the picture."""
    from .physics_world import View

    heights = motion.paths[0](times)[:, 2]
    middle = np.array([0.0, 0.0, (heights.min() + heights.max()) / 2]) + rng.uniform(-0.2, 0.2, 3)
    return View(middle, rng.uniform(3.5, 6.0), 90 + rng.uniform(-20, 20), rng.uniform(-22, -6))


def film(spec: PhysicsSpec, index: int, stage: "Stage") -> np.ndarray:
    """Frames uint8 [T,size,size,3] of video `index`."""
    video = make_video(spec, index)
    return stage.film(video.motion, video.things, video.scene, video.view, spec.times)


def write_physics(
    folder: Path, videos: int, spec: PhysicsSpec, workers: int = 0, told: Callable[[], None] = lambda: None
) -> int:
    """Write the videos 0 … `videos` - 1 and their tables; those already there are kept.

    Args:
        folder: made if need be; one that an earlier call with the same `spec` has left may be given again.
        videos: how many, at least 1 and no fewer than the folder holds.
        spec: what is generated.
        workers: processes that draw; 0 draws in this one.
        told: called after every video that was there or is done.

    Returns:
        How many were drawn.

    Raises:
        VidsslError: the folder holds something else, or rendering is not possible here.
    """
    if workers < 0:
        raise VidsslError(f"got {workers} workers; at least 0")
    claim(folder, "physics.json", asdict(spec), videos, "*/*.mp4")
    known = [make_video(spec, index) for index in range(videos)]
    missing = [index for index, video in enumerate(known) if not (folder / video.name).exists()]
    for _ in range(videos - len(missing)):
        told()
    for _ in _draw_all(folder, spec, missing, workers):
        told()
    _write_table(
        folder / "targets.csv",
        ["path", *TARGETS],
        [[video.name, *(_cell(video.truth.get(name)) for name in TARGETS)] for video in known],
    )
    _write_table(folder / "groups.csv", ["path", "source"], [[video.name, f"group{video.group}"] for video in known])
    return len(missing)


def _draw_all(folder: Path, spec: PhysicsSpec, indices: list[int], workers: int) -> Iterator[None]:
    if workers == 0 or len(indices) < 2:
        for index in indices:
            _draw(folder, spec, index)
            yield
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))  # GL doesn't survive a fork
    try:
        for future in [pool.submit(_draw, folder, spec, index) for index in indices]:
            future.result()
            yield
    except BrokenProcessPool as error:
        raise VidsslError("a drawing process ended by itself; try again, with --workers 0 to see why") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _draw(folder: Path, spec: PhysicsSpec, index: int) -> None:
    from .mp4 import write_video

    write_video(folder / make_video(spec, index).name, film(spec, index, _stage(spec.size)), spec.fps)


@cache
def _stage(size: int) -> "Stage":
    """One stage a process."""
    from .physics_world import Stage

    return Stage(size)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _write_table(file: Path, header: list[str], rows: list[list[str]]) -> None:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    with replacing(file) as temporary:
        temporary.write_text(text.getvalue())
