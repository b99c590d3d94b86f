"""Short trainings for the test set of the collapse doctor, and whether each truly collapsed.

    case (method, encoder, what is broken, seed, data) ──fit──> metrics.jsonl, what the doctor may read
                                                      └──> measures on held-out clips, what it may not

What a run is worth is measured apart from what it logged: on clips of other videos, all at once, before and after
training. N clips, T frames, S pixels a side, R rows held out, D feature dim.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from vidssl.checkpoint import read_metrics
from vidssl.core import sample_key
from vidssl.core.random import mix_ints
from vidssl.datasets.cache import PackedCache
from vidssl.encoders import build_encoder
from vidssl.evaluate.rank import rankme
from vidssl.methods import find_method
from vidssl.train import Budget, TrainConfig, fit, make_fabric

FRAMES, SIZE, TRAINED, HELD_OUT, BATCH = 6, 32, 768, 256, 32


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        method, encoder: their names.
        broken: name of the ablation, "" for a healthy run.
        seed: of weights, data order and generated clips.
        data: "shapes", or a packed cache's folder.
        steps, lr: how long and how fast.
        options: of the method, over its defaults.
    """

    method: str
    encoder: str
    broken: str
    seed: int
    data: str = "shapes"
    steps: int = 120
    lr: float = 1e-3
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A file name."""
        parts = (
            self.method,
            self.encoder,
            self.broken or "healthy",
            Path(self.data).name,
            f"{self.steps}",
            f"{self.lr:g}",
            f"{self.seed}",
        )
        return "_".join(part.replace(" ", "-").replace(":", "-") for part in parts)


def train_case(case: Case) -> dict[str, Any]:
    """Train it in a temporary folder: `{"case", "config", "lines", "before", "after"}`, all plain numbers."""
    torch.set_num_threads(1)
    torch.manual_seed(case.seed)
    chosen = find_method(case.method)
    method = chosen(build_encoder(case.encoder, (SIZE, SIZE)), chosen.default_views((SIZE, SIZE)), **case.options)
    trained, held_out = load_clips(case.data, case.seed)
    before = measure(method, held_out)
    run_config = {
        "encoder": {"name": case.encoder, "dim": method.encoder.dim},
        "context": None if method.context is None else {"name": method.context.name, "dim": method.context.dim},
        "output": method.output,
        "image_size": [SIZE, SIZE],
        "fps": None,
        "clip": {"frames": FRAMES, "stride": 1, "batch_size": BATCH},
        "method": {"name": case.method, "options": case.options},
    }
    config = TrainConfig(lr=case.lr, seed=case.seed, log_every=5, checkpoint_every=10**6)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        fit(make_fabric("cpu"), method, trained, run, Budget(steps=case.steps), config, run_config=run_config)
        lines = read_metrics(run)
        run_config = json.loads((run / "config.json").read_text())
    after = measure(method, held_out)
    return {"case": asdict(case), "config": run_config, "lines": lines, "before": before, "after": after}


@torch.no_grad()
def measure(method: Any, clips: "Clips") -> dict[str, float]:
    """Spread and rank of features and embeddings of held-out clips, and how often a clip finds itself.

    The features and embeddings are those that the method compares, of all held-out batches together. `find` is the
    share of clips whose first half has, among the exported features of all second halves, its own nearest (cosine of
    centred features; chance 1/R).
    """
    method.eval()
    frames = torch.from_numpy(clips.clips).float() / 255
    first, second = (
        torch.cat([_exported(method, part) for part in half.split(BATCH)]) for half in frames.chunk(2, dim=1)
    )
    method.train()
    with recorded() as seen:
        for batch in clips.in_order():
            method.loss(batch)
    numbers = {"find": _find(first, second)}
    for number, kind in enumerate(("feature", "embedding")):
        parts = [
            given[number].detach().flatten(0, -2).float()
            for given in seen
            if len(given) > number and given[number] is not None
        ]
        if parts:
            rows = torch.cat(parts)
            unit = torch.nn.functional.normalize(rows, dim=1)
            numbers[f"{kind}_deviation"] = float((unit - unit.mean(0)).square().sum(1).mean().sqrt())
            numbers[f"{kind}_rankme"] = rankme(rows - rows.mean(0), max_items=1024)
            numbers[f"{kind}_scale"] = float((rows - rows.mean(0)).square().mean().sqrt())
            numbers[f"{kind}_items"] = min(1024, *rows.shape)
    exported = torch.cat([first, second])
    numbers["exported_rankme"] = rankme(exported - exported.mean(0))
    unit = torch.nn.functional.normalize(exported, dim=1)
    numbers["exported_deviation"] = float((unit - unit.mean(0)).square().sum(1).mean().sqrt())
    return numbers


def _exported(method: Any, clips: Tensor) -> Tensor:
    frames = method.encoder(clips)
    return (method.context(frames) if method.output == "context" else frames).mean(1)


def _find(a: Tensor, b: Tensor) -> float:
    a, b = (torch.nn.functional.normalize((x - x.mean(0)).double(), dim=1) for x in (a, b))
    return float(((a @ b.T).argmax(1) == torch.arange(len(a))).float().mean())


class recorded(ExitStack):
    """Within it, what methods hand to `health` is kept: a list of (features, embeddings)."""

    def __enter__(self) -> Any:
        from vidssl.core import monitor

        seen: list[tuple[Tensor, ...]] = []

        def keep(*given: Any, **named: Any) -> dict[str, Tensor]:
            seen.append((*given, *named.values()))
            return true(*given, **named)

        true = monitor.health
        users: list[ModuleType] = [m for m in sys.modules.values() if getattr(m, "health", None) is true]
        for module in users:
            self.enter_context(mock.patch.object(module, "health", keep))
        return seen


class Clips:
    """Clips uint8 `[N,T,3,S,S]` in memory, as a loader: batch s depends on (seed, s) alone."""

    def __init__(self, clips: np.ndarray, video: np.ndarray, seed: int) -> None:
        self.clips, self.video, self.seed = clips, video, seed
        self.steps_per_epoch = len(clips) // BATCH

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Random batches without end."""
        step = start_step
        while True:
            draw = np.random.default_rng((self.seed, step))
            yield self._batch(draw.choice(len(self.clips), BATCH, replace=False), step)
            step += 1

    def in_order(self) -> Iterator[dict[str, Tensor]]:
        """Every clip once."""
        for step in range(self.steps_per_epoch):
            batch = self._batch(np.arange(step * BATCH, (step + 1) * BATCH), step)
            yield batch | {"step": torch.tensor(step), "progress": torch.tensor(0.5)}

    def _batch(self, chosen: np.ndarray, step: int) -> dict[str, Any]:
        return {
            "clips": torch.from_numpy(self.clips[chosen]),
            "video": torch.from_numpy(self.video[chosen]),
            "key": torch.tensor([sample_key(self.seed, step, int(i)) for i in chosen]),
        }


