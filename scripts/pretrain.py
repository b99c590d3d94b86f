"""Train an encoder on videos without labels.

DATA is a folder of videos (searched recursively; class subfolders, where there are any, are used for the online probe
only), a list file with a line `path[,label]` a video, one video, a LeRobot data set (each camera of each episode is a
video), or a packed cache of videos that --cache once made.

Example:

    vidssl pretrain videos/ --out runs/mine --method cpc --encoder small-motion --minutes 10

The run folder then holds config.json, model.safetensors, metrics.jsonl and tensorboard/; load it with
`vidssl.load_encoder("runs/mine")`. A run that was stopped goes on with the same command and --resume; one that is
finished is continued by another: --init runs/mine --out runs/longer.
"""

import inspect
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from vidssl.errors import VidsslError
from vidssl.scripts.settings import Flag, parse_settings

if TYPE_CHECKING:
    from vidssl.views import Views


@dataclass
class Config:
    """See the text above."""

    data: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
    """folder of videos, list file, single video, LeRobot data set or packed cache"""
    out: Path
    """run folder to write"""
    method: str = "cpc"
    """what to learn by: a name (an unknown one lists them all) or module:Class"""
    encoder: str | None = None
    """network: a name (an unknown one lists them all); the method's own choice when not given"""
    options: Annotated[list[str], tyro.conf.arg(metavar="NAME=VALUE ...")] = field(default_factory=list)
    """settings of the method, e.g. --options negatives=same-video steps=5 (an unknown one lists them all)"""
    views: Literal["published", "aligned", "none"] = "published"
    """augmentation of the clips: the method's own; the same with one crop and flip for all views of a clip, which then
    differ in time and colour; or none, which keeps position and side (for control)"""
    size: int = 64
    """frames are scaled to size x size pixels"""
    frames: int = 10
    """frames a clip"""
    stride: int = 2
    """a clip takes every stride-th frame"""
    batch_size: int = 32
    """clips a batch, over all processes"""
    steps: int | None = None
    """train for so many steps"""
    epochs: int | None = None
    """train for so many passes; in one, a video gives as many clips as fit into it end to end"""
    minutes: float | None = None
    """train for so many minutes; 10 when no budget is given"""
    lr: float = 3e-4
    """peak learning rate"""
    weight_decay: float = 1e-4
    """weight decay of matrices and kernels; biases and norms have none"""
    lr_warmup: float = 0.05
    """share of the budget in which the learning rate rises to its peak"""
    clip_norm: float = 1.0
    """largest norm of a gradient; clipped_steps in metrics.jsonl is the share of steps that reached it"""
    accumulate: int = 1
    """batches an optimiser step"""
    precision: Literal["32", "bf16"] = "32"
    """32 bit floats, or bf16 mixed"""
    cache: Path | None = None
    """decode the videos once into this folder (uint8, memory-mapped) and train from there"""
    workers: int | None = None
    """decoding processes; one a core when not given"""
    deadline: float = 30.0
    """seconds after which a decoder that does not answer is killed and its file set aside"""
    max_failed: float = 0.2
    """stop when more than this share of the files cannot be read"""
    groups: Path | None = None
    """CSV with columns path and source: the online probe then looks for neighbours in other sources only"""
    checkpoint_every: int = 200
    """steps between checkpoints"""
    monitor_every: int = 200
    """steps between online probes"""
    doctor: Literal["warn", "stop", "off"] = "warn"
    """when the representation collapses: warn and say why, also stop (exit status 3, from 30 % of the budget on), or do
    not look"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where to train"""
    devices: int = 1
    """processes on this machine (DDP, with --cache); torchrun and SLURM are found by themselves"""
    seed: int = 0
    """random seed"""
    init: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """begin with the weights of this run: its encoder's, and with the same method and options all others too"""
    resume: Flag = False
    """go on with the run in --out from its last checkpoint"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status (143 or 130 when a signal stopped it, 3 when the doctor did)."""
    return run(tyro.cli(Config, args=argv, prog="vidssl pretrain", description=__doc__))


