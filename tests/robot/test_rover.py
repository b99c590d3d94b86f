"""The rover's world: layouts, physics, determinism, rendering and its errors."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vidssl import rendering
from vidssl.errors import VidsslError
from vidssl.robot.registration import register
from vidssl.robot.rover_rocks import rock_bank
from vidssl.robot.rover_worlds import PASSAGE
from vidssl.robot.terrain import (
    GOAL_BEARING,
    ROVER_RADIUS,
    _wavefront,
    layout_number,
    make_layout,
    plan_cell,
    plan_centres,
)

ID = "vidssl/Rover-v0"
FULL = np.ones(2, np.float32)


def drive(env: gymnasium.Env, seed: int, steps: int = 12) -> list[dict[str, np.ndarray]]:
    """Observations of an episode's start under fixed actions."""
    rng = np.random.default_rng(seed)
    seen = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        seen.append(env.step(rng.uniform(-0.2, 1, 2).astype(np.float32))[0])
    return seen


def assert_same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> None:
    for a, b in zip(one, other, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# Contract


def test_check_env(make: Callable[..., gymnasium.Env]) -> None:
    check_env(make(depth=True, render_mode="rgb_array", size=32, render_size=(48, 64)).unwrapped)


def test_registering_twice_is_quiet() -> None:
    register()
    register()
    assert ID in gymnasium.registry


def test_registration_does_not_load_mujoco() -> None:
    code = "import vidssl.robot.registration, sys; assert 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_observation_spaces(make: Callable[..., gymnasium.Env]) -> None:
    env = make(size=48, depth=True)
    seen, info = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    assert seen["image"].shape == (48, 48, 3)
    assert seen["proprio"].shape == (5,)
    assert seen["depth"].shape == (48, 48, 1)
    assert seen["depth"].dtype == np.float32
    assert info["success"] is False
    assert info["failure"] is None


# Layouts


def test_splits_share_no_layout() -> None:
    train = {layout_number("train", k) for k in range(100)}
    assert train.isdisjoint(layout_number("test", k) for k in range(100))


def test_split_decides_the_layout(make: Callable[..., gymnasium.Env]) -> None:
    numbers = [make(split=s, pixels=False).reset(seed=1)[1]["layout"] for s in ("train", "test")]
    assert [n % 2 for n in numbers] == [0, 1]


def test_layouts_keep_their_promises() -> None:
    for number in range(40):
        layout = make_layout(number)
        x, y, yaw = layout.start
        east, north = layout.goal - (x, y)
        bearing = (np.arctan2(north, east) - yaw + np.pi) % (2 * np.pi) - np.pi
        assert abs(bearing) <= GOAL_BEARING + 1e-9
        assert 4 <= np.hypot(east, north) <= 8
        assert 12 <= len(layout.rock) <= 28
        gaps = np.linalg.norm(layout.rock_xy[:, None] - layout.rock_xy, axis=-1)
        gaps -= layout.rock_radius[:, None] + layout.rock_radius
        assert gaps[np.triu_indices(len(gaps), 1)].min() > PASSAGE > 2 * ROVER_RADIUS
        for end in (layout.start[:2], layout.goal):
            assert (np.linalg.norm(layout.rock_xy - end, axis=1) - layout.rock_radius).min() > ROVER_RADIUS


def test_a_rock_free_way_exists() -> None:
    """Walks down the cost field and measures the clearance of every cell on the way."""
    for number in range(30):
        layout = make_layout(number)
        cost = layout.cost_to_go
        cell, end = plan_cell(layout.start[:2]), plan_cell(layout.goal)
        for _ in range(200):
            if cell == end:
                break
            block = cost[cell[0] - 1 : cell[0] + 2, cell[1] - 1 : cell[1] + 2]
            down = np.unravel_index(block.argmin(), block.shape)
            cell = (cell[0] - 1 + int(down[0]), cell[1] - 1 + int(down[1]))
            gap = np.linalg.norm(layout.rock_xy - plan_centres()[cell], axis=1) - layout.rock_radius
            assert gap.min() > ROVER_RADIUS - 0.05
        assert cell == end


def test_cost_to_go_worked_by_hand() -> None:
    """Far from rocks the cost is the 8-neighbour path length: 2 diagonal and 1 straight step of 0.25 m."""
    cost = _wavefront(np.ones((5, 5)), (0, 0))
    assert cost[0, 0] == 0
    assert cost[2, 3] == pytest.approx(0.25 * (2 * 2**0.5 + 1))
    wall = np.ones((3, 3))
    wall[:, 1] = 9.0  # entering and leaving the wall costs (1 + 9) / 2 a cell each
    assert _wavefront(wall, (1, 0))[1, 2] == pytest.approx(0.25 * 10)


def test_rock_bank_is_closed_and_outward() -> None:
    for rock in rock_bank():
        a, b, c = np.moveaxis(rock.vertices[rock.faces], 1, 0)
        edges = np.sort(np.concatenate([rock.faces[:, [0, 1]], rock.faces[:, [1, 2]], rock.faces[:, [2, 0]]]), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
        assert (np.cross(a, b) * c).sum() > 0  # signed volume


# Determinism


def test_same_seed_same_episode(make: Callable[..., gymnasium.Env]) -> None:
    """Equal to the bit: in the same environment after another episode, in a second one beside it, and interleaved."""
    one, two = make(depth=True, size=40), make(depth=True, size=40)
    first = drive(one, 3)
    other = drive(two, 4)
    drive(one, 8)
    assert_same(first, drive(one, 3))
    assert_same(first, drive(two, 3))
    assert_same(other, drive(one, 4))
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))


