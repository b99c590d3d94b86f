"""The reorientation controller: its steps by hand, which goal it keeps, the closed loop with registration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vidssl.datasets.depth_sensor import HARD
from vidssl.datasets.meshes import Mesh
from vidssl.datasets.solids import make_solid
from vidssl.errors import VidsslError
from vidssl.robot.reorient import RATE, TOP_SPEED, ReorientEnv
from vidssl.robot.reorient_control import (
    ELSEWHERE,
    ReorientController,
    ReorientExpert,
    proposals,
    slerp,
    velocity_towards,
)
from vidssl.rotation.registration import gicp

K = np.eye(3)


@dataclass(frozen=True)
class Candidate:
    rotation: NDArray[np.float64]
    probability: float


@dataclass(frozen=True)
class Estimate:
    candidates: Sequence[Candidate]


def about_z(degrees: float) -> NDArray[np.float64]:
    return Rotation.from_rotvec([0, 0, np.deg2rad(degrees)]).as_matrix()


def seen(wrist: float = 0.0) -> dict[str, np.ndarray]:
    """An observation whose wrist has turned by so many degrees about z."""
    image = np.zeros((4, 4), np.float32)
    return {"depth": image, "goal": image, "proprio": about_z(wrist).astype(np.float32).ravel()}


class Script:
    """An estimator that gives, call after call, candidates {degrees about z: probability}."""

    def __init__(self, *calls: dict[float, float]) -> None:
        self.calls = list(calls)

    def __call__(self, *images: Any) -> Estimate:
        return Estimate([Candidate(about_z(angle), p) for angle, p in self.calls.pop(0).items()])


def headings(controller: ReorientController, calls: int) -> list[float]:
    """The goals, in degrees about z, that a resting wrist is sent to."""
    found = []
    for _ in range(calls):
        action = controller(seen())
        assert action[0] == action[1] == 0
        found.append(float(np.rad2deg(action[2] * TOP_SPEED / (0.01 * RATE))))
    return found


def test_an_action_is_a_fraction_of_the_rotation() -> None:
    # a fifth of 10 degrees within 0.1 s is 20 degrees a second, of the wrist's 1.5 rad/s = 85.94
    np.testing.assert_allclose(velocity_towards(about_z(10), 0.2), (0, 0, 20 / 85.9437), rtol=1e-5)
    np.testing.assert_allclose(velocity_towards(about_z(-170), 0.2), (0, 0, -1), rtol=1e-6)
    np.testing.assert_array_equal(velocity_towards(np.eye(3), 0.2), 0)


def test_slerp_takes_the_short_way() -> None:
    np.testing.assert_allclose(slerp(about_z(170), about_z(-170), 0.25), about_z(175), atol=1e-12)


def test_encoders_carry_the_goal_along() -> None:
    # from a wrist at 20 degrees the estimate says 40 more: the goal is 60, seen from 50 another 10
    controller = ReorientController(Script({40: 1.0}, {10: 1.0}), K, fraction=0.2)
    controller(seen(20))
    np.testing.assert_allclose(controller(seen(50))[2], 20 / 85.9437, rtol=1e-4)


def test_the_most_probable_candidate_comes_first() -> None:
    controller = ReorientController(Script({20: 0.3, 80: 0.6, -50: 0.1}), K, fraction=0.01)
    assert headings(controller, 1) == pytest.approx([80])


def test_a_goal_is_kept_until_another_has_been_better_long_enough() -> None:
    calls = [{40: 0.6, 120: 0.4}, {40: 0.4, 120: 0.6}, {40: 0.2, 120: 0.8}, {40: 0.2, 120: 0.8}, {40: 0.2, 120: 0.8}]
    controller = ReorientController(Script(*calls), K, fraction=0.01, margin=2.0, patience=3)
    assert headings(controller, 5) == pytest.approx([40, 40, 40, 40, 120])


def test_a_rival_must_be_the_same_one_on_end() -> None:
    calls = [{40: 1.0}, {120: 1.0}, {-90: 1.0}, {120: 1.0}, {120: 1.0}]
    controller = ReorientController(Script(*calls), K, fraction=0.01, patience=2)
    assert headings(controller, 5) == pytest.approx([40, 40, 40, 40, 120])


def test_a_supported_goal_forgets_its_rival() -> None:
    calls = [{40: 1.0}, {120: 1.0}, {40: 1.0}, {120: 1.0}, {40: 1.0}]
    controller = ReorientController(Script(*calls), K, fraction=0.01, patience=2)
    assert headings(controller, 5) == pytest.approx([40] * 5)


def test_far_off_the_newest_estimate_counts_and_near_by_their_mean() -> None:
    controller = ReorientController(Script({40: 1.0}, {46: 1.0}), K, fraction=0.01)
    assert headings(controller, 2) == pytest.approx([40, 46])
    controller = ReorientController(Script({4: 1.0}, {6: 1.0}, {6: 1.0}), K, fraction=0.01, blend=0.5)
    assert headings(controller, 3) == pytest.approx([4, 5, 5.5])


def test_a_goal_reached_where_nothing_fits_is_left_for_the_next_best() -> None:
    first = {0: 0.5, 120: 0.2, -90: 0.3}  # the wrist rests at 0: the first goal is reached at once
    nothing = {0: 0.2, 60: 0.1}
    controller = ReorientController(Script(first, *[nothing] * 8), K, fraction=0.01, patience=2, doubt=0.5)
    # after a while at which only 60 is proposed of what is not refuted, that takes over from -90
    assert headings(controller, 7) == pytest.approx([0, 0, -90, -90, 60, 60, 60], abs=1e-3)


def test_with_nothing_else_to_try_it_looks_from_elsewhere() -> None:
    controller = ReorientController(Script(*[{0: 0.1}] * 2), K, fraction=0.01, patience=2)
    np.testing.assert_array_equal(controller(seen()), 0)
    np.testing.assert_allclose(controller(seen()), velocity_towards(ELSEWHERE, 0.01), atol=1e-6)


def test_equivalent_goals_share_their_probability_and_are_not_doubted() -> None:
    square = {0: 0.25, 90: 0.24, 180: 0.25, -90: 0.24}
    controller = ReorientController(Script(*[square] * 6), K, fraction=0.01, patience=2)
    assert headings(controller, 6) == pytest.approx([0] * 6, abs=1e-3)


def test_a_new_episode_starts_afresh() -> None:
    controller = ReorientController(Script({40: 1.0}, {120: 1.0}), K, fraction=0.01)
    first = headings(controller, 1)
    controller.reset()
    assert first + headings(controller, 1) == pytest.approx([40, 120])


def test_an_image_without_an_estimate_is_passed_over_once_there_is_a_goal() -> None:
    answers = [about_z(40), None]

    def estimator(*images: Any) -> NDArray[np.float64]:
        answer = answers.pop(0) if answers else None
        if answer is None:
            raise VidsslError("depth: empty")
        return answer

    controller = ReorientController(estimator, K, fraction=0.01)
    assert headings(controller, 2) == pytest.approx([40, 40])
    controller.reset()
    with pytest.raises(VidsslError, match="depth: empty"):
        controller(seen())


# Closed loop


def run(env: ReorientEnv, controller: Any, seed: int) -> tuple[list[float], dict[str, Any]]:
    observation, info = env.reset(seed=seed)
    controller.reset()
    errors, ended = [np.rad2deg(info["error"])], False
    while not ended:
        observation, _, terminated, truncated, info = env.step(controller(observation))
        errors.append(np.rad2deg(info["error"]))
        ended = terminated or truncated
    return errors, info


@pytest.fixture(scope="module")
def solids() -> list[Mesh]:
    return [make_solid(seed) for seed in range(4)]


def test_the_expert_reaches_any_goal(solids: list[Mesh]) -> None:
    env = ReorientEnv("test", solids, degrees=(150, 180), size=32)
    for seed in range(3):
        errors, info = run(env, ReorientExpert(env), seed)
        assert info["success"]
        assert errors[-1] < 0.5
        assert len(errors) < 60


def test_each_step_does_its_fraction(solids: list[Mesh]) -> None:
    env = ReorientEnv("test", solids, degrees=(20, 20), size=32)
    errors, _ = run(env, ReorientExpert(env, fraction=0.2), 0)
    np.testing.assert_allclose(np.array(errors[2:8]) / errors[1:7], 0.8, atol=0.04)


def test_registration_closes_the_loop_through_noise(solids: list[Mesh]) -> None:
    env = ReorientEnv("test", solids, degrees=(10, 30), sensor=HARD)
    for seed in range(2):
        errors, info = run(env, ReorientController(gicp, env.K), seed)
        assert info["success"]
        assert errors[-1] < 1.0


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction: got 0.0; above 0, at most 1"),
        ({"blend": 1.5}, "blend: got 1.5; above 0, at most 1"),
        ({"doubt": 2.0}, "doubt: got 2.0; a probability, 0 to 1"),
        ({"margin": 0.5}, "margin and patience: got 0.5 and 3"),
        ({"patience": 0}, "margin and patience: got 2.0 and 0"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        ReorientController(gicp, K, **options)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros(4), r"estimator: expected rotation matrices \[..., 3, 3\], got shape \(4,\)"),
        (2 * np.eye(3), "estimator: not a rotation"),
        (np.stack([np.eye(3)] * 2), r"estimator: expected one rotation \[3,3\], got shape \(2, 3, 3\)"),
        (Estimate([]), "an estimate without candidates"),
        (Estimate([Candidate(np.full((3, 3), np.nan), 1.0)]), "candidate: got NaN"),
    ],
)
def test_wrong_estimates(result: Any, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        proposals(result)