def load_clips(data: str, seed: int) -> tuple[Clips, Clips]:
    """Clips to train on and, of other videos, clips held out."""
    if data == "shapes":
        return tuple(  # type: ignore[return-value]
            Clips(shapes(count, mix_ints(seed, part) % 2**32), np.arange(count), seed)
            for part, count in enumerate((TRAINED, HELD_OUT))
        )
    cache = PackedCache.open(data)
    span = 2 * FRAMES - 1
    order = np.random.default_rng(seed).permutation([i for i, v in enumerate(cache.videos) if v.frames >= span])
    cut = max(1, len(order) // 4)
    return tuple(  # type: ignore[return-value]
        Clips(*windows(cache, videos, count, span), seed)
        for videos, count in ((order[cut:], TRAINED), (order[:cut], HELD_OUT))
    )


def windows(cache: PackedCache, videos: np.ndarray, count: int, span: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` clips of every second frame spread evenly over some of a cache's videos, scaled to S; and the videos."""
    each = -(-count // len(videos))
    plans = [
        (cache.videos[v], int(start) + np.arange(0, span, 2))
        for v in videos
        for start in np.linspace(0, cache.videos[v].frames - span, each).round()
    ]
    frames = torch.from_numpy(cache.gather(plans[:count])).movedim(-1, 2).float()
    scaled = torch.nn.functional.interpolate(frames.flatten(0, 1), (SIZE, SIZE), mode="area")
    return scaled.round().byte().unflatten(0, frames.shape[:2]).numpy(), np.repeat(videos, each)[:count].astype(
        np.int64
    )


def shapes(count: int, seed: int) -> np.ndarray:
    """Clips uint8 `[count,T,3,S,S]` of two coloured blobs, square to round, drifting over a smooth coloured ground."""
    draw = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, SIZE)
    coarse = torch.from_numpy(draw.uniform(20, 160, (count, 3, 4, 4)))
    ground = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=True).numpy()
    clips = np.repeat(ground[:, None], FRAMES, axis=1)
    for _ in range(2):
        place, speed = draw.uniform(-0.7, 0.7, (count, 2)), draw.normal(0, 0.12, (count, 2))
        size, power = draw.uniform(0.15, 0.45, count), draw.choice([2, 4, 16], count)
        colour = draw.uniform(0, 255, (count, 3))
        for t in range(FRAMES):
            centre = place + speed * t
            centre = np.abs((centre + 1) % 4 - 2) - 1  # reflected at the border
            y, x = (np.abs(grid[None] - centre[:, i : i + 1]) / size[:, None] for i in range(2))
            power_ = power[:, None, None]
            inside = (y[:, :, None] ** power_ + x[:, None, :] ** power_) < 1
            clips[:, t] = np.where(inside[:, None], colour[:, :, None, None], clips[:, t])
    return np.clip(clips + draw.normal(0, 4, clips.shape), 0, 255).astype(np.uint8)
