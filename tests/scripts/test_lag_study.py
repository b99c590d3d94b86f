"""`vidssl lag-study` on the tiny world and on the rover: points, resuming, crossovers by hand, mistakes."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.robot import expert
from vidssl.robot.recording import record
from vidssl.scripts import lag_lines
from vidssl.scripts.lag_figure import crossover, plot, says
from vidssl.scripts.lag_lines import Line
from vidssl.scripts.lag_study import Config, main, run

sys.path.append(str(Path(__file__).parents[1] / "robot"))
import tiny_env
from tiny_run import write_run

TINY = "tiny_env:Tiny-v0"


class Slow:
    """Steers to the target at a tenth of the expert's gain, so lag hardly disturbs it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env: Any = env.unwrapped

    def reset(self) -> None:
        """Nothing to forget."""

    def __call__(self, observation: Any) -> np.ndarray:
        return np.clip((self.env.target - self.env.dot), -0.5, 0.5).astype(np.float32)


class Other(Slow):
    """By another name."""


@pytest.fixture(autouse=True, scope="module")
def tiny_expert() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(expert.EXPERTS, "Tiny-v0", tiny_env.TinyExpert)
        yield


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        controllers=("slow=test_lag_study:Slow",),
        env=TINY,
        delays=(0, 3, 12),
        episodes=8,
        operators=("direct",),
        workers=0,
        out=tmp_path / "lag",
    )


def rates(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {delay: point["success_rate"] for delay, point in line["points"].items()}
        for name, line in results["lines"].items()
    }


# Crossovers


def test_crossover_by_hand() -> None:
    """From 1.0 at 2 steps to 0.0 at 6: half of it is reached in the middle, at 4."""
    remote = np.array([[True] * 10, [True] * 10, [False] * 10])
    on_board = np.array([True, False] * 5)
    found = crossover([0, 2, 6], remote, on_board)
    assert found["delay"] == pytest.approx(4.0)
    low, high = found["low_95"], found["high_95"]
    assert low is not None
    assert high is not None
    # The level of a resample is binomial(10, 0.5) / 10, 0.2 to 0.8 in 95 %: 2 + 4 * (1 - level).
    assert low == pytest.approx(2.8, abs=0.41)
    assert high == pytest.approx(5.2, abs=0.41)


def test_crossover_at_the_ends() -> None:
    always, never = np.ones(6, bool), np.zeros(6, bool)
    assert crossover([0, 5], np.stack([never, never]), always)["delay"] == 0
    assert crossover([0, 5], np.stack([always, always]), never) == {"delay": None, "low_95": None, "high_95": None}
    assert crossover([0, 5], np.stack([always, always]), always)["delay"] is None  # level is not below


def test_crossovers_in_words() -> None:
    assert says({"delay": 6.0, "low_95": 5.0, "high_95": None}, 10) == "0.60 s (0.50 to beyond)"
    assert says({"delay": None, "low_95": None, "high_95": None}, 10) == "not reached"


# The study


