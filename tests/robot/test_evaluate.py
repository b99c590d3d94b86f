"""Paired, repeatable episodes; whatever goes wrong in one is written down and the rest goes on."""

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_env

from vidssl.errors import VidsslError
from vidssl.robot.controllers import ExpertController, RandomController
from vidssl.robot.evaluate import EpisodeResult, compare, evaluate_policy, run_episode, summary
from vidssl.robot.pixels import camera_image, episode_seed, find_image, make_env

TINY = "tiny_env:Tiny-v0"


class Seeker:
    """The tiny world's expert; `gain` -1 flees."""

    def __init__(self, env: gym.Env[Any, Any], gain: float = 1.0) -> None:
        self.expert, self.gain = tiny_env.TinyExpert(env), gain

    def reset(self) -> None:
        pass

    def __call__(self, observation: Any) -> np.ndarray:
        return self.gain * self.expert(observation, {})


def flee(env: gym.Env[Any, Any]) -> Seeker:
    return Seeker(env, -1.0)


def episodes_equal(a: list[EpisodeResult], b: list[EpisodeResult]) -> bool:
    return len(a) == len(b) and all(
        (x.seed, x.success, x.failure, x.episode_return, x.length)
        == (y.seed, y.success, y.failure, y.episode_return, y.length)
        and np.array_equal(x.actions, y.actions)
        for x, y in zip(a, b, strict=True)
    )


def test_floor_and_ceiling() -> None:
    good, bad = (evaluate_policy(make, TINY, 12) for make in (Seeker, flee))
    assert all(result.success and result.failure is None for result in good)
    assert {result.failure for result in bad} == {"border"}
    assert [a.seed for a in good] == [b.seed for b in bad], "arms are paired"


def test_repeatable_and_independent_of_processes() -> None:
    serial = evaluate_policy(RandomController, TINY, 12, seed=3)
    assert episodes_equal(serial, evaluate_policy(RandomController, TINY, 12, seed=3))
    assert episodes_equal(serial, evaluate_policy(RandomController, TINY, 12, seed=3, workers=2))
    assert not episodes_equal(serial, evaluate_policy(RandomController, TINY, 12, seed=4))
    assert episodes_equal(serial[:5], evaluate_policy(RandomController, TINY, 5, seed=3)), "prefixes agree"


def test_train_and_test_seeds_are_disjoint() -> None:
    train, test = ({episode_seed(s, i, split) for s in range(3) for i in range(500)} for split in ("train", "test"))
    assert len(train) == len(test) == 1500
    assert not train & test


def test_environment_that_raises_fails_its_episode_only() -> None:
    class Fragile(tiny_env.TinyEnv):
        def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
            result = super().reset(**options)
            seed = options["seed"]
            if seed == episode_seed(0, 3, "test"):
                raise OSError("camera unplugged")
            self.raise_at = 1 if seed == episode_seed(0, 1, "test") else None
            return result

    gym.register("Fragile-v0", Fragile)
    results = evaluate_policy(Seeker, "Fragile-v0", 6)
    assert [result.failure for result in results] == [None, "error", None, "error", None, None]
    assert results[1].reason == "step 1: RuntimeError: the simulation diverged"
    assert results[3].reason == "reset: OSError: camera unplugged"
    assert results[1].length == 1


def test_environment_that_never_starts_is_not_a_result() -> None:
    class Dead(tiny_env.TinyEnv):
        def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
            raise OSError("no simulator")

    gym.register("Dead-v0", Dead)
    message = "environment raised in each of the first 3 episodes: reset: OSError: no simulator"
    with pytest.raises(VidsslError, match=message):
        evaluate_policy(Seeker, "Dead-v0", 3)


@pytest.mark.parametrize(("name", "value"), [("reward", np.nan), ("reward", -np.inf), ("score", np.nan)])
def test_rewards_and_scores_that_are_no_numbers_fail_the_episode(name: str, value: float) -> None:
    class Blurred(tiny_env.TinyEnv):
        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            observation, reward, *ends, info = super().step(action)
            given = {"reward": reward, "score": 0.5} | ({name: value} if self.count == 2 else {})
            return observation, given["reward"], *ends, info | {"score": given["score"]}  # type: ignore[return-value]

    env = Blurred()
    episode = run_episode(env, flee(env), seed=3)
    assert (episode.failure, episode.length) == ("error", 1)
    assert episode.reason == f"step 1: ValueError: the {name} is {value}, no finite number"
    assert np.isfinite([episode.episode_return, episode.score]).all()  # type: ignore[list-item]


@pytest.mark.parametrize("action", [[np.nan, 0.0], [np.inf, 0.0], [0.0], 1.0])
def test_bad_actions_are_reported(action: Any) -> None:
    class Broken:
        def reset(self) -> None:
            self.count = 0

        def __call__(self, observation: Any) -> np.ndarray:
            self.count += 1
            return np.array(action if self.count == 3 else [0.0, 0.0])

    result = run_episode(make_env(TINY, "test"), Broken(), seed=0)
    assert result.failure == "bad-action"
    assert result.reason is not None
    assert result.reason.startswith("step 2: action")
    assert result.length == 2


