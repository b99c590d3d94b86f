"""Training batches of clips. Which clips a step holds, and their frames, follow from (seed, step) alone.

    frames  . . f x f x f x f . . . . . .      a clip of 4 frames, stride 2, span 7, starting at frame 2

    B clips a global batch, b clips of it on this rank, T frames, C = 3 channels, H, W pixels

A video of n frames has max(1, n // span) clips an epoch, each with a start of its own drawn over the whole video; all
clips of all videos are shuffled, the last incomplete batch is left out.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidssl.core.random import mix, mix_ints, sample_key
from vidssl.errors import VidsslError
from vidssl.machine import cores

from .cache import PackedCache
from .files import VideoFile, find_videos
from .loading import Work, ahead, decode_in_order, stack
from .quarantine import Quarantine
from .scan import DEADLINE, scan_videos
from .video import read_plan
from .workers import WorkerPool

START_STREAM = 1  # sets the draw of a clip's start apart from other uses of its key


@dataclass(frozen=True)
class ClipSpec:
    """A clip: `frames` frames, every `stride`-th of the video, scaled to `size` (a side in pixels, or (H, W)).

    frames=3, stride=3:   f x x f x x f     span = 7
    """

    frames: int = 16
    stride: int = 2
    size: int | tuple[int, int] = 64

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1 or min(self.shape) < 1:
            raise VidsslError(f"clip: frames, stride and size must be at least 1, got {self}")

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last of the clip."""
        return (self.frames - 1) * self.stride + 1

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def clip_plan(seed: int, epoch: int, index: int, n_frames: int, spec: ClipSpec) -> np.ndarray:
    """Frame numbers int64 [T] of clip `index` of an epoch, out of a video of `n_frames`.

        n_frames = 12, T = 3, stride = 2, start drawn from 0..7:    . . . f x f x f . . . .

    Raises:
        VidsslError: the video is shorter than the clip's span.
    """
    if n_frames < spec.span:
        raise VidsslError(f"the video is {too_short(n_frames, spec)}")
    start = mix_ints(sample_key(seed, epoch, index), START_STREAM) % (n_frames - spec.span + 1)
    return start + spec.stride * np.arange(spec.frames, dtype=np.int64)


def too_short(n_frames: int, spec: ClipSpec) -> str:
    """Why a video can't give a clip."""
    return f"shorter than a clip: {n_frames} frames, {spec.span} needed ({spec.frames} frames, every {spec.stride}.)"


