"""Does copying colours teach tracking? The mask of a video's first frame, carried through it by features.

    python -m vidssl.scripts.bench_tracking videos/ --minutes 3
    python -m vidssl.scripts.bench_tracking videos/ --frames-of bmx/ --masks-of bmx_mask/ --masks strip.png

`colorize` is trained on the videos, in its copying form. Its embeddings and its encoder's map then stand beside an
untrained encoder's map, the colours of tiles of 4x4 pixels, and the first mask left where it was. The figure is the
Jaccard index J, mean over the frames after the first; one video, so it tells a failure from a success and no more.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich import print as show
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.datasets.cache import PackedCache
from vidssl.datasets.clips import ClipLoader, ClipSpec
from vidssl.datasets.files import find_videos
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.evaluate.tracking import cell_labels, jaccard, masks_of, propagate_labels
from vidssl.methods.colorize import Colorize
from vidssl.train import schedule

SHARED = Path(os.environ.get("VIDSSL_TEST_DATA", "../shared/data"))
TILE = 4
Embedding = Callable[[Tensor], Tensor]  # frames [T,3,H,W] in [0, 1] -> [T,D,h,w]


@dataclass
class Config:
    """Options."""

    videos: tyro.conf.Positional[Path] = SHARED / "surveillance"
    """To train on: folder, list file or video."""
    limit: int = 0
    """Videos to use, spread over all; 0 takes all."""
    minutes: float = 3.0
    """Of training."""
    frames_of: Path = SHARED / "davis/bmx-trees"
    """Pictures of the video to track in, by name."""
    masks_of: Path = SHARED / "davis/bmx-trees_mask"
    """A mask for each, grey; 0 is the background."""
    height: int = 120
    """Frames are tracked at this height in pixels, a multiple of 4; the width follows."""
    radius: float = 5.0
    """How far a cell is looked for, in cells of the embeddings (4 pixels)."""
    encoder: str = "fine-grey"
    """Network."""
    size: int = 64
    """Height and width of the training frames."""
    frames: int = 6
    """Frames a clip."""
    stride: int = 2
    """A clip takes every stride-th frame."""
    batch_size: int = 16
    """Clips a batch."""
    lr: float = 1e-3
    """Peak learning rate."""
    seed: int = 0
    """Of weights and clips."""
    threads: int = 2
    """CPU threads of torch."""
    masks: Path | None = None
    """A PNG: five frames of each arm, the mask in red."""


def read_video(config: Config) -> tuple[Tensor, Tensor]:
    """Frames float32 `[T,3,H,W]` in [0, 1], H and W multiples of 4, and masks int64 `[T,H0,W0]` at their own size."""
    import cv2

    def read(path: Path, flag: int) -> np.ndarray:
        picture = cv2.imread(str(path), flag)
        if picture is None:
            raise VidsslError(f"{path} is no picture that OpenCV reads; give folders of pictures alone")
        return picture

    pictures, masks = sorted(config.frames_of.glob("*.*")), sorted(config.masks_of.glob("*.*"))
    if len(pictures) < 2 or len(pictures) != len(masks):
        raise VidsslError(
            f"{config.frames_of} holds {len(pictures)} pictures and {config.masks_of} {len(masks)} masks; give a mask "
            "for each of 2 pictures or more"
        )
    frames = [cv2.cvtColor(read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for path in pictures]
    height, width = frames[0].shape[:2]
    wide = TILE * round(width * config.height / height / TILE)
    small = [cv2.resize(frame, (wide, config.height), interpolation=cv2.INTER_AREA) for frame in frames]
    truth = [read(path, cv2.IMREAD_GRAYSCALE) > 0 for path in masks]
    video = torch.stack([torch.from_numpy(frame) for frame in small]).movedim(-1, 1).float() / 255
    return video, torch.stack([torch.from_numpy(mask) for mask in truth]).long()


def train(config: Config) -> Colorize:
    """The copying form of `colorize`, after its minutes."""
    torch.manual_seed(config.seed)
    size = (config.size, config.size)
    method = Colorize(build_encoder(config.encoder, size), Colorize.default_views(size), form="copy")
    optimizer = torch.optim.AdamW(method.parameters(), lr=config.lr, weight_decay=1e-4)
    videos = find_videos(config.videos)
    if config.limit:
        places = np.linspace(0, len(videos) - 1, min(config.limit, len(videos))).round().astype(int)
        videos = [videos[place] for place in places]
    with tempfile.TemporaryDirectory() as folder:
        cache = PackedCache.build(videos, Path(folder, "cache"), config.size)
        spec = ClipSpec(config.frames, config.stride, config.size)
        batches = ClipLoader(cache, spec, config.batch_size, config.seed).batches()
        begun, spent, steps = time.perf_counter(), 0.0, 0
        while spent < 60 * config.minutes:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(spent / (60 * config.minutes), 0.05)
            loss, metrics = method.loss(next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(method.parameters(), 1.0)
            optimizer.step()
            spent, steps = time.perf_counter() - begun, steps + 1
        batches.close()  # type: ignore[attr-defined]
    show(
        f"{steps} steps of {config.batch_size} clips; copied colours right {metrics['accuracy']:.3f}, "
        f"those of the frame before left in place {metrics['accuracy_still']:.3f}"
    )
    return method.eval()


def embeddings(config: Config) -> dict[str, Embedding]:
    """What is compared, by name."""
    torch.manual_seed(config.seed)
    untrained = build_encoder(config.encoder, (config.size, config.size)).eval()
    method = train(config)
    return {
        "colorize, embeddings": lambda frames: method.embed(frames[None])[0],
        "colorize, encoder": lambda frames: method.encoder.maps(frames[None])[0],
        "untrained encoder": lambda frames: untrained.maps(frames[None])[0],
        "pixels": lambda frames: F.pixel_unshuffle(frames - 0.5, TILE),
    }


@torch.no_grad()
def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_tracking", description=__doc__)
    torch.set_num_threads(config.threads)
    frames, truth = read_video(config)
    size = (truth.shape[-2], truth.shape[-1])
    with torch.enable_grad():
        arms = embeddings(config)
    found = {"first mask": truth[:1].expand_as(truth)}
    for name, embed in arms.items():
        maps = torch.cat([embed(part) for part in frames.split(10)])
        maps = maps - maps.mean((0, 2, 3), keepdim=True)  # behind a ReLU all cosines would be near 1
        first = cell_labels(truth[0], (maps.shape[-2], maps.shape[-1]), int(truth.max()) + 1)
        found[name] = masks_of(propagate_labels(maps, first, radius=config.radius), size)
    table = Table(title=f"{config.frames_of.name}: {len(truth)} frames at {frames.shape[-2]}x{frames.shape[-1]}")
    for column in ("features", "J", "J, first quarter"):
        table.add_column(column)
    quarter = math.ceil(len(truth) / 4)
    for name, masks in found.items():
        whole, early = jaccard(masks[1:], truth[1:]), jaccard(masks[1:quarter], truth[1:quarter])
        table.add_row(name, f"{whole.mean():.3f}", f"{early.mean():.3f}")
    show(table)
    if config.masks:
        draw(config.masks, frames, found | {"truth": truth})
    return 0


def draw(path: Path, frames: Tensor, found: dict[str, Tensor]) -> None:
    """Five frames a row, from the first quarter; a row an arm, the mask in red."""
    import cv2

    shown = torch.linspace(0, len(frames) / 4, 5).long()
    rows = []
    for masks in found.values():
        mask = F.interpolate(masks[shown, None].float(), frames.shape[-2:])
        red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        rows.append(torch.cat(list(torch.where(mask > 0, 0.5 * frames[shown] + 0.5 * red, frames[shown])), dim=-1))
    picture = torch.cat(rows, dim=-2).flip(0).movedim(0, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture.mul(255).round().byte().numpy())


if __name__ == "__main__":
    raise SystemExit(main())
