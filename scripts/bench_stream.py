"""Latency of streaming one camera frame through each encoder, and how far streaming is from whole clips.

    python -m vidssl.scripts.bench_stream                          # 96x96 frames
    python -m vidssl.scripts.bench_stream --encoders small control --threads 1

A row is an untrained encoder, alone or with a causal context: milliseconds of `FeatureExtractor.step` on one frame
(median and 99th percentile, after the warm-up; rounds are interleaved), and the largest difference of the features
of the stream from those of the whole clip, in units of the largest feature.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import tyro

from vidssl.encoders import build_encoder
from vidssl.encoders.context import build_context
from vidssl.features import FeatureExtractor

CONTEXT_DIM = 256


@dataclass
class Config:
    """Options."""

    encoders: tuple[str, ...] = ("resnet18", "resnet18-motion", "small", "small-motion", "control")
    """Names of encoders."""
    contexts: tuple[str, ...] = ("none", "gru")
    """What follows them: none, gru or transformer."""
    size: int = 96
    """Height and width of the frames in pixels."""
    frames: int = 100
    """Frames a round."""
    rounds: int = 5
    """Rounds timed, after one to warm up."""
    threads: int = 2
    """CPU threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where."""


def extractor(name: str, context: str, config: Config) -> FeatureExtractor:
    """An untrained encoder, exported with its context where there is one."""
    torch.manual_seed(0)
    size = (config.size, config.size)
    encoder = build_encoder(name, size)
    if context == "none":
        return FeatureExtractor(encoder, None, size, device=config.device)
    following = build_context(context, encoder.dim, CONTEXT_DIM)
    return FeatureExtractor(encoder, following, size, output="context", device=config.device)


def stream(enc: FeatureExtractor, frames: np.ndarray) -> list[float]:
    """Seconds of each step over frames uint8 [T,H,W,3], from a reset on until the feature is there."""
    enc.reset()
    seconds = []
    for frame in frames:
        begin = time.perf_counter()
        enc.step(frame).cpu()
        seconds.append(time.perf_counter() - begin)
    return seconds


def difference(enc: FeatureExtractor, frames: np.ndarray) -> float:
    """The largest |streaming - whole clip| over the largest |feature|."""
    enc.reset()
    streamed, whole = torch.stack([enc.step(frame) for frame in frames]), enc(frames)
    return float((streamed - whole).abs().max() / whole.abs().max())


def show(rows: Sequence[tuple[str, str, list[float], float]]) -> None:
    """Print the table."""
    print(f"{'encoder':18}{'context':13}{'p50 ms':>8}{'p99 ms':>8}{'stream - clip':>15}")
    for name, context, seconds, apart in rows:
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
        print(f"{name:18}{context:13}{p50:8.2f}{p99:8.2f}{apart:15.1e}")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_stream", description=__doc__)
    torch.set_num_threads(config.threads)
    shape = (config.frames, config.size, config.size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    kinds = [(name, context) for name in config.encoders for context in config.contexts]
    extractors = [extractor(name, context, config) for name, context in kinds]
    seconds: list[list[float]] = [[] for _ in kinds]
    for turn in range(config.rounds + 1):
        for enc, taken in zip(extractors, seconds, strict=True):
            once = stream(enc, frames)
            taken.extend(once if turn else [])
    apart = [difference(enc, frames[:16]) for enc in extractors]
    on = "CUDA" if config.device == "cuda" else f"{config.threads} CPU threads"
    print(f"{config.size}x{config.size} frames, {config.rounds} rounds of {config.frames}, {on}")
    show([(*kind, taken, far) for kind, taken, far in zip(kinds, seconds, apart, strict=True)])


if __name__ == "__main__":
    main()
