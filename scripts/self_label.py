"""Label videos by what a run's features say, without labels: clusters first, then heads trained on the confident ones.

DATA is a folder of videos, or a list file. Several windows of each video, and random views of them, are encoded once
by the frozen encoder. With class subfolders the agreement with the true classes is shown after every round.

Example:

    vidssl self-label runs/mine videos/ --classes 6 --out runs/mine/labels

writes labels.csv (path,label: a list that other commands take; of a LeRobot data set, whose episodes share files, their
names instead of paths), confidence.csv (how sure each label is, and whether it was learned from) and self_label.json;
quarantine.csv lists what can't be read. With --tail 10 a labelled folder is made long-tailed first (the largest class
10 times the smallest), and the handling of unequal classes is compared with doing without it, over --seeds choices of
the tail and of k-means:

    vidssl self-label runs/mine videos/ --tail 10 --seeds 8 --out runs/mine/tail
"""

import csv
import os
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from vidssl.datasets.files import VideoFile, find_videos
from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from torch import Tensor

    from vidssl.features import FeatureExtractor
    from vidssl.self_label import Round


@dataclass
class Config:
    """See the text above."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """run folder, written by `vidssl pretrain`"""
    data: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
    """videos: a folder or a list file"""
    out: Path
    """folder for the results"""
    classes: int | None = None
    """how many; the number of class subfolders when not given"""
    rounds: int = 3
    """heads trained after the clusters"""
    keep: float = 0.6
    """share of the videos, the most confident, that a head learns from"""
    adjust: float = 1.0
    """against classes of unequal size: power of the logit adjustment of the heads, 0 to 1"""
    join: int = 1
    """against classes of unequal size: small clusters a class, joined to classes at the start"""
    tail: float | None = None
    """compare on a long-tailed part of labelled videos: the largest class over the smallest"""
    seeds: int = 1
    """with --tail: how many times"""
    windows: int = 4
    """clips taken from a video, spread evenly"""
    views: int = 2
    """random views of each clip beside the plain one, of the run's own kind"""
    seed: int = 0
    """random seed"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where the encoder runs"""
    workers: int = 2
    """decoding processes; 0 decodes in this process"""
    deadline: float = 30.0
    """seconds after which a decoder that does not answer is killed and its file left out"""
    max_failed: float = 0.2
    """stop when more than this share of the videos cannot be read"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    run(tyro.cli(Config, args=argv, prog="vidssl self-label", description=__doc__))
    return 0


def run(config: Config) -> dict[str, Any]:
    """Label as configured, write the results and return what self_label.json holds."""
    from vidssl.checkpoint import check_writable, write_json
    from vidssl.device import choose_device
    from vidssl.features import load_encoder

    if config.classes is not None and config.classes < 2:
        raise VidsslError(
            f"--classes: got {config.classes}; at least 2, or leave it out where there are class subfolders"
        )
    if config.seeds < 1 or config.windows < 1 or config.views < 0:
        raise VidsslError(
            f"got seeds {config.seeds}, windows {config.windows}, views {config.views}; at least 1, 1 and 0"
        )
    check_writable(config.out / "self_label.json")
    videos = find_videos(config.data)
    truth = [video.label for video in videos if video.label is not None]
    labelled = len(truth) == len(videos)
    if config.tail is not None and not labelled:
        raise VidsslError(f"{config.data}: --tail needs labelled videos; put each class into a subfolder")
    classes = config.classes or (len(set(truth)) if labelled else 0)
    if classes < 2:
        raise VidsslError(f"{config.data}: got {classes} classes; say how many with --classes, 2 at the least")
    extractor = load_encoder(config.run, device=choose_device(config.device))
    kept, features = encode(videos, extractor, config)
    if config.tail is None:
        report = _label(config, kept, features, classes, labelled)
    else:
        report = _compare(config, [str(video.label) for video in kept], features, classes)
    write_json(config.out / "self_label.json", report)
    print(f"wrote {config.out}/self_label.json" + (", labels.csv and confidence.csv" if config.tail is None else ""))
    return report


def encode(videos: list[VideoFile], extractor: "FeatureExtractor", config: Config) -> "tuple[list[VideoFile], Tensor]":
    """The readable videos n and their features [n,V,2 D], mean and deviation over the frames of each view."""
    import torch

    from vidssl.datasets.quarantine import Quarantine
    from vidssl.scripts.decoding import read_windows

    quarantine = Quarantine(config.out / "quarantine.csv", config.max_failed)
    frames = int(extractor.config["clip"]["frames"])
    make_views = _views(extractor, config)
    kept, features = [], []
    for number, windows in read_windows(
        videos, extractor, frames, config.windows, quarantine, workers=config.workers, deadline=config.deadline
    ):
        if len(windows) < config.windows:  # a short video has fewer different windows: some are seen twice
            windows = windows[torch.arange(config.windows) % len(windows)]
        rows = [extractor(view).float().cpu() for view in [windows, *make_views(windows, number)]]
        features.append(torch.cat([torch.cat([x.mean(dim=1), x.std(dim=1, correction=0)], dim=1) for x in rows]))
        kept.append(videos[number])
    return kept, torch.stack(features)


def _views(extractor: "FeatureExtractor", config: Config) -> Any:
    """(windows uint8 [W,T,H,W',3], number of the video) -> `config.views` random views of them."""
    import torch

    from vidssl.core.random import mix
    from vidssl.views import Views

    settings = extractor.config["method"].get("views")
    if config.views and settings is None:
        raise VidsslError(f"{config.run}: its config.json has no views; pass --views 0")
    views = Views(**settings) if settings else None

    def make(windows: "Tensor", number: int) -> "list[Tensor]":
        if views is None:
            return []
        clips = windows.movedim(-1, 2).contiguous()
        keys = mix(config.seed, number, torch.arange(len(windows)))
        made = [views(clips, keys, stream=stream) for stream in range(config.views)]
        return [(255 * view).round().byte().movedim(2, -1).contiguous() for view in made]

    return make


def _label(config: Config, videos: list[VideoFile], features: "Tensor", classes: int, labelled: bool) -> dict[str, Any]:
    from vidssl.checkpoint import replacing
    from vidssl.self_label import self_label

    found = self_label(features, classes, config.rounds, config.keep, config.adjust, config.join, config.seed)
    last, out = found[-1], config.out.resolve()
    paths = [  # a list's paths are its own; episodes of a LeRobot data set share their file, so their names tell them
        Path(os.path.relpath(video.path.resolve(), out)).as_posix() if video.span is None else video.name
        for video in videos
    ]
    numbers = [
        (int(label), f"{sure:.4f}", int(kept))
        for label, sure, kept in zip(last.labels, last.confidence, last.kept, strict=True)
    ]
    tables: dict[str, list[tuple[Any, ...]]] = {
        "labels.csv": [("path", "label"), *((path, label) for path, (label, _, _) in zip(paths, numbers, strict=True))],
        "confidence.csv": [
            ("path", "label", "confidence", "kept"),
            *((path, *row) for path, row in zip(paths, numbers, strict=True)),
        ],
    }
    for name, rows in tables.items():
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with replacing(out / name) as temporary:
            temporary.write_text(text.getvalue())
    truth = [str(video.label) for video in videos] if labelled else None
    rounds = [_round(result, truth) for result in found]
    for number, entry in enumerate(rounds):
        print(f"{'clusters' if number == 0 else f'round {number}':<9} {_shown(entry)}")
    return {"run": str(config.run), "data": str(config.data), "classes": classes, "rounds": rounds}


def _round(result: "Round", truth: list[str] | None) -> dict[str, Any]:
    from vidssl.self_label import agreement

    entry: dict[str, Any] = {"kept": int(result.kept.sum()), "sizes": np.bincount(result.labels).tolist()}
    return entry if truth is None else entry | vars(agreement(result.labels, truth))


def _shown(entry: dict[str, Any]) -> str:
    names = ("accuracy", "balanced", "nmi")
    shown = "  ".join(f"{name} {entry[name]:.3f}" for name in names if name in entry)
    return f"{shown}  kept {entry['kept']}  sizes {' '.join(map(str, entry['sizes']))}"


def _compare(config: Config, truth: list[str], features: "Tensor", classes: int) -> dict[str, Any]:
    """Both ways on the same long-tailed parts: means and standard errors over the trials, first and last round."""
    from vidssl.self_label import agreement, long_tailed, self_label

    assert config.tail is not None
    names = ("accuracy", "balanced", "nmi")
    scores = np.empty((2, config.seeds, config.rounds + 1, len(names)))
    for trial in range(config.seeds):
        part = long_tailed(truth, config.tail, config.seed + trial)
        known = [truth[item] for item in part]
        for arm, (adjust, join) in enumerate(((0.0, 1), (config.adjust, config.join))):
            found = self_label(features[part], classes, config.rounds, config.keep, adjust, join, config.seed + trial)
            scores[arm, trial] = [list(vars(agreement(result.labels, known)).values()) for result in found]
    print(f"{len(part)} videos a trial, {config.seeds} trials; mean ± standard error over trials")
    report: dict[str, Any] = {"run": str(config.run), "data": str(config.data), "tail": config.tail, "arms": {}}
    report |= {"adjust": config.adjust, "join": config.join}
    for arm, title in enumerate(("without handling", "with handling")):
        mean, error = scores[arm].mean(axis=0), _error(scores[arm])
        for number, when in ((0, "clusters"), (config.rounds, f"round {config.rounds}")):
            shown = "  ".join(
                f"{name} {m:.3f} ± {e:.3f}" for name, m, e in zip(names, mean[number], error[number], strict=True)
            )
            print(f"{title:<17} {when:<9} {shown}")
        report["arms"][title] = {name: scores[arm, :, :, k].tolist() for k, name in enumerate(names)}
    gain, error = (scores[1] - scores[0]).mean(axis=0)[-1], _error(scores[1] - scores[0])[-1]
    print(
        "gain, paired      at the end "
        + "  ".join(f"{name} {g:+.3f} ± {e:.3f}" for name, g, e in zip(names, gain, error, strict=True))
    )
    return report


def _error(scores: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Standard error over the first axis; zero for one trial, of which it can't be told."""
    trials = len(scores)
    return np.asarray(scores.std(axis=0, ddof=1) / np.sqrt(trials)) if trials > 1 else np.zeros(scores.shape[1:])
