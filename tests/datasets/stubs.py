"""What workers are given in place of a decoder: importable, so that a fresh interpreter finds it."""

import ctypes
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np

from vidssl.datasets.packets import ReadPlan
from vidssl.datasets.video import read_plan
from vidssl.errors import VidsslError


def task(what: str, value: int) -> np.ndarray | int:
    """Does what it is told."""
    if what == "hang":
        ctypes.PyDLL(None).sleep(1000)  # in C, with the interpreter's lock held
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "bad file":
        raise VidsslError("a.mp4: cut short")
    if what == "bug":
        raise ZeroDivisionError("oh")
    return np.full((2, 3), value, np.uint8) if what == "array" else value


def slow_but_alive(steps: int) -> Generator[None, None, int]:
    """Takes longer than its deadline, yet shows that it goes on."""
    for _ in range(steps):
        time.sleep(0.2)
        yield
    return steps


def sleeper(seconds: float) -> str:
    """Takes its time."""
    time.sleep(seconds)
    return "slept"


def touchy_decode(path: Path, plan: ReadPlan, size: tuple[int, int]) -> np.ndarray:
    """Decodes, but hangs on or refuses files by their names, from a certain frame on."""
    late = max(plan.stamps) > 9000
    if "hang" in path.name and late:
        ctypes.PyDLL(None).sleep(1000)
    if "bad" in path.name and late:
        raise VidsslError(f"{path}: decodes only 3 of 8 frames")
    return read_plan(path, plan, size)


def cut_index(path: Path) -> None:
    """Every file is bad."""
    raise VidsslError(f"{path}: cut short")
