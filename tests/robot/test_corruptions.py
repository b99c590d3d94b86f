"""Corruptions begin at their step, are drawn by the episode's seed, and make the picture worse with the severity."""

import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vidssl.errors import VidsslError
from vidssl.robot.corruptions import CAMERA, CORRUPTIONS, GROUPS, CorruptedCamera, corrupt_frames
from vidssl.robot.new_terrain import NewTerrain
from vidssl.robot.registration import register

sys.path.append(str(Path(__file__).parent))
import tiny_env


def drive(env: gym.Env, steps: int = 9, seed: int = 3) -> np.ndarray:
    observation, _ = env.reset(seed=seed)
    frames = [observation["image"]]
    for _ in range(steps):
        frames.append(env.step(np.array([0.3, 0.05], np.float32))[0]["image"])
    return np.stack(frames)


@pytest.mark.parametrize("name", CAMERA)
def test_from_a_step_on(name: str) -> None:
    true = drive(tiny_env.TinyEnv(size=40))
    changes = []
    for severity in (1, 2, 3):
        env = CorruptedCamera(tiny_env.TinyEnv(size=40), name, severity, start=(3, 5))
        seen = drive(env)
        assert (seen.dtype, seen.shape) == (np.uint8, true.shape)
        assert 3 <= env.began_at <= 5
        np.testing.assert_array_equal(seen[: env.began_at], true[: env.began_at])
        np.testing.assert_array_equal(seen, drive(env), "the same seed gives the same episode")
        known, began_at = corrupt_frames(true, name, severity, seed=3, start=(3, 5))
        np.testing.assert_array_equal(seen, known, "made of known frames it is the same")
        assert began_at == env.began_at
        changes.append(np.abs(seen[env.began_at :].astype(int) - true[env.began_at :]).mean())
    assert changes[2] > 0
    if name not in ("blackout", "freeze", "channel-swap"):  # levels of another kind, or by chance
        assert changes[0] <= changes[1] <= changes[2]


def test_a_frozen_picture() -> None:
    env = CorruptedCamera(tiny_env.TinyEnv(), "freeze", 3, start=4)
    seen, true = drive(env), drive(tiny_env.TinyEnv())
    np.testing.assert_array_equal(seen[4:], np.repeat(true[4:5], 6, axis=0))


def test_wrapper_is_a_proper_environment() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*different from the unwrapped version")
        check_env(CorruptedCamera(tiny_env.TinyEnv(), "noise", 1, start=0), skip_render_check=True)
    bare = CorruptedCamera(tiny_env.TinyEnv(bare=True), "blackout", 3, start=1)
    assert bare.reset(seed=0)[1]["corrupted"] is False
    observation, _, _, _, info = bare.step(np.zeros(2))
    assert info["corrupted"]
    assert not observation.any()


def test_every_corruption_has_a_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(CORRUPTIONS)


def test_mistakes() -> None:
    env = tiny_env.TinyEnv()
    with pytest.raises(VidsslError, match=r"unknown camera corruption 'rain'; .*blackout"):
        CorruptedCamera(env, "rain")
    with pytest.raises(VidsslError, match="severity: got 4; choose from 1, 2, 3"):
        CorruptedCamera(env, "dark", 4)
    with pytest.raises(VidsslError, match=r"start: got \(5, 2\)"):
        CorruptedCamera(env, "dark", 1, (5, 2))
    with pytest.raises(VidsslError, match="no camera image"):
        CorruptedCamera(tiny_env.blind(env), "dark")
    with pytest.raises(VidsslError, match="Rover-v0 only, got TinyEnv"):
        NewTerrain(env)


def test_new_terrain() -> None:
    register()
    base = gym.make("vidssl/Rover-v0", size=32, disable_env_checker=True)
    with pytest.raises(VidsslError, match="begins at step 1 or later"):
        NewTerrain(base, start=0)
    true = drive(base, 5)
    env = NewTerrain(base, 3, start=3)
    seen = drive(env, 5)
    np.testing.assert_array_equal(seen[:3], true[:3])
    assert all(np.abs(s.astype(int) - t).mean() > 10 for s, t in zip(seen[3:], true[3:], strict=True))
    np.testing.assert_array_equal(drive(env, 5), seen)
    env.reset(seed=3)
    np.testing.assert_array_equal(drive(base, 5), true, "the old ground is back")
    base.close()
