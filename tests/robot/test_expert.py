"""The scripted expert of the rover."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

import vidssl.robot.registration  # noqa: F401
from vidssl.errors import VidsslError
from vidssl.robot.expert import EXPERTS, RoverExpert, expert_for


@pytest.fixture
def env() -> Iterator[gymnasium.Env]:
    env = gymnasium.make("vidssl/Rover-v0", split="test", pixels=False)
    yield env
    env.close()


def episode(env: gymnasium.Env, seed: int) -> tuple[dict[str, Any], np.ndarray, float]:
    """Last info, actions [T,2] and the share of steps with the beacon inside the camera's 90 degrees."""
    seen, info = env.reset(seed=seed)
    expert = expert_for(env)
    actions, in_view = [], []
    rover: Any = env.unwrapped
    while True:
        x, y, yaw = rover.pose
        bearing = np.arctan2(rover.layout.goal[1] - y, rover.layout.goal[0] - x) - yaw
        in_view.append(np.cos(bearing) > np.cos(np.pi / 4))
        actions.append(expert(seen, info))
        seen, _, terminated, truncated, info = env.step(actions[-1])
        if terminated or truncated:
            return info, np.array(actions), float(np.mean(in_view))


def test_reaches_the_beacon_smoothly_and_keeps_it_in_view(env: gymnasium.Env) -> None:
    runs = [episode(env, seed) for seed in range(25)]
    assert sum(info["success"] for info, _, _ in runs) >= 24
    for _, actions, _ in runs:
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1
    assert np.mean([seen for _, _, seen in runs]) > 0.9
    changes = np.concatenate([np.abs(np.diff(actions, axis=0)).max(axis=1) for _, actions, _ in runs])
    assert np.median(changes) < 0.1
    lengths = [len(actions) for _, actions, _ in runs]
    assert 40 < np.median(lengths) < 120


def test_is_a_function_of_the_state(env: gymnasium.Env) -> None:
    """Asked twice, or by another instance that saw nothing of the episode, it gives the same action."""
    seen, info = env.reset(seed=1)
    expert = expert_for(env)
    for _ in range(10):
        action = expert(seen, info)
        np.testing.assert_array_equal(action, expert(seen, info))
        np.testing.assert_array_equal(action, RoverExpert(env)(None, {}))
        seen, _, _, _, info = env.step(action)


def test_same_expert_serves_the_next_episode(env: gymnasium.Env) -> None:
    env.reset(seed=1)
    kept = expert_for(env)
    seen, info = env.reset(seed=2)
    np.testing.assert_array_equal(kept(seen, info), expert_for(env)(seen, info))


def test_recovers_from_disturbed_actions(env: gymnasium.Env) -> None:
    """As in noise-injected recording: the expert still arrives when its actions are disturbed."""
    arrived = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        seen, info = env.reset(seed=seed)
        expert, done = expert_for(env), False
        while not done:
            action = np.clip(expert(seen, info) + rng.normal(0, 0.3, 2), -1, 1).astype(np.float32)
            seen, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        arrived += info["success"]
    assert arrived >= 7


def test_unknown_environment_lists_the_known_ones() -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(VidsslError, match=r"CartPole-v1.*vidssl/Rover\*"):
        expert_for(env)
    env.close()


def test_rover_expert_wants_a_rover() -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(TypeError, match="CartPole"):
        RoverExpert(env)
    env.close()


def test_every_expert_is_for_a_registered_environment() -> None:
    assert set(EXPERTS) <= set(gymnasium.registry)
