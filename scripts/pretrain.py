"""Train an encoder on videos without labels.

DATA is a folder of videos (searched recursively; class subfolders, where there are any, are used for the online probe
only), a list file with a line `path[,label]` a video, or one video.

Example:

    vidssl pretrain videos/ --out runs/mine --method cpc --encoder small-motion --minutes 10

The run folder then holds config.json, model.safetensors, metrics.jsonl and tensorboard/; load it with
`vidssl.load_encoder("runs/mine")`. A run that was stopped goes on with the same command and --resume.
"""

import ast
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass
class Config:
    """See the text above."""

    data: tyro.conf.Positional[Path]
    """folder of videos, list file or single video"""
    out: Path
    """run folder to write"""
    method: str = "cpc"
    """what to learn by: a name (an unknown one lists them all) or module:Class"""
    encoder: str = "small-motion"
    """network: a name (an unknown one lists them all)"""
    options: Annotated[list[str], tyro.conf.arg(metavar="NAME=VALUE ...")] = field(default_factory=list)
    """settings of the method, e.g. --options negatives=same-video steps=5 (an unknown one lists them all)"""
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
    """train for so many passes, a clip of each video a pass"""
    minutes: float | None = None
    """train for so many minutes; 10 when no budget is given"""
    lr: float = 1e-3
    """peak learning rate"""
    accumulate: int = 1
    """batches an optimiser step"""
    precision: Literal["32", "bf16"] = "32"
    """32 bit floats, or bf16 mixed"""
    cache: Path | None = None
    """decode the videos once into this folder (uint8, memory-mapped) and train from there"""
    workers: int = 2
    """decoding processes"""
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
    device: str = "auto"
    """auto, cpu or cuda"""
    devices: int = 1
    """processes on this machine (DDP); torchrun and SLURM are found by themselves"""
    seed: int = 0
    """of everything random"""
    resume: bool = False
    """go on with the run in --out from its last checkpoint"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status (143 or 130 when a signal stopped it)."""
    return run(tyro.cli(Config, args=argv, prog="vidssl pretrain", description=__doc__))


def run(config: Config) -> int:
    """Train as configured; the function behind the command."""
    import torch

    from vidssl.datasets.clips import ClipLoader, ClipSpec
    from vidssl.datasets.files import find_videos
    from vidssl.encoders import build_encoder
    from vidssl.methods import find_method
    from vidssl.train import Budget, TrainConfig, fit, make_fabric

    size = (config.size, config.size)
    minutes = 10.0 if config.steps is config.epochs is config.minutes is None else config.minutes
    budget = Budget(config.steps, config.epochs, minutes)
    method_class = find_method(config.method)
    options = method_options(method_class, config.method, config.options)
    train = TrainConfig(
        lr=config.lr,
        accumulate=config.accumulate,
        precision=config.precision,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        monitor_every=config.monitor_every,
    )
    videos = find_videos(config.data)
    fabric = make_fabric(config.device, config.devices, config.precision)
    torch.manual_seed(config.seed)
    method = method_class(build_encoder(config.encoder, size), method_class.default_views(size), **options)
