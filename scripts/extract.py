"""Write the features of videos to one file.

Frames are taken at the rate the run was trained at (or every --stride-th frame; 1 is every frame) and go through the
run's encoder in order, each video on its own.

Example:

    vidssl extract runs/mine videos/ --out features.safetensors

    import json
    from safetensors import safe_open

    with safe_open("features.safetensors", "np") as file:
        features = file.get_tensor("features")         # float32 [N,D], all frames of all videos one after the other
        offsets = file.get_tensor("offsets")           # int64 [n+1], video i has rows offsets[i] to offsets[i+1]
        names = json.loads(file.metadata()["names"])   # n names

The file also holds times (float64 [N], seconds), video_index (int64 [N]) and frame_index (int64 [N], number in the
video). Videos that can't be read are listed with the reason in features.quarantine.csv and left out.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from vidssl.datasets.files import VideoFile, find_videos
from vidssl.errors import VidsslError
from vidssl.scripts.settings import Flag

if TYPE_CHECKING:
    from torch import Tensor

    from vidssl.datasets.quarantine import Quarantine
    from vidssl.datasets.workers import Failure
    from vidssl.features import FeatureExtractor

PART = 256  # frames decoded and encoded at a time


@dataclass
class Config:
    """See the text above."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """run folder, written by `vidssl pretrain`"""
    data: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
    """videos: a folder, a list file or one video"""
    out: Path
    """the .safetensors file to write"""
    stride: int | None = None
    """take every stride-th frame; as in training when not given"""
    overwrite: Flag = False
    """replace --out when it is there"""
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
    extract(tyro.cli(Config, args=argv, prog="vidssl extract", description=__doc__))
    return 0


def extract(config: Config) -> None:
    """Extract as configured; the function behind the command."""
    from vidssl.datasets.quarantine import Quarantine
    from vidssl.device import choose_device
    from vidssl.features import load_encoder

    listed = _check_out(config)
    extractor = load_encoder(config.run, device=choose_device(config.device))
    videos = find_videos(config.data)
    listed.unlink(missing_ok=True)  # of an earlier extraction
    quarantine = Quarantine(listed, config.max_failed)
    done = list(_features(extractor, videos, quarantine, config))
    quarantine.check(len(videos))
    _write(config, extractor, done)
    frames = sum(len(one.frames) for one in done)
    left = f"; {len(quarantine)} videos left out, see {listed}" if len(quarantine) else ""
    print(f"wrote {config.out}: {frames} features of dimension {extractor.dim} from {len(done)} videos{left}")


def _check_out(config: Config) -> Path:
    """The path of the quarantine list; a VidsslError when `--out` can't be written as asked."""
    from vidssl.checkpoint import check_writable

    if config.out.suffix != ".safetensors":
        raise VidsslError(f"--out {config.out}: features are written as safetensors; let the name end in .safetensors")
    if config.out.exists() and not config.overwrite:
        raise VidsslError(f"{config.out} is there already; give another --out or add --overwrite")
    if config.stride is not None and config.stride < 1:
        raise VidsslError(f"--stride must be at least 1, got {config.stride}")
    check_writable(config.out)
    return config.out.with_suffix(".quarantine.csv")


def _features(
    extractor: "FeatureExtractor", videos: list[VideoFile], quarantine: "Quarantine", config: Config
) -> "Iterator[Found]":
    """The features of every readable video; the others go to the quarantine."""
    import torch

    from vidssl.datasets.scan import scan_videos
    from vidssl.evaluate.windows import training_stride
    from vidssl.progress import progress_bar
    from vidssl.scripts.decoding import decode

    indices = scan_videos(videos, quarantine, workers=config.workers, deadline=config.deadline)
    numbers = {
        name: range(0, len(index), config.stride or training_stride(extractor.config, index.times))
        for name, index in indices.items()
    }
    usable = [video for video in videos if video.name in indices]
    parts = [
        (video, numbers[video.name][start : start + PART])
        for video in usable
        for start in range(0, len(numbers[video.name]), PART)
    ]
    tasks = [(video.path, indices[video.name], list(part)) for video, part in parts]
    decoded = decode(tasks, extractor.image_size, config.workers, config.deadline)
    with progress_bar("encoding videos", len(usable), True) as advance:
        for video, results in groupby(zip(parts, decoded, strict=True), key=lambda item: item[0][0]):
            try:
                features = torch.cat(list(encode(extractor, (result for _, result in results))))
            except VidsslError as error:
                quarantine.add(video.name, str(error))
            else:
                frames = np.array(numbers[video.name])
                yield Found(video, features, indices[video.name].times[frames], frames)
            advance()


@dataclass(frozen=True)
class Found:
    """What one video gave: features float32 [T,D], times [T] in seconds, frame numbers [T]."""

    video: VideoFile
    features: "Tensor"
    times: np.ndarray
    frames: np.ndarray


def encode(extractor: "FeatureExtractor", parts: "Iterable[np.ndarray | Failure]") -> "Iterator[Tensor]":
    """Features of one video that comes in parts, the same numbers as in one piece.

    Args:
        extractor: of the run.
        parts: uint8 [T,H,W,3] in order, or the `Failure` of one.

    Yields:
        float32 [T,D] a part.

    Raises:
        VidsslError: a part failed.
    """
    import torch

    from vidssl.datasets.workers import Failure

    extractor.reset()
    past = extractor.encoder.past
    before = np.empty((0, *extractor.image_size, 3), np.uint8)
    for part in parts:
        if isinstance(part, Failure):
            raise VidsslError(part.reason)
        if extractor.output == "context":  # depends on all frames before
            yield torch.stack([extractor.step(frame) for frame in part]).cpu()
        else:
            frames = np.concatenate([before, part])
            yield extractor.per_frame(frames)[len(before) :].cpu()
            before = frames[len(frames) - min(past, len(frames)) :]


def _write(config: Config, extractor: "FeatureExtractor", found: list[Found]) -> None:
    import torch

    from vidssl.checkpoint import write_tensors

    lengths = torch.tensor([len(one.frames) for one in found])
    tensors = {
        "features": torch.cat([one.features for one in found]),
        "times": torch.from_numpy(np.concatenate([one.times for one in found])),
        "frame_index": torch.from_numpy(np.concatenate([one.frames for one in found])),
        "video_index": torch.arange(len(found)).repeat_interleave(lengths),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
    }
    metadata = {
        "names": json.dumps([one.video.name for one in found]),
        "labels": json.dumps([one.video.label for one in found]),
        "run": str(config.run),
        "output": extractor.output,
    }
    write_tensors(config.out, tensors, metadata)
