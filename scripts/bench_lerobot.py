"""Frames a second out of a LeRobot data set: this reader beside LeRobot's own loader, on the same frames.

    python -m vidssl.scripts.bench_lerobot pusht --peer-python ../lerobot/bin/python

Two jobs, one thread each: single frames at random, and windows of consecutive frames, one frame further each time (as a
policy's observation history). Both readers are asked for the same frames, turn by turn, other ones every round, so that
no cache of pictures helps; figures are medians over the rounds, ratios are medians of the ratios in a round. LeRobot
runs in its own Python (3.12 or newer, with `lerobot` installed). The sums of squares of all pictures are compared, and
the first ones pixel by pixel.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from vidssl.errors import VidsslError

# Runs in LeRobot's Python: a job a line on stdin, its answer a line on stdout.
PEER = """
import json, sys, time
answer = sys.stdout
sys.stdout = sys.stderr
import numpy as np, torch
torch.set_num_threads(1)
from lerobot.datasets.lerobot_dataset import LeRobotDataset
import lerobot
made = {}
for line in sys.stdin:
    job = json.loads(line)
    key = json.dumps(job["deltas"])
    if key not in made:
        made[key] = LeRobotDataset("bench/bench", root=job["root"], delta_timestamps=job["deltas"] or None,
                                   return_uint8=True, tolerance_s=1e-3)
    data, sums = made[key], []
    begun = time.perf_counter()
    for number in job["numbers"]:
        item = data[number]
        sums.append(sum(int((item[camera].long() ** 2).sum()) for camera in job["cameras"]) if job["check"] else 0)
    took = time.perf_counter() - begun
    if job.get("save"):
        np.save(job["save"], np.stack([data[n][job["cameras"][0]].numpy() for n in job["numbers"]]))
    print(json.dumps({"seconds": took, "sums": sums, "version": lerobot.__version__}), file=answer, flush=True)
"""


@dataclass
class Config:
    data: Annotated[Path, tyro.conf.Positional]
    """folder of the data set"""
    peer_python: Path | None = None
    """Python that has LeRobot; without it only this reader is timed"""
    frames: int = 300
    """frames, or windows, a round"""
    window: int = 8
    """frames a window"""
    rounds: int = 5
    """how often each reader does each job"""
    seed: int = 0
    """random seed of the draw of the frames"""


Reader = Callable[[dict[str, Any]], dict[str, Any]]


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(Config, args=argv, prog="bench_lerobot", description=__doc__)
    import torch

    torch.set_num_threads(1)
    from vidssl.datasets.lerobot import LeRobotDataset

    data = LeRobotDataset(config.data)
    if not data.cameras or len(data) < config.frames + config.window:
        raise VidsslError(
            f"{config.data}: {len(data)} frames of {len(data.cameras)} cameras; too few for the benchmark"
        )
    print(f"{config.data}: {len(data)} frames, {len(data.cameras)} cameras, {config.rounds} rounds of {config.frames}")
    readers: dict[str, Reader] = {"vidssl": _Ours()}
    if config.peer_python is not None:
        readers["lerobot"] = _Peer(config.peer_python)
    common = {"root": str(config.data.resolve()), "cameras": data.cameras}
    jobs = {name: [common | job for job in each] for name, each in draw_jobs(config, data).items()}
    for name, each in jobs.items():
        if config.peer_python is not None:
            compare(readers, name, each[0])
    print(f"{'job':10}{'reader':10}{'frames/s':>10}{'vidssl is':>11}")
    for name, each in jobs.items():
        frames = config.frames * (config.window if each[0]["deltas"] else 1)
        report(name, frames, race(readers, each[1:]))
    return 0


def draw_jobs(config: Config, data: Any) -> dict[str, list[dict[str, Any]]]:
    """Of both kinds, one to compare the pictures by and one a round."""
    rng = np.random.default_rng(config.seed)
    past = [step / data.fps for step in range(1 - config.window, 1)]
    jobs: dict[str, list[dict[str, Any]]] = {"random": [], "windows": []}
    for _ in range(config.rounds + 1):
        jobs["random"].append({"numbers": rng.integers(len(data), size=config.frames).tolist(), "deltas": {}})
        start = int(rng.integers(len(data) - config.frames))
        numbers = list(range(start, start + config.frames))
        jobs["windows"].append({"numbers": numbers, "deltas": dict.fromkeys(data.cameras, past)})
    return jobs


def race(readers: dict[str, Reader], jobs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Seconds of every reader in every round, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    names = list(readers)
    for turn, job in enumerate(jobs):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(readers[name](job | {"check": False})["seconds"])
    return seconds


def report(name: str, frames: int, seconds: dict[str, list[float]]) -> None:
    """A line a reader: frames a second, and how much faster vidssl is."""
    for reader, times in seconds.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(times, seconds["vidssl"], strict=True))
        print(f"{name:10}{reader:10}{frames / statistics.median(times):10.0f}{ratio:10.2f}x")


def compare(readers: dict[str, Reader], name: str, job: dict[str, Any]) -> None:
    """Raises VidsslError when the two readers give other pictures."""
    ours, theirs = (readers[reader](job | {"check": True}) for reader in ("vidssl", "lerobot"))
    with tempfile.TemporaryDirectory() as folder:
        few = job | {"numbers": job["numbers"][:20], "check": False}
        pictures = []
        for reader in ("vidssl", "lerobot"):
            readers[reader](few | {"save": f"{folder}/{reader}.npy"})
            pictures.append(np.load(f"{folder}/{reader}.npy").astype(int))
    off = int(np.abs(pictures[0] - pictures[1]).max())
    same = sum(a == b for a, b in zip(ours["sums"], theirs["sums"], strict=True))
    print(
        f"{name}: {same} of {len(ours['sums'])} alike with lerobot {theirs['version']}; first 20: at most {off} apart"
    )
    if off > 2:
        raise VidsslError(f"{name}: pictures differ by {off} of 255; the readers do not give the same frames")


class _Ours:
    """This reader, answering as the peer does."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        from vidssl.datasets.lerobot import LeRobotDataset

        key = json.dumps(job["deltas"])
        if key not in self._made:
            self._made[key] = LeRobotDataset(job["root"], job["deltas"], tolerance=1e-3)
        data, sums = self._made[key], []
        begun = time.perf_counter()
        for number in job["numbers"]:
            item = data[number]
            each = (int((item[camera].long() ** 2).sum()) for camera in job["cameras"])
            sums.append(sum(each) if job["check"] else 0)
        took = time.perf_counter() - begun
        if job.get("save"):
            np.save(job["save"], np.stack([data[number][job["cameras"][0]].numpy() for number in job["numbers"]]))
        return {"seconds": took, "sums": sums}


class _Peer:
    """LeRobot in a process of its own Python."""

    def __init__(self, python: Path):
        try:
            self._process = subprocess.Popen(
                [str(python), "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise VidsslError(
                f"--peer-python {python}: can't be run ({error.strerror}); pass a Python with lerobot"
            ) from None

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(job), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise VidsslError("the peer ended without an answer; see its message above. Is lerobot installed there?")
        answer: dict[str, Any] = json.loads(line)
        return answer


if __name__ == "__main__":
    sys.exit(main())
