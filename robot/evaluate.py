"""Run controllers through episodes with paired seeds, and put the outcomes into numbers with intervals.

Episode i has the same layout for every controller. An episode is a function of (controller, seed) alone: controllers
act on one observation at a time on one thread, so several processes give the same results as one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from vidssl.errors import VidsslError

from .outcomes import compare, summary
from .pixels import episode_seed
from .rollout import EpisodeResult, MakeController, Place, Runner, Wrap, run_episode
from .worker_processes import Workers

__all__ = ["EpisodeResult", "Evaluator", "MakeController", "compare", "evaluate_policy", "run_episode", "summary"]
FIRST = 5  # episodes that must not all be broken
DEADLINE = 60.0  # seconds a tick may take


class Store(Protocol):
    """Keeps finished episodes, so that an interrupted evaluation goes on where it was."""

    def known(self) -> dict[int, EpisodeResult]:
        """The episodes kept earlier, by index; broken ones among them are run again."""

    def add(self, index: int, episode: EpisodeResult) -> None:
        """Keep one more."""

    def flush(self) -> None:
        """Write what is not yet written."""


class Evaluator:
    """Runs episodes in `workers` processes (0: in this one); they live as long as the `with` block.

    Args:
        env_id, split, size: see `pixels.make_env`.
        workers: 0 for this process, in which an environment that hangs or crashes cannot be helped. Processes are
            spawned, so `make_controller` and `wrap` must be picklable: a class, a function of a module, a
            `functools.partial` of one, a bound method of a picklable object.
        wrap: env -> env, e.g. `functools.partial(ActionDelay, steps=3)`; around the environment of every episode.
        deadline: seconds that a reset, a step or a choice of action may take; then the process is killed and the
            episode has failed by `"hang"` (needs workers).
    """

    def __init__(
        self,
        env_id: str,
        split: str = "test",
        size: int | None = None,
        workers: int = 0,
        *,
        wrap: Wrap | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        if not deadline > 0:
            raise VidsslError(f"deadline: got {deadline} s; above 0")
        self.place = Place(env_id, split, size, wrap)
        self._here = Runner(self.place)
        self._workers = Workers(workers, self.place, deadline) if workers else None

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *exception: object) -> None:
        self._here.close()
        if self._workers is not None:
            self._workers.close()

    def run(
        self,
        make_controller: MakeController,
        episodes: int,
        seed: int = 0,
        done: Callable[[int], None] = lambda count: None,
        store: Store | None = None,
    ) -> list[EpisodeResult]:
        """Episodes 0..episodes-1 of `seed`, in order; `done(count)` is told of every `count` more finished.

        Raises VidsslError when the environment or the controller cannot be made, and when the controller raises, or
        the environment before its first step was done, in each of the first five episodes.
        """
        seeds = [episode_seed(seed, index, self.place.split) for index in range(episodes)]
        known = store.known() if store is not None else {}
        results = {index: known[index] for index in range(episodes) if index in known and not known[index].broken}
        done(len(results))
        left = [index for index in range(episodes) if index not in results]
        try:
            for number, result in self._episodes(make_controller, [seeds[index] for index in left]):
                index = left[number]
                results[index] = result
                _check_first(results, min(FIRST, episodes))
                if store is not None:
                    store.add(index, result)
                done(1)
        finally:
            if store is not None:
                store.flush()
        return [results[index] for index in range(episodes)]

    def _episodes(self, make_controller: MakeController, seeds: Sequence[int]) -> Iterator[tuple[int, EpisodeResult]]:
        if self._workers is not None:
            yield from self._workers.run(make_controller, seeds)
        else:
            for number, seed in enumerate(seeds):
                yield number, self._here.run(make_controller, seed)


def _check_first(results: dict[int, EpisodeResult], first: int) -> None:
    """A controller or environment that fails now and then is a result; one that fails from the start has a bug."""
    begin = [results.get(index) for index in range(first)]
    if all(result is not None and result.broken for result in begin):
        assert begin[0] is not None
        who = "controller" if begin[0].failure == "controller-error" else "environment"
        raise VidsslError(
            f"the {who} raised in each of the first {first} episodes: {begin[0].reason}; mend it and start again"
        )


def evaluate_policy(
    make_controller: MakeController,
    env_id: str,
    episodes: int,
    seed: int = 0,
    split: str = "test",
    size: int | None = None,
    workers: int = 0,
    *,
    wrap: Wrap | None = None,
    deadline: float = DEADLINE,
) -> list[EpisodeResult]:
    """Run a controller through `episodes` layouts; the same seed gives every controller the same ones.

    >>> results = evaluate_policy(MyController, "vidssl/Rover-v0", episodes=100)
    >>> summary(results)["success_rate"]

    Args:
        make_controller: env -> controller with `reset()` and `controller(observation) -> action`.
        env_id, split, size, workers, wrap, deadline: see `Evaluator`.

    Raises VidsslError for unknown environments, ones without images, spaces that do not fit the controller, a
    controller that raises in each of the first episodes, an environment that does before its first step is done.
    """
    with Evaluator(env_id, split, size, workers, wrap=wrap, deadline=deadline) as evaluator:
        return evaluator.run(make_controller, episodes, seed)