def test_render_and_blind_runs_change_nothing(make: Callable[..., gymnasium.Env]) -> None:
    filmed, blind = make(render_mode="rgb_array", render_size=(60, 80)), make(pixels=False)
    plain = drive(make(), 6)
    seen = [filmed.reset(seed=6)[0]]
    rng = np.random.default_rng(6)
    for _ in range(12):
        picture = filmed.render()
        assert picture.shape == (60, 80, 3)
        seen.append(filmed.step(rng.uniform(-0.2, 1, 2).astype(np.float32))[0])
    assert_same(plain, seen)
    for a, b in zip(plain, drive(blind, 6), strict=True):
        np.testing.assert_array_equal(a["proprio"], b["proprio"])
        assert not b["image"].any()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_see_the_same(mode: str, make: Callable[..., gymnasium.Env]) -> None:
    alone = [drive(make(size=24), seed, 3) for seed in (7, 8)]
    # Hardware GL does not survive a fork once the parent has rendered.
    how = {"context": "spawn"} if mode == "async" and not rendering._forkable else {}
    venv = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, vector_kwargs=how, size=24)
    rngs = [np.random.default_rng(seed) for seed in (7, 8)]
    seen, _ = venv.reset(seed=[7, 8])
    for k in range(4):
        for row in range(2):
            np.testing.assert_array_equal(seen["image"][row], alone[row][k]["image"])
        seen = venv.step(np.stack([rng.uniform(-0.2, 1, 2).astype(np.float32) for rng in rngs]))[0]
    venv.close()


def test_resets_do_not_pile_up_memory(make: Callable[..., gymnasium.Env]) -> None:
    env = make(size=16)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for seed in range(10):
        env.reset(seed=seed)
    before = resident()
    for seed in range(60):
        env.reset(seed=seed)
    assert resident() - before < 15e6  # one ground texture is 0.8 MB


# Physics and ends


