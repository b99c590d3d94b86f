"""Images a second of SimCLR on a ResNet-18, views included, beside the network alone and beside the lightly library.

    python -m vidssl.scripts.bench_simclr                                  # CPU, two threads
    python -m vidssl.scripts.bench_simclr --device cuda --batch-size 512

    ours      two views, encoder and projector, NT-Xent, backward, AdamW; fed with uint8 images in memory
    network   the same encoder and projector, forward, backward and AdamW, on two ready-made views and without a loss:
              what no method on this network can beat
    lightly   the same work by its transforms, head and loss, as in its documentation; uint8 images in memory become
              PIL images, by a DataLoader of 0 and of 2 workers; in fp32 as documented, and in bf16 with channels-last,
              which its users would have to add

An image is an item of the batch, so each costs two passes of the network. The forms take turns, a round of steps each;
figures are medians over the rounds, ratios medians of the rounds' ratios.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vidssl.core.random import mix
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.methods.simclr import SimCLR

Step = Callable[[], None]
UNCOUNTED = 1  # steps at the start of a round: caches and a DataLoader's prefetched batches


@dataclass
class Config:
    """Options."""

    size: int = 64
    """Height and width of the images in pixels."""
    batch_size: int = 128
    """Images a batch."""
    steps: int = 3
    """Counted steps a round."""
    rounds: int = 5
    """Rounds of each, after one to warm up."""
    threads: int = 2
    """CPU threads of torch."""
    device: str = "cpu"
    """cpu or cuda."""
    precisions: tuple[str, ...] = ("fp32", "bf16")
    """precision of ours and of the network: fp32, bf16 (mixed)."""
    lightly_workers: tuple[int, ...] = (0, 2)
    """DataLoader workers of lightly; none leaves lightly out."""
    profile: bool = False
    """Instead of timing, print where a step of ours spends its time, in each precision."""


def images(config: Config, count: int) -> Tensor:
    """Smooth random pictures: uint8 [count,3,H,W]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = nn.functional.interpolate(coarse, (config.size, config.size), mode="bicubic").clamp(0, 1)
    return (255 * fine).to(torch.uint8)


def autocast(config: Config, precision: str) -> torch.autocast:
    """Mixed precision as the trainer has it."""
    return torch.autocast(config.device, torch.bfloat16, enabled=precision == "bf16")


def make_simclr(config: Config) -> SimCLR:
    torch.manual_seed(0)
    size = (config.size, config.size)
    return SimCLR(build_encoder("resnet18", size), SimCLR.default_views(size)).to(config.device)


def ours(config: Config, precision: str) -> Step:
    """A training step of `simclr` on batches of images as clips of one frame."""
    method = make_simclr(config)
    optimizer = torch.optim.AdamW(method.parameters())
    clips = images(config, config.batch_size)[:, None].to(config.device)
    video = torch.arange(config.batch_size, device=config.device)
    numbers = itertools.count()

    def step() -> None:
        keys = mix(next(numbers), video)
        with autocast(config, precision):
            loss, _ = method.loss({"clips": clips, "key": keys, "video": video})
        finish(loss, optimizer)

    return step


def network(config: Config, precision: str) -> Step:
    """Encoder and projector of `simclr` alone, on the two views of a batch made beforehand."""
    method = make_simclr(config)
    optimizer = torch.optim.AdamW(method.parameters())
    views = torch.rand(2 * config.batch_size, 1, 3, config.size, config.size, device=config.device)

    def step() -> None:
        with autocast(config, precision):
            embeddings = method.projector(method.encoder(views).mean(1))
        finish(embeddings.float().square().mean(), optimizer)

    return step


class _Pictures(Dataset[list[Tensor]]):
    def __init__(self, pictures: Tensor, transform: Callable[[Any], list[Tensor]]) -> None:
        self.pictures, self.transform = pictures.permute(0, 2, 3, 1).numpy(), transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pictures[index]))


