"""A training step fed by the packed cache, beside the same step on a batch that lies in memory.

    python -m vidssl.scripts.bench_train videos/ --cache cache

Both take the same method, encoder, views and optimiser in turns, a round of steps each. The first steps of a round are
not counted: in them the loader uses up what it had fetched while the other was training, or fetches anew. Figures are
medians over the rounds, the ratio the median of the rounds' ratios. The cache is read through the page cache, so data
that exceed the memory are another matter.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from vidssl.datasets.cache import PackedCache
from vidssl.datasets.clips import ClipLoader, ClipSpec
from vidssl.datasets.files import find_videos
from vidssl.encoders import build_encoder
from vidssl.methods import find_method

UNCOUNTED = 4  # steps at the start of a round; the loader keeps three batches ready


@dataclass
class Config:
    """Options; those of training default to those of `vidssl pretrain`."""

    videos: Annotated[Path, tyro.conf.Positional] = Path(
        os.environ.get("VIDSSL_TEST_DATA", "../shared/data"), "surveillance"
    )
    """Folder, list file or video."""
    cache: Path | None = None
    """Folder of the packed cache, built where there is none; by default in a temporary folder."""
    limit: int = 0
    """Videos to use, spread over all; 0 takes all."""
    method: str = "cpc"
    """What to learn by."""
    encoder: str | None = None
    """Network; the method's own when not given."""
    size: int = 64
    """Height and width of the frames in pixels."""
    frames: int = 10
    """Frames a clip."""
    stride: int = 2
    """A clip takes every stride-th frame."""
    batch_size: int = 32
    """Clips a batch."""
    steps: int = 15
    """Counted steps a round."""
    rounds: int = 5
    """Rounds of each, after one to warm up."""
    threads: int = 2
    """CPU threads of torch."""
    device: str = "cpu"
    """cpu or cuda."""


class Trainer:
    """The work of one optimiser step."""

    def __init__(self, config: Config) -> None:
        torch.manual_seed(0)
        size = (config.size, config.size)
        chosen = find_method(config.method)
        self.encoder = config.encoder or chosen.default_encoder
        self.method: Any = chosen(build_encoder(self.encoder, size), chosen.default_views(size))
        self.method.to(config.device)
        self.optimizer = torch.optim.AdamW(self.method.parameters())
        self.device, self.steps = config.device, 0

    def step(self, batch: dict[str, Any]) -> None:
        tensors = {name: value.to(self.device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        number = torch.tensor(self.steps, device=self.device)
        loss, _ = self.method.loss(tensors | {"step": number, "progress": torch.tensor(0.5)})
        loss.backward()
        nn.utils.clip_grad_norm_(self.method.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if hasattr(self.method, "after_step"):
            self.method.after_step()
        self.steps += 1
        loss.item()  # waits for the device

    def round(self, batches: Iterator[dict[str, Any]], steps: int) -> float:
        """Seconds a step, the wait for its batch included."""
        for number in range(UNCOUNTED + steps):
            if number == UNCOUNTED:
                begun = time.perf_counter()
            self.step(next(batches))
        return (time.perf_counter() - begun) / steps


def open_cache(config: Config, stack: ExitStack) -> PackedCache:
    """The cache that was named, or one in a temporary folder that the stack removes."""
    videos = find_videos(config.videos)
    if config.limit:
        videos = videos[:: max(1, len(videos) // config.limit)]
    folder = config.cache or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "cache"
    return PackedCache.build(videos, folder, config.size)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_train", description=__doc__)
    torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        cache = open_cache(config, stack)
        loader = ClipLoader(cache, ClipSpec(config.frames, config.stride, config.size), config.batch_size)
        fed = loader.batches()
        stack.callback(fed.close)  # type: ignore[attr-defined]
        sources = {"packed cache": fed, "constant batch": repeat(next(fed))}
        trainer = Trainer(config)
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        for turn in range(config.rounds + 1):
            for name in list(sources)[:: 1 if turn % 2 else -1]:
                taken = trainer.round(sources[name], config.steps)
                seconds[name] += [taken] if turn else []
    ratios = [ours / still for ours, still in zip(*seconds.values(), strict=True)]
    print(
        f"{config.method}, {trainer.encoder}, {config.batch_size} clips of {config.frames} frames at "
        f"{config.size}x{config.size}, {config.rounds} rounds of {config.steps} steps, {config.threads} threads"
    )
    for name, taken_by in seconds.items():
        print(f"{name:16}{statistics.median(taken_by) * 1e3:9.1f} ms a step")
    print(f"{'ratio':16}{statistics.median(ratios):9.3f}   ({min(ratios):.3f} to {max(ratios):.3f} by round)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
