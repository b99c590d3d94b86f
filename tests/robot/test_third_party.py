"""Environments of other packages through `make_env`: what is observed, seeds, success, mistakes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vidssl.errors import VidsslError
from vidssl.robot.benchmarks import BENCHMARKS, OTHER, Benchmark, benchmark_of
from vidssl.robot.controllers import ExpertController
from vidssl.robot.evaluate import run_episode
from vidssl.robot.pixels import make_env
from vidssl.robot.third_party import PixelAdapter, resized

PUSHT, FETCH, REACH = "gym_pusht/PushT-v0", "FetchReach-v4", "Meta-World/reach-v3"
ALL = (PUSHT, FETCH, REACH, "Pendulum-v1", "InvertedPendulum-v5")


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, gym.Env[Any, Any]]]:
    """All of them at once in one process: their pictures must not mix."""
    envs = {name: make_env(name, "test", size=48) for name in ALL}
    yield envs
    for env in envs.values():
        env.close()


def play(env: gym.Env[Any, Any], seed: int, steps: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images [T+1,48,48,3] and rewards [T] of random actions."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    images, rewards = [observation["image"]], []
    assert info["success"] is False
    for _ in range(steps):
        observation, reward, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        images.append(observation["image"])
        rewards.append(reward)
    return np.stack(images), np.array(rewards)


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_episode(made: dict[str, gym.Env[Any, Any]], name: str) -> None:
    """Also after another episode, in another instance, and with pictures for a video taken on the way."""
    images, rewards = play(made[name], 4)
    others, _ = play(made[name], 5)
    again, same = play(made[name], 4)
    assert images.shape == (4, 48, 48, 3)
    assert images.dtype == np.uint8
    assert not np.array_equal(images[0], others[0])
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(rewards, same)
    filmed = make_env(name, "test", size=48, render_mode="rgb_array")
    np.testing.assert_array_equal(play(filmed, 4, steps=1)[0], images[:2])
    picture: Any = filmed.render()
    assert picture.dtype == np.uint8
    assert min(picture.shape[:2]) >= 200
    assert filmed.render_mode == "rgb_array"
    assert made[name].render() is None
    filmed.close()


def test_proprioception_is_the_robots_own(made: dict[str, gym.Env[Any, Any]]) -> None:
    """Seeds move goals and objects, which Push-T's agent, Fetch's gripper and Meta-World's hand do not feel."""
    for name, size in ((FETCH, 10), (REACH, 4)):
        first, second = (made[name].reset(seed=seed)[0]["proprio"] for seed in (1, 2))
        assert first.shape == (size,)
        assert first.dtype == np.float32
        np.testing.assert_allclose(first, second, atol=1e-3)
    observation, info = made[PUSHT].reset(seed=1)
    np.testing.assert_allclose(observation["proprio"], info["pos_agent"])
    assert "proprio" not in made["Pendulum-v1"].observation_space.spaces  # type: ignore[attr-defined]


def test_fetch_with_an_object_feels_the_gripper_only() -> None:
    row = np.arange(25.0)
    senses = benchmark_of("FetchPush-v4").senses
    assert senses is not None
    # gymnasium-robotics: gripper 0:3, object 3:9, fingers 9:11, object 11:20, gripper 20:23, fingers 23:25
    np.testing.assert_array_equal(senses({"observation": row}), [0, 1, 2, 9, 10, 20, 21, 22, 23, 24])


@pytest.mark.parametrize(("name", "site"), [(FETCH, "target0"), (REACH, "goal")])
def test_the_goal_is_in_the_picture(made: dict[str, gym.Env[Any, Any]], name: str, site: str) -> None:
    """Hiding its marker changes the first picture of most episodes; it may be behind the gripper. Up is up."""
    env = made[name]
    bare: Any = env.unwrapped
    marker = bare.model.site(site)
    rows, heights = [], []
    for seed in range(12):
        shown = env.reset(seed=seed)[0]["image"].astype(int)
        marker.rgba[3] = 0
        hidden = env._image().astype(int)  # type: ignore[attr-defined]
        marker.rgba[3] = 1
        changed = np.argwhere(np.abs(shown - hidden).max(axis=-1) > 20)
        if len(changed):
            rows.append(changed[:, 0].mean())
            heights.append(bare.data.site(site).xpos[2])
    assert len(rows) >= 10
    assert np.corrcoef(rows, heights)[0, 1] < -0.5


def test_first_frame_shows_the_new_goal(made: dict[str, gym.Env[Any, Any]]) -> None:
    """Both packages leave the marker where it was until the first step."""
    for name, site in ((FETCH, "target0"), (REACH, "goal")):
        env: Any = made[name]
        env.reset(seed=8)
        goal = env.unwrapped.goal if name == FETCH else env.unwrapped._target_pos
        np.testing.assert_allclose(env.unwrapped.data.site(site).xpos, goal)


