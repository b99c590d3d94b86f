"""The packed cache: every video decoded once, at the training size, into one memory-mapped file of uint8.

    CACHE/frames.u8      |video 0: frames [n0,H,W,3]|video 1: [n1,H,W,3]|...
    CACHE/index.json     version, size, the files it was made of, for each video its name, label, offset, frame times
                         and checksum, and for each file that was left out the reason

It is built in a folder beside its final place and renamed when it is complete, so a kill leaves no half of one in its
place (and one beside it, of which the next build tells).
"""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from vidssl.errors import VidsslError
from vidssl.machine import cores
from vidssl.progress import progress_bar

from .files import VideoFile, find_videos
from .packets import VideoIndex
from .quarantine import Quarantine
from .scan import DEADLINE, file_stamp, scan_videos
from .video import VideoReader
from .workers import Failure, WorkerPool

VERSION = 1
CHUNK = 64  # frames decoded, checksummed and written at a time
PART = ".part"  # how the name of a cache that is being built ends
SPARE = 64 << 20  # bytes of the disk left to others


@dataclass(frozen=True)
class CachedVideo:
    """A video of the cache: `times` float64 [n] s, `offset` its first frame in the file, `stamp` as of `file_stamp`."""

    name: str
    label: str | None
    offset: int
    times: np.ndarray
    crc32: int
    stamp: list[int] | None

    @property
    def frames(self) -> int:
        return len(self.times)


def is_cache(folder: str | Path) -> bool:
    """Whether a packed cache lies there, so that its videos can be had without their files."""
    return all((Path(folder) / name).is_file() for name in ("index.json", "frames.u8"))