def test_wheels_drive_and_turn(make: Callable[..., gymnasium.Env]) -> None:
    env = make(pixels=False)
    env.reset(seed=2)
    rover: Any = env.unwrapped
    yaw = rover.pose[2]
    for _ in range(8):
        seen, *_ = env.step(np.array([-0.6, 0.6], np.float32))
    assert 0.3 < (rover.pose[2] - yaw + np.pi) % (2 * np.pi) - np.pi < 1.5  # right wheels forward: turns left
    assert seen["proprio"][4] > 0.2
    here = rover.pose
    for _ in range(10):
        seen, *_ = env.step(FULL)
    there = rover.pose
    ahead = (there - here)[:2] @ [np.cos(here[2]), np.sin(here[2])]
    assert 0.5 < ahead < 0.95
    assert seen["proprio"][:2] == pytest.approx([0.85, 0.85], abs=0.1)


def place(env: gymnasium.Env, x: float, y: float, yaw: float) -> None:
    """Put the rover down elsewhere in the present layout."""
    rover: Any = env.unwrapped
    rover._data.qpos[:7] = (x, y, rover.layout.height(np.array([x, y])) + 0.2, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))


def test_success_and_reward(make: Callable[..., gymnasium.Env]) -> None:
    env = make(pixels=False)
    env.reset(seed=0)
    rover: Any = env.unwrapped
    place(env, *(rover.layout.goal - (1.3, 0)), 0.0)
    rover._distance = 1.3
    total = 0.0
    steps = 0
    while steps < 20:
        steps += 1
        _, reward, terminated, truncated, info = env.step(FULL)
        total += reward
        if terminated:
            break
    assert info["success"] is True
    assert info["failure"] is None
    assert not truncated
    assert info["distance"] < 1.0
    assert total == pytest.approx(1.3 - info["distance"] - 0.01 * steps + 10)


def test_driving_into_a_rock_is_a_collision(make: Callable[..., gymnasium.Env]) -> None:
    env = make(pixels=False)
    env.reset(seed=0)
    layout = env.unwrapped.layout  # type: ignore[attr-defined]
    big = int(layout.rock_radius.argmax())
    place(env, *(layout.rock_xy[big] - (layout.rock_radius[big] + 0.7, 0)), 0.0)
    for _ in range(20):
        _, reward, terminated, _, info = env.step(FULL)
        if terminated:
            break
    assert info["failure"] == "collision"
    assert info["success"] is False
    assert reward < -4


def test_rolling_over_is_a_tip_over(make: Callable[..., gymnasium.Env]) -> None:
    env = make(pixels=False)
    env.reset(seed=0)
    data = env.unwrapped._data  # type: ignore[attr-defined]
    data.qpos[2] += 1.0
    data.qpos[3:7] = (np.cos(0.5), np.sin(0.5), 0, 0)  # 57 degrees of roll
    _, _, terminated, _, info = env.step(0 * FULL)
    assert terminated
    assert info["failure"] == "tip-over"


def test_time_out_truncates(make: Callable[..., gymnasium.Env]) -> None:
    env = make(pixels=False, max_steps=3)
    env.reset(seed=0)
    ends = [env.step(0 * FULL)[2:] for _ in range(3)]
    assert [e[1] for e in ends] == [False, False, True]
    assert ends[-1][2]["failure"] == "time-out"
    assert not ends[-1][0]


# Looks


def test_beacon_is_in_view_and_its_depth_is_right(make: Callable[..., gymnasium.Env]) -> None:
    env = make(depth=True)
    close = 0
    for seed in range(6):
        seen, info = env.reset(seed=seed)
        red, green, blue = np.moveaxis(seen["image"].astype(int), -1, 0)
        cyan = (green > red + 60) & (blue > red + 60)
        assert cyan.any()
        # The mast stands 0.18 m ahead of the centre; depth is along the axis, the beacon up to 40 degrees off it.
        along = np.median(seen["depth"][cyan])
        close += 0.6 * info["distance"] - 0.8 < along < info["distance"] + 0.6
        assert (seen["depth"][0] == 0).mean() > 0.5  # sky
        ground = seen["depth"][-1, :, 0]
        assert ((ground > 0.5) & (ground < 2.0)).all()
    assert close == 6


