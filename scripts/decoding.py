"""Frames of many videos, decoded by worker processes under a deadline, in the order asked for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vidssl.datasets.packets import VideoIndex
from vidssl.datasets.video import VideoReader
from vidssl.datasets.workers import Failure, WorkerPool
from vidssl.errors import VidsslError

Task = tuple[Path, VideoIndex, Sequence[int]]  # a file, its index, frame numbers


def read_frames(path: Path, index: VideoIndex, numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Frames by number: uint8 RGB [T,H,W,3]. What a worker runs."""
    with VideoReader(path, size, index, threads=1) as reader:
        return reader.read_array(numbers)


def decode(
    tasks: Sequence[Task], size: tuple[int, int], workers: int, deadline: float
) -> Iterator[np.ndarray | Failure]:
    """Decode the tasks and yield their frames in the given order.

    Args:
        tasks: what to read.
        size: (height, width) frames are scaled to.
        workers: processes; 0 decodes in this process, where a hang can't be ended.
        deadline: seconds a task may take.

    Yields:
        uint8 [T,H,W,3] a task, or a `Failure` with the reason.
    """
    if workers == 0:
        yield from (_here(task, size) for task in tasks)
        return
    waiting: dict[int, np.ndarray | Failure] = {}  # results that came before their turn
    turn = 0
    with WorkerPool(read_frames, max(1, min(workers, len(tasks))), deadline) as pool:
        for number, result in pool.run((number, (*task, size)) for number, task in enumerate(tasks)):
            waiting[number] = result
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


def _here(task: Task, size: tuple[int, int]) -> np.ndarray | Failure:
    try:
        return read_frames(*task, size)
    except VidsslError as error:
        return Failure(str(error))