@dataclass(frozen=True)
class ClipVideo:
    """A video that clips are drawn from."""

    name: str
    label: str | None
    times: np.ndarray  # float64 [n] seconds
    source: Any = field(repr=False)  # (path, VideoIndex), or the cache's CachedVideo

    @property
    def frames(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Draw:
    """One clip of a batch."""

    video: int
    key: int
    frames: np.ndarray


class ClipLoader:
    """Batches of clips for training, from files (worker processes, deadlines) or a `PackedCache`.

    Args:
        source: a folder, list file or video; a list of `VideoFile`; or a `PackedCache`.
        spec: what a clip is. With a cache, its size must be the cache's.
        batch_size: clips of the global batch, a multiple of `world`.
        seed: of the draws.
        rank, world: this process takes the rank-th of `world` equal, contiguous slices of every batch.
        workers: decoding processes, at least one; None takes one a core.
        deadline: seconds a clip may take before its file is given up.
        prefetch: batches kept ready.
        pinned: whether batches lie in page-locked memory, from where a GPU fetches them while it works.
        start: "spawn" or "fork".
        quarantine: where failed files are listed: a `Quarantine`, a CSV path, or None for memory only. Give a resumed
            run the same file, so that it leaves out what the first one did.
        memory: a file that remembers packet indices, see `scan_videos`.
        progress: whether to draw bars.
        decode: what a worker calls with (path, ReadPlan, (H, W)) for uint8 [T,H,W,C]; importable from its module.

    Attributes:
        videos: list of `ClipVideo`, the usable ones; `video` in a batch counts in it.
        steps_per_epoch: batches an epoch.

    Raises:
        VidsslError: settings don't fit, too many videos failed, or there are fewer clips than a batch holds.
    """

    def __init__(
        self,
        source: str | Path | Sequence[VideoFile] | PackedCache,
        spec: ClipSpec | None = None,
        batch_size: int = 64,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        *,
        workers: int | None = None,
        deadline: float = DEADLINE,
        prefetch: int = 3,
        pinned: bool = False,
        start: str = "spawn",
        quarantine: Quarantine | str | Path | None = None,
        memory: str | Path | None = None,
        progress: bool = True,
        decode: Callable[..., np.ndarray] = read_plan,
    ):
        self.spec, self.batch_size, self.seed = spec or ClipSpec(), batch_size, seed
        self.rank, self.world = rank, world
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise VidsslError(
                f"batch_size {batch_size} must be a multiple of the {world} ranks, and rank {rank} one of them"
            )
        self.quarantine = quarantine if isinstance(quarantine, Quarantine) else Quarantine(quarantine)
        self._workers = cores() if workers is None else workers
        self._deadline, self._prefetch, self._start, self._decode = deadline, prefetch, start, decode
        self._pinned = pinned
        self._cache = source if isinstance(source, PackedCache) else None
        if isinstance(source, PackedCache):
            self._total = len(source.videos)
            found = self._from_cache(source)
        else:
            files = find_videos(source) if isinstance(source, str | Path) else list(source)
            self._total = len(files)
            found = self._from_files(files, memory, progress)
        self.videos = self._long_enough(found)
        counts = np.array([max(1, video.frames // self.spec.span) for video in self.videos])
        self._clips = np.repeat(np.arange(len(counts)), counts)  # the video of each clip of an epoch
        self.steps_per_epoch = len(self._clips) // batch_size
        if self.steps_per_epoch == 0:
            raise VidsslError(
                f"{len(self.videos)} videos give {len(self._clips)} clips of {self.spec.span} frames, fewer than a "
                f"batch of {batch_size}; lower the batch size, the frames or the stride, or add videos"
            )
        self._order: tuple[int, np.ndarray] = (-1, self._clips)

    def _from_cache(self, cache: PackedCache) -> list[ClipVideo]:
        if cache.size != self.spec.shape:
            raise VidsslError(
                f"the cache holds frames of {cache.size}, clips of {self.spec.shape} were asked for; rebuild it"
            )
        return [ClipVideo(video.name, video.label, video.times, video) for video in cache.videos]

    def _from_files(self, files: Sequence[VideoFile], memory: str | Path | None, progress: bool) -> list[ClipVideo]:
        indices = scan_videos(
            files,
            self.quarantine,
            workers=self._workers,
            deadline=self._deadline,
            start=self._start,
            progress=progress,
            memory=memory,
        )
        found = [(file, indices[file.name]) for file in files if file.name in indices]
        return [ClipVideo(file.name, file.label, index.times, (file.path, index)) for file, index in found]

    def _long_enough(self, videos: list[ClipVideo]) -> list[ClipVideo]:
        short = (video for video in videos if video.frames < self.spec.span)
        self.quarantine.skip({video.name: too_short(video.frames, self.spec) for video in short})
        usable = [video for video in videos if video.frames >= self.spec.span]
        if not usable:
            raise VidsslError(f"no video is long enough for a clip of {self.spec.span} frames; lower frames or stride")
        return usable

    def draws(self, step: int) -> tuple[int, list[Draw]]:
        """The epoch and this rank's clips of a step: arithmetic, nothing is read."""
        epoch, place = divmod(step, self.steps_per_epoch)
        shuffled = self._order  # one look: the thread that decodes ahead may be in another epoch
        if shuffled[0] != epoch:
            keys = mix(self.seed, epoch, torch.arange(len(self._clips)), 0)
            self._order = shuffled = (epoch, keys.argsort(stable=True).numpy())
        share = self.batch_size // self.world
        first = place * self.batch_size + self.rank * share
        clips = shuffled[1][first : first + share].tolist()
        return epoch, [self._draw(epoch, clip) for clip in clips]

    def _draw(self, epoch: int, clip: int) -> Draw:
        video = int(self._clips[clip])
        frames = clip_plan(self.seed, epoch, clip, self.videos[video].frames, self.spec)
        return Draw(video, sample_key(self.seed, epoch, clip), frames)

    def batches(self, start_step: int = 0) -> Iterator[dict[str, Any]]:
        """Batches from a step on, without end; closing the iterator ends its workers.

        Yields:
            `clips` uint8 [b,T,C,H,W] (a view of [b,T,H,W,C] memory), `times` float64 [b,T] s, `video` int64 [b],
            `key` int64 [b], `epoch` int, `step` int, `names` list of b names. b is less than the rank's share when
            files failed: their clips are left out.

        Raises:
            VidsslError: too many files failed, or all clips of a batch.
        """
        fill: Iterator[dict[str, Any] | None]
        fill = self._cached(start_step) if self._cache is not None else self._decoded(start_step)
        yield from ahead(fill, self._prefetch)

    def _cached(self, step: int) -> Iterator[dict[str, Any]]:
        assert self._cache is not None
        while True:
            epoch, draws = self.draws(step)
            clips = self._cache.gather([(self.videos[draw.video].source, draw.frames) for draw in draws])
            yield self._batch(step, epoch, draws, clips)
            step += 1

    def _decoded(self, step: int) -> Iterator[dict[str, Any] | None]:
        failed = self.quarantine.failed_before(step)
        plan = map(self._work, count(step))
        for made in decode_in_order(plan, self._open_pool, self._prefetch, failed, self._report):
            if made is None:
                yield None
                continue
            work, kept = made
            epoch, draws = self.draws(work.step)
            yield self._batch(work.step, epoch, [draws[place] for place in kept], stack(work, kept))

    def _work(self, step: int) -> Work:
        _, draws = self.draws(step)
        sources = [self.videos[draw.video].source for draw in draws]
        arguments = [
            (path, index.plan(draw.frames.tolist()), self.spec.shape)
            for (path, index), draw in zip(sources, draws, strict=True)
        ]
        return Work(step, [self.videos[draw.video].name for draw in draws], arguments)

    def _open_pool(self) -> WorkerPool:
        return WorkerPool(self._decode, self._workers, self._deadline, self._start)

    def _report(self, name: str, reason: str, step: int) -> None:
        self.quarantine.add(name, reason, step)
        self.quarantine.check(self._total)

    def _batch(self, step: int, epoch: int, draws: list[Draw], clips: np.ndarray) -> dict[str, Any]:
        tensors = {
            "clips": torch.from_numpy(clips).permute(0, 1, 4, 2, 3),
            "times": torch.from_numpy(np.stack([self.videos[draw.video].times[draw.frames] for draw in draws])),
            "video": torch.tensor([draw.video for draw in draws]),
            "key": torch.tensor([draw.key for draw in draws]),
        }
        if self._pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        names = [self.videos[draw.video].name for draw in draws]
        return {**tensors, "epoch": epoch, "step": step, "names": names}

    def manifest(self) -> dict[str, Any]:
        """What the clips are drawn from, for the run's records: names, labels and frame counts, and the clip."""
        return {
            "videos": [{"name": video.name, "label": video.label, "frames": video.frames} for video in self.videos],
            "frames": self.spec.frames,
            "stride": self.spec.stride,
            "size": list(self.spec.shape),
        }


def manifest_hash(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest, hexadecimal: two runs with the same hash drew from the same data."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
