"""Time of a plan in imagination, and of a whole tick of the planner, for one robot.

python -m vidssl.scripts.bench_planning --horizon 20 --samples 256 --iterations 5
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import tyro


@dataclass(frozen=True)
class Config:
    controller: tyro.conf.Positional[Path | None] = None
    """folder of a planner; left out: one with random weights, whose plans take as long, and its graph longer"""
    horizon: int = 20
    """steps a plan looks ahead"""
    samples: int = 256
    """action sequences a round"""
    iterations: int = 5
    """rounds a plan"""
    threads: tuple[int, ...] = (1, 2)
    """numbers of torch threads to measure"""
    rounds: int = 30
    """plans of each kind; the median is reported"""


def _milliseconds(work: Callable[[], object], rounds: int) -> list[float]:
    work()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def main(argv: list[str] | None = None) -> None:
    """Print the median of each measurement, in milliseconds."""
    config = tyro.cli(Config, args=argv, prog="bench_planning", description=__doc__)
    import torch

    from vidssl.robot.pixels import make_env
    from vidssl.robot.planner import PlanController
    from vidssl.robot.planning import search
    from vidssl.robot.spaces import Spaces
    from vidssl.robot.world_model_training import WorldModelConfig, untrained

    env = make_env("vidssl/TwoRooms-v0", "train")
    if config.controller is not None:
        loaded = PlanController.load(config.controller)
    else:
        extractor, model = untrained(WorldModelConfig())
        model.requires_grad_(False)
        loaded = PlanController(extractor, model, 10 * torch.randn(256, 2), Spaces.of(env))
    x, goal = 10 * torch.randn(2, 2)
    observation, _ = env.reset(seed=0)
    print(
        f"horizon {config.horizon}, {config.samples} samples, {config.iterations} iterations; medians of milliseconds"
    )
    for threads in config.threads:
        torch.set_num_threads(threads)
        for planner in ("mppi", "cem"):
            how = replace(
                loaded.config.search,
                planner=planner,
                horizon=config.horizon,
                samples=config.samples,
                iterations=config.iterations,
            )
            controller = PlanController(
                loaded.extractor, loaded.model, loaded.landmarks, loaded.spaces, replace(loaded.config, search=how)
            ).fit_to(env)
            controller(observation)
            cost, start = controller.cost_of(x, goal), torch.zeros(how.horizon, controller.model.actions)
            generator = torch.Generator().manual_seed(0)

            plan = torch.inference_mode()(partial(search, cost, start, how, how.iterations, generator))

            def first(controller: PlanController = controller) -> object:
                controller.reset()
                return controller(observation)

            def later(controller: PlanController = controller) -> object:
                return controller(env.step(env.action_space.sample())[0])  # a robot that stood still would wonder why

            for name, work in (("plan", plan), ("first tick, with its graph", first), ("later tick", later)):
                times = _milliseconds(work, config.rounds)
                print(f"{median(times):8.1f}  {name}, {planner}, {threads} threads  (least {min(times):.1f})")
    env.close()


if __name__ == "__main__":
    main()
