"""Physics videos: the stated numbers are what the motion does, and the files are a function of the settings."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidssl.datasets import physics
from vidssl.datasets.files import find_videos, read_groups
from vidssl.datasets.physics import PhysicsSpec, film, make_video, write_physics
from vidssl.datasets.physics_motion import (
    EARTH,
    SCENARIOS,
    Body,
    bounce_height,
    impact_speeds,
    mean_speed,
    roll_acceleration,
    slide_distance,
    swing_angle,
)
from vidssl.datasets.physics_world import Stage
from vidssl.datasets.video import VideoReader
from vidssl.errors import VidsslError
from vidssl.rendering import load_mujoco

SPEC = PhysicsSpec(size=32, groups=4)
MANY = 48  # videos whose motion is checked, nothing of them is drawn


def videos_of(scenario: str) -> list[physics.PhysicsVideo]:
    first = list(SCENARIOS).index(scenario)
    return [make_video(SPEC, index) for index in range(first, MANY, len(SCENARIOS))]


def simulate(xml: str, times: np.ndarray, prepare: Any) -> np.ndarray:
    """Positions [T,3] of body `b` as MuJoCo's own integrator and contact solver have them."""
    mujoco = load_mujoco()
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    prepare(model, data)
    mujoco.mj_forward(model, data)
    seen = [data.body("b").xpos.copy()]
    for time in times[1:]:
        while data.time < time - 1e-9:
            mujoco.mj_step(model, data)
        seen.append(data.body("b").xpos.copy())
    return np.array(seen)


# The laws


def test_bounces_by_hand() -> None:
    # From 4.905 m on Earth: impact after 1 s at 9.81 m/s. With restitution 0.5: up again at 4.905 m/s for 1 s, peak
    # 4.905 / 4 m at 1.5 s; the next flight takes 0.5 s, peak a sixteenth at 2.25 s; all is over after 1 + 2 = 3 s.
    t = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.25, 3.1])
    heights = bounce_height(t, 4.905, 9.81, 0.5)
    assert heights == pytest.approx([4.905, 4.905 * 0.75, 0, 4.905 / 4, 0, 4.905 / 16, 0], abs=1e-9)


def test_restitution_is_told_where_a_rebound_is_shown() -> None:
    for seconds, shown in ((0.3, False), (3.0, True)):
        for seed in range(20):
            known = SCENARIOS["bounce"](np.random.default_rng(seed), [Body("sphere", (0.1, 0.1, 0.1))], seconds).truth
            assert ("restitution" in known) is shown


def test_slide_and_impact_by_hand() -> None:
    # 2 m/s, friction 0.25, 8 m/s²: brakes by 2 m/s², stops after 1 s and 1 m
    assert slide_distance(np.array([0.5, 1.0, 5.0]), 2.0, 0.25, 8.0) == pytest.approx([0.75, 1.0, 1.0])
    assert slide_distance(np.array([5.0]), -2.0, 0.25, 8.0) == pytest.approx([-1.0])
    assert impact_speeds(3.0, (1.0, 1.0), 1.0) == pytest.approx((0.0, 3.0))  # elastic, equal: they swap
    assert impact_speeds(3.0, (2.0, 1.0), 0.0) == pytest.approx((2.0, 2.0))  # plastic: they go on together
    assert impact_speeds(3.0, (1.0, 2.0), 0.5) == pytest.approx((-0.0, 1.5), abs=1e-12)


def test_small_swings_have_the_textbook_period() -> None:
    length, gravity = 0.8, 3.7
    period = 2 * np.pi * np.sqrt(length / gravity)
    t = np.linspace(0, 2 * period, 400)
    assert swing_angle(t, 0.01, length, gravity) == pytest.approx(0.01 * np.cos(2 * np.pi * t / period), abs=1e-6)


def test_wide_swings_keep_their_energy_and_take_longer() -> None:
    # T = T0 / agm(1, cos(amplitude / 2)): Gauss. For 90 degrees 1.18034 T0.
    t = np.linspace(0, 1.18034 * 2 * np.pi, 201)
    angle = swing_angle(t, np.pi / 2, 1.0, 1.0)
    assert angle[-1] == pytest.approx(np.pi / 2, abs=1e-4)
    assert angle[100] == pytest.approx(-np.pi / 2, abs=1e-4)
    speed = np.gradient(angle, t)[1:-1]
    assert speed**2 / 2 - np.cos(angle[1:-1]) == pytest.approx(np.zeros(199), abs=2e-3)


