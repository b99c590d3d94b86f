"""The rover's world made harder: difficulties, hills, sand, dusk, dust, noise; and that its default stays as it was."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vidssl.errors import VidsslError
from vidssl.robot.expert import RoverExpert, expert_for
from vidssl.robot.looks import DAYLIGHT, Weather
from vidssl.robot.registration import VARIANTS
from vidssl.robot.rover_sensors import LOST, STEREO, Sensors
from vidssl.robot.rover_worlds import DIFFICULTIES, World
from vidssl.robot.terrain import HALF, NODES, make_layout

ID = "vidssl/Rover-v0"
FULL = np.ones(2, np.float32)
ALL: dict[str, Any] = {
    "difficulty": "extreme",
    "daylight": "dusk",
    "dust": 0.5,
    "camera_noise": 1.0,
    "depth_noise": 1.0,
    "proprio_noise": 1.0,
}


def drive(env: gymnasium.Env, seed: int, steps: int) -> list[dict[str, np.ndarray]]:
    """Observations of an episode's start under fixed actions."""
    rng = np.random.default_rng(seed)
    return [env.reset(seed=seed)[0], *(env.step(rng.uniform(-0.2, 1, 2).astype(np.float32))[0] for _ in range(steps))]


# The default


def test_the_default_is_the_world_it_always_was(make: Callable[..., gymnasium.Env]) -> None:
    """Numbers from before there were difficulties; pictures as means of 16x16 blocks, since renderers differ a bit."""
    env = make(split="test", depth=True)
    seen = drive(env, 11, 12)
    layout = env.unwrapped.layout  # type: ignore[attr-defined]
    assert layout.number == 282728865861
    assert layout.start.tolist() == pytest.approx([2.076513, 1.198435, -1.972994], abs=1e-5)
    assert layout.goal.tolist() == pytest.approx([3.294071, -2.870926], abs=1e-5)
    assert layout.rock.tolist() == [20, 17, 4, 15, 21, 2, 0, 22, 26, 24, 7, 8, 19, 9, 14, 11]
    assert layout.heights.sum() == pytest.approx(282.1135, abs=1e-3)
    assert layout.cost_to_go[np.isfinite(layout.cost_to_go)].sum() == pytest.approx(49986.733, abs=0.1)
    blocks = seen[-1]["image"].mean(axis=-1).reshape(4, 16, 4, 16).mean(axis=(1, 3))
    was = [[169.3, 174.2, 174.4, 170.2], [127.5, 129, 133.9, 137.3], [89.1, 81.4, 88.6, 98.4], [87.9, 95.4, 103, 101.8]]
    np.testing.assert_allclose(blocks, was, atol=2)
    assert seen[-1]["proprio"].tolist() == pytest.approx([0.431, 0.3591, -0.0603, 0.0248, -0.0039], abs=0.01)
    assert seen[-1]["depth"].mean() == pytest.approx(1.6386, abs=0.05)


# Worlds


def test_difficulties_are_in_order() -> None:
    worlds = [DIFFICULTIES[name] for name in ("easy", "standard", "hard", "extreme")]
    for easier, harder in pairwise(worlds):
        for field in ("distance", "rocks", "roughness", "slope", "sand", "steps"):
            assert np.max(getattr(easier, field)) <= np.max(getattr(harder, field))


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_layouts_keep_the_promises_of_their_world(difficulty: str) -> None:
    world = DIFFICULTIES[difficulty]
    for number in range(8):
        layout = make_layout(number, world)
        assert world.distance[0] <= np.hypot(*(layout.goal - layout.start[:2])) <= world.distance[1]
        assert len(layout.rock) <= world.rocks[1]
        gaps = np.linalg.norm(layout.rock_xy[:, None] - layout.rock_xy, axis=-1)
        gaps -= layout.rock_radius[:, None] + layout.rock_radius
        assert gaps[np.triu_indices(len(gaps), 1)].min() > world.passage
        assert 0 <= layout.heights.min() <= layout.heights.max() <= world.top
        if layout.sand is not None:
            assert (layout.sand > 0.5).mean() == pytest.approx(world.sand, abs=0.01)


@pytest.mark.parametrize("degrees", [8.0, 25.0])
def test_hills_are_as_steep_as_said(degrees: float) -> None:
    plain, hilly = World(), World(slope=degrees)
    for number in range(4):
        hills = make_layout(number, hilly).heights - make_layout(number, plain).heights
        rise = np.hypot(np.diff(hills, axis=0)[:, :-1], np.diff(hills, axis=1)[:-1]) / (2 * HALF / (NODES - 1))
        assert np.rad2deg(np.arctan(rise.max())) == pytest.approx(degrees, rel=1e-6)