def test_study(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(replace(config, from_afar=True))
    found = rates(results)
    assert set(found) == {"direct", "slow", "slow from afar"}
    assert set(found["direct"]) == {"0", "3", "12"}
    assert set(found["slow"]) == {"0"}
    assert found["direct"]["0"] == 1
    assert found["direct"]["12"] < 1
    assert set(results["crossovers"]) == {"direct below slow"}
    point = results["lines"]["direct"]["points"]["3"]
    assert point["episodes"] == len(point["results"]) == 8
    seeds = [
        [row["seed"] for row in p["results"]] for line in results["lines"].values() for p in line["points"].values()
    ]
    assert all(s == seeds[0] for s in seeds)  # the same layouts everywhere
    assert json.loads((config.out / "lag.json").read_text()) == results
    picture = cv2.imread(str(config.out / "lag.png"))
    assert picture.shape[1] > 800
    plot(json.loads((config.out / "lag.json").read_text()), config.out / "again.png")  # keys are sorted as words there
    np.testing.assert_array_equal(picture, cv2.imread(str(config.out / "again.png")))
    assert "direct below slow" in capsys.readouterr().out


def test_same_again_and_resumed(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(replace(config, out=config.out / "whole", jitter=2, drop=0.2))
    begun = replace(config, jitter=2, drop=0.2, delays=(0, 12), controllers=())
    run(begun)
    asked: list[tuple[str, int]] = []
    at = Line.at
    monkeypatch.setattr(Line, "at", lambda line, delay, c: asked.append((line.name, delay)) or at(line, delay, c))
    resumed = run(replace(config, jitter=2, drop=0.2))
    assert asked == [("direct", 3), ("slow", 0)]
    for results in (whole, resumed):
        results.pop("timings")
    assert resumed == whole


def test_other_settings_are_not_mixed(config: Config) -> None:
    quick = replace(config, delays=(0,))
    run(quick)
    with pytest.raises(VidsslError, match=r"episodes 8, now 9.*--overwrite"):
        run(replace(quick, episodes=9))
    assert run(replace(quick, episodes=9, overwrite=True))["settings"]["episodes"] == 9
    with pytest.raises(VidsslError, match=r"'slow' was driven by.*NAME="):
        run(replace(quick, episodes=9, controllers=("slow=test_lag_study:Other",)))


def test_other_versions_and_damaged_files_are_refused(config: Config) -> None:
    quick = replace(config, delays=(0,), controllers=(), episodes=1)
    run(quick)
    path = config.out / "lag.json"
    results = json.loads(path.read_text())
    results["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(results))
    with pytest.raises(VidsslError, match=r"version of torch '1.0', now .*--overwrite"):
        run(quick)
    path.write_text('{"settings": ')
    with pytest.raises(VidsslError, match=r"lag.json is damaged.*--overwrite"):
        run(quick)


def test_a_run_is_cloned(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run")
    with pytest.raises(VidsslError, match="--demos"):
        run(replace(config, controllers=(str(folder),)))
    record(TINY, tmp_path / "demos", 4)
    cloned = replace(
        config,
        controllers=(str(folder),),
        demos=tmp_path / "demos",
        head_steps=20,
        delays=(0,),
        episodes=2,
        operators=(),
    )
    results = run(cloned)
    assert list(results["lines"]) == ["run"]
    assert results["lines"]["run"]["source"]["head_steps"] == 20
    with monkeypatch.context() as patch:
        patch.setattr("vidssl.robot.cloning.clone_features", None)  # every point is there: nothing is cloned
        assert run(cloned)["lines"] == results["lines"]
    with pytest.raises(VidsslError, match="2 of its episodes show layouts that are driven here"):
        run(replace(cloned, split="train", out=tmp_path / "leak"))
    record(TINY, tmp_path / "demos", 4, seed=1, overwrite=True)
    with pytest.raises(VidsslError, match=r"'run' was driven by.*demos_hash"):
        run(cloned)


def test_operators_of_the_rover(tmp_path: Path) -> None:
    """All three, without pictures, by the command line."""
    out = str(tmp_path / "lag")
    main(["--delays", "6", "--episodes", "1", "--max-steps", "30", "--workers", "0", "--split", "train", "--out", out])
    results = json.loads((tmp_path / "lag" / "lag.json").read_text())
    assert list(results["lines"]) == ["direct", "predict", "stop-and-wait"]
    assert {line["points"]["6"]["failures"].get("time-out") for line in results["lines"].values()} == {1}
    assert all(line["points"]["6"]["mean_length"] == 30 for line in results["lines"].values())


def test_paths_may_hold_an_equals_sign(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(lag_lines, "_load", lambda where, config: asked.append(where) or (None, {}))
    rate = tmp_path / "lr=0.1"
    rate.mkdir()
    lines = lag_lines.controllers(replace(config, controllers=(str(rate), f"mine={rate}", "theirs=module:Class")))
    assert asked == [str(rate), str(rate), "module:Class"]
    assert [line.name for line in lines] == ["lr=0.1", "mine", "theirs"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"operators": ("pilot",)}, "pilot.*direct"),
        ({"operators": (), "controllers": ()}, "nobody drives"),
        ({"delays": ()}, "--delays"),
        ({"delays": (3, -1)}, "--delays"),
        ({"delays": (3, 3)}, "--delays"),
        ({"episodes": 0}, "--episodes: got 0"),
        ({"drop": 1.0}, "--drop"),
        ({"max_steps": 0}, "--max-steps"),
        ({"demo_episodes": -5}, "--demo-episodes: got -5; at least 2"),
        ({"max_steps": 9}, "TinyEnv has no max_steps"),
        ({"operators": ("predict",)}, r"TinyEnv.*direct"),
        ({"controllers": ("direct=test_lag_study:Slow",)}, "same name"),
        (
            {"controllers": ("nowhere",)},
            "nowhere: no such folder; give a run of .*, a saved controller or module:Class",
        ),
    ],
)
def test_mistakes(config: Config, change: dict[str, Any], words: str) -> None:
    with pytest.raises(VidsslError, match=words):
        run(replace(config, **change))
