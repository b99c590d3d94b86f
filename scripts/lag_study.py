"""Autonomy under lag: success against round-trip delay, driven from afar and by controllers on board.

Example:

    vidssl lag-study runs/rover --demos demos --episodes 100 --out lag
    vidssl lag-study my_controller/ package.module:Class --from-afar --out lag
    vidssl lag-study --operators direct predict stop-and-wait --env vidssl/Rover-v0     (no controller: operators alone)

A controller is a folder saved by vidssl, `module:Class` (made with the environment as its argument), or the folder of
a `vidssl pretrain` run, which is cloned on --demos. On board it acts without lag; with --from-afar it is also run under
the same delays as the operators.

Operators are the environment's privileged expert at the far end of the link: `direct` sends what suits what it sees;
`predict` rolls a model of the rover forward over the commands on their way; `stop-and-wait` sends moves of
--move steps and waits for each to be seen. Their state is the simulator's own, so they are upper ends. What an operator
sees is d1 steps old and its command takes d2 steps: the rover executes what suited the state d1 + d2 steps ago,
however the round trip is split, so all of it is put on the actions. Zeros are executed until the first one arrives.

--out gets lag.json (every episode; the same command gives the same file, apart from `timings`) and lag.png. A study
that was interrupted, or is asked for further delays, lines or controllers, keeps the points it has.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from vidssl.errors import VidsslError, unknown_name
from vidssl.scripts.settings import Flag

from .lag_lines import OPERATORS, Line, Link, controllers, operators

if TYPE_CHECKING:
    from vidssl.robot.evaluate import EpisodeResult


Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]CONTROLLER|RUN …")]


@dataclass(frozen=True)
class Config:
    controllers: tyro.conf.Positional[Names] = ()
    """saved controllers, module:Class, or runs (with --demos); NAME=… names the line"""
    env: str = "vidssl/Rover-v0"
    """gymnasium id of an environment with camera images"""
    delays: tuple[int, ...] = (0, 2, 4, 6, 8, 10, 12, 15, 20)
    """round trips in steps"""
    jitter: int = 0
    """a packet takes up to so many steps more, uniformly"""
    drop: float = 0.0
    """share of actions lost; the last one is held"""
    episodes: int = 100
    """test layouts a point, the same for every point"""
    operators: tuple[str, ...] = OPERATORS
    """who drives from afar; none: `--operators` alone"""
    move: int = 20
    """steps of a move of stop-and-wait"""
    from_afar: Flag = False
    """run the controllers under lag as well"""
    demos: Path | None = None
    """recorded demonstrations to clone runs on"""
    demo_episodes: int | None = None
    """how many of them; all if left out"""
    head_steps: int = 1500
    """optimiser steps of a clone's head"""
    seed: int = 0
    """random seed of layouts, lag and cloning"""
    split: str = "test"
    """layouts to drive on; train for trying things out"""
    max_steps: int | None = None
    """steps until time-out, where the environment has such a number; its own if left out"""
    workers: int = 2
    """processes that run episodes (0: none but this); results do not depend on it"""
    out: Path = Path("lag")
    """folder for lag.json and lag.png"""
    overwrite: Flag = False
    """forget the points that are there"""


