"""Record episodes of an environment: the camera as MP4, actions and outcomes beside it, or as a LeRobot data set.

Example:

    vidssl record vidssl/Rover-v0 --episodes 80 --noise 0.3 --out demos
    vidssl pretrain demos/episodes --out runs/rover --method motion --encoder control --views none \\
        --options ahead=8 "grids=(4,)" --frames 11 --lr 3e-3 --minutes 5
    vidssl record vidssl/Rover-v0 --episodes 80 --format lerobot --out demos-lerobot

With --noise the noisy action is executed and the policy's clean one is stored as the label (as in DART, Laskey et al.
2017), so that a clone also sees how to come back from mistakes. An interrupted recording goes on with --resume.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vidssl.scripts.settings import Flag


@dataclass(frozen=True)
class Config:
    env: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ENV")]]
    """gymnasium id, e.g. vidssl/Rover-v0; "module:Name-v0" imports the module first"""
    out: Path
    """folder for the episodes"""
    episodes: int = 80
    """how many episodes"""
    policy: str = "expert"
    """who drives: expert (the environment's own, privileged) or random"""
    noise: float = 0.0
    """standard deviation of the noise on executed actions, in half-widths of the action range"""
    seed: int = 0
    """episode i is a function of this seed and i"""
    split: str = "train"
    """layouts to record on: train or test"""
    size: int | None = None
    """side of the camera image in pixels; the environment's own if left out"""
    format: Literal["mp4", "lerobot"] = "mp4"
    """an MP4 and a safetensors file an episode, or a LeRobotDataset v3.0"""
    overwrite: Flag = False
    """replace the episodes in the folder"""
    resume: Flag = False
    """go on with an interrupted recording of the same settings"""


def main(argv: list[str] | None = None) -> None:
    """The `vidssl record` command."""
    config = tyro.cli(Config, args=argv, prog="vidssl record", description=__doc__)
    from vidssl.robot.recording import record

    recording = record(
        config.env,
        config.out,
        config.episodes,
        policy=config.policy,
        noise=config.noise,
        seed=config.seed,
        split=config.split,
        size=config.size,
        form=config.format,
        overwrite=config.overwrite,
        resume=config.resume,
    )
    steps = sum(episode.steps for episode in recording.episodes)
    successes = sum(episode.success for episode in recording.episodes)
    print(f"{config.out}: {len(recording.episodes)} episodes, {steps} steps, {successes} successes")
