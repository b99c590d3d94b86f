"""Processes side by side: a few at a time, each with fixed threads and a log; what they do is theirs.

waiting  d e f        a job that fails is told and the next one starts; a signal ends all running ones with SIGTERM,
running  b c          which training answers by saving, and the jobs that are done stay done
done     a
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidssl.errors import VidsslError

LAST_WORDS = 120.0  # seconds a job has, once told to stop, to finish its step and save


@dataclass
class Job:
    """One process.

    Attributes:
        name: in logs and on the terminal.
        module: what `python -m` runs, with the job's file as its argument.
        settings: what that file holds.
        folder: for the file and the log.
        seconds: about how long it takes, None when that isn't known.
        metrics: `metrics.jsonl` that it writes, where it trains.
    """

    name: str
    module: str
    settings: dict[str, Any]
    folder: Path
    seconds: float | None = None
    metrics: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    started: float = field(default=0.0, init=False)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"

    def start(self, threads: int, lock: int) -> None:
        """Begin; the process inherits `lock`, an open file, so that the lock lasts as long as it does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{self.name}.json"
        file.write_text(json.dumps(self.settings, indent=2) + "\n")
        count = str(threads)
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # methods from elsewhere
        command = [sys.executable, "-m", self.module, str(file)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(lock,),
                process_group=0,  # a terminal's Ctrl-C reaches the parent alone, which passes it on
            )
        self.started = time.perf_counter()

    def told(self) -> str:
        """What its training last wrote: steps and loss; nothing before, or where it doesn't train."""
        try:
            line = json.loads(self.metrics.read_bytes().splitlines()[-1]) if self.metrics else {}
        except (OSError, ValueError, IndexError):
            return ""
        return f"step {line['step']}  loss {line['loss']:.3f}" if "loss" in line else ""

    def failure(self) -> str:
        """Why it failed: the last line of its log, or the signal that killed it."""
        assert self.process is not None
        code = self.process.returncode
        if code < 0:
            hint = "; out of memory?" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip().removeprefix("error: ") if lines else f"exit status {code}"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds `folder` for this process and those it starts; yields the open lock.

    Raises:
        VidsslError: another process holds it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise VidsslError(
                f"{folder}: another comparison writes there, or trainings that it left behind; let them end, or choose"
                " another --out"
            ) from error
        yield file.fileno()


def run_jobs(
    jobs: Sequence[Job], at_once: int, threads: int, lock: int, finished: Callable[[Job, str | None], None]
) -> None:
    """Run the jobs in order, `at_once` at a time, each on `threads` CPU threads.

    Args:
        finished: called after each with the reason of its failure, or None.

    Raises:
        KeyboardInterrupt, SystemExit: as a signal raised them here; the running jobs have been stopped then.
    """
    waiting, running = list(jobs), list[Job]()
    with _display(len(jobs)) as show:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    job.start(threads, lock)
                    running.append(job)
                time.sleep(0.2)
                show(running, len(jobs) - len(waiting) - len(running))
                for job in [job for job in running if job.process and job.process.poll() is not None]:
                    running.remove(job)
                    assert job.process is not None
                    finished(job, job.failure() if job.process.returncode else None)
        finally:
            _stop(running)


def _stop(running: Sequence[Job]) -> None:
    """End what still runs: SIGTERM, time to save, then SIGKILL; a second Ctrl-C kills at once."""
    processes = [job.process for job in running if job.process]
    try:
        for process in processes:
            process.terminate()
        deadline = time.perf_counter() + LAST_WORDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.perf_counter()))
            except subprocess.TimeoutExpired:
                continue
    finally:
        for process in processes:
            process.kill()  # nothing happens to one that has ended
            process.wait()


@contextmanager
def _display(total: int) -> Iterator[Callable[[Sequence[Job], int], None]]:
    """A bar for all and a line a running job, on a terminal; elsewhere `finished` has the say."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        transient=True,
        console=_terminal(),
        disable=not _terminal().is_terminal,
    ) as bars:
        whole = bars.add_task("all", total=total, told="")
        lines: dict[str, Any] = {}

        def show(running: Sequence[Job], done: int) -> None:
            bars.update(whole, completed=done, told=f"{done}/{total} jobs")
            for name in set(lines) - {job.name for job in running}:
                bars.remove_task(lines.pop(name))
            for job in running:
                if job.name not in lines:
                    lines[job.name] = bars.add_task(job.name, total=job.seconds, told="")
                bars.update(lines[job.name], completed=time.perf_counter() - job.started, told=job.told())

        yield show


def _terminal() -> Any:
    from rich.console import Console

    return Console(file=sys.stderr)
