"""`vidssl reorient` end to end on generated solids: a table, a JSON that repeats itself, videos, errors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import vidssl.rotation
from vidssl.errors import VidsslError
from vidssl.robot.reorient import ReorientEnv
from vidssl.robot.reorient_video import curve, depth_colours
from vidssl.scripts import reorient
from vidssl.scripts.reorient import Config, main, play_one, run

ARMS = ("GICP", "random", "expert")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    out = tmp_path_factory.mktemp("reorient")
    return Config(limit=20, episodes=3, degrees=(5, 20), arms=ARMS, max_steps=20, sensor="hard", out=out)


@pytest.fixture(scope="module")
def results(config: Config) -> dict[str, Any]:
    return run(config)


def test_all_arms_play_the_same_episodes(results: dict[str, Any]) -> None:
    assert tuple(results["arms"]) == ARMS
    starts = [
        [(r["seed"], r["object"], r["start_degrees"]) for r in arm["results"]] for arm in results["arms"].values()
    ]
    assert starts[0] == starts[1] == starts[2]
    assert [seed for seed, *_ in starts[0]] == [1, 3, 5], "odd seeds: those of the test split"


def test_registration_and_the_expert_succeed(results: dict[str, Any]) -> None:
    for arm in ("GICP", "expert"):
        row = results["arms"][arm]
        assert row["successes"] == 3
        assert row["median_degrees"] < 0.5
        assert row["interval_95"] == pytest.approx([0.4385, 1], abs=1e-3)  # Wilson: 3 / (3 + 1.96²)
    assert results["arms"]["random"]["failures"] == {"time-out": 3}
    assert results["paired"]["GICP - random"]["difference"] == 1


def test_the_same_command_gives_the_same_file(config: Config, results: dict[str, Any], tmp_path: Path) -> None:
    run(replace(config, out=tmp_path, no_videos=True))
    first, again = (json.loads((out / "results.json").read_text()) for out in (config.out, tmp_path))
    for content in (first, again):
        assert set(content.pop("timings")) == set(ARMS)
        content["settings"].pop("no_videos")
    assert first == again
    assert not (tmp_path / "videos").exists()


def test_videos_show_the_episode(config: Config, results: dict[str, Any]) -> None:
    names = {path.name for path in (config.out / "videos").iterdir()}
    assert names == {"gicp-median.mp4", "expert-median.mp4", "random-median.mp4", "random-worst-failure.mp4"}
    with av.open(str(config.out / "videos" / "random-median.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 20 + 10, "20 steps and the last frame held"
    assert frames[0].shape == (460, 1024, 3)
    assert np.abs(frames[0].astype(int) - frames[15]).max() > 50


def test_the_table_names_the_arms(config: Config, results: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    reorient.print_table(results)
    shown = capsys.readouterr().out
    assert "0.44..1.00" in shown
    assert "time-out 3" in shown
    assert "5-20°, hard depth" in shown


def test_depth_colours_leave_no_return_black() -> None:
    depth = np.zeros((32, 32), np.float32)
    depth[8:16, 8:16] = 0.75
    colours = depth_colours(depth)
    assert colours.shape == (256, 256, 3)
    assert (colours[64:128, 64:128] > 0).any(axis=-1).all()
    assert colours[:64].max() == 0


def test_the_curve_grows_and_falls_with_the_error() -> None:
    def bright(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.nonzero((picture[..., 0] > 200) & (picture[..., 2] < 150))

    errors = [90.0, 9.0, 0.9, 0.09]
    (_, early), (rows, columns) = bright(curve(errors, 1, 400)), bright(curve(errors, 3, 400))
    assert early.max() < columns.max()
    assert rows[columns.argmin()] < rows[columns.argmax()], "rows count downwards"


def test_a_controller_that_refuses_fails_its_episode() -> None:
    class Blind:
        def reset(self) -> None:
            pass

        def __call__(self, observation: Any) -> np.ndarray:
            raise VidsslError("depth: empty")

    env = ReorientEnv("test", limit=20, size=32, degrees=(20, 20))
    episode = play_one(env, Blind(), 1, [])
    assert (episode.success, episode.failure, episode.reason) == (False, "refused", "depth: empty")
    assert episode.actions.shape == (0, 3)


def test_the_learned_arm_steers_by_the_runs_estimator(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = []

    class Estimator:
        def estimate(self, depth_now: np.ndarray, depth_goal: np.ndarray, K: np.ndarray) -> np.ndarray:
            assert depth_now.shape == depth_goal.shape == (128, 128)
            assert K[0, 0] == 300
            return np.eye(3)

    def load(run: Path) -> Estimator:
        loaded.append(run)
        return Estimator()

    monkeypatch.setattr(vidssl.rotation, "load_estimator", load, raising=False)
    steering = replace(config, run=tmp_path, arms=("learned",), episodes=1, max_steps=3, degrees=(10, 20))
    results = run(replace(steering, out=tmp_path / "out", no_videos=True))
    assert loaded == [tmp_path]
    row = results["arms"]["learned"]["results"][0]
    assert row["final_degrees"] == pytest.approx(row["start_degrees"], abs=1e-3), "told to stand, it stands"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "best"], "unknown arm 'best'.*GICP, .*expert, geometric, learned, random"),
        (["--arms", "learned"], "the arm `learned` needs a RUN"),
        (["--arms", "random", "random"], "distinct arms"),
        (["--arms", "random", "--episodes", "0"], "episodes >= 1"),
        (["--arms", "random", "--sensor", "foggy"], "unknown sensor 'foggy'.*clean, hard"),
        (["--arms", "random", "--fraction", "2"], "--fraction: got 2.0; above 0, at most 1"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match=message):
        main([*arguments, "--limit", "20", "--out", str(tmp_path)])
