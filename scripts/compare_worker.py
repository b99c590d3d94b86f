"""One job of `vidssl compare`, in a process of its own: train a run and probe it, or probe baselines.

    python -m vidssl.scripts.compare_worker JOB.json

All jobs probe the same frames of the packed cache on the same folds, so what they write can be compared item by item.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.datasets.cache import PackedCache
from vidssl.datasets.files import VideoFile
from vidssl.scripts import evaluate, pretrain

if TYPE_CHECKING:
    from vidssl.evaluate.arms import Arm
    from vidssl.evaluate.folds import Groups


@dataclass(frozen=True)
class Probing:
    """What every row is judged by; plain values, as they travel to the jobs.

    Attributes:
        data: the videos to judge by, as the user named them.
        cache: packed cache of them.
        groups, targets, folds, windows: as of `vidssl evaluate`.
        shuffles: its `--seeds`.
        clip: {"frames", "stride"}, and `fps` of the clips: as a run's config has them.
        random_encoders: untrained networks averaged in a baseline.
    """

    data: str
    cache: str
    groups: str | None
    targets: str | None
    folds: int
    shuffles: int
    windows: int
    clip: dict[str, int]
    fps: float | None
    random_encoders: int
    device: str

    def config(self) -> evaluate.Config:
        """As `vidssl evaluate` would be told."""
        return evaluate.Config(
            run=Path(),
            data=Path(self.data),
            groups=None if self.groups is None else Path(self.groups),
            targets=None if self.targets is None else Path(self.targets),
            folds=self.folds,
            seeds=self.shuffles,
            random_encoders=self.random_encoders,
            windows=self.windows,
            frames=self.clip["frames"],
            device=self.device,
        )

    def task(self, cache: PackedCache) -> evaluate.Task:
        """The cache's videos with what is known of them, checked."""
        files = [VideoFile(Path(video.name), video.name, video.label) for video in cache.videos]
        return evaluate.make_task(self.config(), files)


def main(argv: list[str] | None = None) -> int:
    """Do the job that a file describes; returns the exit status."""
    (file,) = sys.argv[1:] if argv is None else argv
    job = json.loads(Path(file).read_text())
    probing = Probing(**job["probing"])
    if "architecture" in job:
        probe_baselines(job, probing)
        return 0
    run = Path(job["pretrain"]["out"])
    if not (run / "outcome.json").exists():
        if status := train(job["pretrain"]):
            return status
        write_outcome(run, job["pretrain"]["device"])
    probe_run(job, run, probing)
    return 0


def train(settings: dict[str, Any]) -> int:
    """`vidssl pretrain` with these settings, from where it was stopped; its exit status."""
    paths = {field.name for field in fields(pretrain.Config) if "Path" in str(field.type)}
    values: dict[str, Any] = {
        name: Path(value) if name in paths and value is not None else value for name, value in settings.items()
    }
    run = Path(settings["out"])
    return pretrain.run(pretrain.Config(**values, resume=(run / "config.json").exists()))


def write_outcome(run: Path, device: str) -> None:
    """What training took, beside its run: steps, minutes, clips/s, peak memory. Marks the training as finished."""
    from vidssl.checkpoint import read_config, read_metrics, read_state, write_json

    state = read_state(run)
    assert state is not None  # pretrain has just ended well
    timed = [line for line in read_metrics(run) if "seconds" in line]
    step, seconds = (timed[-1]["step"], timed[-1]["seconds"]) if timed else (state["step"], state["seconds"])
    config = read_config(run)
    clips = config["clip"]["batch_size"] * config["train"]["accumulate"]
    outcome = {
        "steps": state["step"],
        "minutes": state["seconds"] / 60,
        "clips_per_second": step * clips / seconds,
        "memory_mib": peak_memory(device),
    }
    write_json(run / "outcome.json", outcome)


def peak_memory(device: str) -> float:
    """MiB: the most this process held resident (Linux), or on CUDA the most torch allocated."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def probe_run(job: dict[str, Any], run: Path, probing: Probing) -> None:
    """Judge a finished run; writes the job's result."""
    from vidssl.evaluate.arms import Arm
    from vidssl.features import load_encoder

    judge([Arm(job["label"], load_encoder(run, device=probing.device))], probing, Path(job["results"]))


def probe_baselines(job: dict[str, Any], probing: Probing) -> None:
    """Judge pixels and frame differences, or the untrained networks of an architecture; writes the job's results."""
    from vidssl.evaluate.arms import Arm
    from vidssl.evaluate.baselines import frame_differences, fresh, pixels

    if job["architecture"] is None:
        arms = [Arm("raw pixels", pixels), Arm("frame differences", frame_differences)]
    else:
        config = {**job["architecture"], "fps": probing.fps, "clip": probing.clip}
        networks = (fresh(config, seed, probing.device) for seed in range(probing.random_encoders))
        arms = [Arm(job["label"], network) for network in networks]
    judge(arms, probing, Path(job["results"]))


def judge(arms: "Sequence[Arm]", probing: Probing, folder: Path) -> None:
    """Show every arm the same frames of the cache and probe it; `folder` gets a file a row, complete or not at all."""
    import os

    import numpy as np

    from vidssl.evaluate import arms as evaluation
    from vidssl.evaluate.comparison import write_row

    cache = PackedCache.open(probing.cache)
    task = probing.task(cache)
    fill(arms, cache, probing)
    targets = np.array(list(task.targets.values())).T if task.targets else None
    groups: Groups = task.groups
    rows = evaluation.judge(arms, task.labels, targets, groups, probing.folds, range(probing.shuffles))
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    for number, row in enumerate(rows):
        write_row(part / f"{number}.npz", row)
    part.rename(folder)  # the parent clears away what a kill left


def fill(arms: "Sequence[Arm]", cache: PackedCache, probing: Probing) -> None:
    """The windows that `vidssl evaluate` would decode, taken from the cache."""
    import torch

    from vidssl.evaluate.windows import spread_windows, training_stride

    config = {"clip": probing.clip, "fps": probing.fps}
    for video in cache.videos:
        stride = training_stride(config, video.times)
        plan = spread_windows(video.frames, probing.clip["frames"], stride, probing.windows)
        windows = torch.from_numpy(cache.gather([(video, window) for window in plan]))
        for arm in arms:
            arm.add(windows, len(cache.videos))


if __name__ == "__main__":
    import signal

    from vidssl.errors import VidsslError

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # where training does not catch it
    try:
        sys.exit(main())
    except VidsslError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
