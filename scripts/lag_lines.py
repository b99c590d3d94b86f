"""Who drives in `lag-study`: operators far away and controllers on board; and the lag around the environment."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    import gymnasium as gym

    from vidssl.robot.episodes import Recording
    from vidssl.robot.evaluate import MakeController

    from .lag_study import Config

OPERATORS = ("direct", "predict", "stop-and-wait")


@dataclass(frozen=True)
class Line:
    """One curve: who drives, from afar or on board. `prepare` gives what makes the controller (clones a run)."""

    name: str
    remote: bool
    source: dict[str, Any]
    prepare: "Callable[[], MakeController] | None" = None  # None: an operator

    def at(self, delay: int, config: "Config") -> "MakeController":
        """What makes the controller for a round trip of `delay` steps."""
        if self.prepare is not None:
            return self.prepare()
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
        given, equals, place = spec.partition("=")
        name, where = (given, place) if equals and not Path(spec).exists() else ("", spec)  # a path may hold a =
        prepare, source = _load(where, config)
        name = name or Path(where).name.rpartition(":")[2]
        lines.append(Line(name, False, source, prepare))
        if config.from_afar:
            lines.append(Line(f"{name} from afar", True, source, prepare))
    names = [line.name for line in lines] + list(config.operators)
    if len(set(names)) != len(names):
        raise VidsslError(f"two lines have the same name: {', '.join(names)}; name controllers by NAME=…")
    return lines


def _load(where: str, config: "Config") -> "tuple[Callable[[], MakeController], dict[str, Any]]":
    """What prepares a controller, and where it comes from: a run is cloned, once and when asked; all else is loaded."""
    from vidssl.robot.controller_files import hash_files, identity, load_controller

    folder = Path(where)
    if ":" not in where and not folder.exists():
        raise VidsslError(
            f"{where}: no such folder; give a run of `vidssl pretrain` (with --demos), a saved controller "
            "or module:Class"
        )
    if not (folder / "config.json").is_file():
        made = load_controller(where)
        return lambda: made, {"controller": where, "hash": identity(where)}
    if config.demos is None:
        raise VidsslError(f"{where} is a run, and a run drives nothing: pass --demos, recorded by `vidssl record`")
    from vidssl.robot.demonstration_checks import demonstrations_hash

    recording = _demonstrations(config.demos, config)
    files = [file for name in ("config.json", "model.safetensors") if (file := folder / name).is_file()]
    return cache(lambda: _clone(folder, recording, config)), {
        "run": where,
        "hash": hash_files(files),
        "demos": str(config.demos),
        "demos_hash": demonstrations_hash(recording, config.demo_episodes),
        "demo_episodes": config.demo_episodes,
        "head_steps": config.head_steps,
    }


def _demonstrations(folder: Path, config: "Config") -> "Recording":
    """The recording in a folder, if it fits: it shows none of the layouts that are driven here."""
    from vidssl.robot.demonstration_checks import check_demonstrations
    from vidssl.robot.episodes import open_recording
    from vidssl.robot.pixels import episode_seed, find_image, make_env

    recording = open_recording(folder)
    env = make_env(config.env, config.split)
    height, width = find_image(env.observation_space).shape[:2]
    env.close()
    driven = {episode_seed(config.seed, index, config.split) for index in range(config.episodes)}
    check_demonstrations(recording, config.env, (height, width), driven)
    return recording


def _clone(run: Path, recording: "Recording", config: "Config") -> "MakeController":
    from vidssl.features import load_encoder
    from vidssl.robot.cloning import CloningConfig, clone_features, load_demonstrations

    demos = load_demonstrations(recording, config.demo_episodes)
    controller, _ = clone_features(load_encoder(run), demos, CloningConfig(seed=config.seed), config.head_steps)
    return controller.fit_to
