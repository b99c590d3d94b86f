"""Judge an estimator of rotations in a closed loop: unseen objects are turned to the orientation in a picture.

Example:

    vidssl reorient runs/rotation --meshes objects --episodes 100 --degrees 0 30 --out runs/rotation/reorient
    vidssl reorient --arms geometric random expert                       (no run needed)

The splits are disjoint for the same meshes and the same --limit: give the ones that the run was trained with, or its
training may have seen a test object.

Every arm plays the same episodes of vidssl/Reorient-v0 on objects of the test split: `learned` steers by the run's
whole estimator (what was learned and registration: the row `combined` of `vidssl evaluate-rotation`), `geometric` by
registration alone (generalised ICP from several starts), `random` at random, `expert` by the true rotation; the peers
of `vidssl evaluate-rotation` can be named too, e.g. GICP. --out gets results.json (every episode, seed and version; the
same command gives the same file again, apart from `timings`, and from the arm "FPFH + RANSAC + ICP", in which Open3D
draws as it likes) and videos of each arm's median and worst failed episode.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vidssl.errors import VidsslError, unknown_name
from vidssl.machine import versions
from vidssl.scripts.settings import Flag

if TYPE_CHECKING:
    from vidssl.robot.controllers import Controller
    from vidssl.robot.reorient import ReorientEnv
    from vidssl.robot.reorient_control import Estimator
    from vidssl.robot.reorient_video import ReorientEpisode

VERSIONS = ("vidssl", "torch", "gymnasium", "mujoco", "numpy", "scipy", "open3d", "small_gicp")
ESTIMATING = ("learned", "geometric")


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="RUN")]] = None
    """folder of a run of `vidssl train-rotation`, for the arm `learned`: its combined estimates"""
    meshes: str = "default"
    """folder of meshes, or `default` for generated solids; those of the test split are turned"""
    episodes: int = 100
    """the same for every arm"""
    degrees: tuple[float, float] = (0.0, 30.0)
    """lowest and highest angle between start and goal"""
    arms: tuple[str, ...] = ("learned", "geometric", "random", "expert")
    """who is compared"""
    sensor: str = "clean"
    """the depth camera: `clean`, or `hard` (1 mm noise, 15% dropout, a stripe over up to 30% of the object)"""
    fraction: float = 0.4
    """share of the remaining rotation that a step does"""
    max_steps: int = 100
    """steps of 0.1 s until time-out"""
    limit: int | None = None
    """how many meshes are loaded and split; all if left out; the run's own, for disjoint splits"""
    seed: int = 0
    """random seed of the episodes"""
    out: Path = Path("reorient")
    """folder for results and videos"""
    no_videos: Flag = False
    """leave out the videos"""


