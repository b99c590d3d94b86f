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

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from vidssl.errors import VidsslError, unknown_name

if TYPE_CHECKING:
    import gymnasium as gym

    from vidssl.robot.evaluate import EpisodeResult, MakeController

OPERATORS = ("direct", "predict", "stop-and-wait")
VERSIONS = ("vidssl", "torch", "gymnasium", "mujoco", "numpy")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Config:
    controllers: tyro.conf.Positional[tuple[str, ...]] = ()
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
    """of layouts, lag and cloning"""
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


@dataclass(frozen=True)
class Line:
    """One curve: who drives, from afar or on board. `make` gets the environment and the delay as bound by `at`."""

    name: str
    remote: bool
    source: dict[str, Any]
    make: "MakeController | None" = None  # None: an operator

    def at(self, delay: int, config: Config) -> "MakeController":
        """What makes the controller for a round trip of `delay` steps."""
        if self.make is not None:
            return self.make
        from vidssl.robot.controllers import ExpertController
        from vidssl.robot.rover_remote import PredictingOperator, StopAndWait

        if self.source["operator"] == "direct":
            return ExpertController
        if self.source["operator"] == "predict":
            return partial(PredictingOperator, delay=delay + config.jitter // 2)
        return partial(StopAndWait, delay=delay + config.jitter, move=config.move)


@dataclass(frozen=True)
class Link:
    """Puts the lag around an environment; picklable. `blind`: the driver looks at no picture, so none is drawn."""

    delay: int
    jitter: int
    drop: float
    max_steps: int | None
    blind: bool

    def __call__(self, env: "gym.Env[Any, Any]") -> "gym.Env[Any, Any]":
        from vidssl.robot.delays import ActionDelay

        inner: Any = env.unwrapped
        if self.max_steps is not None:
            if not hasattr(inner, "max_steps"):
                raise VidsslError(f"{type(inner).__name__} has no max_steps; leave --max-steps out")
            inner.max_steps = self.max_steps
        if self.blind and hasattr(inner, "pixels"):
            inner.pixels = False
        return ActionDelay(env, (self.delay, self.delay + self.jitter), self.drop)


def main(argv: list[str] | None = None) -> None:
    """The `vidssl lag-study` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl lag-study", description=__doc__))


def run(config: Config) -> dict[str, Any]:
    """Run the points that are missing, print the table, write `config.out`; returns the content of lag.json.

    Raises VidsslError for unknown names, numbers out of range, controllers that do not fit the environment, an
    environment without expert, and points in the folder that were made by other settings.
    """
    from rich.progress import Progress

    from vidssl.checkpoint import write_json

    _check(config)
    results = _start(config)
    lines = [*_operators(config), *_controllers(config)]
    _check_sources(config, results, lines)
    todo = [(line, delay) for line in lines for delay in (sorted(config.delays) if line.remote else [0])]
    with Progress() as progress:
        task = progress.add_task("lag-study", total=len(todo))
        for line, delay in todo:
            progress.update(task, description=f"{line.name}, delay {delay}")
            row = results["lines"].setdefault(line.name, {"remote": line.remote, "source": line.source, "points": {}})
            if str(delay) not in row["points"]:
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


def _check(config: Config) -> None:
    for name in config.operators:
        if name not in OPERATORS:
            raise unknown_name("operator", name, OPERATORS)
    if not config.operators and not config.controllers:
        raise VidsslError("nobody drives: name a controller, or one of --operators " + ", ".join(OPERATORS))
    if not config.delays or min(config.delays) < 0 or len(set(config.delays)) != len(config.delays):
        raise VidsslError(f"--delays: got {config.delays}; give different whole numbers of steps, each at least 0")
    least = {"episodes": 1, "jitter": 0, "move": 1, "workers": 0, "head_steps": 1, "max_steps": 1}
    for name, lowest in least.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise VidsslError(f"--{name.replace('_', '-')}: got {value}; at least {lowest}")
    if not 0 <= config.drop < 1:
        raise VidsslError(f"--drop: got {config.drop}; the share of lost actions is at least 0 and below 1")


def _start(config: Config) -> dict[str, Any]:
    """The content of lag.json so far, or a new one."""
    from vidssl.robot.pixels import make_env

    names = ("env", "jitter", "drop", "episodes", "seed", "split", "max_steps")
    settings = {name: getattr(config, name) for name in names}
    path = config.out / "lag.json"
    if path.exists() and not config.overwrite:
        found: dict[str, Any] = json.loads(path.read_text())
        other = sorted(name for name in names if found["settings"].get(name) != settings[name])
        if other:
            told = ", ".join(f"{name} {found['settings'].get(name)!r}, now {settings[name]!r}" for name in other)
            raise VidsslError(f"{path} holds points of other settings ({told}); choose another --out, or --overwrite")
        return found
    env = make_env(config.env, config.split)
    rate = float(env.metadata.get("render_fps", 10))
    env.close()
    versions = {name: metadata.version(name) for name in VERSIONS}
    return {
        "format": 1,
        "settings": settings,
        "rate": rate,
        "versions": versions,
        "lines": {},
        "crossovers": {},
        "timings": {},
    }


def _operators(config: Config) -> list[Line]:
    moves = {"stop-and-wait": {"move": config.move}}
    return [Line(name, True, {"operator": name, **moves.get(name, {})}) for name in config.operators]


def _controllers(config: Config) -> list[Line]:
    """A line on board for each controller and, if wanted, one from afar."""
    lines: list[Line] = []
    for spec in config.controllers:
        name, _, where = spec.rpartition("=")
        make, source = _load(where, config)
        name = name or Path(where).name.rpartition(":")[2]
        lines.append(Line(name, False, source, make))
        if config.from_afar:
            lines.append(Line(f"{name} from afar", True, source, make))
    names = [line.name for line in lines] + list(config.operators)
    if len(set(names)) != len(names):
        raise VidsslError(f"two lines have the same name: {', '.join(names)}; name controllers by NAME=…")
    return lines


def _load(where: str, config: Config) -> "tuple[MakeController, dict[str, Any]]":
    """A controller and where it comes from: a run is cloned, all else is loaded."""
    from vidssl.robot.controller_files import identity, load_controller

    folder = Path(where)
    if not (folder / "config.json").is_file():
        return load_controller(where), {"controller": where, "hash": identity(where)}
    if config.demos is None:
        raise VidsslError(f"{where} is a run, and a run drives nothing: pass --demos, recorded by `vidssl record`")
    from vidssl.features import load_encoder
    from vidssl.robot.cloning import CloningConfig, clone_features, load_demonstrations
    from vidssl.robot.episodes import open_recording

    demos = load_demonstrations(open_recording(config.demos), config.demo_episodes)
    controller, _ = clone_features(load_encoder(where), demos, CloningConfig(seed=config.seed), config.head_steps)
    facts = {"demos": str(config.demos), "demo_episodes": config.demo_episodes, "head_steps": config.head_steps}
    return controller.fit_to, {"run": where, "hash": _hash(folder / "model.safetensors"), **facts}


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


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
    """Of every line from afar with every one on board."""
    from .lag_figure import crossover

    success = {
        name: {int(d): np.array([row["success"] for row in point["results"]]) for d, point in line["points"].items()}
        for name, line in lines.items()
    }
    for near in (name for name, line in lines.items() if not line["remote"]):
        for far in (name for name, line in lines.items() if line["remote"]):
            delays = sorted(success[far])
            outcomes = np.stack([success[far][delay] for delay in delays])
            yield f"{far} below {near}", crossover(delays, outcomes, success[near][0])


if __name__ == "__main__":
    main()
