"""Worker processes that can be killed: a decoder that hangs, even in C with the interpreter's lock, loses its process.

    parent ──task──> worker 0 ──result──>      one pipe a worker, so that a kill breaks nobody else's
           ──task──> worker 1  (hangs)         past its deadline: killed, restarted, its task answered with why

One task at a time is with a worker, so its deadline runs from when the task was sent.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import numpy as np

from vidssl.errors import VidsslError

START_SECONDS = 120.0  # a fresh interpreter on a loaded machine
PAUSE = 2.0  # seconds: who was not running for longer cannot tell whose fault it is
SIGNS = 0.05  # seconds between two signs of life
T = TypeVar("T")


@dataclass
class Failure:
    """What a task came to when it did not come to a result."""

    reason: str


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Any = None  # the caller's name of the task at hand
    busy: bool = False
    ready: bool = False
    since: float = 0.0
    forgiven: bool = False  # a deadline, for the task at hand


class WorkerPool:
    """`function(*arguments)` in worker processes, under a deadline.

    Args:
        function: importable from its module. Returns an array (sent as bytes) or anything small, or raises
            `VidsslError` for a bad file. A generator function returns likewise, and every `yield` renews its deadline.
        workers: number of processes.
        deadline: seconds a task may take, or until its next sign of life.
        start: "spawn" (a fresh interpreter) or "fork"; decoders live in the worker alone, so both are safe.
    """

    def __init__(self, function: Callable[..., Any], workers: int, deadline: float, start: str = "spawn"):
        self._function, self._deadline = function, deadline
        self._context: Any = multiprocessing.get_context(start)
        self._workers = [self._launch() for _ in range(max(1, workers))]
        self._polled = time.monotonic()

    def _launch(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, here, self._function), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here, since=time.monotonic())

    @property
    def idle(self) -> int:
        """Workers without a task."""
        return sum(not worker.busy for worker in self._workers)

    @property
    def busy(self) -> int:
        return len(self._workers) - self.idle

    def submit(self, task: Any, *arguments: Any) -> None:
        """Give a task to an idle worker; `poll` answers with the same `task`."""
        worker = next(worker for worker in self._workers if not worker.busy)
        worker.task, worker.busy, worker.since, worker.forgiven = task, True, time.monotonic(), False
        with suppress(OSError):  # it died while idle: `poll` finds out
            worker.pipe.send(arguments)

    def poll(self, timeout: float = 0.1) -> list[tuple[Any, Any]]:
        """The (task, result or `Failure`) of tasks that ended, waiting at most `timeout` seconds for the first.

        Raises:
            VidsslError: workers can't be started.
        """
        pipes = {worker.pipe: slot for slot, worker in enumerate(self._workers)}
        readable = wait(list(pipes), timeout)
        away = time.monotonic() - self._polled - timeout > PAUSE
        ended = [self._receive(pipes[pipe]) for pipe in readable]  # type: ignore[index]
        ended += [self._overdue(slot, away) for slot in range(len(self._workers))]
        self._polled = time.monotonic()
        return [answer for answer in ended if answer is not None]

    def _receive(self, slot: int) -> tuple[Any, Any] | None:
        worker = self._workers[slot]
        try:
            kind, value = worker.pipe.recv()
            if kind == "array":
                shape, dtype = value
                value = np.empty(shape, dtype)
                if value.size:
                    worker.pipe.recv_bytes_into(value.data.cast("B"))
        except (EOFError, OSError):
            return self._replace(slot, "the decoder crashed")
        if kind in ("ready", "alive"):
            worker.ready, worker.since = True, time.monotonic()
            return None
        worker.busy = False
        return worker.task, Failure(value) if kind == "failure" else value

    def _overdue(self, slot: int, away: bool) -> tuple[Any, Any] | None:
        """Kills a worker past its deadline. One that may have been stopped along with this process (Ctrl-Z, a suspended
        job), which was `away`, gets the time of one more first."""
        worker = self._workers[slot]
        limit = self._deadline if worker.ready else max(START_SECONDS, self._deadline)
        if not worker.busy or time.monotonic() - worker.since <= limit:
            return None
        if away and not worker.forgiven:
            worker.since, worker.forgiven = time.monotonic(), True
            return None
        slow = f"no answer within {self._deadline:g} s: it hangs, or is too slow here (then raise --deadline)"
        return self._replace(slot, slow)

    def _replace(self, slot: int, reason: str) -> tuple[Any, Any] | None:
        worker = self._workers[slot]
        _kill(worker)
        if not worker.ready:
            raise VidsslError(
                "worker processes can't start; a script that loads videos must keep its top level under "
                '`if __name__ == "__main__":`'
            )
        self._workers[slot] = self._launch()
        code = worker.process.exitcode
        if code not in (None, 0) and "crashed" in reason:
            reason += f" (exit status {code})"
        return (worker.task, Failure(reason)) if worker.busy else None

    def run(self, tasks: Iterable[tuple[Any, tuple[Any, ...]]]) -> Iterator[tuple[Any, Any]]:
        """All of (task, arguments), as they end: (task, result or `Failure`)."""
        left = iter(tasks)
        upcoming = next(left, None)
        while upcoming is not None or self.busy:
            while upcoming is not None and self.idle:
                self.submit(upcoming[0], *upcoming[1])
                upcoming = next(left, None)
            yield from self.poll()

    def close(self) -> None:
        """End the workers, whatever they are at, and reap them."""
        for worker in self._workers:
            _kill(worker)
        self._workers = []

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kill(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _serve(pipe: Connection, parents_end: Connection, function: Callable[..., Any]) -> None:
    """A worker's life: answer tasks until the parent closes its end or is gone."""
    parents_end.close()  # a copy; left open, the parent's end would never be seen to close
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's handler, inherited by fork
    parent = multiprocessing.parent_process()
    assert parent is not None
    pipe.send(("ready", None))
    try:
        while pipe in wait([pipe, parent.sentinel]):
            _answer(pipe, function, pipe.recv())
    except (EOFError, OSError):
        pass


def attempt(function: Callable[..., Any], *arguments: Any, alive: Callable[[], None] = lambda: None) -> Any:
    """What a worker does, in this process: the result of `function(*arguments)`, or a `Failure` with why there is none.

    Args:
        alive: called at each `yield` of a generator function.
    """
    try:
        value = function(*arguments)
        return finish(value, alive) if isinstance(value, Generator) else value
    except VidsslError as error:
        return Failure(str(error))
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}")


def finish(steps: Generator[Any, None, T], alive: Callable[[], None] = lambda: None) -> T:
    """What a generator returns in the end; `alive` is called at each of its yields."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        alive()


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    said = time.monotonic()

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said > SIGNS:
            said = time.monotonic()
            pipe.send(("alive", None))

    value = attempt(function, *arguments, alive=alive)
    if isinstance(value, Failure):
        pipe.send(("failure", value.reason))
    elif isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value)
        pipe.send(("array", (value.shape, value.dtype.str)))
        if value.size:
            pipe.send_bytes(value.data.cast("B"))
    else:
        pipe.send(("value", value))