# The scenes, measured


@pytest.mark.parametrize("name", ["fall", "bounce"])
def test_free_flight_has_the_stated_gravity(name: str) -> None:
    h = 1e-3
    for video in videos_of(name):
        contact = video.truth.get("time_to_contact", SPEC.seconds)
        t = np.linspace(2 * h, contact - 2 * h, 7)
        z = [video.motion.paths[0](t + shift)[:, 2] for shift in (-h, 0, h)]
        assert (z[0] - 2 * z[1] + z[2]) / h**2 == pytest.approx(np.full(7, -video.truth["gravity"]), rel=1e-4)


@pytest.mark.parametrize("name", ["fall", "bounce"])
def test_contact_is_when_the_body_reaches_the_ground(name: str) -> None:
    for video in videos_of(name):
        bottom = video.motion.paths[0](np.linspace(0, SPEC.seconds, 4001))[:, 2] - video.motion.bodies[0].half[2]
        assert bottom.min() > -1e-9
        touching = np.flatnonzero(bottom < 1e-2)
        expected = video.truth.get("time_to_contact")
        if expected is None:
            assert len(touching) == 0 or touching[0] > 3960
        else:
            assert touching[0] * SPEC.seconds / 4000 == pytest.approx(expected, abs=0.01)


def test_restitution_is_that_of_the_heights() -> None:
    for video in videos_of("bounce"):
        z = video.motion.paths[0](np.linspace(0, 6, 60001))[:, 2] - video.motion.bodies[0].half[2]
        peak = z[1:-1][(z[1:-1] > z[:-2]) & (z[1:-1] > z[2:])][0]  # of the first rebound
        assert np.sqrt(peak / z[0]) == pytest.approx(video.truth["restitution"], abs=1e-3)


def test_friction_is_that_of_the_deceleration() -> None:
    h = 1e-3
    for video in videos_of("slide"):
        x = [video.motion.paths[0](np.array([0.05 + shift]))[0, 0] for shift in (-h, 0, h)]
        assert abs(x[0] - 2 * x[1] + x[2]) / h**2 == pytest.approx(video.truth["friction"] * EARTH, rel=1e-4)


def test_collisions_keep_momentum_and_part_at_the_stated_ratio() -> None:
    h = 1e-5
    for video in videos_of("collide"):
        contact, (a, b) = video.truth["time_to_contact"], video.motion.paths
        before = [(path(np.array([contact]))[0, 0] - path(np.array([contact - h]))[0, 0]) / h for path in (a, b)]
        after = [(path(np.array([contact + h]))[0, 0] - path(np.array([contact]))[0, 0]) / h for path in (a, b)]
        masses = [body.volume for body in video.motion.bodies]
        assert np.dot(after, masses) == pytest.approx(np.dot(before, masses), rel=1e-3)
        assert (after[1] - after[0]) / (before[0] - before[1]) == pytest.approx(video.truth["restitution"], abs=1e-3)
        t = np.linspace(0, SPEC.seconds, 500)
        gap = np.abs(a(t)[:, 0] - b(t)[:, 0]) - sum(body.half[0] for body in video.motion.bodies)
        assert gap.min() > -1e-9
        assert t[gap.argmin()] == pytest.approx(contact, abs=0.01)


def test_rolling_has_no_slip_and_stays_on_the_slope() -> None:
    t = np.linspace(0, SPEC.seconds, 200)
    for video in videos_of("roll"):
        motion = video.motion
        assert motion.ramp is not None
        assert motion.turns is not None
        angle, (x0, z0), half = motion.ramp
        offset = motion.paths[0](t)[:, [0, 2]] - (x0, z0)
        down, normal = np.array([np.cos(angle), -np.sin(angle)]), np.array([np.sin(angle), np.cos(angle)])
        assert offset @ normal == pytest.approx(np.full(200, motion.bodies[0].half[0]))
        assert np.abs(offset @ down).max() < half
        assert np.diff(offset @ down) == pytest.approx(np.diff(motion.turns(t)) * motion.bodies[0].half[0])


def test_speed_and_distance_of_every_scenario() -> None:
    t = np.linspace(0, SPEC.seconds, 40001)
    for index in range(12):
        video = make_video(SPEC, index)
        points = video.motion.paths[0](t)
        length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
        assert video.truth["speed"] == pytest.approx(length / SPEC.seconds, rel=1e-3)
        here = np.linalg.norm(video.motion.paths[0](SPEC.times) - video.view.position, axis=1)
        assert video.truth["distance"] == pytest.approx(here.mean())
    assert mean_speed(lambda t: np.stack([3 * t, 0 * t, 4 * t], axis=1), 2.0) == pytest.approx(5.0)


