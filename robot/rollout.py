"""One episode: a controller in an environment from `reset(seed=seed)` to its end, and what is kept of it.

An episode is a function of (controller, seed) alone. Whatever goes wrong in it is written down as a failure with its
reason, so that an evaluation goes on:

    bad-action        the controller's action is not finite, or of another shape
    controller-error  the controller raised
    error             the environment raised, or gave a reward or score that is no finite number
    hang              a tick took longer than the deadline, and the process was killed (worker processes only)
    crash             the process died (worker processes only)

Letters: T steps of an episode, A action size.
"""

import math
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError

from .controllers import Controller
from .pixels import make_env
from .threads import one_thread

MakeController = Callable[[gym.Env[Any, Any]], Controller]
Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
Event = Sequence[Any]  # of an episode, JSON-able; see Trace.add


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. `failure` is None on success, else the environment's word for it or one of the words at the top of
    this file, which `reason` explains. `actions` float32 [T,A] replay it; `length` counts the steps that came to an
    end. `score` is the largest `info["score"]` (graded success, 0..1) of its steps, None where there is none."""

    seed: int
    success: bool
    failure: str | None
    reason: str | None
    episode_return: float
    length: int
    actions: np.ndarray
    score: float | None = None

    @property
    def broken(self) -> bool:
        """Whether a bug to mend ended it: the controller raised, or the environment did in or before its first step."""
        return self.failure == "controller-error" or (self.failure == "error" and self.length == 0)


@dataclass(frozen=True)
class Place:
    """Where episodes run: see `pixels.make_env`; `wrap` goes around the environment, e.g. to delay its actions."""

    env_id: str
    split: str = "test"
    size: int | None = None
    wrap: Wrap | None = None

    def make(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """The environment; `render_mode="rgb_array"` for third-person pictures."""
        env = make_env(self.env_id, self.split, self.size, render_mode)
        return env if self.wrap is None else self.wrap(env)


class Trace:
    """What has happened in an episode so far, from its events; `doing` says what it is at."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._scores: list[float] = []
        self._shape: tuple[int, ...] = (0,)
        self.doing = "making the environment and its controller"
        self.begun = False

    def add(self, event: Event) -> None:
        """One event: `["making"]`, `["reset", shape of actions]`, `["observed"]`, `["action", [A floats]]`,
        `["stepped", reward, score]`."""
        match event:
            case ["reset", shape]:
                self.doing, self.begun, self._shape = "reset", True, tuple(shape)
            case ["observed"]:
                self.doing = f"step {len(self._actions)}: the controller"
            case ["action", action]:
                self.doing = f"step {len(self._actions)}: the environment"
                self._actions.append(np.asarray(action, np.float32))
            case ["stepped", reward, score]:
                self._rewards.append(reward)
                self._scores += [] if score is None else [score]
                self.doing = f"step {len(self._actions)}: the controller"

    def result(self, success: bool, failure: str | None, reason: str | None = None) -> EpisodeResult:
        """The episode, ended here."""
        actions = np.stack(self._actions) if self._actions else np.zeros((0, *self._shape), np.float32)
        score = max(self._scores, default=None)
        length = len(self._rewards)
        return EpisodeResult(self._seed, success, failure, reason, math.fsum(self._rewards), length, actions, score)


def run_episode(
    env: gym.Env[Any, Any], controller: Controller, seed: int, note: Callable[[Event], None] = lambda event: None
) -> EpisodeResult:
    """One episode from `reset(seed=seed)` to its end; an environment or controller that raises makes it a failed one.

    Args:
        note: is told every event before it happens (see `Trace.add`).
    """
    trace = Trace(seed)

    def tell(*event: Any) -> None:
        trace.add(event)
        note(event)

    def failed(failure: str, why: str) -> EpisodeResult:
        return trace.result(False, failure, f"{trace.doing.partition(':')[0]}: {why}")

    env.action_space.seed(seed)
    tell("reset", env.action_space.shape)
    try:
        observation, info = env.reset(seed=seed)
    except Exception as error:
        return failed("error", f"{type(error).__name__}: {error}")
    tell("observed")
    begun = False
    while True:
        try:
            if not begun:
                controller.reset()
                begun = True
            action = np.asarray(controller(observation), np.float32)
        except Exception as error:
            return failed("controller-error", describe(error))
        if action.shape != env.action_space.shape or not np.isfinite(action).all():
            needed = f"finite numbers of shape {env.action_space.shape}"
            return failed("bad-action", f"action {action.tolist()}, needed {needed}")
        tell("action", action.tolist())
        try:
            observation, reward, terminated, truncated, info = env.step(action)
            given = _finite("reward", reward), None if info.get("score") is None else _finite("score", info["score"])
        except Exception as error:
            return failed("error", f"{type(error).__name__}: {error}")
        tell("stepped", *given)
        if terminated or truncated:
            success = bool(info.get("success", False))
            return trace.result(success, None if success else str(info.get("failure") or "not-reached"))


def _finite(name: str, value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"the {name} is {number}, no finite number")
    return number


def describe(error: Exception) -> str:
    """An exception in one line: its type, its words, and the file and line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


class Runner:
    """Runs episodes in one process on one environment, made when first needed and again after it raised."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._env: gym.Env[Any, Any] | None = None
        self._made: tuple[MakeController, Controller] | None = None

    def run(
        self, make_controller: MakeController, seed: int, note: Callable[[Event], None] = lambda event: None
    ) -> EpisodeResult:
        """One episode; the controller is made once for as long as the environment and `make_controller` stay the same.

        Raises VidsslError when the environment or the controller cannot be made.
        """
        note(["making"])
        with one_thread():
            if self._env is None:
                self._env, self._made = self._place.make(), None
            if self._made is None or self._made[0] is not make_controller:
                self._made = make_controller, bind(make_controller, self._env)
            result = run_episode(self._env, self._made[1], seed, note)
        if result.failure == "error":
            self.close()
        elif result.failure == "controller-error":
            self._made = None
        return result

    def close(self) -> None:
        """Close the environment; one that has raised may raise again, and is dropped all the same."""
        if self._env is not None:
            with suppress(Exception):
                self._env.close()
            self._env = self._made = None


def bind(make_controller: MakeController, env: gym.Env[Any, Any]) -> Controller:
    """The controller of an environment.

    Raises VidsslError when it cannot be made, or is not one: it needs `reset()` and `controller(observation)`.
    """
    try:
        controller = make_controller(env)
    except VidsslError:
        raise
    except Exception as error:
        raise VidsslError(f"the controller could not be made: {describe(error)}; mend it and start again") from error
    if not callable(controller) or not callable(getattr(controller, "reset", None)):
        raise VidsslError(
            f"a controller needs reset() and controller(observation) -> action, got a {type(controller).__name__}; "
            "give a class, or a function env -> controller, whose objects have both"
        )
    return controller
