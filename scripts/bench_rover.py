"""Speed of `vidssl/Rover-v0`: steps a second with the camera, without it, in several processes; images a second alone.

python -m vidssl.scripts.bench_rover --size 64 --rounds 7 --processes 2
python -m vidssl.scripts.bench_rover --difficulty hard --noise 1
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import tyro

import vidssl.robot.registration  # noqa: F401  registers the environment


@dataclass
class Config:
    """What is measured and how often."""

    size: int = 64
    """Side of the camera image, pixels."""
    depth: bool = False
    """Also render depth."""
    difficulty: str = "standard"
    """easy, standard, hard or extreme."""
    noise: float = 0.0
    """Strength of all sensors' noise."""
    processes: int = 0
    """Also measure so many environments at once, a process each: by themselves, as `vidssl robot-eval --workers` runs
    them, and in gymnasium's async vector environment, where every step waits for the slowest."""
    rounds: int = 7
    """Rounds of each measurement; the median is reported."""
    steps: int = 300
    """Steps, images or a tenth as many resets a round."""


def _rate(work: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        work()
    return count / (time.perf_counter() - begin)


def _driver(env: gymnasium.Env) -> Callable[[], None]:
    """One step of a wandering drive; episodes that end start anew inside the measured time."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def drive() -> None:
        action = np.clip(rng.normal(0.6, 0.3, 2), -1, 1).astype(np.float32)
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return drive


def _fleet(options: dict[str, Any], count: int) -> tuple[gymnasium.vector.VectorEnv, Callable[[], object]]:
    """`count` environments in processes of their own, and one step of all of them."""
    fleet = gymnasium.make_vec(
        "vidssl/Rover-v0",
        num_envs=count,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        **options,
    )
    rng = np.random.default_rng(0)
    fleet.reset(seed=0)
    return fleet, lambda: fleet.step(np.clip(rng.normal(0.6, 0.3, (count, 2)), -1, 1).astype(np.float32))


class _Alone:
    """`count` environments in processes of their own, none of which waits for another."""

    def __init__(self, options: dict[str, Any], count: int) -> None:
        self._pools = [
            ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(options,)) for _ in range(count)
        ]
        self.drive(1)  # the environments are there

    def drive(self, steps: int) -> None:
        """So many steps of each."""
        for done in [pool.submit(_go_on, steps) for pool in self._pools]:
            done.result()

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown()


_drive: Callable[[], None]  # of a process


def _begin(options: dict[str, Any]) -> None:
    global _drive
    _drive = _driver(gymnasium.make("vidssl/Rover-v0", **options))


def _go_on(steps: int) -> None:
    for _ in range(steps):
        _drive()


def main(argv: list[str] | None = None) -> None:
    """Print the median of each measurement."""
    config = tyro.cli(Config, args=argv, prog="bench_rover", description=__doc__)
    noise = {f"{sensor}_noise": config.noise for sensor in ("camera", "depth", "proprio")}
    options: dict[str, Any] = {"size": config.size, "depth": config.depth, "difficulty": config.difficulty, **noise}
    seeing = gymnasium.make("vidssl/Rover-v0", **options)
    blind = gymnasium.make("vidssl/Rover-v0", pixels=False, **options)
    drive, drive_blind = _driver(seeing), _driver(blind)
    look = seeing.unwrapped.observe  # type: ignore[attr-defined]
    steps, several = config.steps, config.processes
    measured: dict[str, tuple[Callable[[], object], int, int]] = {  # what, how often, what one of it counts
        f"steps/s with {config.size}x{config.size} images, resets included": (drive, steps, 1),
        "steps/s without images, resets included": (drive_blind, steps, 1),
        f"images/s at {config.size}x{config.size}, no physics": (look, steps, 1),
        "resets/s with images": (seeing.reset, max(1, steps // 10), 1),
    }
    opened: list[Any] = [seeing, blind]
    if several:
        alone = _Alone(options, several)
        fleet, step = _fleet(options, several)
        measured[f"steps/s with images, {several} processes by themselves"] = (
            lambda: alone.drive(steps),
            1,
            several * steps,
        )
        measured[f"steps/s with images, {several} processes in lock-step"] = (step, steps, several)
        opened += [alone, fleet]
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(config.rounds):  # interleaved, so that a busy moment hits all of them
        for name, (work, count, worth) in measured.items():
            rates[name].append(_rate(work, count) * worth)
    for name, values in rates.items():
        print(f"{median(values):8.0f}  {name}  (least {min(values):.0f}, most {max(values):.0f})")
    for env in opened:
        env.close()


if __name__ == "__main__":
    main()
