"""Lag in steps: what is executed and seen when, worked out by hand; seeds, order, loss, vectors and mistakes."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vidssl.errors import VidsslError
from vidssl.robot.delays import ActionDelay, Channel, ObservationDelay


class Log(gym.Env[np.ndarray, np.ndarray]):
    """Observes (time, last executed action). `reuse`: always in the same array, overwritten at the next step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, reuse: bool = False, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-9.0, 99.0, (1,), np.float32)
        self.seen = np.zeros(2, np.float32)
        self.render_mode, self.reuse = render_mode, reuse

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seen[:] = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen[0] += 1
        self.seen[1] = action[0]
        return self.observe(), 0.0, False, bool(self.seen[0] >= 60), {}

    def observe(self) -> np.ndarray:
        return self.seen if self.reuse else self.seen.copy()


gym.register("Log-v0", Log)  # type: ignore[arg-type]


def executed(steps: int = 8, seed: int | None = 0, **lag: Any) -> tuple[list[float], list[int]]:
    """Actions 1, 2, 3, … through ActionDelay: what the environment executed, and the ages."""
    env = ActionDelay(Log(), **lag)
    env.reset(seed=seed)
    out = [env.step(np.array([k + 1], np.float32)) for k in range(steps)]
    return [float(step[0][1]) for step in out], [step[4]["action_age"] for step in out]


def seen(steps: int = 8, seed: int | None = 0, **lag: Any) -> tuple[list[float], list[int]]:
    """The time stamps that ObservationDelay lets through, and their ages."""
    env = ObservationDelay(Log(), **lag)
    observation, info = env.reset(seed=seed)
    times, ages = [float(observation[0])], [info["observation_age"]]
    for _ in range(steps):
        observation, _, _, _, info = env.step(np.zeros(1, np.float32))
        times.append(float(observation[0]))
        ages.append(info["observation_age"])
    return times, ages


def scripted(delays: list[int | None], in_order: bool) -> list[tuple[int, int] | None]:
    """A channel whose packet k takes delays[k] steps, None: lost."""
    channel = Channel(0, in_order=in_order)
    received = []
    for k, delay in enumerate(delays):
        channel.send(k)
        channel._way.pop()
        if delay is not None:
            channel._way.append((k + delay, k, k))
        received.append(channel.receive())
    return received


def test_no_delay_changes_nothing() -> None:
    assert executed(4, delay=0) == ([1, 2, 3, 4], [0, 0, 0, 0])
    assert seen(3, delay=0) == ([0, 1, 2, 3], [0, 0, 0, 0])


def test_fixed_delay() -> None:
    assert executed(6, delay=2) == ([0, 0, 1, 2, 3, 4], [-1, -1, 2, 2, 2, 2])
    assert seen(5, delay=2) == ([0, 0, 0, 1, 2, 3], [0, 1, 2, 2, 2, 2])


def test_neutral_action() -> None:
    assert executed(3, delay=2, neutral=[7.0])[0] == [7, 7, 1]


def test_the_documented_loss() -> None:
    """Delay 2, packet 3 lost: the table of the module."""
    lost = scripted([2, 2, 2, None, 2, 2, 2], in_order=True)
    assert lost == [None, None, (0, 2), (1, 2), (2, 2), (2, 3), (4, 2)]


def test_overtaking() -> None:
    """Packet 0 takes 4 steps and is overtaken by 1 and 2; packets 3 and 4 arrive together."""
    delays: list[int | None] = [4, 1, 1, 3, 2]
    sent = [*delays, None, None]
    assert scripted(sent, in_order=True) == [None, None, (1, 1), (2, 1), (2, 2), (2, 3), (4, 2)]
    assert scripted(sent, in_order=False) == [None, None, (1, 1), (2, 1), (0, 4), (0, 5), (4, 2)]


def test_losses_hold_the_last() -> None:
    values, ages = executed(40, delay=0, drop=0.5)
    arrived = [k for k in range(40) if values[k] == k + 1]
    assert 10 < len(arrived) < 30
    for k, (value, age) in enumerate(zip(values, ages, strict=True)):
        before = [j for j in arrived if j <= k]
        assert value == (before[-1] + 1 if before else 0)
        assert age == (k - before[-1] if before else -1)


def test_more_losses_lose_the_same_packets_and_more() -> None:
    few, many = (executed(50, delay=0, drop=share)[0] for share in (0.2, 0.6))
    for k in range(50):
        assert many[k] != k + 1 or few[k] == k + 1


