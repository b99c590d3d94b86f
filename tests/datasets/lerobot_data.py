"""A small LeRobot data set for tests: three episodes, two cameras, stills, depth and numbers; what was written."""

from pathlib import Path
from typing import Any

import numpy as np

from vidssl.datasets.lerobot_write import LeRobotWriter

LENGTHS = (12, 7, 20)
TASKS = ("push", "lift", "push")
FPS = 10
FEATURES: dict[str, dict[str, Any]] = {
    "front": {"dtype": "video", "shape": [32, 48, 3]},
    "wrist": {"dtype": "video", "shape": [32, 32, 3]},
    "depth": {"dtype": "video", "shape": [32, 32, 1], "info": {"is_depth_map": True}},
    "still": {"dtype": "image", "shape": [16, 24, 3]},
    "state": {"dtype": "float32", "shape": [5]},
    "points": {"dtype": "float32", "shape": [3, 2]},
    "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    "next.success": {"dtype": "bool", "shape": [1]},
    "note": {"dtype": "string", "shape": [1]},
}


def grey(number: int) -> int:
    """The brightness of frame `number` of all in the camera `front`; far enough from its neighbours' to tell them."""
    return 20 + 37 * number % 220


def frame(episode: int, step: int) -> dict[str, Any]:
    """What is written for a step."""
    number = sum(LENGTHS[:episode]) + step
    ramp = np.linspace(0.3, 8, 32, dtype=np.float32)
    rng = np.random.default_rng(number)
    return {
        "front": np.full((32, 48, 3), grey(number), np.uint8),
        "wrist": np.full((32, 32, 3), 255 - grey(number), np.uint8),
        "depth": np.tile(ramp + 0.01 * number, (32, 1)),
        "still": rng.integers(0, 256, (16, 24, 3), dtype=np.uint8),
        "state": rng.normal(size=5).astype(np.float32),
        "points": rng.normal(size=(3, 2)).astype(np.float32),
        "action": np.array([step, episode], np.float32),
        "next.success": step == LENGTHS[episode] - 1,
        "note": f"{episode}.{step}",
    }


def write(root: Path, **options: Any) -> Path:
    with LeRobotWriter(root, FPS, FEATURES, "arm", **options) as writer:
        for episode, length in enumerate(LENGTHS):
            for step in range(length):
                writer.add_frame(frame(episode, step))
            writer.end_episode(TASKS[episode])
    return root
