"""Generate videos of falling, bouncing, rolling, sliding, colliding and swinging objects, with the truth about them.

Scenes are drawn by MuJoCo without a display; the motion is exact. Beside the videos lie targets.csv (gravity, speed,
friction, restitution, distance to the camera, time to contact; empty where one does not apply) and groups.csv, by which
folds are disjoint in objects and in scenes. Video i is a function of the seed and i; a generation that was interrupted
goes on with the same command, and more videos are added to the same ones.

Example:

    vidssl physics --out physics --videos 600
    vidssl pretrain physics --out runs/physics --minutes 3
    vidssl evaluate runs/physics physics --targets physics/targets.csv --groups physics/groups.csv
"""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    out: Path
    """folder to write"""
    videos: int = 600
    """how many videos"""
    frames: int = 48
    """frames a video"""
    size: int = 64
    """side of the frames in pixels, even"""
    fps: float = 24.0
    """frames a second"""
    groups: int = 20
    """groups of objects and scenes that share neither; folds are made of whole groups"""
    seed: int = 0
    """random seed"""
    workers: int = 2
    """processes that draw; 0 draws in this one"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl physics` command."""
    config = tyro.cli(Config, args=argv, prog="vidssl physics", description=__doc__)
    from vidssl.datasets.physics import PhysicsSpec, write_physics
    from vidssl.progress import progress_bar

    spec = PhysicsSpec(config.frames, config.size, config.fps, config.groups, config.seed)
    with progress_bar("drawing videos", config.videos, True) as advance:
        drawn = write_physics(config.out, config.videos, spec, config.workers, advance)
    groups = min(config.groups, -(-config.videos // 6))  # a group is filled with a video of each kind before the next
    print(f"{config.out}: {config.videos} videos of {groups} groups ({drawn} drawn), targets.csv, groups.csv")
    return 0
