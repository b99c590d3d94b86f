"""Latency of a controller's step: one camera frame through an encoder, in every form it can be run in.

    python -m vidssl.scripts.bench_latency                                  # 96x96, 2 threads
    python -m vidssl.scripts.bench_latency --run runs/mine --out runs/mine/latency
    python -m vidssl.scripts.bench_latency --encoders small --forms eager onnx --threads 1

A row is an encoder (untrained, or the run's) with its context, in one form:

    eager      vidssl.load_encoder(run).step(frame)
    compiled   torch.compile of the same function
    onnx, aoti vidssl.load_exported(file).step(frame), as `vidssl export` writes it

Milliseconds on one frame (median and 99th percentile), how many times as fast as eager (ratio of medians; range over
rounds), and the largest difference of the features from eager's in units of the largest feature. The forms of an
encoder take turns within a round, so that what else runs on the machine falls on all of them alike.
--out gets the table as latency.json, which `vidssl robot-report` reads, and latency.png.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import tyro

from vidssl.encoders import build_encoder
from vidssl.encoders.context import build_context
from vidssl.errors import VidsslError, unknown_name
from vidssl.exported import ExportedExtractor
from vidssl.features import FeatureExtractor, load_encoder
from vidssl.machine import versions
from vidssl.streaming import StreamingModule

if TYPE_CHECKING:
    from torch import Tensor

CONTEXT_DIM = 256
PACKAGES = ("vidssl", "torch", "numpy", "onnxruntime", "onnxruntime-gpu")


@dataclass
class Config:
    """Options."""

    encoders: tuple[str, ...] = ("resnet18", "small-motion", "small-motion+gru", "control")
    """Names of untrained encoders; NAME+gru and NAME+transformer with a context."""
    run: Path | None = None
    """A run folder instead."""
    forms: tuple[str, ...] = ("eager", "compiled", "onnx", "aoti")
    """What to time; the first is what the others are compared with."""
    size: int = 96
    """Height and width of the frames in pixels (not of a run: it has its own)."""
    frames: int = 100
    """Steps of a form in a round."""
    rounds: int = 5
    """Rounds timed, after one to warm up."""
    threads: int = 2
    """CPU threads."""
    out: Path | None = None
    """Folder for latency.json and latency.png; nothing is written if left out."""


@dataclass
class Row:
    """One form of one encoder: seconds of each step by round, and how far its features are from eager's."""

    encoder: str
    form: str
    seconds: list[list[float]] = field(default_factory=list)
    apart: float = 0.0

    def percentile(self, q: float) -> float:
        """Milliseconds."""
        return float(np.percentile(np.concatenate(self.seconds), q)) * 1e3


def untrained(name: str, size: int) -> FeatureExtractor:
    """`NAME` or `NAME+CONTEXT` with random weights."""
    name, _, context = name.partition("+")
    torch.manual_seed(0)
    encoder = build_encoder(name, (size, size))
    config = {"encoder": {"name": name, "dim": encoder.dim}}
    if not context:
        return FeatureExtractor(encoder, None, (size, size), config=config)
    following = build_context(context, encoder.dim, CONTEXT_DIM)
    return FeatureExtractor(encoder, following, (size, size), output="context", config=config)


class Compiled(ExportedExtractor):
    """The exported function under torch.compile, stepped as an exported file is."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        streaming = StreamingModule(extractor, extractor.image_size).eval()
        self._function = torch.compile(streaming)
        self._start = list(streaming.state.values())
        self.path, self.batch, self.camera = Path("compiled"), 1, extractor.image_size
        self.window, self.device = extractor.window, torch.device("cpu")
        self._runner = self._run  # type: ignore[assignment]
        self.reset()

    def _run(self, inputs: "list[Tensor]") -> "list[Tensor]":
        return list(self._function(*inputs))


def exported(extractor: FeatureExtractor, folder: Path, form: str, threads: int) -> ExportedExtractor:
    """Write and open an export."""
    from vidssl.export import SUFFIX, export_encoder

    path = folder / f"encoder{SUFFIX[form]}"
    export_encoder(extractor, path, form)
    return ExportedExtractor(path, threads)


FORMS: dict[str, Callable[[FeatureExtractor, Path, int], FeatureExtractor]] = {
    "eager": lambda extractor, folder, threads: extractor,
    "compiled": lambda extractor, folder, threads: Compiled(extractor),
    "onnx": lambda extractor, folder, threads: exported(extractor, folder, "onnx", threads),
    "aoti": lambda extractor, folder, threads: exported(extractor, folder, "aoti", threads),
}


def stream(enc: FeatureExtractor, frames: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Seconds of each step over frames uint8 [T,H,W,3], and the features [T,D]."""
    enc.reset()
    seconds, features = [], []
    for frame in frames:
        begin = time.perf_counter()
        feature = enc.step(frame)
        seconds.append(time.perf_counter() - begin)
        features.append(feature.numpy())
    return seconds, np.stack(features)


