"""Operators who drive the rover from afar: the model they predict by, and who copes with lag."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

import vidssl.robot.registration  # noqa: F401
from vidssl.errors import VidsslError
from vidssl.robot.controllers import Controller, ExpertController
from vidssl.robot.delays import ActionDelay
from vidssl.robot.rover_model import TOP_SPEED
from vidssl.robot.rover_remote import GAIN, KEEP, PredictingOperator, RoverModel, StopAndWait


@pytest.fixture(scope="module")
def env() -> Iterator[gymnasium.Env]:
    env = gymnasium.make("vidssl/Rover-v0", split="train", pixels=False)
    yield env
    env.close()


def drive(env: gymnasium.Env, controller: Controller, seed: int) -> dict[str, Any]:
    seen, info = env.reset(seed=seed)
    controller.reset()
    while True:
        seen, _, terminated, truncated, info = env.step(controller(seen))
        if terminated or truncated:
            return info


def test_model_one_step_by_hand() -> None:
    """Both wheels at full speed from a standstill: 0.394 * 0.9 m/s for 0.1 s along the yaw, and no turn."""
    model = RoverModel(np.array([1.0, 2.0, np.pi / 2]), np.zeros(2))
    model.step(np.ones(2))
    assert model.rates == pytest.approx([GAIN[0] * TOP_SPEED, 0])
    assert model.pose == pytest.approx([1.0, 2.0 + 0.1 * GAIN[0] * TOP_SPEED, np.pi / 2])
    model.step(np.array([-1.0, 1.0]))
    assert model.rates == pytest.approx([KEEP[0] * GAIN[0] * TOP_SPEED, 2 * GAIN[1] * TOP_SPEED])


def test_model_settles_at_the_rims_speed() -> None:
    assert GAIN[0] / (1 - KEEP[0]) == pytest.approx(1.0, abs=0.02)


def test_model_predicts_a_second_ahead(env: gymnasium.Env) -> None:
    errors = []
    for seed in range(4):
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        rover: Any = env.unwrapped
        model = RoverModel(rover.pose, np.zeros(2))
        for _ in range(10):
            action = rng.uniform(0, 1, 2).astype(np.float32)
            model.step(action)
            env.step(action)
        errors.append(np.linalg.norm(model.pose[:2] - rover.pose[:2]))
    assert np.mean(errors) < 0.1  # of about 0.4 m driven


def test_without_delay_predicting_is_driving_directly(env: gymnasium.Env) -> None:
    env.reset(seed=1)
    direct, predicting = ExpertController(env), PredictingOperator(env, 0)
    for _ in range(5):
        action = direct(None)
        np.testing.assert_array_equal(action, predicting(None))
        env.step(action)


def test_prediction_makes_up_for_lag(env: gymnasium.Env) -> None:
    """Round trips of a second: who ignores them fails, who predicts arrives."""
    late = ActionDelay(env, 10)
    assert sum(drive(late, ExpertController(late), seed)["success"] for seed in range(3)) <= 1
    assert sum(drive(late, PredictingOperator(late, 10), seed)["success"] for seed in range(3)) >= 2


def test_stop_and_wait(env: gymnasium.Env) -> None:
    late = ActionDelay(env, 4)
    operator = StopAndWait(late, 4, move=6)
    late.reset(seed=0)
    sent = np.array([operator(None) for _ in range(6 + 4 + StopAndWait.SETTLE)])
    assert np.abs(sent[:6]).max(axis=1).min() > 0.1
    assert not sent[6:].any()
    assert operator(None).any()  # the next move
    operator.reset()
    assert operator(None).any()
    assert drive(late, StopAndWait(late, 4, move=20), 0)["success"]


def test_reset_forgets_the_episode(env: gymnasium.Env) -> None:
    late = ActionDelay(env, 6)
    kept = PredictingOperator(late, 6)
    drive(late, kept, 1)
    first, again = drive(late, kept, 2), drive(late, PredictingOperator(late, 6), 2)
    assert first == again


def test_mistakes(env: gymnasium.Env) -> None:
    other = gymnasium.make("CartPole-v1")
    with pytest.raises(VidsslError, match=r"vidssl/Rover-v0.*CartPoleEnv.*direct"):
        PredictingOperator(other, 1)
    other.close()
    with pytest.raises(VidsslError, match="delay: got -1"):
        StopAndWait(env, -1)
    with pytest.raises(VidsslError, match="move of 0"):
        StopAndWait(env, 1, move=0)
