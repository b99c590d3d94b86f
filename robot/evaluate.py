"""Run controllers through episodes with paired seeds, and put the outcomes into numbers with intervals.

Episode i has the same layout for every controller. An episode is a function of (controller, seed) alone: controllers
act on one observation at a time on one thread, so several processes give the same results as one.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError
from vidssl.evaluate.intervals import group_bootstrap, paired_difference, wilson

from .controllers import Controller
from .pixels import episode_seed, make_env
from .threads import one_thread

MakeController = Callable[[gym.Env[Any, Any]], Controller]
CHUNK = 5  # episodes a process takes at a time


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. `failure` is None on success, else the environment's word for it, `"bad-action"` (a controller's
    action that is not finite or of another shape) or `"error"` (the environment raised); `reason` explains the last
    two. `actions` float32 [T,A] replay it."""

    seed: int
    success: bool
    failure: str | None
    reason: str | None
    episode_return: float
    length: int
    actions: np.ndarray


def run_episode(env: gym.Env[Any, Any], controller: Controller, seed: int) -> EpisodeResult:
    """One episode from `reset(seed=seed)` to its end; an environment that raises makes it a failed one."""
    actions: list[np.ndarray] = []
    rewards: list[float] = []

    def result(success: bool, failure: str | None, reason: str | None = None) -> EpisodeResult:
        taken = np.stack(actions) if actions else np.zeros((0, *env.action_space.shape), np.float32)  # type: ignore[misc]
        return EpisodeResult(seed, success, failure, reason, math.fsum(rewards), len(rewards), taken)

    env.action_space.seed(seed)
    try:
        observation, info = env.reset(seed=seed)
    except Exception as error:
        return result(False, "error", f"reset: {type(error).__name__}: {error}")
    controller.reset()
    while True:
        action = np.asarray(controller(observation), np.float32)
        if action.shape != env.action_space.shape or not np.isfinite(action).all():
            return result(False, "bad-action", f"step {len(actions)}: action {action.tolist()}")
        actions.append(action)
        try:
            observation, reward, terminated, truncated, info = env.step(action)
        except Exception as error:
            return result(False, "error", f"step {len(actions) - 1}: {type(error).__name__}: {error}")
        rewards.append(float(reward))
        if terminated or truncated:
            success = bool(info.get("success", False))
            return result(success, None if success else info.get("failure") or "not-reached")


class _Runner:
    """Runs episodes in one process on one environment, made when first needed and again after one that raised."""

    def __init__(self, env_id: str, split: str, size: int | None) -> None:
        self._make: Callable[[], gym.Env[Any, Any]] = partial(make_env, env_id, split, size)
        self._env: gym.Env[Any, Any] | None = None

    def run(self, make_controller: MakeController, seeds: Sequence[int]) -> list[EpisodeResult]:
        results: list[EpisodeResult] = []
        controller: Controller | None = None
        with one_thread():
            for seed in seeds:
                if self._env is None:
                    self._env, controller = self._make(), None
                if controller is None:
                    controller = make_controller(self._env)
                results.append(run_episode(self._env, controller, seed))
                if results[-1].failure == "error":
                    self.close()
        return results

    def close(self) -> None:
        """Close the environment; one that has raised may raise again, and is dropped all the same."""
        if self._env is not None:
            with suppress(Exception):
                self._env.close()
            self._env = None


_runner: _Runner  # of a worker process


def _start_worker(env_id: str, split: str, size: int | None) -> None:
    global _runner
    _runner = _Runner(env_id, split, size)


def _run_in_worker(make_controller: MakeController, seeds: Sequence[int]) -> list[EpisodeResult]:
    return _runner.run(make_controller, seeds)