def test_all_targets_are_given_where_they_apply() -> None:
    always = {"speed", "distance"}
    expected = {
        "fall": {"gravity", "time_to_contact"},
        "bounce": {"gravity", "restitution", "time_to_contact"},
        "roll": {"gravity"},
        "slide": {"friction"},
        "collide": {"friction", "restitution", "time_to_contact"},
        "pendulum": {"gravity"},
    }
    for name, known in expected.items():
        found = [set(video.truth) for video in videos_of(name)]
        assert all(truth - {"time_to_contact"} == (known | always) - {"time_to_contact"} for truth in found)
        assert (known | always) in found


# Against MuJoCo's own dynamics


GROUND = '<geom type="plane" size="9 9 1" friction="{mu} 0 0" priority="1"/>'
OPTION = '<option timestep="0.0005" gravity="{g}" cone="elliptic" impratio="100" integrator="implicitfast"/>'


def test_a_sliding_box_agrees_with_mujoco() -> None:
    times = np.arange(0, 1.2, 0.1)
    xml = (
        f"<mujoco>{OPTION.format(g='0 0 -9.81')}<worldbody>{GROUND.format(mu=0.3)}"
        '<body name="b" pos="0 0 0.1"><freejoint/><geom type="box" size="0.2 0.2 0.1"/></body></worldbody></mujoco>'
    )

    def push(model: Any, data: Any) -> None:
        data.qvel[0] = 2.0

    x = simulate(xml, times, push)[:, 0]
    assert x == pytest.approx(slide_distance(times, 2.0, 0.3, 9.81), abs=0.01)


@pytest.mark.parametrize("shape", ["sphere", "cylinder"])
def test_rolling_down_a_slope_agrees_with_mujoco(shape: str) -> None:
    times, angle = np.arange(0, 1.0, 0.1), 0.2
    gravity = f"{5 * np.sin(angle)} 0 {-5 * np.cos(angle)}"  # the slope is the plane, gravity leans
    size = "0.2" if shape == "sphere" else "0.2 0.1"
    xml = (
        f"<mujoco>{OPTION.format(g=gravity)}<worldbody>{GROUND.format(mu=1)}"
        f'<body name="b" pos="0 0 0.2"><freejoint/><geom type="{shape}" size="{size}" zaxis="0 1 0"/></body>'
        "</worldbody></mujoco>"
    )
    x = simulate(xml, times, lambda model, data: None)[:, 0]
    assert x == pytest.approx(roll_acceleration(shape, angle, 5.0) * times**2 / 2, abs=0.01)


def test_a_pendulum_agrees_with_mujoco() -> None:
    times = np.arange(0, 3.0, 0.1)
    xml = (
        '<mujoco><option timestep="0.0005" gravity="0 0 -6"/><worldbody><body><joint type="hinge" axis="0 -1 0"/>'
        '<geom type="sphere" size="0.001" mass="1" pos="0 0 -1.2"/><body name="b" pos="0 0 -1.2"/></body>'
        "</worldbody></mujoco>"
    )

    def lift(model: Any, data: Any) -> None:
        data.qpos[0] = 0.8

    x = simulate(xml, times, lift)[:, 0]
    assert x == pytest.approx(1.2 * np.sin(swing_angle(times, 0.8, 1.2, 6.0)), abs=5e-3)


# The pictures


@pytest.fixture(scope="module")
def stage() -> Any:
    stage = Stage(SPEC.size)
    yield stage
    stage.close()


def test_the_picture_shows_the_body_where_the_motion_says(stage: Stage) -> None:
    index = 0  # a fall
    video = make_video(SPEC, index)
    frames = film(SPEC, index, stage).astype(int)
    assert frames.shape == (48, 32, 32, 3)
    still = frames[-1]
    view, path = video.view, video.motion.paths[0](SPEC.times)
    contact = int(np.ceil(video.truth["time_to_contact"] * SPEC.fps))
    assert (frames[contact + 1 :] == still).all()
    assert np.abs(frames[contact - 2] - still).max() > 30
    seen = []
    for k in range(contact - 4):
        ahead = view.target - view.position
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, (0, 0, 1)) / np.linalg.norm(np.cross(ahead, (0, 0, 1)))
        offset = path[k] - view.position
        scale = 16 / np.tan(np.deg2rad(22.5)) / (offset @ ahead)
        x, y = 15.5 + scale * offset @ right, 15.5 - scale * offset @ np.cross(right, ahead)
        box = frames[k, max(0, round(y) - 1) : round(y) + 2, max(0, round(x) - 1) : round(x) + 2]
        if box.size:
            empty = still[max(0, round(y) - 1) : round(y) + 2, max(0, round(x) - 1) : round(x) + 2]
            seen.append(np.abs(box - empty).max() > 15)
    assert len(seen) > 4
    assert np.mean(seen) > 0.8