def test_hills_and_sand_leave_the_rest_of_a_layout() -> None:
    plain, other = make_layout(5), make_layout(5, World(slope=15.0, sand=0.3))
    for field in ("rock", "rock_xy", "rock_yaw", "rock_shade", "start", "goal", "sun", "tint"):
        np.testing.assert_array_equal(getattr(plain, field), getattr(other, field), err_msg=field)
    assert plain.sand is None
    assert not plain.looseness(plain.goal[None]).any()
    middle = other.looseness(np.zeros((1, 2)))
    assert middle == other.sand[36, 36]  # type: ignore[index]


def test_wheels_slip_on_sand(make: Callable[..., gymnasium.Env]) -> None:
    """Flat ground, full speed: firm ground gives the rim's speed, loose sand two thirds of it."""
    advance = {}
    for sand in (0.0, 0.8):
        env = make(pixels=False, sand=sand, max_steps=60)
        env.reset(seed=3)
        rover: Any = env.unwrapped
        flat = rover.layout.heights * 0
        object.__setattr__(rover.layout, "heights", flat)
        rover._model.hfield_data[:] = 0
        if sand:
            object.__setattr__(rover.layout, "sand", np.ones_like(rover.layout.sand))
        rover._data.mocap_pos[:, 2] = -20  # no rocks
        rover._data.qpos[:7] = (-6, 0, 0.2, 1, 0, 0, 0)
        rover._data.qvel[:] = 0
        for _ in range(40):
            seen = env.step(FULL)[0]
        begin = rover.pose[0]
        for _ in range(10):
            seen = env.step(FULL)[0]
        advance[sand] = (rover.pose[0] - begin) / seen["proprio"][:2].mean()
    assert advance[0.0] == pytest.approx(1.0, abs=0.05)
    assert advance[0.8] == pytest.approx(0.67, abs=0.08)


def test_expert_goes_round_sand() -> None:
    layout, sandy = make_layout(5), make_layout(5, World(sand=0.4))
    assert (sandy.cost_to_go[np.isfinite(sandy.cost_to_go)] >= layout.cost_to_go[np.isfinite(layout.cost_to_go)]).all()


@pytest.mark.parametrize(("difficulty", "least"), [("easy", 5), ("hard", 4)])
def test_expert_arrives(difficulty: str, least: int, make: Callable[..., gymnasium.Env]) -> None:
    env = make(pixels=False, difficulty=difficulty)
    arrived = 0
    for seed in range(5):
        seen, info = env.reset(seed=seed)
        expert, done = expert_for(env), False
        while not done:
            seen, _, terminated, truncated, info = env.step(expert(seen, info))
            done = terminated or truncated
        arrived += info["success"]
    assert arrived >= least


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_by_id(name: str) -> None:
    env: Any = gymnasium.make(name, pixels=False)
    assert env.unwrapped.max_steps == DIFFICULTIES[VARIANTS[name][1]["difficulty"]].steps
    env.reset(seed=0)
    assert isinstance(expert_for(env), RoverExpert)
    env.close()


# Weather


def test_dusk_is_dim_and_the_sun_low(make: Callable[..., gymnasium.Env]) -> None:
    day, dusk = (make(daylight=name).reset(seed=2)[0]["image"].astype(float) for name in DAYLIGHT)
    assert dusk.mean() < 0.6 * day.mean()
    ground = dusk[40:].mean(axis=(0, 1))
    assert ground[0] > 1.5 * ground[2]  # red
    for number in range(20):
        layout = make_layout(number)
        assert np.deg2rad(4.9) < Weather("dusk").elevation(layout) < np.deg2rad(14.1)
        assert Weather().elevation(layout) == layout.sun[1]


def test_dust_hides_what_is_far(make: Callable[..., gymnasium.Env]) -> None:
    contrast, returns = [], []
    far = make(depth=True).reset(seed=2)[0]["depth"][..., 0] > 5
    for dust in (0.0, 0.5, 1.0):
        seen, _ = make(depth=True, dust=dust).reset(seed=2)
        contrast.append(seen["image"][far].astype(float).std(axis=0).mean())
        returns.append((seen["depth"] > 0).mean())
    assert contrast[0] > contrast[1] > contrast[2]
    assert returns[0] > returns[1] > returns[2]


