"""Write the Push-T demonstrations (a zarr, or a tar of it) as a LeRobot data set.

Example:

    vidssl import-pusht pusht_206.tar --out pusht
    vidssl pretrain pusht --out runs/pusht
    vidssl robot-eval runs/pusht --env gym_pusht/PushT-v0 --demos pusht --out results/pusht

It holds the picture, the pusher's place (`observation.state`), the whole state and the block's points
(`observation.environment_state`, `observation.keypoints`), the action, and the reward as gym-pusht counts it: the share
of the goal that the block covers after the step, over 0.95, at most 1. Success is a share above 0.95.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vidssl.scripts.settings import Flag

if TYPE_CHECKING:
    from vidssl.datasets.pusht import PushTEpisode

ENV = "gym_pusht/PushT-v0"
TASK = "Push the T-shaped block onto the T-shaped target."


@dataclass(frozen=True)
class Config:
    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="TAR")]]
    """the zarr v2 store of Diffusion Policy's Push-T data: a folder or a tar of it"""
    out: Path
    """folder of the data set"""
    codec: str = "h264"
    """codec of the video: h264 or av1"""
    episodes: int | None = None
    """only the first so many"""
    overwrite: Flag = False
    """replace the data set in the folder"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl import-pusht` command."""
    config = tyro.cli(Config, args=argv, prog="vidssl import-pusht", description=__doc__)
    from rich.progress import track

    from vidssl.datasets.lerobot_video import settings
    from vidssl.datasets.lerobot_write import LeRobotWriter
    from vidssl.datasets.pusht import FPS, SQUARE, read_pusht
    from vidssl.errors import VidsslError
    from vidssl.robot.lerobot_episodes import UNKNOWN_SEED

    if config.episodes is not None and config.episodes < 1:
        raise VidsslError(f"--episodes: got {config.episodes}; at least 1")
    settings(config.codec)
    demos = read_pusht(config.source)[: config.episodes]  # before the writer deletes anything
    facts = {
        "env": ENV,
        "policy": "human",
        "split": "train",
        "fps": float(FPS),
        "image_size": [96, 96],
        "action_low": [0.0, 0.0],
        "action_high": [SQUARE, SQUARE],
    }
    with LeRobotWriter(
        config.out, FPS, features(), ENV, codec=config.codec, notes=facts, overwrite=config.overwrite
    ) as writer:
        for demo in track(demos, description="writing episodes"):
            for row in frames(demo):
                writer.add_frame(row)
            writer.end_episode(TASK, {"seed": UNKNOWN_SEED, "success": bool(row["next.success"]), "failure": None})
    steps = sum(demo.steps for demo in demos)
    print(f"{config.out}: {len(demos)} demonstrations, {steps} steps")
    return 0


def features() -> dict[str, dict[str, Any]]:
    """Of the data set, as `LeRobotWriter` takes them."""

    def numbers(names: list[str] | None, *shape: int) -> dict[str, Any]:
        return {"dtype": "float32", "shape": list(shape), "names": names}

    return {
        "observation.image": {"dtype": "video", "shape": [96, 96, 3]},
        "observation.state": numbers(["x", "y"], 2),
        "observation.environment_state": numbers(["pusher_x", "pusher_y", "block_x", "block_y", "block_angle"], 5),
        "observation.keypoints": numbers(None, 9, 2),
        "action": numbers(["x", "y"], 2),
        "next.reward": numbers(None, 1),
        "next.done": {"dtype": "bool", "shape": [1]},
        "next.success": {"dtype": "bool", "shape": [1]},
    }


def frames(demo: "PushTEpisode") -> Iterator[dict[str, Any]]:
    """The frames of a demonstration; what the last step led to was not recorded, so its own state stands for it."""
    from vidssl.datasets.pusht import SUCCESS, coverage

    covered = coverage(demo.state)
    for step in range(demo.steps):
        after = covered[min(step + 1, demo.steps - 1)]
        yield {
            "observation.image": demo.image[step],
            "observation.state": demo.state[step, :2],
            "observation.environment_state": demo.state[step],
            "observation.keypoints": demo.keypoint[step],
            "action": demo.action[step],
            "next.reward": min(after / SUCCESS, 1),
            "next.done": step == demo.steps - 1,
            "next.success": bool(after > SUCCESS),
        }