def test_sunlight_differs_between_layouts(make: Callable[..., gymnasium.Env]) -> None:
    env = make()
    means = [env.reset(seed=seed)[0]["image"][48:].mean() for seed in range(4)]
    assert np.ptp(means) > 5


# Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "dev"}, ["'dev'", "test, train"]),
        ({"size": 8}, ["8", "16 to 512"]),
        ({"size": 64.0}, ["64.0"]),
        ({"max_steps": 0}, ["max_steps"]),
        ({"render_size": (240, 9)}, ["render_size", "(240, 9)"]),
    ],
)
def test_wrong_options(options: dict[str, Any], words: list[str], make: Callable[..., gymnasium.Env]) -> None:
    with pytest.raises(VidsslError) as caught:
        make(**options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("action", [[np.nan, 0], [np.inf, 0], [0.0], [[0.0, 0.0]], "go", None])
def test_wrong_actions(action: Any, make: Callable[..., gymnasium.Env]) -> None:
    env = make(pixels=False).unwrapped
    env.reset(seed=0)
    with pytest.raises(VidsslError, match="action"):
        env.step(action)


WITHOUT_GL = f"""
import ctypes, gymnasium, vidssl.robot.registration
from vidssl.errors import VidsslError

class NoGL(ctypes.CDLL):  # as on a machine without libEGL and libGL
    def __init__(self, name, *rest, **more):
        if name and any(part in str(name) for part in ("EGL", "libGL", "OpenGL")):
            raise OSError(f"{{name}}: cannot open shared object file")
        super().__init__(name, *rest, **more)

ctypes.cdll._dlltype = NoGL
try:
    env = gymnasium.make("{ID}", size=16, pixels=%s)
    env.reset(seed=0)
    print("distance", env.step(env.action_space.sample())[4]["distance"])
except VidsslError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("backend", "pixels", "answer"),
    [
        ("egl", True, ["libegl1", "set MUJOCO_GL=egl"]),
        ("", True, ["libegl1", "set MUJOCO_GL=egl"]),
        ("disabled", True, ["libegl1", "set MUJOCO_GL=egl"]),
        ("disabled", False, ["distance"]),
    ],
)
def test_missing_gl_names_package_and_setting(backend: str, pixels: bool, answer: list[str]) -> None:
    setting = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY")}
    if backend:
        setting["MUJOCO_GL"] = backend
    code = [sys.executable, "-W", "ignore", "-c", WITHOUT_GL % pixels]
    said = subprocess.run(code, capture_output=True, text=True, env=setting, check=True).stdout
    assert all(words in said for words in answer)


def test_backend_default_and_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.choose_backend() == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(rendering.platform, "system", lambda: "Linux")
    assert rendering.choose_backend() == "egl"


def test_rendering_in_a_second_thread_is_refused(make: Callable[..., gymnasium.Env]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    make(size=16).reset(seed=0)
    other = make(size=16)
    with ThreadPoolExecutor(1) as pool, pytest.raises(VidsslError, match="thread"):
        pool.submit(other.reset, seed=0).result()


def test_program_that_closes_nothing_ends_quietly() -> None:
    code = (
        "import gymnasium, vidssl.robot.registration\n"
        f"envs = [gymnasium.make('{ID}', size=16) for _ in range(2)]\n"
        "[env.reset(seed=0) for env in envs]\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_an_id_that_names_its_module_needs_no_import() -> None:
    """Gymnasium looks for no plugins: the id brings the module that registers it, and alone it is not known."""
    program = (
        "import gymnasium\n"
        "try:\n"
        f"    gymnasium.make('{ID}', pixels=False)\n"
        "except gymnasium.error.NamespaceNotFound:\n"
        "    print('not known')\n"
        f"env = gymnasium.make('vidssl.robot.registration:{ID}', pixels=False)\n"
        "print(env.spec.id, env.reset(seed=0)[0] in env.observation_space)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told == f"not known\n{ID} True\n"