def lightly(config: Config, precision: str, workers: int) -> Step:
    """The library's SimCLR as its documentation builds it, with its transforms and loader as its users have them."""
    from vidssl.scripts.lightly_peers import lightly as find_lightly

    library = find_lightly()
    torch.manual_seed(0)
    backbone = torchvision.models.resnet18()
    backbone.fc = nn.Identity()
    model = nn.Sequential(backbone, library.models.modules.SimCLRProjectionHead(512, 512, 128))
    layout = torch.channels_last if precision == "bf16" else torch.contiguous_format
    model = model.to(config.device).to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters())
    criterion = library.loss.NTXentLoss()
    dataset = _Pictures(images(config, 8 * config.batch_size), library.transforms.SimCLRTransform(config.size))
    loader = DataLoader(
        dataset, config.batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    batches = forever(loader)

    def step() -> None:
        views = [view.to(config.device, memory_format=layout) for view in next(batches)]
        with autocast(config, precision):
            z0, z1 = (model(view) for view in views)
            loss = criterion(z0, z1)
        finish(loss, optimizer)

    return step


def forever(loader: DataLoader[list[Tensor]]) -> Iterator[list[Tensor]]:
    while True:
        yield from loader


def finish(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss.detach().item()  # waits for the device


def forms(config: Config) -> dict[str, Step]:
    """The forms by name; lightly only where it is installed."""
    made = {f"{make.__name__} {p}": make(config, p) for make in (ours, network) for p in config.precisions}
    try:
        return made | {
            f"lightly {p}, {workers} workers": lightly(config, p, workers)
            for workers in config.lightly_workers
            for p in config.precisions
        }
    except VidsslError as error:
        print(f"lightly left out: {error}")
        return made


def round_of(step: Step, steps: int) -> float:
    """Seconds a step."""
    for number in range(UNCOUNTED + steps):
        if number == UNCOUNTED:
            begun = time.perf_counter()
        step()
    return (time.perf_counter() - begun) / steps


def profile(config: Config) -> None:
    """Where a step of ours spends its time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    on_gpu = config.device == "cuda"
    for precision in config.precisions:
        step = ours(config, precision)
        step()
        with profiler(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as found:
            step()
        print(precision)
        spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=spent, row_limit=25, max_name_column_width=50))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_simclr", description=__doc__)
    torch.set_num_threads(config.threads)
    if config.profile:
        profile(config)
        return 0
    steps = forms(config)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(config.rounds + 1):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            taken = round_of(steps[name], config.steps)
            seconds[name] += [taken] if turn else []
    show(config, seconds)
    return 0


def show(config: Config, seconds: dict[str, list[float]]) -> None:
    """The table: images/s of each form, and over the fastest network, lightly in fp32 and lightly in bf16."""
    device = torch.cuda.get_device_name() if config.device == "cuda" else f"{config.threads} threads"
    print(
        f"SimCLR, ResNet-18, {config.batch_size} images of {config.size}x{config.size}, two views each, {device},"
        f" {config.rounds} rounds of {config.steps} steps"
    )
    fastest = {
        kind: min(
            (name for name in seconds if name.startswith(kind)), key=lambda name: statistics.median(seconds[name])
        )
        for kind in ("network", "lightly fp32", "lightly bf16")
        if any(name.startswith(kind) for name in seconds)
    }
    print(
        f"{'':24}{'images/s':>10}"
        + "".join(f"{'over ' + name:>26}" if len(name) < 19 else f"   over {name}" for name in fastest.values())
    )
    for name, taken in seconds.items():
        line = f"{name:24}{config.batch_size / statistics.median(taken):10.1f}"
        for other in fastest.values():
            ratios = [theirs / mine for mine, theirs in zip(taken, seconds[other], strict=True)]
            told = f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"
            line += f"{told:>{max(len(other) + 8, 26)}}"
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