def run(config: Config) -> int:
    """Train as configured; the function behind the command."""
    import torch

    from vidssl.checkpoint import check_writable
    from vidssl.datasets.cache import is_cache
    from vidssl.datasets.clips import manifest_hash
    from vidssl.datasets.files import read_groups
    from vidssl.encoders import build_encoder
    from vidssl.methods import find_method
    from vidssl.scripts.initial_weights import load_encoder_weights, load_method_weights
    from vidssl.train import Budget, TrainConfig, fit, make_fabric

    size = (config.size, config.size)
    minutes = 10.0 if config.steps is config.epochs is config.minutes is None else config.minutes
    budget = Budget(config.steps, config.epochs, minutes)
    method_class = find_method(config.method)
    options = method_options(method_class, config.method, config.options)
    train = TrainConfig(
        lr=config.lr,
        weight_decay=config.weight_decay,
        warmup=config.lr_warmup,
        clip_norm=config.clip_norm,
        accumulate=config.accumulate,
        precision=config.precision,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        monitor_every=config.monitor_every,
    )
    check_run(config.out, config.resume)  # said before the videos are indexed
    check_writable(config.out / "config.json")
    if config.batch_size < 1:
        raise VidsslError(f"--batch-size: got {config.batch_size}; at least 1")
    if config.groups is not None:
        read_groups(config.groups, [])
    fabric = make_fabric(config.device, config.devices, config.precision)
    packed = config.cache is not None or is_cache(config.data)
    if fabric.world_size > 1 and not packed:  # a file that fails in mid-training would leave ranks uneven
        raise VidsslError(f"{fabric.world_size} processes train from a packed cache: give --cache FOLDER")
    torch.manual_seed(config.seed)
    encoder_name = config.encoder or default_encoder(method_class)
    encoder = build_encoder(encoder_name, size)
    init = None if config.init is None else load_encoder_weights(config.init, encoder_name, encoder)
    method = method_class(encoder, choose_views(method_class, config.method, size, config.views), **options)
    if init is not None and config.init is not None:
        all_of_it = load_method_weights(config.init, {"name": config.method, "options": options}, method)
        init["weights"] = "all" if all_of_it else "encoder"
    if fabric.is_global_zero:
        warn_of_mirrors(encoder_name, method.views.flip)
        if not config.resume:
            (config.out / "quarantine.csv").unlink(missing_ok=True)  # of an earlier start, perhaps on other videos
    source = open_source(config, fabric)
    loader = make_loader(config, source, fabric)
    manifest = loader.manifest()
    run_config = {
        "encoder": {"name": encoder_name, "dim": method.encoder.dim},
        "context": None if method.context is None else {"name": method.context.name, "dim": method.context.dim},
        "energy": energy.sizes if (energy := getattr(method, "energy", None)) else None,
        "output": method.output,
        "image_size": list(size),
        "fps": clip_rate(loader.videos, config.stride),
        "clip": {"frames": config.frames, "stride": config.stride, "batch_size": config.batch_size},
        "method": {"name": config.method, "options": options, "views": asdict(method.views)},
        "data": {"hash": manifest_hash(manifest), "manifest": manifest},
        "seed": config.seed,
        "init": init,
    }
    outcome = fit(
        fabric,
        method,
        loader,
        config.out,
        budget,
        train,
        run_config=run_config,
        resume=config.resume,
        monitor=make_monitor(config, source, loader) if fabric.is_global_zero else None,
        doctor=config.doctor,
    )
    return report(config, outcome, fabric)


def default_encoder(method: Any) -> str:
    """The network a method takes when none is named; a class from elsewhere that does not say gets small-motion."""
    return getattr(method, "default_encoder", "small-motion")


def choose_views(method: Any, name: str, size: tuple[int, int], how: str) -> "Views":
    """The augmentation of a method: "published", its own; "aligned"; or "none", see `Config.views`.

    Raises:
        VidsslError: there is nothing to align, as the method's own views neither crop nor flip.
    """
    from dataclasses import replace

    from vidssl.views import Views

    views = Views.none(size) if how == "none" else method.default_views(size)
    if how != "aligned":
        return views
    if views.crop == (1, 1) and not views.flip:
        raise VidsslError(f"--views aligned: those of {name} neither crop nor flip; take published or none")
    return replace(views, aligned=True)


def warn_of_mirrors(encoder: str, flip: float) -> None:
    """Say so when clips are mirrored before a network that is chosen for telling left from right."""
    if encoder == "control" and flip:
        print(
            "warning: --encoder control keeps left and right apart, and the views mirror clips; "
            "for a controller give --views none",
            file=sys.stderr,
        )


def open_source(config: Config, fabric: Any) -> Any:
    """The videos of `config.data`: a list of files, or the packed cache of them, built where there is none."""
    from vidssl.datasets.cache import PackedCache, is_cache
    from vidssl.datasets.files import find_videos

    if is_cache(config.data):
        return PackedCache.open(config.data)
    videos = find_videos(config.data)
    if config.cache is None:
        return videos
    with fabric.rank_zero_first():
        return PackedCache.build(
            videos,
            config.cache,
            config.size,
            quarantine=_quarantine(config, fabric),
            workers=config.workers,
            deadline=config.deadline,
            progress=fabric.is_global_zero,
        )


