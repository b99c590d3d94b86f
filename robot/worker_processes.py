"""Episodes in several processes that may hang or die: such an episode is written down, its process replaced.

this process                          a worker
  (controller, seed)  ── pipe ──►       runs the episode; writes every event as a line of its journal, a file
  result              ◄── pipe ──
  looks at the journal's size: no new event for `deadline` seconds -> kill; the journal tells how far it came
"""

import json
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vidssl.errors import VidsslError

from .rollout import EpisodeResult, Event, MakeController, Place, Runner, Trace

LOOK = 0.2  # seconds between two looks at the journals
START = 300.0  # seconds that a process may take to start, to make the environment and its controller


class Workers:
    """Up to `count` processes that run episodes at a place; started when first needed, they live until `close`.

    Args:
        deadline: seconds that a reset, a step or a choice of action may take before its process is killed.
    """

    def __init__(self, count: int, place: Place, deadline: float) -> None:
        self._count, self._place, self._deadline = count, place, deadline
        self._folder = tempfile.TemporaryDirectory(prefix="vidssl-episodes-")
        self._workers: list[_Worker] = []
        self._finalize = weakref.finalize(self, _stop, self._workers, self._folder)

    def run(self, make_controller: MakeController, seeds: Sequence[int]) -> Iterator[tuple[int, EpisodeResult]]:
        """(index of the seed, episode), as they come to an end.

        Raises VidsslError when the environment or the controller cannot be made.
        """
        job = _pickled(make_controller)
        waiting = deque(enumerate(seeds))
        try:
            while waiting or any(worker.busy for worker in self._workers):
                self._hand_out(job, waiting)
                busy = [worker for worker in self._workers if worker.busy]
                ready = connection.wait([worker.pipe for worker in busy], LOOK)
                for worker in busy:
                    if (done := worker.look(worker.pipe in ready)) is not None:
                        yield done
        finally:  # an error, or nobody wants the rest: what still runs is of no use
            for worker in self._workers:
                if worker.busy:
                    worker.kill()
            self._workers[:] = [worker for worker in self._workers if worker.alive]

    def _hand_out(self, job: bytes, waiting: deque[tuple[int, int]]) -> None:
        self._workers[:] = [worker for worker in self._workers if worker.alive]
        idle = [worker for worker in self._workers if not worker.busy]
        while waiting and (idle or len(self._workers) < self._count):
            if not idle:
                idle.append(_Worker(self._place, self._deadline, Path(self._folder.name)))
                self._workers.append(idle[-1])
            idle.pop().give(job, *waiting.popleft())

    def close(self) -> None:
        """End all processes."""
        self._finalize()


def _stop(workers: "list[_Worker]", folder: tempfile.TemporaryDirectory[str]) -> None:
    for worker in workers:
        worker.kill()
    folder.cleanup()


def _pickled(make_controller: MakeController) -> bytes:
    try:
        return pickle.dumps(make_controller)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise VidsslError(
            f"this controller cannot be sent to other processes ({error}); give a class or function of a module, "
            "or run with workers=0"
        ) from error


class _Worker:
    """One process, seen from here."""

    def __init__(self, place: Place, deadline: float, folder: Path) -> None:
        context = get_context("spawn")
        self.pipe, there = context.Pipe()
        file, name = tempfile.mkstemp(dir=folder, suffix=".jsonl")
        os.close(file)
        self._journal, self._deadline = Path(name), deadline
        self._process: BaseProcess = context.Process(target=_work, args=(there, place, name))
        self._process.start()
        there.close()  # so that the pipe ends when the process does
        self._job: bytes | None = None
        self._at: tuple[int, int] | None = None  # index and seed of the episode it is at
        self.alive = True

    @property
    def busy(self) -> bool:
        return self._at is not None

    def give(self, job: bytes, index: int, seed: int) -> None:
        """Start an episode."""
        os.truncate(self._journal, 0)
        self._size, self._changed = 0, time.monotonic()
        self._at = index, seed
        with suppress(OSError):  # a process that has died is seen at the next look
            self.pipe.send((None if job is self._job else job, seed))
        self._job = job

    def look(self, ready: bool) -> tuple[int, EpisodeResult] | None:
        """The finished episode, whichever way it ended, and None while it runs."""
        assert self._at is not None
        index, seed = self._at
        if ready:
            try:
                answer = self.pipe.recv()
            except (EOFError, ConnectionResetError):
                return index, self._lost(seed, "crash", None)
            self._at = None
            if isinstance(answer, str):
                raise VidsslError(answer)
            return index, answer
        if (size := self._journal.stat().st_size) != self._size:
            self._size, self._changed = size, time.monotonic()
            return None
        waited = time.monotonic() - self._changed
        if waited < self._deadline or (waited < max(START, self._deadline) and not self._trace(seed).begun):
            return None
        return index, self._lost(seed, "hang", waited)

    def _lost(self, seed: int, failure: str, waited: float | None) -> EpisodeResult:
        """Kill what is left of the process; the episode as far as it came."""
        if waited is None:
            self._process.join(10)
        self.kill()
        what = f"no answer for {waited:.0f} s" if waited is not None else _death(self._process.exitcode)
        trace = self._trace(seed)
        if not trace.begun:
            raise VidsslError(
                f"an evaluation process ended while {trace.doing}: {what}; run with --workers 0 to see why "
                '(a script of your own needs `if __name__ == "__main__":` around its call)'
            )
        # without the seconds measured: the same evaluation gives the same words
        what = what if waited is None else f"no answer within {self._deadline:g} s"
        return trace.result(False, failure, f"{trace.doing}: {what}")

    def _trace(self, seed: int) -> Trace:
        trace = Trace(seed)
        for line in self._journal.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a process that died while writing it
                trace.add(json.loads(line))
        return trace

    def kill(self) -> None:
        """End the process, now."""
        self._process.kill()
        self._process.join()
        self.pipe.close()
        self._at, self.alive = None, False


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process died ({signal.Signals(-code).name})"
    return f"the process died (exit code {code})"


def _work(pipe: "connection.Connection[Any, Any]", place: Place, journal: str) -> None:
    """The life of a worker process: episodes, until the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which then ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = os.open(journal, os.O_WRONLY | os.O_APPEND)

    def note(event: Event) -> None:
        os.write(file, json.dumps(event).encode() + b"\n")

    runner = Runner(place)
    make_controller: MakeController | None = None
    while True:
        try:
            job, seed = pipe.recv()
        except EOFError:
            break
        answer: EpisodeResult | str
        try:
            if job is not None:
                make_controller = pickle.loads(job)
            assert make_controller is not None
            answer = runner.run(make_controller, seed, note)
        except VidsslError as error:
            answer = str(error)
        except Exception:
            answer = f"an evaluation process failed; run with --workers 0 to see why\n{traceback.format_exc()}"
        pipe.send(answer)
    runner.close()


def _end_with_parent() -> None:
    """A killed parent takes its workers with it, also one that is caught in an episode."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
