"""Probe a run on labelled videos, beside honest baselines.

DATA is a folder with one subfolder a class, or a list file with a line `path,label` a video. Every video is decoded
once, at the run's frame size and frame rate. The run's encoder, the same network untrained, raw pixels and frame
differences see the same frames; each is probed linearly and by 10 nearest neighbours on the same folds.

Clips of one camera look alike. Give --groups, a CSV with the columns path and source, and no source is ever on both
sides of a split. Without it each video counts as a source of its own, and the table says so.

Example:

    vidssl evaluate runs/mine videos/ --groups videos/sources.csv

prints the table and writes evaluation.json and evaluation.png into runs/mine/evaluation. --targets takes a CSV with the
column path and columns of numbers (speed, angle, …), which are predicted by ridge regression; an empty cell is a number
that isn't known, and its target is learned and judged on the other videos.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from vidssl.datasets.files import VideoFile, find_videos, read_groups
from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from vidssl.evaluate.arms import Arm, Row
    from vidssl.features import FeatureExtractor

FEWEST_VIDEOS = 20  # below, folds are too small for 10 neighbours, and a standard error exceeds 0.1


@dataclass
class Config:
    """See the text above."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """run folder, written by `vidssl pretrain`"""
    data: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
    """labelled videos: a folder of class subfolders, or a list file of path,label"""
    groups: Path | None = None
    """CSV with columns path and source (camera, scene, subject): splits never cut through a source"""
    targets: Path | None = None
    """CSV with the column path and columns of numbers to predict by ridge regression"""
    folds: int = 5
    """folds of the cross-validation"""
    seeds: int = 3
    """shuffles of the fold assignment"""
    random_encoders: int = 3
    """untrained encoders averaged in the baseline"""
    windows: int = 4
    """clips taken from a video, spread evenly"""
    frames: int | None = None
    """frames a clip; the run's own when not given"""
    out: Path | None = None
    """folder for evaluation.json and evaluation.png; RUN/evaluation when not given"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where encoders run"""
    workers: int = 2
    """decoding processes; 0 decodes in this process"""
    deadline: float = 30.0
    """seconds after which a decoder that does not answer is killed and its file left out"""
    max_failed: float = 0.2
    """stop when more than this share of the videos cannot be read"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    evaluate(tyro.cli(Config, args=argv, prog="vidssl evaluate", description=__doc__))
    return 0


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate as configured, print and write the report, and return what evaluation.json holds."""
    from rich.console import Console

    from vidssl.checkpoint import check_writable, replacing, write_json
    from vidssl.device import choose_device
    from vidssl.evaluate.arms import judge
    from vidssl.evaluate.tables import as_json, class_table, plot, target_table, verdict, widest
    from vidssl.features import load_encoder

    out = config.out or config.run / "evaluation"
    check_writable(out / "evaluation.json")
    extractor = load_encoder(config.run, device=choose_device(config.device))
    task = read_task(config)
    arms = make_arms(extractor, config.random_encoders)
    task, failed = fill(arms, task, extractor, config)
    rows = _judge(judge, arms, task, config)

    names = list(task.targets)
    lines = protocol(task, extractor, config)
    tables = ([class_table(rows)] if task.labels else []) + ([target_table(rows, names)] if names else [])
    console = Console()
    # a table is wider than a narrow terminal: let the lines wrap, lose nothing
    console.width = max(console.width, *map(widest, tables))
    for table in tables:
        console.print(table)
    console.print("\n".join(lines + verdict(rows)), highlight=False, markup=False)

    report = {
        "run": str(config.run),
        "data": str(config.data),
        "protocol": lines,
        "chance": rows[0].linear.chance if rows[0].linear else None,
        "rows": as_json(rows, names),
        "verdict": verdict(rows),
        "left_out": failed,
    }
    with replacing(out / "evaluation.png") as temporary:
        plot(rows, temporary)
    write_json(out / "evaluation.json", report)
    print(f"wrote {out}/evaluation.json and evaluation.png")
    return report