def main(argv: list[str] | None = None) -> None:
    """The `vidssl lag-study` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl lag-study", description=__doc__))


def run(config: Config) -> dict[str, Any]:
    """Run the points that are missing, print the table, write `config.out`; returns the content of lag.json.

    Raises VidsslError for unknown names, numbers out of range, controllers that do not fit the environment, an
    environment without expert, demonstrations that show the layouts driven on, and points in the folder that were made
    by other settings or versions.
    """
    from rich.progress import Progress

    from vidssl.checkpoint import write_json

    _check(config)
    results = _start(config)
    lines = [*operators(config), *controllers(config)]
    _check_sources(config, results, lines)
    todo = [(line, delay) for line in lines for delay in (sorted(config.delays) if line.remote else [0])]
    for line, delay in todo:
        if line.prepare is not None and not _known(results, line, delay):
            line.prepare()  # what fails, fails before the first episode; nothing is cloned again for known points
    with Progress() as progress:
        task = progress.add_task("lag-study", total=len(todo))
        for line, delay in todo:
            progress.update(task, description=f"{line.name}, delay {delay}")
            row = results["lines"].setdefault(line.name, {"remote": line.remote, "source": line.source, "points": {}})
            if not _known(results, line, delay):
                begun = time.perf_counter()
                row["points"][str(delay)] = _point(_episodes(config, line, delay))
                row["points"] = dict(sorted(row["points"].items(), key=lambda item: int(item[0])))
                results["timings"][f"{line.name}, {delay}"] = time.perf_counter() - begun
                write_json(config.out / "lag.json", results)
            progress.advance(task)
    from .lag_figure import plot, print_table

    results["crossovers"] = dict(_crossovers(results["lines"]))
    write_json(config.out / "lag.json", results)
    print_table(results)
    plot(results, config.out / "lag.png")
    return results


def _known(results: dict[str, Any], line: Line, delay: int) -> bool:
    return str(delay) in results["lines"].get(line.name, {}).get("points", {})


def _check(config: Config) -> None:
    for name in config.operators:
        if name not in OPERATORS:
            raise unknown_name("operator", name, OPERATORS)
    if not config.operators and not config.controllers:
        raise VidsslError("nobody drives: name a controller, or one of --operators " + ", ".join(OPERATORS))
    if not config.delays or min(config.delays) < 0 or len(set(config.delays)) != len(config.delays):
        raise VidsslError(f"--delays: got {config.delays}; give different whole numbers of steps, each at least 0")
    least = {"episodes": 1, "jitter": 0, "move": 1, "workers": 0, "head_steps": 1, "max_steps": 1, "demo_episodes": 2}
    for name, lowest in least.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise VidsslError(f"--{name.replace('_', '-')}: got {value}; at least {lowest}")
    if not 0 <= config.drop < 1:
        raise VidsslError(f"--drop: got {config.drop}; the share of lost actions is at least 0 and below 1")


def _start(config: Config) -> dict[str, Any]:
    """The content of lag.json so far, or a new one."""
    from vidssl.robot.comparison import versions
    from vidssl.robot.pixels import make_env

    names = ("env", "jitter", "drop", "episodes", "seed", "split", "max_steps")
    settings = {name: getattr(config, name) for name in names}
    path = config.out / "lag.json"
    if path.exists() and not config.overwrite:
        return _resumed(path, settings, versions())
    env = make_env(config.env, config.split)
    rate = float(env.metadata.get("render_fps", 10))
    env.close()
    return {
        "format": 1,
        "settings": settings,
        "rate": rate,
        "versions": versions(),
        "lines": {},
        "crossovers": {},
        "timings": {},
    }


def _resumed(path: Path, settings: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    """The points that are there; raises VidsslError for a damaged file, other settings, other versions of packages."""
    from .robot_report import read_json

    way_out = "choose another --out, or --overwrite"
    try:
        found = read_json(path, ("settings", "rate", "versions", "lines", "timings"))
    except VidsslError as error:
        raise VidsslError(f"{error}; {way_out}") from None
    now = settings | {f"version of {name}": version for name, version in versions.items()}
    then = found["settings"] | {f"version of {name}": version for name, version in found["versions"].items()}
    # A package that was not installed, or not noted, had no part in it.
    other = [name for name in now if then.get(name) != now[name] and (name in settings or name in then)]
    if other:
        told = ", ".join(f"{name} {then.get(name)!r}, now {now[name]!r}" for name in sorted(other))
        raise VidsslError(f"{path} holds points of other settings ({told}); {way_out}")
    return found


def _check_sources(config: Config, results: dict[str, Any], lines: list[Line]) -> None:
    for line in lines:
        known = results["lines"].get(line.name)
        if known is not None and known["source"] != line.source:
            raise VidsslError(
                f"{config.out / 'lag.json'}: the line {line.name!r} was driven by {known['source']}, now it would be "
                f"{line.source}; name the controller otherwise (NAME=…), choose another --out, or --overwrite"
            )


def _episodes(config: Config, line: Line, delay: int) -> "list[EpisodeResult]":
    from vidssl.robot.evaluate import Evaluator

    lag = (config.jitter, config.drop) if line.remote else (0, 0.0)
    link = Link(delay, *lag, config.max_steps, blind="operator" in line.source)
    with Evaluator(config.env, config.split, None, config.workers, wrap=link) as evaluator:
        return evaluator.run(line.at(delay, config), config.episodes, config.seed)


def _point(episodes: "list[EpisodeResult]") -> dict[str, Any]:
    from vidssl.robot.evaluate import summary

    reached = [episode.length for episode in episodes if episode.success]
    rows = [{key: value for key, value in asdict(episode).items() if key != "actions"} for episode in episodes]
    return summary(episodes) | {"steps_to_success": float(np.mean(reached)) if reached else None, "results": rows}


def _crossovers(lines: dict[str, Any]) -> "Iterator[tuple[str, dict[str, float | None]]]":
    """Of every line from afar with every one on board, but of no controller with itself."""
    from .lag_figure import crossover

    success = {
        name: {int(d): np.array([row["success"] for row in point["results"]]) for d, point in line["points"].items()}
        for name, line in lines.items()
    }
    for near in (name for name, line in lines.items() if not line["remote"]):
        for far in (name for name, line in lines.items() if line["remote"] and line["source"] != lines[near]["source"]):
            delays = sorted(success[far])
            outcomes = np.stack([success[far][delay] for delay in delays])
            yield f"{far} below {near}", crossover(delays, outcomes, success[near][0])


if __name__ == "__main__":
    main()