# Sensors


def test_camera_noise_grows_with_strength_and_shows_in_the_dark() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    spread = [Sensors(camera=strength).see(grey, 0, 0).astype(float).std() for strength in (0.0, 0.5, 1.0, 3.0)]
    assert spread[0] == 0
    assert spread[0] < spread[1] < spread[2] < spread[3]
    # Half light of 1000 electrons is 0.22 linear: shot noise of 1.5 %, times the slope of the gamma curve.
    assert spread[2] == pytest.approx(255 / 2.2 * 0.22 ** (1 / 2.2 - 1) * (0.22 / 1000) ** 0.5, rel=0.35)
    dark = Sensors(camera=1.0).see(np.full((64, 64, 3), 25, np.uint8), 0, 0)
    assert dark.std() / dark.mean() > 2 * spread[2] / 128


def test_depth_noise_is_that_of_stereo() -> None:
    sensors = Sensors(depth=1.0)
    for metres in (2.0, 8.0):
        measured = sensors.range(np.full((128, 128), metres, np.float32), 0, 0, 20.0)
        kept = measured[measured > 0]
        assert len(kept) / measured.size == pytest.approx(1 - LOST, abs=0.005)
        assert kept.std() == pytest.approx(STEREO * metres**2, rel=0.05)
    assert not sensors.range(np.zeros((8, 8), np.float32), 0, 0, 20.0).any()  # no return stays none
    assert sensors.range(np.full((64, 64), 19.9, np.float32), 0, 0, 20.0).max() <= 20


def test_proprio_noise_has_an_offset_an_episode() -> None:
    still = np.zeros(5, np.float32)
    felt = np.array([[Sensors(proprio=1.0).feel(still, n, k) for k in range(50)] for n in range(30)])
    assert felt.dtype == np.float32
    assert (felt.mean(axis=1).std(axis=0) > 0.005).all()
    assert felt.std(axis=1).mean(axis=0) == pytest.approx([0.02, 0.02, 0.01, 0.01, 0.03], rel=0.1)
    assert Sensors().feel(still, 0, 0) is still


# Contract


def test_everything_at_once(make: Callable[..., gymnasium.Env]) -> None:
    check_env(make(**ALL, depth=True, size=24, render_mode="rgb_array", render_size=(36, 48)).unwrapped)


def test_same_seed_same_noise(make: Callable[..., gymnasium.Env]) -> None:
    one, two = make(**ALL, depth=True, size=32), make(**ALL, depth=True, size=32)
    first = drive(one, 3, 5)
    drive(one, 8, 3)
    for a, b, c in zip(first, drive(one, 3, 5), drive(two, 3, 5), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
            np.testing.assert_array_equal(a[key], c[key], err_msg=key)
    rover: Any = one.unwrapped
    again, twice = rover.observe(), rover.observe()  # looking changes nothing
    np.testing.assert_array_equal(again["image"], twice["image"])
    assert (first[1]["image"] != first[2]["image"]).mean() > 0.5


def test_pixels_can_be_switched_off_between_episodes(make: Callable[..., gymnasium.Env]) -> None:
    env = make(**ALL, depth=True, size=16)
    rover: Any = env.unwrapped
    rover.pixels = False
    seen, _ = env.reset(seed=0)
    assert not seen["image"].any()
    assert not seen["depth"].any()
    rover.pixels = True
    assert env.reset(seed=0)[0]["image"].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"difficulty": "medium"}, ["medium", "easy", "extreme"]),
        ({"daylight": "night"}, ["night", "day", "dusk"]),
        ({"slope": 40.0}, ["slope", "40", "25"]),
        ({"slope": -1.0}, ["slope", "-1"]),
        ({"sand": 0.9}, ["sand", "0.9", "0.8"]),
        ({"dust": 1.5}, ["dust", "1.5"]),
        ({"camera_noise": -1.0}, ["camera_noise"]),
        ({"depth_noise": float("nan")}, ["depth_noise", "nan"]),
        ({"proprio_noise": "much"}, ["proprio_noise", "much"]),
    ],
)
def test_wrong_options(options: dict[str, Any], words: list[str], make: Callable[..., gymnasium.Env]) -> None:
    with pytest.raises(VidsslError) as caught:
        make(**options)
    assert all(word in str(caught.value) for word in words)