def main(argv: list[str] | None = None) -> None:
    """The `vidssl reorient` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl reorient", description=__doc__))


def run(config: Config) -> dict[str, Any]:
    """Play all episodes, print the table, write `config.out`; returns the content of results.json.

    Raises VidsslError for unknown names, numbers out of range, a missing run, meshes that cannot be used.
    """
    from vidssl.checkpoint import write_json
    from vidssl.datasets.depth_sensor import SENSORS
    from vidssl.robot.reorient import ReorientEnv
    from vidssl.robot.threads import one_thread

    if config.episodes < 1 or not config.arms or len(set(config.arms)) != len(config.arms):
        raise VidsslError(f"need episodes >= 1 and distinct arms, got {config.episodes} and {config.arms}")
    if not 0 < config.fraction <= 1:
        raise VidsslError(f"--fraction: got {config.fraction}; above 0, at most 1")
    if config.sensor not in SENSORS:
        raise unknown_name("sensor", config.sensor, SENSORS)
    made = {arm: make_controller(arm, config) for arm in config.arms}
    env = ReorientEnv(
        "test",
        config.meshes,
        config.limit,
        config.degrees,
        None if config.sensor == "clean" else SENSORS[config.sensor],
        max_steps=config.max_steps,
        render_mode="rgb_array",
    )
    episodes: dict[str, list[ReorientEpisode]] = {}
    timings: dict[str, Any] = {}
    with one_thread():
        for arm, make in made.items():
            episodes[arm], timings[arm] = play(env, make(env), arm, config)
    results = _results(config, env, episodes) | {"timings": timings}
    write_json(config.out / "results.json", results)
    print_table(results)
    if not config.no_videos:
        _show(config, env, episodes)
    return results


def make_controller(arm: str, config: Config) -> "Callable[[ReorientEnv], Controller]":
    """What makes the arm's controller for an environment; loads the run. Raises VidsslError for an unknown arm."""
    from vidssl.robot.controllers import RandomController
    from vidssl.robot.reorient_control import ReorientController, ReorientExpert
    from vidssl.rotation.registration import PEERS

    if arm == "random":
        return RandomController
    if arm == "expert":
        return lambda env: ReorientExpert(env, config.fraction)
    if arm not in (*ESTIMATING, *PEERS):
        raise unknown_name("arm", arm, (*ESTIMATING, "random", "expert", *PEERS))
    estimator = PEERS[arm] if arm in PEERS else _estimator(arm, config.run)
    return lambda env: ReorientController(estimator, env.K, config.fraction)


def _estimator(arm: str, run: Path | None) -> "Estimator":
    if arm == "geometric":
        from vidssl.rotation import estimate_rotation

        return estimate_rotation
    if run is None:
        raise VidsslError("the arm `learned` needs a RUN: pass the --out folder of `vidssl train-rotation`, or --arms")
    from vidssl.rotation import load_estimator

    return load_estimator(run).estimate


def play(
    env: "ReorientEnv", controller: "Controller", arm: str, config: Config
) -> "tuple[list[ReorientEpisode], dict[str, float]]":
    """All episodes of one arm, and what it took: seconds in all, milliseconds a decision."""
    from rich.progress import track

    from vidssl.robot.pixels import episode_seed

    begun = time.perf_counter()
    spent: list[float] = []
    indices = track(range(config.episodes), description=f"{arm:<20}")
    episodes = [play_one(env, controller, episode_seed(config.seed, index, "test"), spent) for index in indices]
    milliseconds = 1000 * sum(spent) / max(len(spent), 1)
    return episodes, {"seconds": time.perf_counter() - begun, "milliseconds_per_step": milliseconds}


def play_one(env: "ReorientEnv", controller: "Controller", seed: int, spent: list[float]) -> "ReorientEpisode":
    """One episode; the seconds of each decision are added to `spent`. A controller that raises VidsslError fails it."""
    import numpy as np

    from vidssl.robot.reorient_video import ReorientEpisode

    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    controller.reset()
    errors, actions = [info["error"]], []
    failure, reason, ended = None, None, False
    while not ended:
        begun = time.perf_counter()
        try:
            action = controller(observation)
        except VidsslError as error:
            failure, reason = "refused", str(error)
            break
        spent.append(time.perf_counter() - begun)
        observation, _, terminated, truncated, info = env.step(action)
        errors.append(info["error"])
        actions.append(action)
        failure, ended = info["failure"], terminated or truncated
    return ReorientEpisode(
        seed=seed,
        object=info["object"],
        symmetric=info["symmetric"],
        success=info["success"],
        failure=failure,
        reason=reason,
        errors=tuple(np.rad2deg(errors).tolist()),
        actions=np.array(actions, np.float32).reshape(-1, 3),
    )


