"""Episodes played again: what is seen, with goal pictures and without a view of the scene; what cannot be repeated."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_env
from test_evaluate import Seeker

from vidssl.datasets.video import VideoReader
from vidssl.errors import VidsslError
from vidssl.robot.evaluate import EpisodeResult, evaluate_policy
from vidssl.robot.replay import record_again, replay
from vidssl.robot.rollout import Place
from vidssl.robot.showreel import film


class GoalEnv(tiny_env.TinyEnv):
    """Shows a picture of the goal, and no scene."""

    def __init__(self, split: str = "train", render_mode: str | None = None) -> None:
        super().__init__(split, render_mode=render_mode)
        goal = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({**self.observation_space.spaces, "goal": goal})  # type: ignore[attr-defined]

    def _observe(self) -> Any:
        return super()._observe() | {"goal": np.full((32, 32, 3), 200, np.uint8)}

    def render(self) -> Any:
        return None


class Drifts(tiny_env.TinyEnv):
    """Not a function of its seed."""

    steps = 0

    def step(self, action: Any) -> Any:
        Drifts.steps += 1
        observation, _, *rest = super().step(action)
        return observation, float(Drifts.steps), *rest


gym.register("TinyGoal-v0", GoalEnv)
gym.register("TinyDrifts-v0", Drifts)


def test_goal_pictures_and_environments_without_a_scene(tmp_path: Path) -> None:
    place = Place("TinyGoal-v0")
    episodes = evaluate_policy(Seeker, "TinyGoal-v0", 1)
    moments = replay(place, episodes[0])
    assert all(moment.goal is not None and (moment.goal == 200).all() for moment in moments)
    np.testing.assert_array_equal(moments[0].scene, moments[0].camera)
    film(place, {"mine": episodes}, tmp_path, fps=10)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["mine-best.mp4", "mine-median.mp4"]
    assert (tmp_path / "strip.png").exists()
    with VideoReader(tmp_path / "videos" / "mine-best.mp4") as reader:
        clip, _ = reader.read_all()
    assert clip.shape[2:] == (262, 720), "scene, camera, goal"


def test_episodes_are_recorded_as_they_were() -> None:
    episodes = evaluate_policy(Seeker, "tiny_env:Tiny-v0", 2)
    broken = EpisodeResult(5, False, "error", "reset: OSError", 0.0, 0, np.zeros((0, 2), np.float32))
    pairs = list(record_again(Place("tiny_env:Tiny-v0"), [episodes[0], broken, episodes[1]]))
    assert [saved.seed for _, saved in pairs] == [episode.seed for episode in episodes]
    for (frames, saved), episode in zip(pairs, episodes, strict=True):
        assert len(frames) == saved.steps == episode.length
        np.testing.assert_array_equal(saved.action, episode.actions)
        assert saved.reward.sum() == pytest.approx(episode.episode_return, rel=1e-5)


def test_what_cannot_be_repeated_is_not_saved() -> None:
    episodes = evaluate_policy(Seeker, "TinyDrifts-v0", 1)
    with pytest.raises(VidsslError, match=r"TinyDrifts-v0: the episode of seed 1 returned .* not a function of"):
        list(record_again(Place("TinyDrifts-v0"), episodes))
