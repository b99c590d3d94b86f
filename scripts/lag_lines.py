"""Who drives in `lag-study`: operators far away and controllers on board; and the lag around the environment."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    import gymnasium as gym

    from vidssl.robot.evaluate import MakeController

    from .lag_study import Config

OPERATORS = ("direct", "predict", "stop-and-wait")


@dataclass(frozen=True)
class Line:
    """One curve: who drives, from afar or on board. `make` gets the environment and the delay as bound by `at`."""

    name: str
    remote: bool
    source: dict[str, Any]
    make: "MakeController | None" = None  # None: an operator

    def at(self, delay: int, config: "Config") -> "MakeController":
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


def operators(config: "Config") -> list[Line]:
    """A line for each of --operators."""
    moves = {"stop-and-wait": {"move": config.move}}
    return [Line(name, True, {"operator": name, **moves.get(name, {})}) for name in config.operators]


def controllers(config: "Config") -> list[Line]:
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


def _load(where: str, config: "Config") -> "tuple[MakeController, dict[str, Any]]":
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
