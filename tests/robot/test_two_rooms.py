"""Two Rooms: the contract, strict walls, pictures, layouts, the batched form, its errors."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vidssl.errors import VidsslError
from vidssl.robot.expert import expert_for
from vidssl.robot.registration import register
from vidssl.robot.rooms import (
    BORDER,
    DOOR,
    GAP,
    RADIUS,
    STEP,
    WALL,
    Layouts,
    draw_agents,
    draw_doorways,
    draw_layouts,
    draw_places,
    draw_rooms,
    forbidden,
    free_way,
    move,
    split_cells,
)
from vidssl.robot.two_rooms import REACHED, TwoRoomsBatch, TwoRoomsEnv

ID = "vidssl/TwoRooms-v0"
register()


def one(wall: float = 0.5, door: float = 0.5, count: int = 1) -> Layouts:
    return Layouts(np.full(count, wall), np.full(count, door), np.zeros(count, np.int64))


def make(**options: Any) -> gymnasium.Env:
    return gymnasium.make(ID, disable_env_checker=True, **options)


def test_check_env() -> None:
    check_env(gymnasium.make(ID, render_mode="rgb_array", size=32).unwrapped)


def test_same_seed_same_episode_to_the_pixel() -> None:
    def drive(env: gymnasium.Env) -> list[np.ndarray]:
        seen, _ = env.reset(seed=5)
        rng = np.random.default_rng(0)
        frames = [seen["image"], seen["goal"]]
        for _ in range(10):
            frames.append(env.step(rng.uniform(-1, 1, 2).astype(np.float32))[0]["image"])
        return frames

    one_env, other = make(), make()
    other.reset(seed=1)
    for a, b in zip(drive(one_env), drive(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_move_worked_by_hand() -> None:
    """Straight at the wall the middle stops a radius and the gap before it; through the door it goes on."""
    start, ahead = np.array([[0.4, 0.2]]), np.array([[0.2, 0.0]])
    after, stopped = move(start, ahead, forbidden(one()))
    assert stopped[0]
    np.testing.assert_allclose(after, [[0.5 - WALL / 2 - RADIUS - GAP, 0.2]])
    after, stopped = move(np.array([[0.4, 0.5]]), ahead, forbidden(one()))
    assert not stopped[0]
    np.testing.assert_allclose(after, [[0.6, 0.5]])
    after, stopped = move(np.array([[0.2, 0.2]]), np.array([[-1.0, 0.0]]), forbidden(one()))
    assert stopped[0]
    np.testing.assert_allclose(after, [[BORDER + RADIUS + GAP, 0.2]])


def test_the_agent_never_overlaps_a_wall_however_long_the_step() -> None:
    """Random walks with steps up to half the world: the disc stays clear of walls, and sides change in doors only."""
    rng = np.random.default_rng(0)
    layouts = draw_layouts(rng, 300, "train")
    places = draw_places(rng, layouts, rng.random(300) < 0.5)
    walls = forbidden(layouts)
    for _ in range(100):
        before = places
        places, _ = move(before, rng.uniform(-0.5, 0.5, (300, 2)), walls)
        assert (places > BORDER + RADIUS).all()
        assert (places < 1 - BORDER - RADIUS).all()
        beside = np.abs(places[:, 0] - layouts.wall) < WALL / 2 + RADIUS
        assert (np.abs(places - layouts.door[:, None])[beside, 1] < DOOR / 2 - RADIUS).all()
        crossed = (before[:, 0] < layouts.wall) != (places[:, 0] < layouts.wall)
        t = ((layouts.wall - before[:, 0]) / np.where(crossed, places[:, 0] - before[:, 0], 1))[crossed]
        height = before[crossed, 1] + t * (places - before)[crossed, 1]
        assert (np.abs(height - layouts.door[crossed]) < DOOR / 2 - RADIUS).all()


def test_no_way_through_the_wall_leads_around_the_door() -> None:
    assert not free_way(np.array([[0.3, 0.2]]), np.array([[0.7, 0.2]]), one())[0]
    assert free_way(np.array([[0.3, 0.5]]), np.array([[0.7, 0.5]]), one())[0]
    assert free_way(np.array([[0.3, 0.2]]), np.array([[0.3, 0.8]]), one())[0]


def test_splits_are_disjoint_and_spread_out() -> None:
    train, test = set(split_cells("train").tolist()), set(split_cells("test").tolist())
    assert not train & test
    assert len(test) / (len(train) + len(test)) == pytest.approx(0.2, abs=0.01)
    rng = np.random.default_rng(0)
    assert set(draw_layouts(rng, 500, "test").number.tolist()) <= test
    seen = {make(split=split).reset(seed=k)[1]["layout"] for split in ("test",) for k in range(20)}
    assert seen <= test


def test_goals_are_in_the_other_room() -> None:
    batch = TwoRoomsBatch(200, "test", 16)
    assert ((batch.places[:, 0] < batch.layouts.wall) != (batch.goals[:, 0] < batch.layouts.wall)).all()
    inside = draw_doorways(np.random.default_rng(0), batch.layouts)
    assert not move(inside, np.full_like(inside, 1e-9), forbidden(batch.layouts))[1].any()


def test_pictures() -> None:
    """Wall, door and border are where they should be; an agent between pixels is spread over them by area."""
    rooms = draw_rooms(one(), 64)[0].astype(int)
    assert (rooms[:4] > 180).all()
    assert (rooms[10, 31:33] > 180).all()
    assert (rooms[32, 31:33] < 40).all()
    assert (rooms[20, 10:20] < 40).all()
    a, b = (draw_agents(draw_rooms(one(), 64), np.array([[x / 64, 0.3]]))[0].astype(int) for x in (20.0, 20.4))
    red = [(picture[..., 0] - draw_rooms(one(), 64)[0, ..., 0]) for picture in (a, b)]
    centres = [(r.sum(0) * (np.arange(64) + 0.5)).sum() / r.sum() for r in red]
    assert centres[0] == pytest.approx(20.0, abs=0.02)
    assert centres[1] == pytest.approx(20.4, abs=0.08)


def test_batched_form_is_the_environment() -> None:
    env = make()
    seen, _ = env.reset(seed=3)
    inner: Any = env.unwrapped
    batch = TwoRoomsBatch(1)
    batch.begin(inner.layouts)
    batch.places, batch.goals = inner.place.copy(), inner.goal.copy()
    np.testing.assert_array_equal(batch.goal_pictures()[0], seen["goal"])
    rng = np.random.default_rng(1)
    for _ in range(15):
        action = rng.uniform(-1.5, 1.5, 2).astype(np.float32)
        pictures, there, _ = batch.step(action[None])
        seen, _, terminated, _, info = env.step(action)
        np.testing.assert_array_equal(pictures[0], seen["image"])
        assert terminated == there[0] == info["success"]


def test_expert_reaches_every_goal_and_bumps_nowhere() -> None:
    env = make(split="test")
    for seed in range(40):
        observation, info = env.reset(seed=seed)
        expert = expert_for(env)
        over = False
        while not over:
            observation, reward, terminated, truncated, info = env.step(expert(observation, info))
            over = terminated or truncated
        assert info["success"]
        assert info["bumps"] == 0
        assert reward == pytest.approx(0.995)


def test_time_out_and_bumps() -> None:
    env = make(max_steps=40)
    env.reset(seed=0)
    for _ in range(40):
        _, _, terminated, truncated, info = env.step(np.array([0, -1], np.float32))
    assert (terminated, truncated, info["failure"]) == (False, True, "time-out")
    assert info["bumps"] > 5


def test_reached_is_within_the_radius() -> None:
    env = make()
    env.reset(seed=0)
    inner: Any = env.unwrapped
    inner.place = inner.goal + np.array([[REACHED + 0.5 * STEP, 0]])
    way = np.array([-0.6, 0], np.float32)
    *_, info = env.step(way)
    assert info["success"] == (info["distance"] < REACHED)
    assert info["success"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "dev"}, ["'dev'", "test, train"]),
        ({"size": 8}, ["8", "16 to 512"]),
        ({"max_steps": 0}, ["max_steps"]),
        ({"render_mode": "human"}, ["human", "rgb_array"]),
    ],
)
def test_wrong_options(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(VidsslError) as caught:
        TwoRoomsEnv(**options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("action", [[np.nan, 0], [0.0], "go", None])
def test_wrong_actions(action: Any) -> None:
    env = TwoRoomsEnv()
    env.reset(seed=0)
    with pytest.raises(VidsslError, match="action"):
        env.step(action)


def test_wrong_split_of_layouts() -> None:
    with pytest.raises(VidsslError, match="'dev'"):
        draw_layouts(np.random.default_rng(0), 1, "dev")


def test_expert_refuses_another_environment() -> None:
    from vidssl.robot.two_rooms import TwoRoomsExpert

    with pytest.raises(TypeError, match="TwoRoomsEnv"):
        TwoRoomsExpert(gymnasium.make("CartPole-v1"))