@pytest.mark.parametrize("lag", [{"delay": (1, 5)}, {"delay": {0: 0.5, 3: 0.25, 6: 0.25}}, {"delay": 2, "drop": 0.3}])
@pytest.mark.parametrize("run", [executed, seen])
def test_same_seed_same_lag(run: Callable[..., Any], lag: dict[str, Any]) -> None:
    assert run(50, seed=3, **lag) == run(50, seed=3, **lag)
    assert run(50, seed=3, **lag) != run(50, seed=4, **lag)


def test_episodes_without_a_seed_go_on_and_repeat_with_the_first_seed() -> None:
    def three() -> list[list[int]]:
        env = ActionDelay(Log(), delay=(0, 6))
        ages = []
        for seed in (5, None, None):
            env.reset(seed=seed)
            ages.append([env.step(np.zeros(1, np.float32))[4]["action_age"] for _ in range(30)])
        return ages

    first = three()
    assert first == three()
    assert first[0] != first[1] != first[2]


def test_delays_follow_their_distribution() -> None:
    env = ObservationDelay(Log(), delay={1: 0.75, 4: 0.25}, in_order=False)
    drawn = []
    for seed in range(40):
        env.reset(seed=seed)
        for _ in range(50):
            env.step(np.zeros(1, np.float32))
            drawn += [arrives - sent for arrives, sent, _ in env._channel._way if sent == env._channel._sent - 1]
    assert set(drawn) == {1, 4}
    assert np.mean(np.array(drawn) == 1) == pytest.approx(0.75, abs=0.04)


def test_uniform_jitter_reaches_both_ends() -> None:
    ages = executed(59, delay=(2, 4), in_order=False)[1]
    assert min(ages[4:]) == 2
    assert 4 <= max(ages) <= 6


def test_what_was_sent_is_not_changed_afterwards() -> None:
    env = ActionDelay(Log(), delay=1)
    env.reset(seed=0)
    action = np.ones(1, np.float32)
    env.step(action)
    action[:] = 50
    assert env.step(action)[0][1] == 1
    watched = ObservationDelay(Log(reuse=True), delay=1)
    first, _ = watched.reset(seed=0)
    first[:] = -1
    assert [watched.step(action)[0][0] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("wrap", [partial(ActionDelay, delay=(0, 3)), partial(ObservationDelay, delay=2, drop=0.2)])
def test_check_env_and_spaces(wrap: Callable[[gym.Env], gym.Env]) -> None:
    env = wrap(Log())
    assert env.observation_space == Log().observation_space
    assert env.action_space == Log().action_space
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is a wrapper, and its spaces unbounded
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments(mode: str) -> None:
    lag: Any = [partial(ActionDelay, delay=(0, 4), drop=0.1), partial(ObservationDelay, delay=1)]
    venv = gym.make_vec("Log-v0", num_envs=2, vectorization_mode=mode, wrappers=lag)
    venv.reset(seed=[3, 4])  # type: ignore[arg-type]
    rows = [venv.step(np.full((2, 1), k, np.float32))[4]["action_age"] for k in range(20)]
    venv.close()
    for row, seed in enumerate((3, 4)):
        env = ActionDelay(Log(), delay=(0, 4), drop=0.1)
        env.reset(seed=seed)
        assert [env.step(np.zeros(1, np.float32))[4]["action_age"] for _ in range(20)] == [ages[row] for ages in rows]


def test_made_again_from_its_spec() -> None:
    env = ActionDelay(gym.make("Log-v0", disable_env_checker=True), delay=3)
    assert env.spec is not None
    again = gym.make(env.spec)
    assert isinstance(again, ActionDelay)
    assert again._channel.steps.tolist() == [3]


@pytest.mark.parametrize(
    ("lag", "words"),
    [
        ({"delay": -1}, ["delay", "-1"]),
        ({"delay": 1.5}, ["1.5"]),
        ({"delay": True}, ["True"]),
        ({"delay": (4, 2)}, ["(4, 2)"]),
        ({"delay": {1: 0.5, 2: 0.4}}, ["add up to 1"]),
        ({"delay": {}}, ["{}"]),
        ({"delay": {1: 1.5, 2: -0.5}}, ["-0.5"]),
        ({"delay": 1, "drop": 1.0}, ["drop", "1.0"]),
        ({"delay": 1, "neutral": [100.0]}, ["neutral", "100"]),
    ],
)
def test_mistakes(lag: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(VidsslError) as caught:
        ActionDelay(Log(), **lag)
    assert all(word in str(caught.value) for word in words)


def test_an_action_space_without_zeros_needs_a_neutral_action() -> None:
    env = Log()
    env.action_space = gym.spaces.Discrete(3, start=1)  # type: ignore[assignment]
    with pytest.raises(VidsslError, match="neutral"):
        ActionDelay(env, delay=1)
    assert ActionDelay(env, delay=1, neutral=2)._neutral == 2