def _results(config: Config, env: "ReorientEnv", episodes: "dict[str, list[ReorientEpisode]]") -> dict[str, Any]:
    from vidssl.evaluate.intervals import paired_difference

    results: dict[str, Any] = {
        "format": 1,
        "env": "vidssl/Reorient-v0",
        "split": "test",
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k != "out"},
        "objects": len(env.meshes),
        "versions": versions(VERSIONS),
        "arms": {arm: _summary(rows) for arm, rows in episodes.items()},
        "paired": {},
    }
    won = {arm: [row.success for row in rows] for arm, rows in episodes.items()}
    first, *others = config.arms
    for arm in others:
        difference, low, high = paired_difference(won[first], won[arm])
        results["paired"][f"{first} - {arm}"] = {"difference": difference, "low_95": low, "high_95": high}
    return results


def _summary(rows: "Sequence[ReorientEpisode]") -> dict[str, Any]:
    """Successes with Wilson's interval; final errors in degrees, failures by kind, and every episode."""
    import numpy as np

    from vidssl.evaluate.intervals import wilson

    final = np.array([row.errors[-1] for row in rows])
    successes = sum(row.success for row in rows)
    return {
        "episodes": len(rows),
        "successes": successes,
        "success_rate": successes / len(rows),
        "interval_95": list(wilson(successes, len(rows))),
        "median_degrees": float(np.median(final)),
        "p90_degrees": float(np.percentile(final, 90)),
        "mean_degrees": float(final.mean()),
        "mean_steps": float(np.mean([len(row.actions) for row in rows])),
        "failures": dict(Counter(row.failure for row in rows if row.failure)),
        "results": [
            {
                "seed": row.seed,
                "object": row.object,
                "symmetric": row.symmetric,
                "success": row.success,
                "failure": row.failure,
                "reason": row.reason,
                "start_degrees": row.errors[0],
                "final_degrees": row.errors[-1],
                "steps": len(row.actions),
            }
            for row in rows
        ],
    }


def print_table(results: dict[str, Any]) -> None:
    """The arms as a rich table: successes and their 95 % interval, final error, steps, time a decision, failures."""
    from rich.console import Console
    from rich.table import Table

    low, high = results["settings"]["degrees"]
    table = Table(
        title=f"{results['env']}, {results['objects']} test objects, {low:g}-{high:g}°, "
        f"{results['settings']['sensor']} depth"
    )
    first = results["settings"]["arms"][0]
    headings = (
        "arm",
        "success",
        "95 %",
        "median °",
        "p90 °",
        "mean °",
        "steps",
        "ms/step",
        "failures",
        f"{first} - arm",
    )
    for heading in headings:
        left = heading in ("arm", "failures")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "failures")
    for arm, row in results["arms"].items():
        pair = results["paired"].get(f"{first} - {arm}")
        table.add_row(
            arm,
            f"{row['successes']}/{row['episodes']}",
            "{:.2f}..{:.2f}".format(*row["interval_95"]),
            *(f"{row[f'{name}_degrees']:.2f}" for name in ("median", "p90", "mean")),
            f"{row['mean_steps']:.0f}",
            f"{results['timings'][arm]['milliseconds_per_step']:.1f}",
            f"{pair['difference']:+.2f} ({pair['low_95']:+.2f}..{pair['high_95']:+.2f})" if pair else "",
            ", ".join(f"{kind} {count}" for kind, count in row["failures"].items()),
        )
    # A log or a pipe has no width of its own, and rich's 80 columns would cut the failures.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _show(config: Config, env: "ReorientEnv", episodes: "dict[str, list[ReorientEpisode]]") -> None:
    """A video of each arm's median episode, by success and final error, and of its worst failure."""
    from vidssl.robot.reorient_video import write_reorient_video

    for arm, rows in episodes.items():
        ranked = sorted(rows, key=lambda row: (not row.success, row.errors[-1]))
        shown = {"median": ranked[len(ranked) // 2]}
        if not ranked[-1].success:
            shown["worst-failure"] = ranked[-1]
        for kind, episode in shown.items():
            name = f"{arm.lower().replace(' ', '-').replace('+-', '')}-{kind}.mp4"
            write_reorient_video(config.out / "videos" / name, arm, env, episode)