def test_a_controller_that_raises_is_not_hidden() -> None:
    class Broken:
        def reset(self) -> None:
            pass

        def __call__(self, observation: Any) -> np.ndarray:
            raise ZeroDivisionError

    with pytest.raises(
        VidsslError, match=r"raised in each of the first 5.*step 0: ZeroDivisionError.*test_evaluate.py:"
    ):
        evaluate_policy(lambda env: Broken(), TINY, 8)


def result(seed: int, success: bool, failure: str = "border") -> EpisodeResult:
    return EpisodeResult(seed, success, None if success else failure, None, float(success), 2, np.zeros((2, 2)))


def test_summary_by_hand() -> None:
    results = [result(1, True), result(3, False), result(5, False, "time-out"), result(7, False)]
    row = summary(results)
    assert (row["episodes"], row["successes"], row["success_rate"], row["mean_return"]) == (4, 1, 0.25, 0.25)
    assert row["failures"] == {"border": 2, "time-out": 1}
    # Wilson, z = 1.96, 1 of 4: centre (0.25 + 0.4802) / 1.9604, half 1.96 sqrt(0.25 * 0.75 / 4 + 3.8416 / 64) / 1.9604
    assert row["interval"] == "wilson"
    np.testing.assert_allclose(row["interval_95"], [0.04559, 0.69936], atol=1e-4)


def test_repeated_layouts_are_resampled_whole() -> None:
    """Three cloning seeds that agree on every layout carry no more information than one."""
    once = [result(2 * i + 1, i % 2 == 0) for i in range(20)]
    assert summary(once * 3)["interval"] == "wilson over layouts"
    assert summary(once * 3)["interval_95"] == summary(once)["interval_95"]
    others = [result(2 * i + 1, i < 10) for i in range(20)]
    low, high = summary(once * 2 + others)["interval_95"]
    assert summary(once * 2 + others)["interval"] == "bootstrap over layouts"
    assert high - low > 0.27, "60 independent trials would give 0.25"


def test_paired_difference() -> None:
    a = [result(i, True) for i in range(10)]
    b = [result(i, i < 2) for i in range(10)]
    pair = compare(a, b)
    assert pair["difference"] == pytest.approx(0.8)
    assert pair["low_95"] > 0
    assert compare(a, a)["difference"] == 0
    assert compare(a * 2, b * 2)["difference"] == pytest.approx(0.8)
    with pytest.raises(VidsslError, match="different layouts"):
        compare(a, b[:5])


def test_unknown_environment_lists_valid_ones() -> None:
    for name in ("vidssl/Rovr-v0", "no_such_module:Rover-v0", "Rover"):
        with pytest.raises(VidsslError, match=r"unknown environment .*vidssl/Rover-v0"):
            evaluate_policy(RandomController, name, 1)


def test_environment_without_pixels_is_an_error() -> None:
    with pytest.raises(VidsslError, match="no camera image"):
        evaluate_policy(RandomController, "tiny_env:TinyBlind-v0", 1)


def test_discrete_actions_are_an_error() -> None:
    class Discrete(tiny_env.TinyEnv):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.action_space = gym.spaces.Discrete(3)  # type: ignore[assignment]

    gym.register("TinyDiscrete-v0", Discrete)
    with pytest.raises(VidsslError, match="bounded Box"):
        make_env("TinyDiscrete-v0", "test")


def test_options_an_environment_does_not_have() -> None:
    gym.register("TinyFixed-v0", lambda render_mode=None: tiny_env.TinyEnv(render_mode=render_mode))
    assert find_image(make_env("TinyFixed-v0", "test").observation_space).shape == (32, 32, 3)
    resized = make_env("TinyFixed-v0", "test", size=48)
    image = camera_image(resized.reset(seed=0)[0])
    assert resized.observation_space["image"].contains(image)  # type: ignore[index]
    assert image.shape == (48, 48, 3)
    with pytest.raises(VidsslError, match="at least 16"):
        make_env("TinyFixed-v0", "test", size=8)
    with pytest.raises(VidsslError, match=r"unknown split 'val'.*test, train"):
        make_env(TINY, "val")


def test_no_expert_is_an_error() -> None:
    with pytest.raises(VidsslError, match="unknown expert"):
        evaluate_policy(ExpertController, TINY, 1)


def test_training_after_rendering() -> None:
    """Mesa's software renderer and triton, which torch's optimisers import, each bring an LLVM: this once crashed."""
    code = (
        "from vidssl.robot.pixels import make_env; env = make_env('vidssl/Rover-v0', 'train'); env.reset(seed=0)\n"
        "import torch; torch.optim.AdamW(torch.nn.Linear(2, 2).parameters()); env.close()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
