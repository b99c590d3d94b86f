"""Grey pictures of depth, as `make_env` adds them to `vidssl/Reorient-v0`."""

import gymnasium as gym
import numpy as np
import pytest

from vidssl.datasets.meshes import Mesh
from vidssl.datasets.symmetry import Symmetry
from vidssl.robot import pixels, reorient
from vidssl.robot.controllers import ExpertController
from vidssl.robot.depth_pictures import grey
from vidssl.robot.pixels import find_image, make_env
from vidssl.robot.reorient import ReorientEnv


def test_near_is_bright_and_no_return_is_black() -> None:
    depth = np.array([[0, 0.5, 0.68], [0.8, 0.92, 1.9]], np.float32)
    assert grey(depth).shape == (2, 3, 3)
    assert grey(depth)[..., 1].tolist() == [[0, 255, 255], [128, 1, 1]]


def lump() -> Mesh:
    """A box with its corners pulled about."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    faces = [(0, 1, 3), (0, 3, 2), (4, 7, 5), (4, 6, 7), (0, 5, 1), (0, 4, 5)]
    faces += [(2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]
    pulled = corners * np.random.default_rng(0).uniform(0.4, 1.0, (8, 3))
    return Mesh("lump", pulled.astype(np.float32), np.array(faces, np.int32)).normalised()


def test_reorientation_through_make_env(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(env_id: str, render_mode: str | None, options: dict[str, object]) -> gym.Env:
        gym.spec(env_id)
        env = ReorientEnv(meshes=[lump()], render_mode=render_mode, **options)  # type: ignore[arg-type]
        env.spec = gym.spec(env_id)
        return env

    monkeypatch.setattr(pixels, "_make", few)
    monkeypatch.setattr(reorient, "symmetries", lambda mesh: Symmetry(np.eye(3, dtype=np.float32)[None]))  # is slow
    env = make_env("vidssl/Reorient-v0", "test", size=32, render_mode="rgb_array")
    assert find_image(env.observation_space).shape == (32, 32, 3)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert observation["goal"].dtype == np.uint8
    np.testing.assert_array_equal(observation["goal"], grey(observation["goal_depth"]))
    np.testing.assert_array_equal(observation["image"], grey(observation["depth"]))
    assert (observation["image"] > 0).sum() > 30
    expert = ExpertController(env)
    errors = [env.step(expert(observation))[4]["error"] for _ in range(5)]
    assert errors[-1] < errors[0]
    env.close()
