"""The whole path on generated data: record a rover, learn from the videos, drive by what was learned.

    record      the scripted expert drives; its camera is written as MP4
    pretrain    an encoder learns from those MP4s, without labels or actions, to foretell how the picture will move
    robot-eval  the expert is cloned on the frozen features, and driven on layouts never seen, beside random actions,
                an untrained encoder, a network trained from pixels, and the expert itself
    report      OUT/report.html, self-contained: table, plots, videos

Example:

    vidssl demo --out runs/demo

Needs no data and takes under ten minutes on two cores. The first three are commands of their own.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from vidssl.errors import VidsslError
from vidssl.scripts.settings import Flag


@dataclass
class Config:
    """See the text above."""

    out: Path = Path("runs/demo")
    """folder for demonstrations, run, results and report"""
    demo_episodes: int = 200
    """demonstrations to record and clone"""
    minutes: float = 2.5
    """minutes of self-supervised training, and as many of training end to end from pixels"""
    episodes: int = 100
    """test layouts for every arm"""
    head_steps: int = 1500
    """optimiser steps of a clone"""
    seed: int = 0
    """random seed"""
    overwrite: Flag = False
    """replace an earlier demo in OUT"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(tyro.cli(Config, args=argv, prog="vidssl demo", description=__doc__))


def run(config: Config) -> int:
    """Record, pretrain, evaluate, report; the function behind the command."""
    from vidssl.checkpoint import check_writable
    from vidssl.robot.recording import record
    from vidssl.scripts import pretrain, robot_eval
    from vidssl.scripts.report import write_report
    from vidssl.train import Budget

    training = pretrain.Config(
        data=config.out / "demos" / "episodes",
        out=config.out / "run",
        method="motion",
        encoder="control",
        options=["ahead=8", "grids=(4,)"],
        views="none",
        frames=11,
        batch_size=min(32, 2 * config.demo_episodes),  # an episode gives about four clips
        lr=3e-3,
        minutes=config.minutes,
        cache=config.out / "cache",
        seed=config.seed,
    )
    evaluation = robot_eval.Config(
        run=config.out / "run",
        episodes=config.episodes,
        demos=config.out / "demos",
        demo_episodes=config.demo_episodes,
        head_steps=config.head_steps,
        pixel_minutes=config.minutes,
        seed=config.seed,
        out=config.out / "evaluation",
    )
    Budget(minutes=config.minutes)  # mistakes of any stage are told before the first
    robot_eval.check_numbers(evaluation)
    check_writable(config.out / "report.html")
    if config.out.exists():
        if not config.overwrite:
            raise VidsslError(f"{config.out} is there already; pass --overwrite to replace it, or choose another --out")
        _remove_demo(config.out)
    started = time.perf_counter()
    _say(f"1/3 record: {config.demo_episodes} episodes of the expert, noise on its actions so that it has to recover")
    record("vidssl/Rover-v0", config.out / "demos", config.demo_episodes, noise=0.3, seed=config.seed)
    _say(f"2/3 pretrain: the motion to come, from the MP4s, for {config.minutes:g} min")
    status = pretrain.run(training)
    if status:
        return status
    _say(f"3/3 robot-eval: clones of the expert on {config.episodes} layouts that no demonstration shows")
    results = robot_eval.run(evaluation)
    minutes = (time.perf_counter() - started) / 60
    report = write_report(config.out, results, minutes)
    learned = results["arms"]["learned"]
    low, high = learned["interval_95"]
    score = f"{learned['successes']}/{learned['episodes']}"
    print(f"\nlearned features: {score} reached the beacon (95 %: {low:.2f} to {high:.2f})")
    print(f"done in {minutes:.1f} min; open {report}")
    return 0


def _say(what: str) -> None:
    print(f"\n{what}", flush=True)


def _remove_demo(folder: Path) -> None:
    """Delete what a demo wrote, and nothing else."""
    if any(folder.iterdir()) and not (folder / "demos" / "recording.json").exists():
        raise VidsslError(f"{folder} holds something other than a demo; choose another --out")
    for part in ("demos", "run", "cache", "evaluation"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for file in ("training.png", "report.html"):
        (folder / file).unlink(missing_ok=True)