class PackedCache:
    """Decoded frames of many videos, memory-mapped. `PackedCache.build` makes one, `PackedCache.open` opens it.

    Attributes:
        folder: where it lies.
        size: (H, W) of its frames in pixels.
        videos: list of `CachedVideo`.
        left_out: reasons by the names of the files that could not be decoded.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        videos: list[CachedVideo],
        source: list[list[Any]],
        left_out: dict[str, str],
    ):
        self.folder, self.size, self.videos, self.left_out, self._source = folder, size, videos, left_out, source
        total = sum(video.frames for video in videos)
        self._frames = np.memmap(folder / "frames.u8", np.uint8, "r", shape=(total, *size, 3))

    @classmethod
    def open(cls, folder: str | Path) -> "PackedCache":
        """Open a cache; checks its version and the size of its file (`verify` checks every byte).

        Raises:
            VidsslError: no cache there, of another version, or damaged.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise VidsslError(f"{folder}: no packed cache (no index.json); build one with PackedCache.build") from None
        except (OSError, ValueError) as error:
            raise VidsslError(
                f"{folder}: its index.json can't be read ({error}); delete the folder and build anew"
            ) from error
        if not isinstance(index, dict) or index.get("version") != VERSION:
            found = index.get("version") if isinstance(index, dict) else None
            raise VidsslError(
                f"{folder}: a cache of version {found}, this release reads {VERSION}; delete it and build anew"
            )
        try:
            videos = [
                CachedVideo(
                    row["name"], row["label"], row["offset"], np.array(row["times"]), row["crc32"], row["stamp"]
                )
                for row in index["videos"]
            ]
            height, width = index["size"]
            source, left_out = index["source"], index.get("left_out", {})
        except (KeyError, TypeError, ValueError) as error:
            raise VidsslError(
                f"{folder}: its index.json is garbled ({error!r}); delete the folder and build anew"
            ) from error
        expected = sum(video.frames for video in videos) * height * width * 3
        file = folder / "frames.u8"
        held = file.stat().st_size if file.exists() else 0
        if held != expected:
            raise VidsslError(
                f"{file}: {held} bytes, {expected} expected; the cache is damaged, delete it and build anew"
            )
        return cls(folder, (height, width), videos, source, left_out)

    @classmethod
    def build(
        cls,
        videos: str | Path | Sequence[VideoFile],
        folder: str | Path,
        size: int | tuple[int, int] = 64,
        *,
        workers: int | None = None,
        deadline: float = DEADLINE,
        start: str = "spawn",
        quarantine: Quarantine | None = None,
        memory: str | Path | None = None,
        progress: bool = True,
    ) -> "PackedCache":
        """Decode videos into a cache, or open the one that is there when it holds the same files at the same size.

        Says its size and the free space before it writes. A video that can't be decoded whole is left out and listed,
        again whenever the cache is opened here.

        Args:
            videos: a folder, list file or video, or a list of `VideoFile`.
            folder: of the cache; made here, unless it is there and empty.
            size: of the frames, a side in pixels or (H, W).
            workers, start, quarantine, memory, progress: see `scan_videos`.
            deadline: seconds without progress (a file's index, or the next 64 frames) after which a file is given up.

        Raises:
            VidsslError: the folder holds another cache, the disk is too small, or too many videos failed.
        """
        folder, shape = Path(folder), (size, size) if isinstance(size, int) else size
        quarantine = Quarantine() if quarantine is None else quarantine
        files = find_videos(videos) if isinstance(videos, str | Path) else list(videos)
        source = [[file.name, file.label, file_stamp(file.path)] for file in files]
        if folder.exists() and not folder.is_dir():
            raise VidsslError(f"{folder}: a file; name a folder for the cache")
        if folder.exists() and any(folder.iterdir()):
            if not (folder / "index.json").exists():
                raise VidsslError(f"{folder}: holds other things than a packed cache; name a new or empty folder")
            cache = cls.open(folder)
            cache._check_same(shape, source)
            quarantine.keep_only(file.name for file in files)
            quarantine.mended(video.name for video in cache.videos)
            for name, reason in cache.left_out.items():
                quarantine.add(name, reason)
            quarantine.check(len(files))
            return cache
        workers = cores() if workers is None else workers
        indices = scan_videos(
            files, quarantine, workers=workers, deadline=deadline, start=start, progress=progress, memory=memory
        )
        _announce(folder, sum(map(len, indices.values())) * shape[0] * shape[1] * 3)
        part = folder.with_name(f".{folder.name}.{uuid4().hex[:12]}{PART}")
        part.mkdir(parents=True)
        try:
            plan = _plan([file for file in files if file.name in indices], indices)
            done = _decode(plan, part / "frames.u8", shape, workers, deadline, start, quarantine, progress)
            quarantine.check(len(files))
            rows = _close_gaps(part / "frames.u8", done, shape)
            held = {row["name"] for row in rows}
            left_out = {file.name: quarantine.reasons[file.name] for file in files if file.name not in held}
            index = {"version": VERSION, "size": list(shape), "source": source, "videos": rows, "left_out": left_out}
            (part / "index.json").write_text(json.dumps(index), encoding="utf-8")
            part.rename(folder)
        except OSError as error:
            raise VidsslError(f"{folder}: the cache can't be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return cls.open(folder)

    def _check_same(self, size: tuple[int, int], source: list[list[Any]]) -> None:
        mend = f"delete {self.folder} or name another folder"
        if size != self.size:
            raise VidsslError(f"{self.folder}: a cache of frames {self.size}, {size} asked for; {mend}")
        theirs, ours = ({row[0]: row[1:] for row in rows} for rows in (self._source, source))
        changed = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
        if changed:
            shown = ", ".join(changed[:3])
            raise VidsslError(f"{self.folder}: made of other videos: {len(changed)} differ, e.g. {shown}; {mend}")

    def frames(self, video: int, indices: Sequence[int]) -> Any:
        """Frames of one video: uint8 torch [T,C,H,W] (a view of [T,H,W,C] memory)."""
        import torch

        return torch.from_numpy(self.gather([(self.videos[video], np.asarray(indices))])[0]).permute(0, 3, 1, 2)

    def gather(self, clips: Sequence[tuple[CachedVideo, np.ndarray]]) -> np.ndarray:
        """Clips of equal length, each (video, frame numbers [T]), copied into one array: uint8 [B,T,H,W,C]."""
        rows = np.stack([self._rows(video, frames) for video, frames in clips])
        out = np.empty((*rows.shape, *self.size, 3), np.uint8)
        np.take(self._frames, rows, axis=0, out=out, mode="clip")  # checked above; "raise" would copy twice
        return out

    def _rows(self, held: CachedVideo, frames: np.ndarray) -> np.ndarray:
        if len(frames) and not 0 <= frames.min() <= frames.max() < held.frames:
            raise VidsslError(
                f"{held.name}: frames {frames.min()}..{frames.max()} asked for; it has 0..{held.frames - 1}"
            )
        return held.offset + frames

    def verify(self) -> None:
        """Compare every video's bytes with its checksum (about 1 s a GB).

        Raises:
            VidsslError: names the videos that differ.
        """
        wrong = [
            video.name
            for video in self.videos
            if zlib.crc32(self._frames[video.offset : video.offset + video.frames].data) != video.crc32
        ]
        if wrong:
            raise VidsslError(f"{self.folder}: damaged: {', '.join(wrong[:5])}; delete it and build anew")


@dataclass(frozen=True)
class _Job:
    """A video to decode, and where in the file it goes (a frame number)."""

    video: VideoFile
    index: VideoIndex
    offset: int


def _plan(files: Sequence[VideoFile], indices: dict[str, VideoIndex]) -> list[_Job]:
    jobs, offset = [], 0
    for file in files:
        jobs.append(_Job(file, indices[file.name], offset))
        offset += len(indices[file.name])
    return jobs


def _announce(folder: Path, needed: int) -> None:
    for left in sorted(folder.absolute().parent.glob(f".{escape(folder.name)}.{'[0-9a-f]' * 12}{PART}")):
        size = 0
        with suppress(OSError):  # it may be another's, finished at this moment
            size = sum(file.stat().st_size for file in left.glob("*"))
        print(
            f"{left}: {size / 1e9:.2f} GB of a cache that was never finished; delete it, unless it is being built now",
            file=sys.stderr,
        )
    home = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(home).free
    print(f"packed cache {folder}: {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB free on its disk", flush=True)
    if needed + SPARE > free:
        raise VidsslError(
            f"{folder}: the cache takes {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free; make room, "
            "choose another folder or smaller frames, or train without a cache"
        )


def _decode(
    jobs: list[_Job],
    file: Path,
    size: tuple[int, int],
    workers: int,
    deadline: float,
    start: str,
    quarantine: Quarantine,
    progress: bool,
) -> list[tuple[_Job, int]]:
    """Decode every job into its place; the (job, checksum) of those that came out whole, in order."""
    total = jobs[-1].offset + len(jobs[-1].index)
    with file.open("wb") as out:  # takes the room at once: a worker that found none would blame its video
        os.posix_fallocate(out.fileno(), 0, total * size[0] * size[1] * 3)
    done: dict[int, int] = {}
    with WorkerPool(decode_into, max(1, min(workers, len(jobs))), deadline, start) as pool:
        tasks = ((place, (job.video.path, job.index, size, file, job.offset)) for place, job in enumerate(jobs))
        with progress_bar("decoding into the cache", len(jobs), progress) as advance:
            for place, result in pool.run(tasks):
                if isinstance(result, Failure):
                    quarantine.add(jobs[place].video.name, result.reason)
                else:
                    done[place] = result
                advance()
    return [(jobs[place], done[place]) for place in sorted(done)]


def decode_into(
    path: Path, index: VideoIndex, size: tuple[int, int], file: Path, offset: int
) -> Generator[None, None, int]:
    """The task of a worker: decode a video into a frames file from row `offset` on; returns its bytes' checksum."""
    frame_bytes = size[0] * size[1] * 3
    checksum = 0
    with VideoReader(path, size, index, threads=1) as reader, file.open("r+b") as out:
        out.seek(offset * frame_bytes)
        for frames in reader.chunks(CHUNK):
            checksum = zlib.crc32(frames.data, checksum)
            out.write(frames.data)
            yield
    return checksum


def _close_gaps(file: Path, done: list[tuple[_Job, int]], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Move the videos together over the places of those left out; the rows of the index."""
    rows: list[dict[str, Any]] = []
    end = 0
    total = file.stat().st_size // (size[0] * size[1] * 3)
    frames = np.memmap(file, np.uint8, "r+", shape=(total, *size, 3))
    for job, checksum in done:
        count = len(job.index)
        if job.offset != end:
            for first in range(0, count, CHUNK):
                stop = min(first + CHUNK, count)
                frames[end + first : end + stop] = frames[job.offset + first : job.offset + stop]
        video = job.video
        rows.append({"name": video.name, "label": video.label, "offset": end, "times": job.index.times.tolist()})
        rows[-1] |= {"crc32": checksum, "stamp": file_stamp(video.path)}
        end += count
    frames.flush()
    del frames
    with file.open("r+b") as out:
        out.truncate(end * size[0] * size[1] * 3)
        os.fsync(out.fileno())
    return rows