def test_a_video_depends_on_its_index_alone(stage: Stage) -> None:
    alone = {index: film(SPEC, index, stage) for index in (5, 2, 4)}
    other = Stage(SPEC.size)
    for index in range(6):
        again = film(SPEC, index, other)
        if index in alone:
            np.testing.assert_array_equal(again, alone[index])
    other.close()


def test_objects_and_scenes_belong_to_one_group() -> None:
    objects: dict[Body, set[int]] = {}
    scenes: dict[bytes, set[int]] = {}
    for index in range(48):
        video = make_video(SPEC, index)
        for body in video.motion.bodies:
            objects.setdefault(body, set()).add(video.group)
        digest = hashlib.sha256(video.scene.ground.tobytes() + video.scene.sky.tobytes()).digest()
        scenes.setdefault(digest, set()).add(video.group)
    assert all(len(groups) == 1 for groups in (*objects.values(), *scenes.values()))
    assert len(scenes) == 8  # two a group
    assert {make_video(SPEC, index).group for index in range(24)} == {0, 1, 2, 3}


# The folder


TINY = PhysicsSpec(frames=14, size=32, groups=4)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_folder_is_complete_repeatable_and_goes_on(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert write_physics(one, 12, TINY) == 12
    videos = find_videos(one)
    assert {video.label for video in videos} == set(SCENARIOS)
    assert read_groups(one / "groups.csv", videos)[0] in {"group0", "group1"}
    with (one / "targets.csv").open() as lines:
        rows = {row["path"]: row for row in csv.DictReader(lines)}
    for index in range(12):
        video = make_video(TINY, index)
        for name in physics.TARGETS:
            cell = rows[video.name][name]
            assert (cell == "") == (name not in video.truth)
            assert cell == "" or float(cell) == pytest.approx(video.truth[name], rel=1e-5)
    with VideoReader(one / "fall" / "000000.mp4") as reader:
        assert reader.index.times == pytest.approx(TINY.times, abs=1e-3)
    # the first five alone, stopped, and the rest later
    write_physics(other, 5, TINY)
    assert write_physics(other, 12, TINY) == 7
    assert digests(other) == digests(one)
    (other / "roll" / "000002.mp4").unlink()
    told: list[int] = []
    assert write_physics(other, 12, TINY, told=lambda: told.append(1)) == 1
    assert len(told) == 12
    assert digests(other) == digests(one)


def test_worker_processes_write_the_same(tmp_path: Path) -> None:
    write_physics(tmp_path / "here", 4, TINY)
    assert write_physics(tmp_path / "there", 4, TINY, workers=1) == 4
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 33}, "got 33; an even number from 16 to 512"),
        ({"frames": 1}, "frames 1"),
        ({"groups": 0}, "groups 0"),
        ({"seed": -1}, "seed -1"),
        ({"frames": 240}, "got 240 frames at 24 frames/s; the scenes are made for clips of 0.5 to 4 s"),
        ({"fps": 0.0}, "48 frames at 0 frames/s"),
    ],
)
def test_wrong_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(VidsslError, match=words):
        PhysicsSpec(**options)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="0 videos"):
        write_physics(tmp_path / "new", 0, TINY)
    with pytest.raises(VidsslError, match="-1 workers"):
        write_physics(tmp_path / "new", 1, TINY, workers=-1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(VidsslError, match=r"not empty and holds no physics.json"):
        write_physics(tmp_path, 1, TINY)
    write_physics(tmp_path / "made", 2, TINY)
    with pytest.raises(VidsslError, match="other settings"):
        write_physics(tmp_path / "made", 2, PhysicsSpec(frames=14, size=32, groups=4, seed=1))
    with pytest.raises(VidsslError, match="holds 2 videos already"):
        write_physics(tmp_path / "made", 1, TINY)
    (tmp_path / "made" / "physics.json").write_text("{")
    with pytest.raises(VidsslError, match="damaged"):
        write_physics(tmp_path / "made", 2, TINY)
