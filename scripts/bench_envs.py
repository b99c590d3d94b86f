"""Speed of the environments beside each other: steps a second at one image size, in one process and in several.

python -m vidssl.scripts.bench_envs --size 64 --processes 1 2

Every process drives its own environment with random actions, resets included. In each round all environments are
measured one after the other, so that a busy moment hits all of them; the table has the medians over rounds, and how
many times as fast the rover is. Steps a CPU second are of one process and hang less on what else the machine does.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from statistics import median
from typing import Any

import gymnasium as gym
import tyro

from vidssl.errors import VidsslError
from vidssl.robot.pixels import make_env

ROVER = "vidssl/Rover-v0"
DEFAULT = (ROVER, "vidssl/TwoRooms-v0", "gym_pusht/PushT-v0", "FetchReach-v4", "Meta-World/reach-v3")

Rates = dict[str, list[float]]

_envs: dict[str, gym.Env[Any, Any]] = {}  # of a worker process
_barrier: Barrier


@dataclass
class Config:
    """What is measured and how often."""

    envs: tuple[str, ...] = DEFAULT
    """gymnasium ids; those that are not there are left out, with the reason"""
    size: int = 64
    """side of the camera image, pixels"""
    processes: tuple[int, ...] = (1, 2)
    """numbers of processes that run at the same time"""
    rounds: int = 5
    """rounds of each measurement; the median is reported"""
    seconds: float = 1.0
    """length of one measurement"""


def _start(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _drive(env_id: str, size: int, seconds: float) -> tuple[float, float]:
    """Steps a second and a CPU second of one process; all processes of a round begin together."""
    if env_id not in _envs:
        _envs[env_id] = make_env(env_id, "train", size)
        _envs[env_id].action_space.seed(os.getpid())
        _envs[env_id].reset(seed=0)
        _envs[env_id].step(_envs[env_id].action_space.sample())
    env = _envs[env_id]
    _barrier.wait(timeout=300)
    env.reset()
    steps, begin, begin_cpu = 0, time.perf_counter(), time.process_time()
    while (taken := time.perf_counter() - begin) < seconds:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if terminated or truncated:
            env.reset()
    return steps / taken, steps / (time.process_time() - begin_cpu)


def measure(envs: Sequence[str], processes: int, config: Config) -> tuple[Rates, Rates]:
    """Per environment and round: steps a second of all processes together, and steps a CPU second of one."""
    context = get_context("spawn")
    together: Rates = {name: [] for name in envs}
    each: Rates = {name: [] for name in envs}
    with ProcessPoolExecutor(processes, context, _start, (context.Barrier(processes),)) as pool:
        for _ in range(config.rounds):
            for name in envs:
                jobs = [pool.submit(_drive, name, config.size, config.seconds) for _ in range(processes)]
                wall, cpu = zip(*(job.result() for job in jobs), strict=True)
                together[name].append(sum(wall))
                each[name].append(median(cpu))
    return together, each


def _available(config: Config) -> list[str]:
    """The environments that can be made here; says why others cannot."""
    found = []
    for name in config.envs:
        try:
            make_env(name, "train", config.size).close()
            found.append(name)
        except VidsslError as error:
            print(f"left out: {name}: {str(error)[:160]}")
    return found


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    config = tyro.cli(Config, args=argv, prog="bench_envs", description=__doc__)
    envs = _available(config)
    if not envs or min(config.processes, default=0) < 1 or config.rounds < 1:
        raise VidsslError("need at least one environment that can be made, one process and one round")
    measured = {count: measure(envs, count, config) for count in config.processes}
    print(f"steps/s with {config.size}x{config.size} images, random actions, resets included; median (least..most)")
    heads = "".join(f"{f'{count} process(es)':>24}{'rover x':>8}" for count in measured)
    print(f"{'environment':<24}{heads}{'a CPU second':>14}")
    for name in envs:
        cells = "".join(_cells(together, name) for together, _ in measured.values())
        print(f"{name:<24}{cells}{median(next(iter(measured.values()))[1][name]):>14.0f}")


def _cells(rates: Rates, name: str) -> str:
    """Median, least and most; how many times as fast the rover is."""
    middle = median(rates[name])
    times = f"{median(rates[ROVER]) / middle:.2f}" if ROVER in rates else ""
    return f"{f'{middle:.0f} ({min(rates[name]):.0f}..{max(rates[name]):.0f})':>24}{times:>8}"


if __name__ == "__main__":
    main()
