"""A controller with a safety monitor beside it, and what it does at an alarm."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError, unknown_name

from .controllers import Controller
from .pixels import camera_image, find_image, proprioception
from .safety import SafetyMonitor, Verdict
from .spaces import Spaces

ON_ALARM = ("stop", "hold", "fallback")


class MonitoredController:
    """Drives as `controller` does until the monitor's alarm, then stops, holds or falls back.

    From the alarm to the episode's end the action is, by `on_alarm`,

        stop      the action nearest to zero that is allowed
        hold      the last action chosen while nothing was odd (the monitor's score was 0); before there is one, stop
        fallback  what another controller, reset at the alarm, chooses: one without the camera, say

    Args:
        controller: watched.
        monitor: fitted on drives of that controller; this one streams through a twin of it.
        on_alarm: one of `ON_ALARM`.
        fallback: for `fallback` only.
        spaces: of the environment; None until `fit_to`, which controllers that are loaded need.

    Attributes:
        verdict: of the last tick; None before the first.

    Raises VidsslError for an unknown on_alarm, a fallback that is missing or of no use.
    """

    def __init__(
        self,
        controller: Any,
        monitor: SafetyMonitor,
        on_alarm: str = "stop",
        fallback: Any = None,
        spaces: Spaces | None = None,
    ) -> None:
        if on_alarm not in ON_ALARM:
            raise unknown_name("action on alarm", on_alarm, ON_ALARM)
        if (on_alarm == "fallback") != (fallback is not None):
            raise VidsslError(
                f"on_alarm={on_alarm!r} and fallback={fallback!r}: a fallback goes with on_alarm='fallback'"
            )
        self.controller, self.fallback, self.on_alarm = controller, fallback, on_alarm
        self.monitor, self.spaces = monitor.streams(), spaces
        self.reset_monitor()

    @property
    def alarm(self) -> bool:
        """Whether the alarm of this episode has gone off."""
        return self.verdict is not None and self.verdict.alarm

    @property
    def scores(self) -> dict[str, float]:
        """The surprise of every score at the last tick."""
        return {} if self.verdict is None else self.verdict.surprises

    def fit_to(self, env: gym.Env[Any, Any]) -> "MonitoredController":
        """This controller with streams of its own; raises VidsslError when the environment has other spaces."""
        spaces = Spaces.of(env)
        got = (find_image(env.observation_space).shape[:2], len(spaces.low), spaces.proprio)
        known = (self.monitor.image, self.monitor.actions, self.monitor.proprio)
        if got != known:
            raise VidsslError(
                f"the safety monitor was fitted on (image, actions, proprioception) {known}, the environment has "
                f"{got}; fit one on drives of this environment"
            )
        fallback = None if self.fallback is None else _fitted(self.fallback, env)
        return MonitoredController(_fitted(self.controller, env), self.monitor, self.on_alarm, fallback, spaces)

    def reset(self) -> None:
        """A new episode."""
        self.controller.reset()
        self.reset_monitor()

    def reset_monitor(self) -> None:
        """The alarm is off."""
        self.monitor.reset()
        self.verdict: Verdict | None = None
        self._executed: np.ndarray | None = None
        self._good: np.ndarray | None = None

    def __call__(self, observation: Any) -> np.ndarray:
        """The action float32 [A] of this tick."""
        before = self.alarm
        felt = proprioception(observation)
        self.verdict = self.monitor.update(camera_image(observation), self._executed, felt)
        if self.alarm:
            if self.fallback is not None and not before:
                self.fallback.reset()
            action = self._safe(observation)
        else:
            action = np.asarray(self.controller(observation), np.float32)
            if self.verdict.score == 0:
                self._good = action
        self._executed = action if self.spaces is None else self._within(action)
        return action

    def _within(self, action: np.ndarray) -> np.ndarray:
        """What an environment makes of an action beyond its range, and what recorded drives hold."""
        assert self.spaces is not None
        return np.clip(action, self.spaces.low, self.spaces.high).astype(np.float32)

    def _safe(self, observation: Any) -> np.ndarray:
        if self.fallback is not None:
            return np.asarray(self.fallback(observation), np.float32)
        if self.on_alarm == "hold" and self._good is not None:
            return self._good
        still = np.zeros(self.monitor.actions, np.float32)
        return still if self.spaces is None else self._within(still)

    def save(self, folder: str | Path) -> None:
        """Write controller, monitor and fallback to a folder; see `controller_files`.

        Raises VidsslError for parts that cannot be saved.
        """
        from .controller_files import write_controller

        folder = Path(folder)
        for name, part in (("controller", self.controller), ("fallback", self.fallback)):
            if part is not None and not hasattr(part, "save"):
                raise VidsslError(
                    f"the {name} is a {type(part).__name__}, which cannot be saved; use one with save(folder)"
                )
        self.monitor.save(folder / "monitor")
        self.controller.save(folder / "controller")
        if self.fallback is not None:
            self.fallback.save(folder / "fallback")
        write_controller(folder, "monitored", {"on_alarm": self.on_alarm})

    @classmethod
    def load(cls, folder: str | Path) -> "MonitoredController":
        """The controller in a folder; raises VidsslError when it is missing, damaged or of another kind."""
        from .controller_files import SavedController, read_controller

        folder = Path(folder)
        on_alarm = read_controller(folder, "monitored").get("on_alarm", "stop")
        fallback = SavedController(folder / "fallback").load() if on_alarm == "fallback" else None
        inner = SavedController(folder / "controller").load()
        return cls(inner, SafetyMonitor.load(folder / "monitor"), on_alarm, fallback)


def _fitted(controller: Any, env: gym.Env[Any, Any]) -> Controller:
    return controller.fit_to(env) if hasattr(controller, "fit_to") else controller
