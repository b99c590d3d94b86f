"""`vidssl record` and `vidssl robot-eval` on another package's robot: everything once, with tiny numbers."""

import json
from pathlib import Path

import numpy as np

from vidssl.robot.episodes import open_recording
from vidssl.robot.rollout import EpisodeResult, Place
from vidssl.robot.showreel import replay
from vidssl.scripts.record import main as record
from vidssl.scripts.robot_eval import main as robot_eval


def test_record_and_compare_on_fetch(tmp_path: Path) -> None:
    common = ["--size", "32", "--seed", "3"]
    record(["FetchReach-v4", "--out", str(tmp_path / "demos"), "--episodes", "2", *common])
    recording = open_recording(tmp_path / "demos")
    assert recording.meta["fps"] == 25
    assert [(episode.steps, episode.success) for episode in recording.episodes] == [(50, True)] * 2
    assert recording.episodes[0].proprio.shape == (50, 10)
    budget = [
        "--episodes",
        "1",
        "--demo-episodes",
        "2",
        "--head-steps",
        "2",
        "--pixel-steps",
        "2",
        "--workers",
        "0",
        "--no-videos",
    ]
    where = ["--env", "FetchReach-v4", "--demos", str(tmp_path / "demos"), "--out", str(tmp_path / "eval")]
    robot_eval([*where, "--arms", "random", "random-encoder", "pixels", "expert", *budget, *common])
    arms = json.loads((tmp_path / "eval" / "results.json").read_text())["arms"]
    assert arms["expert"]["successes"] == 1
    assert {arm: row["mean_length"] for arm, row in arms.items()} == dict.fromkeys(arms, 50.0)
    assert arms["random"]["failures"] == {"time-out": 1}


def test_episodes_can_be_replayed_for_videos() -> None:
    actions = np.zeros((2, 4), np.float32)
    moments = replay(Place("FetchReach-v4", "test", 32), EpisodeResult(4, False, "time-out", None, -2.0, 2, actions))
    assert [moment.step for moment in moments] == [0, 1, 2]
    assert moments[0].scene.shape == (480, 480, 3)
    assert moments[0].camera.shape == (32, 32, 3)
