"""Decoding clips ahead of training, in order, whatever order the workers finish in.

    steps      17            18            19
    clips    a b c d       e f g h       i j k l          tasks go out in this order, results come back in any
             v v v .       v v . .       . . . .          a batch is complete when all its clips are in or have failed

A clip is left out if it failed, or if an earlier clip of its file did, in this order and not in that of time: so the
batches are the same for any number of workers.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from vidssl.errors import VidsslError

from .workers import Failure, WorkerPool

Item = TypeVar("Item")


@dataclass
class Work:
    """A batch in the making: for each clip its file's name and the worker's arguments; results [b] as they come."""

    step: int
    names: list[str]
    arguments: list[tuple[Any, ...]]
    results: list[Any] = field(default_factory=list)
    left: int = 0

    def __post_init__(self) -> None:
        self.results, self.left = [None] * len(self.names), len(self.names)

    def answer(self, place: int, result: Any) -> None:
        self.results[place] = result
        self.left -= 1


def decode_in_order(
    plan: Iterator[Work],
    open_pool: Callable[[], WorkerPool],
    depth: int,
    failed: set[str],
    report: Callable[[str, str, int], None],
) -> Iterator[tuple[Work, list[int]] | None]:
    """Decode the clips of endless `plan`, up to `depth` batches ahead.

    Args:
        plan: the batches to make.
        open_pool: starts the workers.
        depth: batches in the making.
        failed: names that are left out from the start; grows.
        report: called once a file with its name, the reason and the step it failed at.

    Yields:
        The batch, and the places of the clips that are in it; or None, now and then, while none is complete.
    """
    with open_pool() as pool:
        window: deque[Work] = deque()
        waiting: deque[tuple[Work, int]] = deque()
        while True:
            while len(window) < depth:
                work = next(plan)
                window.append(work)
                waiting.extend((work, place) for place in range(len(work.names)))
            while waiting and pool.idle:
                work, place = waiting.popleft()
                if work.names[place] in failed:
                    work.answer(place, None)
                else:
                    pool.submit((work, place), *work.arguments[place])
            if window[0].left == 0:
                work = window.popleft()
                yield work, _kept(work, failed, report)
                continue
            for (work, place), result in pool.poll():
                work.answer(place, result)
            yield None


def _kept(work: Work, failed: set[str], report: Callable[[str, str, int], None]) -> list[int]:
    kept = []
    for place, (name, result) in enumerate(zip(work.names, work.results, strict=True)):
        if name in failed:
            continue
        if isinstance(result, Failure):
            failed.add(name)
            report(name, result.reason, work.step)
        else:
            kept.append(place)
    if not kept:
        raise VidsslError(f"step {work.step}: none of its {len(work.names)} clips can be read")
    return kept


def stack(work: Work, kept: list[int]) -> np.ndarray:
    """The kept clips of a batch as uint8 [b,T,H,W,C]."""
    return np.stack([work.results[place] for place in kept])


def ahead(items: Iterator[Item | None], depth: int) -> Iterator[Item]:
    """The same items, made up to `depth` ahead on a thread of its own; closing this closes `items` on that thread.

    A None is no item: it stands for "not yet", and lets the thread see that it shall stop.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=max(1, depth))
    stop = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for item in items:
                if item is not None:
                    put(item, None)
                if stop.is_set():
                    break
        except BaseException as error:
            put(None, error)
        finally:
            items.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=fill, name="clips", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
