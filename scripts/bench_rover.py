"""Speed of `vidssl/Rover-v0` in one process: steps a second with the camera, without it, and images a second alone.

python -m vidssl.scripts.bench_rover --size 64 --rounds 7
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

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


def main(argv: list[str] | None = None) -> None:
    """Print the median of each measurement."""
    config = tyro.cli(Config, args=argv, prog="bench_rover", description=__doc__)
    seeing = gymnasium.make("vidssl/Rover-v0", size=config.size, depth=config.depth)
    blind = gymnasium.make("vidssl/Rover-v0", size=config.size, depth=config.depth, pixels=False)
    drive, drive_blind = _driver(seeing), _driver(blind)
    look = seeing.unwrapped.observe  # type: ignore[attr-defined]
    measured: dict[str, tuple[Callable[[], object], int]] = {
        f"steps/s with {config.size}x{config.size} images, resets included": (drive, config.steps),
        "steps/s without images, resets included": (drive_blind, config.steps),
        f"images/s at {config.size}x{config.size}, no physics": (look, config.steps),
        "resets/s with images": (seeing.reset, max(1, config.steps // 10)),
    }
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(config.rounds):  # interleaved, so that a busy moment hits all of them
        for name, (work, count) in measured.items():
            rates[name].append(_rate(work, count))
    for name, values in rates.items():
        print(f"{median(values):8.0f}  {name}  (least {min(values):.0f}, most {max(values):.0f})")
    seeing.close()
    blind.close()


if __name__ == "__main__":
    main()
