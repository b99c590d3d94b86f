"""Driving the rover from afar: operators who see the rover's true pose and map, late, and whose commands come late.

An operator who sees the state d1 steps old and whose command takes d2 steps to arrive makes the rover execute, at step
t, what suits its state at t - d1 - d2: only the round trip counts. So an operator here reads the present state, and
`ActionDelay` of the whole round trip stands around the environment.

    direct          sends what suits what it sees, every step
    predict         knows the round trip, and rolls a model of the rover forward over the commands on their way
    stop-and-wait   sends a short move, then stops until it has seen the result (how lunar rovers were driven)

All three plan by `RoverExpert`, with the simulator's own pose and map: upper ends of what an operator could do.
"""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError

from .expert import RoverExpert
from .rover import RATE, RoverEnv
from .rover_model import TOP_SPEED
from .terrain import Floats

# One step of the rover's forward speed (m/s) and yaw rate (rad/s), by least squares on 30 training layouts:
# new = KEEP * old + GAIN * command, with the commands' mean and difference as rim speeds (R² 0.96 and 0.94).
KEEP = np.array([0.605, 0.510])
GAIN = np.array([0.394, 0.312])


class RoverModel:
    """Where the rover will be: a cart whose speed and yaw rate follow the commands with a lag of the first order."""

    def __init__(self, pose: Floats, rates: Floats) -> None:
        """`pose` [3]: x, y (m), yaw (rad); `rates` [2]: forward speed (m/s), yaw rate (rad/s)."""
        self.pose, self.rates = np.array(pose, float), np.array(rates, float)

    def step(self, action: np.ndarray) -> None:
        """Go on by one step under `action` [2]."""
        left, right = TOP_SPEED * np.clip(np.asarray(action, float), -1, 1)
        self.rates = KEEP * self.rates + GAIN * np.array([(left + right) / 2, right - left])
        yaw = self.pose[2] + self.rates[1] / RATE / 2
        self.pose += np.array([*self.rates[0] * np.array([np.cos(yaw), np.sin(yaw)]), self.rates[1]]) / RATE


class PredictingOperator:
    """Acts on where the rover will be when the command arrives: `delay` steps on, under the commands under way."""

    def __init__(self, env: gym.Env[Any, Any], delay: int) -> None:
        self._rover, self._delay = _rover(env, delay), delay
        self._expert = RoverExpert(env)
        self.reset()

    def reset(self) -> None:
        """Nothing is under way: zeros are executed until the first command arrives."""
        self._sent: deque[np.ndarray] = deque([np.zeros(2, np.float32)] * self._delay, maxlen=self._delay)
        self._before: Floats | None = None

    def __call__(self, observation: Any) -> np.ndarray:
        """The action float32 [2] to send; the observation is not looked at."""
        pose = self._rover.pose
        model = RoverModel(pose, _rates(self._before, pose))
        for action in self._sent:
            model.step(action)
        self._before = pose
        action = self._expert.act(model.pose)
        self._sent.append(action)
        return action


class StopAndWait:
    """Sends a planned move of `move` steps, then zeros until the rover has stopped and its state has been seen."""

    SETTLE = 5  # steps from the end of a move to a standstill

    def __init__(self, env: gym.Env[Any, Any], delay: int, move: int = 10) -> None:
        if move < 1:
            raise VidsslError(f"stop-and-wait: got a move of {move} steps; at least 1")
        self._rover, self._wait, self._move = _rover(env, delay), delay + self.SETTLE, move
        self._expert = RoverExpert(env)
        self.reset()

    def reset(self) -> None:
        """The first move is planned at once."""
        self._plan: deque[np.ndarray] = deque()

    def __call__(self, observation: Any) -> np.ndarray:
        """The action float32 [2] to send; the observation is not looked at."""
        if not self._plan:
            model = RoverModel(self._rover.pose, np.zeros(2))
            for _ in range(self._move):
                self._plan.append(self._expert.act(model.pose))
                model.step(self._plan[-1])
            self._plan.extend([np.zeros(2, np.float32)] * self._wait)
        return self._plan.popleft()


def _rover(env: gym.Env[Any, Any], delay: int) -> RoverEnv:
    rover = env.unwrapped
    if not isinstance(rover, RoverEnv):
        raise VidsslError(f"this operator drives vidssl/Rover-v0, got {type(rover).__name__}; choose `direct`")
    if delay < 0:
        raise VidsslError(f"delay: got {delay!r} steps; at least 0")
    return rover


def _rates(before: Floats | None, pose: Floats) -> Floats:
    """Forward speed (m/s) and yaw rate (rad/s) from the poses of two steps, zeros at the first."""
    if before is None:
        return np.zeros(2)
    moved = pose - before
    forward = moved[0] * np.cos(before[2]) + moved[1] * np.sin(before[2])
    return np.array([forward, (moved[2] + np.pi) % (2 * np.pi) - np.pi]) * RATE
