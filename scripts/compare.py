"""Train many methods on the same videos for the same time, and judge them all by the same probes.

DATA is as for `vidssl pretrain`: a folder of videos, a list file, or a packed cache. It needs classes (subfolders) or
--targets to judge by. Every method trains in a process of its own, on as many CPU threads as every other, from a
packed cache; its clock counts the training loop alone. All rows, and beside them raw pixels, frame differences and
every architecture untrained, see the same frames and the same folds, which never cut through a group.

Example:

    vidssl compare videos/ --out comparison --methods all --minutes 3 --seeds 0 1 --groups videos/sources.csv

prints the table and writes it as comparison.md, comparison.json and comparison.png. A row of --methods is

    METHOD[@LABEL][,SETTING=VALUE …]

a name, `module:Class`, or `all`; settings are those of the method and encoder, lr, weight_decay, lr_warmup, clip_norm,
precision, batch_size, accumulate, views. A method with two settings is two rows: simclr simclr@bf16,precision=bf16
simclr@cold,temperature=0.05

Whatever is finished is kept: stop it when you like, and go on with the same command, with more rows or more seeds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vidssl.errors import VidsslError
from vidssl.machine import cores
from vidssl.scripts.compare_jobs import locked, run_jobs
from vidssl.scripts.compare_plan import keep_settings, make_probing, open_caches, plan_row
from vidssl.scripts.compare_report import Comparison
from vidssl.scripts.compare_rows import parse_rows

Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW …")]


@dataclass(frozen=True)
class Config:
    """See the text above."""

    data: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
    """folder of videos, list file or packed cache; before --methods or --seeds, which take all that follows"""
    out: Path
    """folder for runs, results and tables"""
    methods: Names
    """rows, see above"""
    minutes: float = 3.0
    """training minutes, for each row and seed"""
    seeds: tuple[int, ...] = (0,)
    """training seeds; each row is trained with every one"""
    encoder: str | None = None
    """network of all rows; each method's own choice when not given"""
    size: int = 64
    """frames are scaled to size x size pixels"""
    frames: int = 10
    """frames a clip, in training and probing"""
    stride: int = 2
    """a clip takes every stride-th frame"""
    batch_size: int = 32
    """clips a batch"""
    lr: float = 3e-4
    """peak learning rate"""
    precision: Literal["32", "bf16"] = "32"
    """32 bit floats, or bf16 mixed"""
    groups: Path | None = None
    """CSV with columns path and source (camera, scene, subject): splits never cut through a source"""
    targets: Path | None = None
    """CSV with the column path and columns of numbers to predict by ridge regression"""
    evaluate: Annotated[Path | None, tyro.conf.arg(metavar="DATA")] = None
    """probe on these videos instead of those trained on; --groups and --targets are then about them"""
    cache: Path | None = None
    """packed cache of DATA, built where there is none; OUT/cache when not given"""
    folds: int = 5
    """folds of the cross-validation"""
    shuffles: int = 3
    """shuffles of the fold assignment"""
    random_encoders: int = 3
    """untrained networks averaged in a baseline"""
    windows: int = 4
    """clips probed of a video, spread evenly"""
    jobs: int | None = None
    """trainings at a time; when not given, 1 on a GPU, otherwise 2 (1 on one core)"""
    threads: int | None = None
    """CPU threads of each; the cores shared out when not given"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where to train"""
    workers: int = 2
    """processes that decode the videos into the cache"""
    deadline: float = 30.0
    """seconds after which a decoder that does not answer is killed and its file left out"""
    max_failed: float = 0.2
    """stop when more than this share of the videos cannot be read"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 when every row has all its seeds, else 1."""
    return run(tyro.cli(Config, args=argv, prog="vidssl compare", description=__doc__))


def run(config: Config) -> int:
    """Compare as configured; the function behind the command."""
    from vidssl.device import choose_device
    from vidssl.methods import METHODS, video_methods

    specs = parse_rows(config.methods, list(METHODS), video_methods())
    _check(config)
    device = choose_device(config.device)
    at_once, threads = share(config, device)
    planned = [plan_row(spec, config) for spec in specs]
    with locked(config.out) as lock:
        cache, judged = open_caches(config)
        probing = make_probing(config, cache, judged, device)
        probing.task(judged)  # what is wrong with labels, groups or targets is told now
        keep_settings(config, planned, cache, judged, threads, device)
        comparison = Comparison(config, planned, probing, judged, at_once, threads)
        jobs = comparison.jobs(cache, device)
        trainings = sum(job.metrics is not None for job in jobs)
        print(
            f"{len(planned)} rows x {len(config.seeds)} seeds: {trainings} trainings of {config.minutes:g} min to do on"
            f" {device}, {at_once} at a time, {threads} threads each: about"
            f" {trainings * config.minutes / at_once:.0f} min and the probing",
            flush=True,
        )
        try:
            run_jobs(jobs, at_once, threads, lock, comparison.finished)
        except (KeyboardInterrupt, SystemExit):
            comparison.report(final=True)
            print("stopped; go on with the same command")
            raise
        return comparison.report(final=True)


def _check(config: Config) -> None:
    from vidssl.checkpoint import check_writable

    counts = ("folds", "shuffles", "random_encoders", "windows", "frames", "stride", "jobs", "threads", "batch_size")
    for name in counts:
        if (number := getattr(config, name)) is not None and number < 1:
            raise VidsslError(f"--{name.replace('_', '-')}: got {number}; at least 1")
    if not config.minutes > 0:
        raise VidsslError(f"--minutes: got {config.minutes}; above 0")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise VidsslError(f"--seeds: got {config.seeds}; one at least, and each once")
    for name in ("groups", "targets", "evaluate"):  # before the videos are decoded
        if (path := getattr(config, name)) is not None and not path.exists():
            raise VidsslError(f"--{name}: {path} is not there; write its path, or leave the option out")
    check_writable(config.out / "settings.json")


def share(config: Config, device: str) -> tuple[int, int]:
    """Trainings at a time, and threads of each."""
    here = cores()
    at_once = config.jobs or (1 if device == "cuda" else min(2, here))
    return at_once, config.threads or max(1, here // at_once)