def measure(name: str, extractor: FeatureExtractor, config: Config) -> list[Row]:
    """The rows of one encoder."""
    frames = np.random.default_rng(0).integers(0, 256, (config.frames, *extractor.image_size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        forms = {form: FORMS[form](extractor, Path(folder), config.threads) for form in config.forms}
        rows = {form: Row(name, form) for form in forms}
        wanted = stream(extractor, frames)[1]
        for turn in range(config.rounds + 1):
            for form, enc in forms.items():
                seconds, features = stream(enc, frames)
                rows[form].seconds += [seconds] if turn else []
                rows[form].apart = float(np.abs(features - wanted).max() / np.abs(wanted).max())
    return list(rows.values())


def speedup(row: Row, base: Row) -> tuple[float, float, float]:
    """How many times as fast as `base`: ratio of medians over all rounds, and the least and most of single rounds."""
    by_round = [np.median(b) / np.median(a) for a, b in zip(row.seconds, base.seconds, strict=True)]
    return base.percentile(50) / row.percentile(50), float(min(by_round)), float(max(by_round))


def show(rows: Sequence[Row], first: str) -> None:
    """Print the table."""
    print(f"{'encoder':20}{'form':10}{'p50 ms':>8}{'p99 ms':>8}{'x ' + first:>9}{'by round':>15}{'difference':>12}")
    bases = {row.encoder: row for row in rows if row.form == first}
    for row in rows:
        times, low, high = speedup(row, bases[row.encoder])
        print(
            f"{row.encoder:20}{row.form:10}{row.percentile(50):8.2f}{row.percentile(99):8.2f}{times:9.2f}"
            f"{f'{low:.2f} to {high:.2f}':>15}{row.apart:12.1e}"
        )


def save(rows: Sequence[Row], config: Config, title: str, out: Path) -> None:
    """Write latency.json and latency.png to a folder."""
    from vidssl.checkpoint import write_json

    from .robot_plots import plot_latency

    bases = {row.encoder: row for row in rows if row.form == config.forms[0]}
    table = []
    for row in rows:
        times, low, high = speedup(row, bases[row.encoder])
        ratios = {"times_as_fast": times, "by_round": [low, high], "difference": row.apart}
        milliseconds = {"p50_ms": row.percentile(50), "p99_ms": row.percentile(99)}
        table.append({"encoder": row.encoder, "form": row.form, **milliseconds, **ratios})
    settings = {name: getattr(config, name) for name in ("frames", "rounds", "threads")}
    facts = {"title": title, "compared_with": config.forms[0], "settings": settings, "versions": versions(PACKAGES)}
    write_json(out / "latency.json", {"format": 1, **facts, "rows": table})
    plot_latency(table, out / "latency.png", title)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_latency", description=__doc__)
    for form in config.forms:
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
    if not config.forms or config.rounds < 1 or config.frames < 1:
        raise VidsslError("bench_latency: give at least one form, round and frame")
    torch.set_num_threads(config.threads)
    encoders = {str(config.run): load_encoder(config.run)} if config.run else {}
    encoders = encoders or {name: untrained(name, config.size) for name in config.encoders}
    rows = [row for name, extractor in encoders.items() for row in measure(name, extractor, config)]
    height, width = next(iter(encoders.values())).image_size
    title = f"{height}x{width} frames, {config.rounds} rounds of {config.frames}, {config.threads} CPU threads"
    print(title)
    show(rows, config.forms[0])
    if config.out is not None:
        save(rows, config, title, config.out)


if __name__ == "__main__":
    main()
