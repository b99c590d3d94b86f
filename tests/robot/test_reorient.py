"""The reorientation environment: the wrist's physics, episodes, symmetric objects, errors."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from vidssl.datasets.depth_sensor import HARD
from vidssl.datasets.meshes import Mesh
from vidssl.datasets.symmetry import Symmetry, symmetries
from vidssl.errors import VidsslError
from vidssl.robot.registration import register
from vidssl.robot.reorient import CLOSE, TOP_SPEED, ReorientEnv, smallest_rest
from vidssl.robot.wrist import MAX_TORQUE, Wrist, hull_inertia

FACES = [(0, 1, 3), (0, 3, 2), (4, 7, 5), (4, 6, 7), (0, 5, 1), (0, 4, 5)]
FACES += [(2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
STILL = np.zeros(3, np.float32)


def box(*sides: float) -> Mesh:
    """A box with the given halves of its sides."""
    return Mesh("box", CORNERS * np.array(sides, np.float32), np.array(FACES, np.int32))


def lump(seed: int = 0) -> Mesh:
    """A box with its corners pulled about: no two views of it are alike."""
    moved = CORNERS * np.random.default_rng(seed).uniform(0.4, 1.0, (8, 3))
    return Mesh(f"lump{seed}", moved.astype(np.float32), np.array(FACES, np.int32)).normalised()


def make(meshes: Sequence[Mesh] = (lump(0), lump(1)), **options: Any) -> ReorientEnv:
    return ReorientEnv("test", meshes, **{"size": 32, **options})


def angle(rotation: np.ndarray) -> float:
    return float(np.rad2deg(Rotation.from_matrix(rotation).magnitude()))


# Wrist


def test_inertia_of_a_box() -> None:
    corners = np.float64(box(0.05, 0.03, 0.02).vertices)
    centre, inertia = hull_inertia(corners + np.array([0.1, 0, 0]), mass=2.0)
    np.testing.assert_allclose(centre, (0.1, 0, 0), atol=1e-8)
    squares = np.square([0.1, 0.06, 0.04])  # of the sides; a box has m/12 (b² + c²) about the axis of side a
    np.testing.assert_allclose(inertia, np.diag(2 / 12 * (squares.sum() - squares)), atol=1e-8)


def test_a_held_object_rests_although_it_is_heavy_on_one_side() -> None:
    wrist, start = Wrist(), Rotation.random(random_state=0).as_matrix()
    wrist.hold(lump().vertices, np.array([0.01, -0.01, 0.01]), start)
    wrist.turn(np.zeros(3), 0.5)
    assert angle(wrist.rotation @ start.T) < 1e-6
    assert 0.01 < np.linalg.norm(wrist.torque) < MAX_TORQUE


def test_the_wrist_turns_as_told_in_the_cameras_axes() -> None:
    wrist, start = Wrist(), Rotation.random(random_state=1).as_matrix()
    wrist.hold(lump().vertices, np.zeros(3), start)
    velocity = np.array([0.6, -0.3, 0.9])
    wrist.turn(velocity, 1.0)
    wrist.turn(np.zeros(3), 0.5)
    assert angle(wrist.rotation @ start.T @ Rotation.from_rotvec(velocity).as_matrix().T) < 3, "less what gravity pulls"


def test_torque_is_limited_and_the_reference_waits() -> None:
    wrist = Wrist()
    wrist.hold(lump().vertices, np.zeros(3), np.eye(3))
    turned = []
    for _ in range(30):
        wrist.turn(np.array([0.0, 0, 300.0]), 0.01)
        assert np.linalg.norm(wrist.torque) <= MAX_TORQUE + 1e-9
        turned.append(angle(wrist.rotation))
    assert turned[1] < 180 / np.pi * 300 * 0.02 / 2, "it cannot follow 300 rad/s from rest"


# Contract


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    register()


def test_check_env() -> None:
    env = gymnasium.make("vidssl/Reorient-v0", meshes=[lump()], size=32, sensor=HARD, render_mode="rgb_array")
    check_env(env.unwrapped)


def test_made_by_gymnasium() -> None:
    with gymnasium.make("vidssl/Reorient-v0", meshes=[lump()], size=48) as env:
        seen, info = env.reset(seed=0)
        assert env.observation_space.contains(seen)
        assert seen["depth"].shape == seen["goal"].shape == (48, 48)
        assert info["K"][0, 0] == 300 * 48 / 128
        assert info["success"] is False


def test_same_seed_same_episode() -> None:
    def episode(env: ReorientEnv) -> list[np.ndarray]:
        seen = [env.reset(seed=3)[0]]
        seen += [env.step(np.array([0.3, -0.5, 0.1], np.float32))[0] for _ in range(4)]
        return [step[key] for step in seen for key in sorted(step)]

    env = make(sensor=HARD)
    first, again, other = episode(env), episode(env), episode(make(sensor=HARD))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert not np.array_equal(env.reset(seed=4)[0]["depth"], first[0])


def test_splits_share_no_object() -> None:
    train, test = ({mesh.name for mesh in ReorientEnv(split, limit=12).meshes} for split in ("train", "test"))
    assert train
    assert test
    assert train.isdisjoint(test)


# Episodes


def test_the_start_is_as_far_from_the_goal_as_asked() -> None:
    env = make(degrees=(40, 50))
    for seed in range(10):
        _, info = env.reset(seed=seed)
        assert 40 <= np.rad2deg(info["error"]) <= 50
        assert info["error"] == pytest.approx(np.deg2rad(angle(env.remaining)))


def test_the_goal_is_the_object_turned_by_what_remains() -> None:
    env = make([lump()], centre=0.0, size=64)
    seen, _ = env.reset(seed=0)
    turned = env.remaining @ env._wrist.rotation
    np.testing.assert_allclose(env._seen(turned, np.zeros(3), None), seen["goal"], atol=1e-6)


def test_encoders_say_how_far_it_has_turned() -> None:
    env = make()
    seen, _ = env.reset(seed=0)
    start = env._wrist.rotation
    np.testing.assert_allclose(seen["proprio"].reshape(3, 3), np.eye(3), atol=1e-6)
    for _ in range(5):
        seen, *_ = env.step(np.array([0.0, 1.0, 0.0], np.float32))
    np.testing.assert_allclose(seen["proprio"].reshape(3, 3) @ start, env._wrist.rotation, atol=1e-6)
    assert angle(seen["proprio"].reshape(3, 3)) == pytest.approx(np.rad2deg(0.5 * TOP_SPEED), abs=3)


def test_success_takes_one_second_within_five_degrees() -> None:
    env = make(degrees=(2, 3))
    env.reset(seed=0)
    ends = [env.step(STILL) for _ in range(10)]
    assert [end[2] for end in ends] == [False] * 9 + [True]
    assert ends[-1][4]["success"] is True
    assert ends[-1][1] == pytest.approx(1 - 0.01, abs=1e-3)


def test_passing_by_is_no_success() -> None:
    """16 steps near the goal in all, but with an excursion between: never one second on end."""
    env = make(degrees=(2, 3))
    env.reset(seed=0)
    rest = Rotation.from_matrix(env.remaining).as_rotvec()
    away = (-0.6 * rest / np.linalg.norm(rest)).astype(np.float32)
    steps = [env.step(action) for action in [STILL] * 8 + [away, -away] + [STILL] * 8]
    errors = [step[4]["error"] for step in steps]
    assert max(errors[:8] + errors[-8:]) < CLOSE < max(errors[8:10])
    assert not any(step[2] or step[4]["success"] for step in steps)


def test_time_out() -> None:
    env = make(degrees=(30, 30), max_steps=2)
    env.reset(seed=0)
    env.step(STILL)
    *_, terminated, truncated, info = env.step(STILL)
    assert (terminated, truncated, info["failure"]) == (False, True, "time-out")


def test_a_long_action_is_shortened_not_bent() -> None:
    turned = []
    for action in ([3.0, 4.0, 0.0], [0.6, 0.8, 0.0]):
        env = make()
        env.reset(seed=0)
        turned.append(env.step(np.array(action, np.float32))[0]["proprio"])
    np.testing.assert_allclose(turned[0], turned[1], atol=1e-6)


def test_the_stripe_hides_only_the_present_view() -> None:
    env = make([lump()], sensor=HARD, size=64, degrees=(0, 0))
    lost = np.array([[(seen["goal"] > 0).sum(), (seen["depth"] > 0).sum()] for seen in _first_views(env, 12)])
    assert lost[:, 1].mean() < 0.95 * lost[:, 0].mean()


def _first_views(env: ReorientEnv, count: int) -> list[dict[str, np.ndarray]]:
    return [env.reset(seed=seed)[0] for seed in range(count)]


def test_render_shows_the_object_now_and_at_the_goal() -> None:
    env = make(render_mode="rgb_array", degrees=(0, 0), centre=0.0)
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.shape == (256, 512, 3)
    np.testing.assert_array_equal(picture[:, :256], picture[:, 256:])
    assert picture.max() > 100
    assert make().render() is None


# Symmetric objects


def test_a_box_turned_over_is_at_its_goal() -> None:
    group = symmetries(box(0.08, 0.05, 0.03))
    goal = Rotation.random(random_state=0).as_matrix()
    half_turn = np.diag([1.0, -1, -1])
    tilt = Rotation.from_rotvec([0, np.deg2rad(7), 0]).as_matrix()
    assert angle(smallest_rest(goal @ half_turn, goal, group)) < 1e-4
    np.testing.assert_allclose(smallest_rest(tilt @ goal @ half_turn, goal, group), tilt, atol=1e-6)


def test_revolutions_against_many_turns() -> None:
    flip = np.diag([-1.0, 1, -1])
    group = Symmetry(np.stack([np.eye(3), flip]).astype(np.float32), np.array([0, 0, 1], np.float32), "axis")
    for seed in range(10):
        goal, now = Rotation.random(2, random_state=seed).as_matrix()
        tried = min(angle(goal @ turn @ now.T) for turn in group.sampled(720))
        assert tried - 0.3 < angle(smallest_rest(goal, now, group)) <= tried + 1e-4
    assert angle(smallest_rest(goal, now, Symmetry(np.eye(3, dtype=np.float32)[None], None, "all"))) == 0


def test_info_tells_symmetric_objects() -> None:
    assert make([box(0.08, 0.05, 0.03)]).reset(seed=0)[1]["symmetric"]
    assert not make([lump()]).reset(seed=0)[1]["symmetric"]


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "unknown split 'val'.*test, train"),
        ({"render_mode": "human"}, "unknown render mode 'human'.*rgb_array"),
        ({"degrees": (30, 0)}, r"degrees: got \(30, 0\)"),
        ({"degrees": (0, 200)}, "within 0 to 180"),
        ({"size": 8}, "size: got 8"),
        ({"centre": 0.1}, "centre: got 0.1; from 0 to 0.03 m"),
        ({"max_steps": 0}, "max_steps: got 0; at least 1"),
        ({"meshes": []}, "meshes: got an empty list"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        ReorientEnv(**{"meshes": [lump()], **options})


@pytest.mark.parametrize("action", [[0.0, 0.0], [np.nan, 0, 0], "left", [[0.0, 0, 0]]])
def test_wrong_actions(action: Any) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(VidsslError, match="action: expected 3 finite numbers"):
        env.step(action)


def test_balls_have_no_orientation() -> None:
    k = np.arange(500) + 0.5  # a spiral from pole to pole
    z, turn = 1 - k / 250, np.pi * (1 + 5**0.5) * k
    points = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    ball = Mesh("ball", (0.1 * points).astype(np.float32), ConvexHull(points).simplices.astype(np.int32))
    with pytest.raises(VidsslError, match="all are balls"):
        make([ball]).reset(seed=0)
    assert {make([ball, lump()]).reset(seed=seed)[1]["object"] for seed in range(5)} == {"lump0"}