class Counter(gym.Env[np.ndarray, np.ndarray]):
    """Says success at steps 2 and 3 of 4, its observation is the step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(0, 9, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        info = {"is_success": float(self.count in (2, 3)), "covered": 0.4 * self.count}
        return np.full(1, self.count, np.float32), 0.0, False, self.count == 4, info

    def render(self) -> np.ndarray:
        return np.full((40, 80, 3), self.count, np.uint8)


def test_when_episodes_end_and_what_counts() -> None:
    zero = np.zeros(1, np.float32)
    env = PixelAdapter(Counter(), Benchmark(ends_on_success=True, score="covered"), 20, None)
    env.reset()
    _, _, *ended, info = env.step(zero)
    assert (ended, info["success"], info["failure"], info["score"]) == ([False, False], False, None, 0.4)
    observation, _, *ended, info = env.step(zero)
    assert (ended, info["success"], info["failure"], info["score"]) == ([True, False], True, None, 0.8)
    np.testing.assert_array_equal(observation["image"], np.full((20, 20, 3), 2))
    env = PixelAdapter(Counter(), Benchmark(senses=lambda observation: observation), 20, None)
    env.reset()
    seen = [env.step(zero) for _ in range(4)]
    assert [info["success"] for *_, info in seen] == [False, True, True, False]
    assert [terminated for _, _, terminated, _, _ in seen] == [False] * 4
    assert [info["failure"] for *_, info in seen] == [None, None, None, "time-out"]
    assert [float(observation["proprio"][0]) for observation, *_ in seen] == [1, 2, 3, 4]
    assert "score" not in seen[-1][-1]


def test_push_t_counts_coverage(made: dict[str, gym.Env[Any, Any]]) -> None:
    env = made[PUSHT]
    observation, _ = env.reset(seed=0, options={"reset_to_state": [50, 50, 256, 256, np.pi / 4]})
    _, _, terminated, _, info = env.step(observation["proprio"])
    assert (terminated, info["success"]) == (False, False)
    assert 0.2 < info["score"] < 0.95
    block = env.unwrapped.block  # type: ignore[attr-defined]
    block.angle = np.pi / 4
    block.position = (256, 256)
    _, _, terminated, _, info = env.step(observation["proprio"])
    assert (terminated, info["success"], info["failure"]) == (True, True, None)
    assert 0.95 < info["score"] <= 1
    assert env.spec is not None
    assert env.spec.max_episode_steps == 300


def test_experts_reach_the_goal(made: dict[str, gym.Env[Any, Any]]) -> None:
    """Meta-World's first success ends the episode; Fetch goes on to its last step and has to be there then."""
    for name in (FETCH, REACH):
        result = run_episode(made[name], ExpertController(made[name]), seed=2)
        assert result.success
        assert result.failure is None
        assert result.length == 50 if name == FETCH else result.length < 100
    with pytest.raises(VidsslError, match=r"PushT-v0 has no scripted expert.*by people"):
        ExpertController(made[PUSHT])


def test_ids_are_known_by_their_beginning() -> None:
    assert benchmark_of("metaworld:Meta-World/push-v3") is BENCHMARKS["Meta-World/"]
    assert benchmark_of("FetchSlideDense-v4") is BENCHMARKS["FetchSlide"]
    assert benchmark_of("Pendulum-v1") is OTHER


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it is wrapped, and that Pendulum's actions are in -2..2
def test_check_env() -> None:
    env = make_env("Pendulum-v1", "train", size=32)
    check_env(env, skip_render_check=True, skip_close_check=True)
    env.close()


def test_sizes() -> None:
    assert make_env("Pendulum-v1", "train").observation_space["image"].shape == (96, 96, 3)  # type: ignore[index]
    checks = np.kron([[0, 200], [200, 0]], np.ones((8, 16)))[..., None].repeat(3, -1).astype(np.uint8)
    np.testing.assert_array_equal(resized(checks, 2)[..., 0], [[0, 200], [200, 0]])
    with pytest.raises(VidsslError, match="at least 16 pixels"):
        make_env(PUSHT, "test", size=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Meta-World/", r"'Meta-World/' names no task of Meta-World; write e.g. Meta-World/reach-v3"),
        ("Meta-World/fetch-v3", r"unknown environment 'Meta-World/fetch-v3'.*Meta-World/push-v3"),
        ("FetchReach-v99", r"unknown environment 'FetchReach-v99'.*v4"),
        ("CartPole-v1", "bounded Box"),
    ],
)
def test_mistakes(name: str, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        make_env(name, "test")


def test_environment_that_cannot_be_seen() -> None:
    gym.register("Unseen-v0", lambda render_mode=None: Counter(render_mode=None))
    with pytest.raises(VidsslError, match="no camera image, and it cannot render any"):
        make_env("Unseen-v0", "test")
    env = Counter()
    env.render = lambda: None  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(VidsslError, match=r"render\(\) gave NoneType"):
        PixelAdapter(env, OTHER, 20, None)


@pytest.mark.parametrize(("name", "package"), [(PUSHT, "gym_pusht"), (REACH, "metaworld")])
def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(VidsslError, match=rf"{package}.*pip install 'vidssl\[robots\]'"):
        make_env(name, "test")


def test_missing_gl_names_package_and_setting() -> None:
    """An OSMesa that is not there: the message says what to install and what to set."""
    code = "from vidssl.robot.benchmarks import import_benchmark; import_benchmark('FetchReach-v4')"
    setting = os.environ | {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa", "LD_LIBRARY_PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=setting, capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("this machine has OSMesa")
    assert "VidsslError" in done.stderr
    for part in ("libegl1", "MUJOCO_GL=egl"):
        assert part in done.stderr
