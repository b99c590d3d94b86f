"""Frames of many videos, decoded by worker processes under a deadline, in the order asked for."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidssl.datasets.files import VideoFile
from vidssl.datasets.packets import VideoIndex
from vidssl.datasets.quarantine import Quarantine
from vidssl.datasets.video import VideoReader
from vidssl.datasets.workers import Failure, WorkerPool, attempt

if TYPE_CHECKING:
    from torch import Tensor

    from vidssl.features import FeatureExtractor

Task = tuple[Path, VideoIndex, Sequence[int]]  # a file, its index, frame numbers


def read_frames(
    path: Path, index: VideoIndex, numbers: Sequence[int], size: tuple[int, int]
) -> Generator[None, None, np.ndarray]:
    """Frames by number: uint8 RGB [T,H,W,3], with a sign of life each. What a worker runs."""
    with VideoReader(path, size, index, threads=1) as reader:
        return (yield from reader.read_in_steps(numbers))


def decode(
    tasks: Sequence[Task], size: tuple[int, int], workers: int, deadline: float
) -> Iterator[np.ndarray | Failure]:
    """Decode the tasks and yield their frames in the given order.

    Args:
        tasks: what to read.
        size: (height, width) frames are scaled to.
        workers: processes; 0 decodes in this process, where a hang can't be ended.
        deadline: seconds until a task's next frame may take.

    Yields:
        uint8 [T,H,W,3] a task, or a `Failure` with the reason.
    """
    if workers == 0:
        yield from (attempt(read_frames, *task, size) for task in tasks)
        return
    waiting: dict[int, np.ndarray | Failure] = {}  # results that came before their turn
    turn = 0
    with WorkerPool(read_frames, max(1, min(workers, len(tasks))), deadline) as pool:
        for number, result in pool.run((number, (*task, size)) for number, task in enumerate(tasks)):
            waiting[number] = result
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


def read_windows(
    videos: Sequence[VideoFile],
    extractor: "FeatureExtractor",
    frames: int,
    windows: int,
    quarantine: Quarantine,
    *,
    workers: int,
    deadline: float,
) -> "Iterator[tuple[int, Tensor]]":
    """Windows spread over every video, cut as the run's clips were, at the run's frame size.

    Args:
        videos: what to read.
        extractor: of the run, for its size and rate.
        frames: T frames a window.
        windows: W windows a video.
        quarantine: takes the videos that can't be read, and ends it when they are too many.
        workers, deadline: see `decode`.

    Yields:
        the video's number and its windows, uint8 [W,T,H,W',3], in order; unreadable videos are left out.
    """
    import torch

    from vidssl.datasets.scan import scan_videos
    from vidssl.evaluate.windows import spread_windows, training_stride
    from vidssl.progress import progress_bar

    indices = scan_videos(videos, quarantine, workers=workers, deadline=deadline)
    found = [number for number, video in enumerate(videos) if video.name in indices]
    plans = []
    for number in found:
        times = indices[videos[number].name].times
        plans.append(spread_windows(len(times), frames, training_stride(extractor.config, times), windows))
    tasks = [
        (videos[number].path, indices[videos[number].name], np.unique(plan).tolist())
        for number, plan in zip(found, plans, strict=True)
    ]
    with progress_bar("encoding videos", len(tasks), True) as advance:
        decoded = decode(tasks, extractor.image_size, workers, deadline)
        for number, plan, read in zip(found, plans, decoded, strict=True):
            if isinstance(read, Failure):
                quarantine.add(videos[number].name, read.reason)
            else:
                yield number, torch.from_numpy(read[np.searchsorted(np.unique(plan), plan)])
            advance()
    quarantine.check(len(videos))