def make_loader(config: Config, source: Any, fabric: Any) -> Any:
    """This process's share of the batches."""
    from vidssl.datasets.clips import ClipLoader, ClipSpec

    return ClipLoader(
        source,
        ClipSpec(config.frames, config.stride, config.size),
        config.batch_size,
        config.seed,
        rank=fabric.global_rank,
        world=fabric.world_size,
        workers=config.workers,
        deadline=config.deadline,
        pinned=fabric.device.type == "cuda",
        quarantine=_quarantine(config, fabric),
        progress=fabric.is_global_zero,
    )


def _quarantine(config: Config, fabric: Any) -> Any:
    from vidssl.datasets.quarantine import Quarantine

    return Quarantine(config.out / "quarantine.csv" if fabric.is_global_zero else None, config.max_failed)


def make_monitor(config: Config, source: Any, loader: Any) -> Any:
    """The online probe on the middle clip of up to 256 videos spread over the data; files that fail are set aside."""
    import torch

    from vidssl.datasets.files import VideoFile, read_groups
    from vidssl.datasets.video import spread_frames
    from vidssl.datasets.workers import Failure
    from vidssl.evaluate.online import OnlineProbe

    chosen, clips = [], []
    candidates = [loader.videos[i] for i in spread_frames(len(loader.videos), min(256, len(loader.videos)))]
    for video, clip in zip(candidates, _middle_clips(config, source, candidates), strict=True):
        if isinstance(clip, Failure):
            loader.quarantine.add(video.name, clip.reason)
        else:
            chosen.append(video)
            clips.append(torch.as_tensor(clip))
    if not chosen:
        return None
    labels = [video.label for video in chosen]
    groups = None
    if config.groups is not None:
        groups = read_groups(config.groups, [VideoFile(Path(v.name), v.name, v.label) for v in chosen])
    return OnlineProbe(torch.stack(clips).movedim(-1, 2), None if None in labels else labels, groups)


def _middle_clips(config: Config, source: Any, videos: Any) -> Any:
    """The clip in the middle of each video: uint8 [T,H,W,C], or why it can't be read."""
    from vidssl.datasets.cache import PackedCache
    from vidssl.machine import cores
    from vidssl.scripts.decoding import decode

    span = (config.frames - 1) * config.stride + 1
    plans = [np.arange(config.frames) * config.stride + (video.frames - span) // 2 for video in videos]
    if isinstance(source, PackedCache):
        return [source.gather([(video.source, plan)])[0] for video, plan in zip(videos, plans, strict=True)]
    tasks = [(*video.source, plan.tolist()) for video, plan in zip(videos, plans, strict=True)]
    workers = cores() if config.workers is None else config.workers
    return decode(tasks, (config.size, config.size), workers, config.deadline)


def clip_rate(videos: Any, stride: int) -> float | None:
    """Frames per second of the clips: that of the videos over the stride; None where they differ by over 10%."""
    rates = [(video.frames - 1) / (video.times[-1] - video.times[0]) for video in videos if video.frames > 1]
    if not rates or max(rates) > 1.1 * min(rates):
        return None
    return round(sorted(rates)[len(rates) // 2] / stride, 3)


def method_options(method: Any, name: str, given: list[str]) -> dict[str, Any]:
    """The settings of a method: its defaults, changed by `["name=value", …]`; VidsslError as of `parse_settings`."""
    parameters = inspect.signature(method).parameters.values()
    known = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    defaults = {option: parameter.default for option, parameter in known.items()}
    return defaults | parse_settings("--options", f"{name} option", given, known)


def check_run(out: Path, resume: bool) -> None:
    """Raises VidsslError for a new run in a folder that holds one, and for --resume where there is none."""
    if (out / "config.json").exists() != resume:
        raise VidsslError(
            f"{out} holds no run; leave --resume out to begin one"
            if resume
            else f"{out} holds a run already; pass --resume to go on with it, or choose another --out"
        )


def report(config: Config, outcome: Any, fabric: Any) -> int:
    """Say how it ended and what to do next; returns the exit status."""
    if not fabric.is_global_zero:
        return 0
    at = f"at step {outcome.step}, saved"
    if outcome.stopped_by == "doctor":
        print(f"stopped by the doctor {at}; see it drawn: vidssl doctor {config.out}", file=sys.stderr)
    elif outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by} {at}; go on with the same command and --resume", file=sys.stderr)
    else:
        print(f"{outcome.step} steps in {outcome.seconds / 60:.1f} min -> {config.out}")
        print(f"next: vidssl evaluate {config.out} DATA   or, in Python: vidssl.load_encoder({str(config.out)!r})")
    return outcome.exit_status