class Evaluator:
    """Runs episodes in `workers` processes (0: in this one); they live as long as the `with` block.

    Args:
        env_id, split, size: see `pixels.make_env`.
        workers: 0 for this process. Processes are spawned, so `make_controller` must be picklable: a class, a function
            of a module, a bound method of a picklable object.
    """

    def __init__(self, env_id: str, split: str = "test", size: int | None = None, workers: int = 0) -> None:
        self._split = split
        self._here = _Runner(env_id, split, size)
        self._pool = None
        if workers:
            where = (env_id, split, size)
            self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, where)

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *exception: object) -> None:
        self._here.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(
        self,
        make_controller: MakeController,
        episodes: int,
        seed: int = 0,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[EpisodeResult]:
        """Episodes 0..episodes-1 of `seed`, in order; `done(count)` is told of every `count` more finished.

        Raises VidsslError when a process dies.
        """
        seeds = [episode_seed(seed, index, self._split) for index in range(episodes)]
        chunks = [seeds[start : start + CHUNK] for start in range(0, episodes, CHUNK)]
        results: list[list[EpisodeResult]] = [[] for _ in chunks]
        for index, part in self._parts(make_controller, chunks):
            results[index] = part
            done(len(part))
        return [result for part in results for result in part]

    def _parts(
        self, make_controller: MakeController, chunks: list[list[int]]
    ) -> Iterator[tuple[int, list[EpisodeResult]]]:
        if self._pool is None:
            for index, seeds in enumerate(chunks):
                yield index, self._here.run(make_controller, seeds)
            return
        futures = {self._pool.submit(_run_in_worker, make_controller, seeds): i for i, seeds in enumerate(chunks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise VidsslError(f"an evaluation process died ({error}); run with --workers 0 to see why") from error


def evaluate_policy(
    make_controller: MakeController,
    env_id: str,
    episodes: int,
    seed: int = 0,
    split: str = "test",
    size: int | None = None,
    workers: int = 0,
) -> list[EpisodeResult]:
    """Run a controller through `episodes` layouts; the same seed gives every controller the same ones.

    >>> results = evaluate_policy(MyController, "vidssl/Rover-v0", episodes=100)
    >>> summary(results)["success_rate"]

    Args:
        make_controller: env -> controller with `reset()` and `controller(observation) -> action`.
        env_id, split, size: see `pixels.make_env`.
        workers: processes, 0 for this one.

    Raises VidsslError for unknown environments, ones without images, spaces that do not fit the controller.
    """
    with Evaluator(env_id, split, size, workers) as evaluator:
        return evaluator.run(make_controller, episodes, seed)


def summary(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Successes with a 95 % interval, mean return and length, failures by kind.

    The interval is Wilson's; where layouts occur more than once (several cloning seeds) the trials are not independent,
    and whole layouts are resampled instead (cluster bootstrap).
    """
    success = np.array([result.success for result in results], float)
    seeds = [result.seed for result in results]
    if _independent(seeds):
        kind, (low, high) = "wilson", wilson(int(success.sum()), len(success))
    else:
        boot = group_bootstrap(success, seeds)
        kind, low, high = "bootstrap over layouts", boot.low, boot.high
    return {
        "episodes": len(results),
        "successes": int(success.sum()),
        "success_rate": float(success.mean()),
        "interval_95": [low, high],
        "interval": kind,
        "mean_return": float(np.mean([result.episode_return for result in results])),
        "mean_length": float(np.mean([result.length for result in results])),
        "failures": dict(sorted(Counter(result.failure for result in results if result.failure).items())),
    }


def compare(a: Sequence[EpisodeResult], b: Sequence[EpisodeResult]) -> dict[str, float]:
    """Success rate of `a` minus that of `b`, with a paired 95 % interval over layouts.

    With one trial a layout the interval is Newcombe's for pairs; with several, layouts are resampled as in `summary`.

    Raises VidsslError when the two did not run the same layouts.
    """
    seeds = [result.seed for result in a]
    if seeds != [result.seed for result in b]:
        raise VidsslError("the two controllers ran different layouts, so their episodes cannot be paired")
    x, y = (np.array([result.success for result in results], float) for results in (a, b))
    if _independent(seeds):
        difference, low, high = paired_difference(x, y)
    else:
        boot = group_bootstrap(x - y, seeds)
        difference, low, high = boot.mean, boot.low, boot.high
    return {"difference": difference, "low_95": low, "high_95": high}


def _independent(seeds: Sequence[int]) -> bool:
    return len(set(seeds)) == len(seeds)