@dataclass(frozen=True)
class Task:
    """What is to be told from the features: n videos and what is known of them."""

    videos: list[VideoFile]
    labels: list[str] | None
    targets: dict[str, list[float]]
    groups: list[str] | None
    left: str | None = None
    """why the subfolders are not probed as classes; None where they are, or where there are none"""

    def take(self, kept: list[int]) -> "Task":
        """The task on some of the videos, by position."""
        return Task(
            [self.videos[i] for i in kept],
            None if self.labels is None else [self.labels[i] for i in kept],
            {name: [column[i] for i in kept] for name, column in self.targets.items()},
            None if self.groups is None else [self.groups[i] for i in kept],
            self.left,
        )


def read_task(config: Config) -> Task:
    """The videos of `config.data` with labels, targets and groups, checked before anything is decoded."""
    return make_task(config, find_videos(config.data))


def make_task(config: Config, videos: list[VideoFile]) -> Task:
    """The same of videos that have been found, or lie in a cache.

    Raises:
        VidsslError: neither labels nor targets, or too few of something for group-disjoint folds.
    """
    from vidssl.evaluate.folds import check_groups, check_labels

    given = [video.label for video in videos if video.label is not None]
    labels = given if len(given) == len(videos) else None
    targets = {} if config.targets is None else read_targets(config.targets, videos)
    if labels is None and not targets:
        stray = [video.name for video in videos if video.label is None and "/" not in video.name]
        if 0 < len(stray) < len(videos):
            raise VidsslError(
                f"{config.data}: {len(stray)} of {len(videos)} videos lie outside the class subfolders, e.g. "
                f"{stray[0]}, so no video has a label; move them into a subfolder, or away"
            )
        raise VidsslError(
            f"{config.data}: {len(videos)} videos without labels; put each class into a subfolder (walk/a.mp4,"
            " run/b.mp4), or pass a list file with a line path,label a video, or numbers to predict with --targets"
        )
    if len(videos) < FEWEST_VIDEOS:
        raise VidsslError(
            f"{config.data}: {len(videos)} videos are too few to judge features by; give {FEWEST_VIDEOS} at the least"
        )
    groups = None if config.groups is None else read_groups(config.groups, videos)
    for name in ("seeds", "random_encoders", "windows", "frames"):
        if (number := getattr(config, name)) is not None and number < 1:
            raise VidsslError(f"--{name.replace('_', '-')}: got {number}; at least 1")
    numbers = check_groups(groups, len(videos), config.folds)
    for name, column in targets.items():
        try:
            check_groups(numbers[np.isfinite(column)], int(np.isfinite(column).sum()), config.folds)
        except VidsslError as error:
            raise VidsslError(f"{config.targets}: of the videos for which {name} is known: {error}") from error
    left = None
    if labels is not None:
        try:
            check_labels(labels, numbers)
        except VidsslError as error:
            if not targets:
                raise
            labels, left = None, str(error)
    return Task(videos, labels, targets, groups, left)


def read_targets(file: Path, videos: list[VideoFile]) -> dict[str, list[float]]:
    """Columns of numbers by name, in the order of the videos; NaN where a cell is empty.

    Raises:
        VidsslError: no such table, a video without a row, a cell that is no number, or a column of too few numbers.
    """
    if not file.is_file():
        raise VidsslError(f"{file}: no such file; pass a CSV with the column path and columns of numbers")
    with file.open(newline="", encoding="utf-8-sig") as lines:
        table = list(csv.DictReader(lines, skipinitialspace=True))
    columns = [name for name in (table[0] if table else {}) if name and name != "path"]
    if not table or "path" not in table[0] or not columns:
        raise VidsslError(f"{file}: expected a header with path and at least one more column, and rows below it")
    by_name = {Path(row["path"]).as_posix(): row for row in table}
    missing = [video.name for video in videos if video.name not in by_name]
    if missing:
        raise VidsslError(
            f"{file}: no row for {len(missing)} of {len(videos)} videos, e.g. {missing[0]}; add their rows"
        )
    try:
        targets = {name: [float(by_name[video.name][name] or "nan") for video in videos] for name in columns}
    except (TypeError, ValueError) as error:
        raise VidsslError(
            f"{file}: a cell is not a number ({error}); all columns but path must hold numbers, or nothing"
            " where they are not known"
        ) from error
    for name, column in targets.items():
        if np.isinf(column).any():
            raise VidsslError(f"{file}: {name} holds infinity; leave those cells empty")
        if (known := int(np.isfinite(column).sum())) < FEWEST_VIDEOS:
            raise VidsslError(
                f"{file}: {name} is known for {known} of {len(videos)} videos; {FEWEST_VIDEOS} at the least are needed:"
                " fill in more cells or drop the column"
            )
        if np.nanmin(column) == np.nanmax(column):
            raise VidsslError(f"{file}: {name} is the same for all videos; there is nothing to tell, drop the column")
    return targets


