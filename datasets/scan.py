"""The first look at a set of videos: every packet table is read, and what can't be read is left out with its reason."""

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vidssl.errors import VidsslError
from vidssl.machine import cores
from vidssl.progress import progress_bar

from .files import VideoFile
from .packets import Turn, VideoIndex, index_in_steps
from .quarantine import Quarantine
from .workers import Failure, WorkerPool, attempt

DEADLINE = 30.0  # seconds a file may take


def scan_videos(
    videos: Sequence[VideoFile],
    quarantine: Quarantine,
    *,
    workers: int | None = None,
    deadline: float = DEADLINE,
    start: str = "spawn",
    progress: bool = True,
    memory: str | Path | None = None,
) -> dict[str, VideoIndex]:
    """The packet indices of the videos, by name; the failed ones go to the quarantine.

    Args:
        videos: from `find_videos`.
        quarantine: receives the failed files with their reasons.
        workers: processes; None takes one a core; 0 stays in this process, where a hang can't be ended.
        deadline: seconds a file may take.
        start: "spawn" or "fork".
        progress: whether to draw a bar.
        memory: a JSON-lines file that remembers indices by name, size and time of change, so that a second scan, or one
            that was cut off, reads only what is new. It grows by a line a file.

    Raises:
        VidsslError: more files failed than the quarantine allows, or all.
    """
    quarantine.keep_only(video.name for video in videos)
    known = _Memory(memory)
    found = {video.name: index for video in videos if (index := known.get(video)) is not None}
    todo = [video for video in videos if video.name not in found]
    with progress_bar("indexing videos", len(videos), progress and bool(todo)) as advance:
        for _ in found:
            advance()
        for video, result in _index_all(todo, cores() if workers is None else workers, deadline, start):
            if isinstance(result, Failure):
                quarantine.add(video.name, result.reason)
            else:
                found[video.name] = result
                known.put(video, result)
            advance()
    quarantine.mended(found)
    quarantine.check(len(videos))
    return {video.name: found[video.name] for video in videos if video.name in found}


def _index_all(
    videos: Sequence[VideoFile], workers: int, deadline: float, start: str
) -> Iterator[tuple[VideoFile, Any]]:
    files: dict[Path, list[VideoFile]] = {}  # a file that holds several videos is read once
    for video in videos:
        files.setdefault(video.path, []).append(video)
    if workers == 0:
        for path, inside in files.items():
            found = attempt(index_in_steps, path)
            yield from ((video, _part(video, found)) for video in inside)
    elif videos:
        with WorkerPool(index_in_steps, min(workers, len(files)), deadline, start) as pool:
            for path, result in pool.run((path, (path,)) for path in files):
                yield from ((video, _part(video, result)) for video in files[path])


def _part(video: VideoFile, found: Any) -> Any:
    """The index of a video that is a part of its file."""
    if video.span is None or isinstance(found, Failure):
        return found
    try:
        return found.part(*video.span)
    except VidsslError as error:
        return Failure(f"{video.path}: {error}")


class _Memory:
    """Indices in a JSON-lines file, each with the size and time of change its file had."""

    def __init__(self, file: str | Path | None):
        self._file = None if file is None else Path(file)
        self._rows: dict[str, dict[str, Any]] = {}
        if self._file is not None and self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # a line that a kill cut off: its video is read again
                    continue
                self._rows[row["name"]] = row

    def get(self, video: VideoFile) -> VideoIndex | None:
        row = self._rows.get(video.name)
        if row is None or [row["stamp"], row.get("span")] != [file_stamp(video.path), _listed(video.span)]:
            return None
        index = dict(row["index"])
        for name in ("pts", "order", "keyframes"):
            index[name] = np.array(index[name], dtype=np.int64)
        index["keyframes"] = index["keyframes"].reshape(-1, 3)
        index["time_base"] = Fraction(*index["time_base"])
        index["turn"] = Turn(*index["turn"])
        return VideoIndex(times=index["pts"] * float(index["time_base"]), **index)

    def put(self, video: VideoFile, index: VideoIndex) -> None:
        if self._file is None:
            return
        turn = index.turn
        row = {
            "pts": index.pts.tolist(),
            "order": index.order.tolist(),
            "keyframes": index.keyframes.tolist(),
            "height": index.height,
            "width": index.width,
            "turn": [turn.transpose, turn.flip_rows, turn.flip_columns, turn.degrees],
            "codec": index.codec,
            "time_base": [index.time_base.numerator, index.time_base.denominator],
            "counted": index.counted,
        }
        entry = {"name": video.name, "stamp": file_stamp(video.path), "span": _listed(video.span), "index": row}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")


def _listed(span: tuple[float, float] | None) -> list[float] | None:
    return None if span is None else list(span)


def file_stamp(path: Path) -> list[int] | None:
    """[bytes, time of change in ns]: tells a changed file from the one that was seen; None when there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
