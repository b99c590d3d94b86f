"""Drive an environment and record what its camera sees."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from rich.progress import track

from vidssl.errors import VidsslError, unknown_name
from vidssl.machine import versions

from .controllers import Controller, ExpertController, RandomController
from .episodes import Episode, Recording, open_recording, start_recording, write_episode
from .pixels import PROPRIO, camera_image, control_box, episode_seed, find_image, make_env, proprioception

if TYPE_CHECKING:
    from .lerobot_episodes import EpisodeWriter

POLICIES: dict[str, Callable[[gym.Env[Any, Any]], Controller]] = {
    "expert": ExpertController,
    "random": RandomController,
}
FORMATS = ("mp4", "lerobot")
PERSISTENCE = 0.8  # of the action noise from one step to the next


def record(
    env_id: str,
    folder: Path,
    episodes: int,
    *,
    policy: str = "expert",
    noise: float = 0.0,
    seed: int = 0,
    split: str = "train",
    size: int | None = None,
    form: str = "mp4",
    overwrite: bool = False,
    resume: bool = False,
) -> Recording:
    """Record episodes 0..episodes-1 into a folder; episode i is a function of (seed, i) alone.

    Args:
        env_id, split, size: see `pixels.make_env`.
        folder, overwrite, resume: see `episodes.start_recording`.
        form: of the folder, "mp4" (see `episodes`) or "lerobot" (see `lerobot_episodes`).
        policy: a key of `POLICIES`.
        noise: standard deviation of the noise on executed actions, in half-widths of the action range; labels
            stay clean.

    Raises VidsslError for unknown names, a folder in use, an environment without images.
    """
    from vidssl.datasets.mp4 import check_sides

    if policy not in POLICIES:
        raise unknown_name("policy", policy, POLICIES)
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    if episodes < 1 or not 0 <= noise <= 2:
        raise VidsslError(f"episodes must be at least 1 and noise in 0..2, got {episodes} and {noise}")
    episode_seed(seed, episodes - 1, split)  # out of range: said before anything is replaced
    env = make_env(env_id, split, size)
    try:
        driver = POLICIES[policy](env)
        check_sides(*find_image(env.observation_space).shape[:2])
        facts: dict[str, Any] = {
            "env": env_id,
            "policy": policy,
            "noise": noise,
            "seed": seed,
            "split": split,
        } | _facts(env)
        keep = {"overwrite": overwrite, "resume": resume}
        if form == "lerobot":
            writer = _lerobot_writer(env, folder, facts, **keep)
            done = writer.episodes
        else:
            writer, done = None, start_recording(folder, facts, **keep)
        with writer or nullcontext():
            for index in track(range(done, episodes), description=f"recording {env_id}"):
                frames, episode = drive(env, driver, episode_seed(seed, index, split), noise)
                if writer is None:
                    write_episode(folder, index, frames, episode, facts["fps"])
                else:
                    writer.write(frames, episode)
    finally:
        env.close()
    return open_recording(folder)


def drive(
    env: gym.Env[Any, Any], driver: Controller, seed: int, noise: float = 0.0
) -> tuple[list[np.ndarray], Episode]:
    """One episode: the T camera images uint8 [H,W,3] on which an action was chosen, and its steps."""
    box = control_box(env)
    disturb = _noise(np.random.default_rng([seed, 1]), noise, box)
    frames: list[np.ndarray] = []
    rows: list[tuple[Any, ...]] = []
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    driver.reset()
    ended = False
    while not ended:
        action = np.clip(np.asarray(driver(observation), np.float32), box.low, box.high)
        executed = np.clip(action + next(disturb), box.low, box.high).astype(np.float32)
        frames.append(camera_image(observation).copy())
        proprio = proprioception(observation).copy()
        observation, reward, terminated, truncated, info = env.step(executed)
        rows.append((action, executed, proprio, np.float32(reward)))
        ended = terminated or truncated
    action, executed, proprio, rewards = (np.stack(column) for column in zip(*rows, strict=True))
    success, failure = bool(info.get("success", False)), info.get("failure")
    return frames, Episode(seed, action, executed, proprio, rewards, success, failure)


def _noise(rng: np.random.Generator, sigma: float, box: gym.spaces.Box) -> Iterator[np.ndarray]:
    """Noise [A] of standard deviation `sigma` half-ranges. It persists over some steps (AR(1)): white noise would
    average out before it leads anywhere the expert has to recover from."""
    scale = sigma * (box.high - box.low) / 2
    state = rng.standard_normal(box.shape)
    while True:
        yield scale * state
        state = PERSISTENCE * state + np.sqrt(1 - PERSISTENCE**2) * rng.standard_normal(box.shape)


def _lerobot_writer(env: gym.Env[Any, Any], folder: Path, facts: dict[str, Any], **keep: bool) -> "EpisodeWriter":
    from .lerobot_episodes import EpisodeWriter

    space = env.observation_space
    senses = space.spaces.get(PROPRIO) if isinstance(space, gym.spaces.Dict) else None
    proprio = 0 if senses is None else int(np.prod(senses.shape or ()))
    height, width = find_image(space).shape[:2]
    return EpisodeWriter(folder, facts["fps"], (height, width), control_box(env).shape[0], proprio, facts, **keep)


def _facts(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """What the environment says of itself, and the versions that shaped the pictures."""
    names = ("vidssl", "gymnasium", "mujoco", "av", "numpy")
    box = control_box(env)
    return {
        "action_low": box.low.tolist(),
        "action_high": box.high.tolist(),
        "fps": float(env.metadata.get("render_fps", 10)),
        "image_size": list(find_image(env.observation_space).shape[:2]),
        "versions": versions(names),
    }
