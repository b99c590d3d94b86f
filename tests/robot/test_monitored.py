"""What a monitored controller does at an alarm, and that it comes back from disk."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractors import random_extractor

from vidssl.errors import VidsslError
from vidssl.robot.controller_files import load_controller
from vidssl.robot.controllers import CloneController, Head
from vidssl.robot.corruptions import CorruptedCamera
from vidssl.robot.monitored import MonitoredController
from vidssl.robot.recording import drive
from vidssl.robot.safety import SafetyMonitor
from vidssl.robot.safety_senses import Drive

sys.path.append(str(Path(__file__).parent))
import tiny_env


class Steady:
    """Turns a little at every step; remembers how often it was asked."""

    def __init__(self) -> None:
        self.resets = self.calls = 0

    def reset(self) -> None:
        self.resets += 1
        self.calls = 0

    def __call__(self, observation: Any) -> np.ndarray:
        self.calls += 1
        return np.array([0.3 * np.cos(self.calls / 4), 0.3 * np.sin(self.calls / 4)], np.float32)


@pytest.fixture(scope="module")
def monitor() -> SafetyMonitor:
    extractor = random_extractor("control", (32, 32))
    extractor.config = {"encoder": {"name": "control", "dim": 256}, "context": None}
    env, drives = tiny_env.TinyEnv(), []
    for seed in range(90):
        frames, episode = drive(env, Steady(), seed)
        drives.append(Drive(np.stack(frames), episode.executed, episode.proprio))
    with pytest.warns(UserWarning, match="1 false alarms an hour"):
        return SafetyMonitor.fit(extractor, drives[:60], drives[60:], fps=10, scores=("signal", "stillness"))


def actions(controller: MonitoredController, name: str = "blackout") -> tuple[np.ndarray, list[bool]]:
    """Actions and alarms of an episode whose camera fails at step 10."""
    env = CorruptedCamera(tiny_env.TinyEnv(), name, 3, start=10)
    observation, _ = env.reset(seed=long_episode())
    controller.reset()
    taken, alarms = [], []
    for _ in range(25):
        taken.append(controller(observation))
        alarms.append(controller.alarm)
        observation = env.step(taken[-1])[0]
    return np.stack(taken), alarms


def long_episode() -> int:
    env = tiny_env.TinyEnv()
    return next(seed for seed in range(100, 200) if len(drive(env, Steady(), seed)[0]) == 40)


def test_stop_hold_fallback(monitor: SafetyMonitor) -> None:
    free = np.stack([driver(None) for driver in [Steady()] for _ in range(25)])
    stopped, alarms = actions(MonitoredController(Steady(), monitor))
    begun = alarms.index(True)
    assert 10 <= begun < 15
    assert all(alarms[begun:])
    np.testing.assert_array_equal(stopped[:begun], free[:begun])
    assert not stopped[begun:].any()

    controller = MonitoredController(Steady(), monitor, "hold")
    held, _ = actions(controller)
    assert {tuple(row) for row in held[begun:]} <= {tuple(row) for row in free[:10]}, "of before the camera failed"
    assert len({tuple(row) for row in held[begun:]}) == 1
    assert controller.verdict is not None
    assert "signal" in controller.verdict.reasons
    assert controller.scores["signal"] > 5

    other = Steady()
    fallen, _ = actions(MonitoredController(Steady(), monitor, "fallback", other))
    np.testing.assert_array_equal(fallen[begun:], free[: 25 - begun])
    assert other.resets == 1


def test_saved_and_loaded_drives_the_same(monitor: SafetyMonitor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    clone = CloneController(monitor._senses.extractor, Head(258, 2), -np.ones(2, np.float32), np.ones(2, np.float32))
    for on_alarm, fallback in (("hold", None), ("fallback", clone)):
        controller = MonitoredController(clone, monitor, on_alarm, fallback).fit_to(tiny_env.TinyEnv())
        controller.save(tmp_path / on_alarm)
        loaded = load_controller(tmp_path / on_alarm)(tiny_env.TinyEnv())
        expected, alarms = actions(controller)
        assert alarms[-1]
        np.testing.assert_array_equal(actions(loaded)[0], expected)  # type: ignore[arg-type]


def test_mistakes(monitor: SafetyMonitor, tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match=r"unknown action on alarm 'scream'; .*hold"):
        MonitoredController(Steady(), monitor, "scream")
    with pytest.raises(VidsslError, match="a fallback goes with on_alarm='fallback'"):
        MonitoredController(Steady(), monitor, "fallback")
    with pytest.raises(VidsslError, match=r"fitted on .* the environment has"):
        MonitoredController(Steady(), monitor).fit_to(tiny_env.TinyEnv(size=48))
    with pytest.raises(VidsslError, match="the controller is a Steady, which cannot be saved"):
        MonitoredController(Steady(), monitor).save(tmp_path / "no")


def test_the_monitor_is_told_what_was_executed(monitor: SafetyMonitor) -> None:
    class Strong(Steady):
        def __call__(self, observation: Any) -> np.ndarray:
            return np.array([3.0, -3.0], np.float32)

    env = tiny_env.TinyEnv()
    controller = MonitoredController(Strong(), monitor).fit_to(env)
    controller.reset()
    observation, _ = env.reset(seed=0)
    assert controller(observation).tolist() == [3, -3]
    assert controller._executed is not None
    assert controller._executed.tolist() == [1, -1]
