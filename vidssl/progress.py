"""Progress on a terminal, and a line now and then where there is none."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingDisplay:
    """Steps, loss, steps/s, share of time spent waiting for data, time left. Use as a context manager.

    Args:
        total: steps in all, None when `minutes` decide.
        minutes: wall-clock budget in minutes, where that decides.
        step: steps done already.
        enabled: only one rank talks.
    """

    SILENCE = 30.0  # seconds between lines where there is no terminal

    def __init__(self, total: int | None, minutes: float | None, step: int, enabled: bool = True) -> None:
        self.total, self.minutes, self.enabled = total, minutes, enabled
        self.console = Console(file=sys.stderr)
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            *([MofNCompleteColumn()] if total else []),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled or not self.console.is_terminal,
        )
        self.task = self.progress.add_task(
            "", total=total or 60 * (minutes or 0), completed=step if total else 0, told=""
        )
        self.said = time.perf_counter()

    def __enter__(self) -> "TrainingDisplay":
        self.progress.start()
        return self

    def update(self, step: int, seconds: float, loss: float, rate: float, wait: float) -> None:
        """After a step: steps and seconds so far, its loss, steps/s, share of time waiting for data in [0, 1]."""
        told = f"loss {loss:.3f}  {rate:.2f} steps/s  data wait {wait:.0%}"
        self.progress.update(self.task, completed=step if self.total else seconds, told=told)
        if self.enabled and not self.console.is_terminal and time.perf_counter() - self.said > self.SILENCE:
            self.said = time.perf_counter()
            left = (
                f"{step}/{self.total} steps" if self.total else f"{seconds / 60:.1f}/{self.minutes:g} min, step {step}"
            )
            print(f"training: {left}  {told}", file=sys.stderr, flush=True)

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()


@contextmanager
def progress_bar(what: str, total: int, show: bool) -> Iterator[Callable[[], None]]:
    """A function to call once for every finished item."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, disable=not show, transient=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