def make_arms(extractor: "FeatureExtractor", random_encoders: int) -> "list[Arm]":
    """The run's encoder first, then what it has to beat."""
    from vidssl.evaluate.arms import Arm
    from vidssl.evaluate.baselines import frame_differences, pixels, untrained

    return [
        Arm(extractor.config["method"]["name"], extractor),
        *(Arm("random encoder", untrained(extractor, seed)) for seed in range(random_encoders)),
        Arm("raw pixels", pixels),
        Arm("frame differences", frame_differences),
    ]


def fill(arms: "list[Arm]", task: Task, extractor: "FeatureExtractor", config: Config) -> tuple[Task, dict[str, str]]:
    """Decode every video once and show it to every arm: the task on the readable videos, and why the others failed."""
    from vidssl.datasets.quarantine import Quarantine
    from vidssl.scripts.decoding import read_windows

    quarantine = Quarantine(max_failed=config.max_failed)
    kept = []
    for number, windows in read_windows(
        task.videos,
        extractor,
        clip_frames(extractor, config),
        config.windows,
        quarantine,
        workers=config.workers,
        deadline=config.deadline,
    ):
        for arm in arms:
            arm.add(windows, len(task.videos))
        kept.append(number)
    return task.take(kept), dict(quarantine.reasons)


def clip_frames(extractor: "FeatureExtractor", config: Config) -> int:
    """Frames a clip: as asked for, otherwise as in training."""
    return int(extractor.config["clip"]["frames"]) if config.frames is None else config.frames


def _judge(judge: Any, arms: "list[Arm]", task: Task, config: Config) -> "list[Row]":
    from vidssl.progress import progress_bar

    targets = np.array(list(task.targets.values())).T if task.targets else None
    with progress_bar("probing", len(arms), True) as advance:
        rows: list[Row] = judge(arms, task.labels, targets, task.groups, config.folds, range(config.seeds), advance)
    return rows


def protocol(task: Task, extractor: "FeatureExtractor", config: Config) -> list[str]:
    """What was done, in words: a figure without it says nothing."""
    trained_on = {video["name"] for video in extractor.config.get("data", {}).get("manifest", {}).get("videos", [])}
    seen = sum(video.name in trained_on for video in task.videos)
    frames = clip_frames(extractor, config)
    rate = f"{extractor.fps:g} frames/s" if extractor.fps else f"stride {extractor.config['clip']['stride']}"
    height, width = extractor.image_size
    lines = [
        f"videos: {len(task.videos)}, of which {seen} bear the name of one the run was trained on (without labels)",
        f"splits: {config.folds} folds, {config.seeds} seeds, "
        + (
            f"disjoint in {len(set(task.groups))} groups of {config.groups}"
            if task.groups
            else "each video a group of its own (no --groups): clips of one camera may be on both sides"
        ),
        f"features: mean and standard deviation over {config.windows} windows of {frames} frames ({rate},"
        f" {height}x{width}), standardised on the training folds; random encoder: mean of {config.random_encoders}",
    ]
    if task.labels:
        counts = Counter(task.labels)
        shown = ", ".join(f"{name} {count}" for name, count in counts.most_common(10))
        lines += [
            f"classes: {shown}; chance (largest class) {counts.most_common(1)[0][1] / len(task.labels):.3f}",
            "linear: softmax regression, C by inner group-disjoint validation; 10-NN: cosine, majority vote",
        ]
    if task.left:
        lines.append(f"subfolders are not probed as classes ({task.left})")
    if task.targets:
        lines.append("ridge: penalty a target by inner group-disjoint validation")
        known = {name: int(np.isfinite(column).sum()) for name, column in task.targets.items()}
        if min(known.values()) < len(task.videos):
            shown = ", ".join(f"{name} {count}" for name, count in known.items())
            lines.append(f"videos for which a target is known, on which alone it is probed: {shown}")
    return lines
