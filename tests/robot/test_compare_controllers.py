"""A reader's own controller in the table, in ten lines."""

from pathlib import Path
from typing import Any

import pytest
import tiny_env

from vidssl.errors import VidsslError
from vidssl.robot import expert
from vidssl.robot.comparison import compare_controllers
from vidssl.robot.controllers import RandomController
from vidssl.robot.outcomes import p_text

TEN_LINES = """
import numpy as np
from vidssl.robot.comparison import compare_controllers
class MyController:
    def __init__(self, env): ...
    def reset(self): ...  # a new episode
    def __call__(self, observation):  # image uint8 [H,W,3], proprio float32 [P] -> action float32 [A]
        red, _, blue = observation["image"].mean(axis=0).T  # of each column of pixels
        side = np.argmax(blue - red) / len(red) * 2 - 1  # of the cyan beacon: -1 left to 1 right
        return np.float32([0.6 + 0.4 * side, 0.6 - 0.4 * side])  # left and right wheels
compare_controllers({"mine": MyController}, "vidssl/Rover-v0", episodes=100)
"""


def test_ten_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(TEN_LINES.strip().splitlines()) == 10
    monkeypatch.setitem(expert.EXPERTS, "Tiny-v0", tiny_env.TinyExpert)
    exec(TEN_LINES.replace('"vidssl/Rover-v0", episodes=100', '"tiny_env:Tiny-v0", episodes=3'), {"__name__": "ten"})
    table = capsys.readouterr().out
    rows = {line.split()[1]: line for line in table.splitlines() if "│" in line}
    assert list(rows) == ["random", "mine", "expert"]
    assert "/3" in rows["mine"]
    assert "3/3" in rows["expert"]
    assert "mine - arm" in table


class Scored(tiny_env.TinyEnv):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"score": max(0.0, 1 + float(reward))}


def test_results_hold_what_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    tiny_env.gym.register("Scored-v0", Scored)
    results = compare_controllers({"a": RandomController, "b": RandomController}, "Scored-v0", 4, seed=1, deadline=5)
    out = capsys.readouterr().out
    assert "no expert in this table: " in out
    assert "score" in out
    assert "≥ 0.95" in out
    assert list(results["arms"]) == ["random", "a", "b"]
    assert set(results["paired"]) == {"a - random", "a - b", "b - random", "b - a"}
    assert results["paired"]["a - b"]["p"] == 1
    assert results["arms"]["a"]["results"] == results["arms"]["random"]["results"]
    assert results["versions"]["torch"]
    assert 0 < results["arms"]["a"]["score"]["mean"] <= 1


def test_names_of_the_floor_and_ceiling_are_taken() -> None:
    for controllers in ({}, {"expert": RandomController}, {"random": RandomController}):
        with pytest.raises(VidsslError, match=r"at least one controller.*'random' and 'expert'"):
            compare_controllers(controllers, "tiny_env:Tiny-v0", 1)
    with pytest.raises(VidsslError, match="no saved controller"):
        compare_controllers({"mine": Path("nowhere")}, "tiny_env:Tiny-v0", 1)


def test_p_values_for_people() -> None:
    assert [p_text(p) for p in (1.0, 0.0432, 2e-9)] == ["1", "0.043", "< 1e-4"]
