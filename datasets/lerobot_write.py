"""Writing LeRobotDataset v3.0 with pyarrow and av, such that LeRobot's own loader reads it.

While it is recorded every episode lies whole in a folder of its own; `finalise` puts them together:

    ROOT/unfinished/settings.json
    ROOT/unfinished/000000/rows.parquet, KEY.mp4, episode.json       episode.json is written last
        -> ROOT/data, ROOT/videos, ROOT/meta; then ROOT/unfinished is removed

So a kill loses the episode at hand and no other, and a data set that was not finalised is known as such.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from vidssl.checkpoint import replacing, write_json
from vidssl.errors import VidsslError

from .lerobot_depth import DepthCode, to_metres
from .lerobot_format import (
    BOOKKEEPING,
    DATA_PATH,
    EPISODES_PATH,
    FILES_A_CHUNK,
    INFO,
    NOTES,
    STATS,
    TASKS,
    UNFINISHED,
    VERSION,
    VIDEO_PATH,
    file_numbers,
    is_depth,
)
from .lerobot_stats import PictureSample, from_lists, merge_stats, to_lists, vector_stats
from .lerobot_tables import read_table, rows_table, tasks_table, write_table
from .lerobot_video import EpisodeVideo, join_videos, settings, video_info

MB = 1 << 20
LIMITS = {"data": 100, "video": 200}  # MB a file, LeRobot's own


class LeRobotWriter:
    """Episodes into a LeRobotDataset v3.0.

        with LeRobotWriter(root, 10, features) as writer:
            for frame in frames:
                writer.add_frame(frame)
            writer.end_episode("push the block")

    Leaving the `with` block finalises the data set, unless by an error.

    Args:
        root: a new or empty folder.
        fps: frames a second, above 0.
        features: name -> {"dtype", "shape"[, "names"]}. dtype is "video" or "image" with shape [H,W,3]; "video" with
            [H,W,1] and `"info": {"is_depth_map": True}` is depth; "string" with [1]; else numpy's name of a type.
        robot_type: goes into info.json.
        codec: of the videos: "h264" (crf 18, sides even) or "av1" (LeRobot's settings; decodes slower).
        notes: JSON-able facts, kept in meta/notes.json, which LeRobot leaves alone.
        limits: MB that a data file and a video file may have: {"data": 100, "video": 200}.
        overwrite: delete the data set that is there.
        resume: go on with one that was not finalised.

    Attributes:
        episodes: how many are whole.

    Raises:
        VidsslError: the folder is in use, features are not as above, or `resume` with other settings.
    """

    def __init__(
        self,
        root: str | Path,
        fps: float,
        features: dict[str, dict[str, Any]],
        robot_type: str | None = None,
        *,
        codec: str = "h264",
        notes: dict[str, Any] | None = None,
        limits: dict[str, int] | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ):
        self.root, self.fps, self.codec = Path(root), fps, codec
        self.features = {name: _checked(name, feature) for name, feature in features.items()}
        if not fps > 0 or not features or set(features) & {*BOOKKEEPING, "task"}:
            raise VidsslError(
                f"got fps {fps} and features {', '.join(features) or 'none'}; expected fps above 0 and at least one "
                f"feature, none called {', '.join([*BOOKKEEPING, 'task'])}: those are filled in"
            )
        settings(codec)
        self._limits = LIMITS | (limits or {})
        self._facts: dict[str, Any] = {"fps": fps, "features": self.features, "robot_type": robot_type, "codec": codec}
        self._facts["notes"] = notes
        self._claim(overwrite, resume)
        self._done = list(_whole_episodes(self.root))
        self._tasks: list[str] = []
        for episode in self._done:
            self._number(episode["task"])
        self._reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finalise()
        else:
            self.discard_episode()

    @property
    def episodes(self) -> int:
        return len(self._done)

    def add_frame(self, frame: dict[str, Any]) -> None:
        """Append a frame: a value for every feature, pictures uint8 [H,W,3], depth float metres or integer millimetres
        [H,W] or [H,W,1]; numbers for shape [1] may be plain.

        Raises:
            VidsslError: features are missing or unknown, or a value has another type or shape.
        """
        if frame.keys() != self.features.keys():
            missing, extra = sorted(self.features.keys() - frame.keys()), sorted(frame.keys() - self.features.keys())
            raise VidsslError(f"frame: missing {missing}, not in the features {extra}; give exactly the features")
        values = {name: _value(name, feature, frame[name]) for name, feature in self.features.items()}
        for name, value in values.items():
            kind = self.features[name]["dtype"]
            if kind in ("video", "image"):
                self._samples.setdefault(name, PictureSample()).add(value)
            if kind == "video":
                self._video(name).add(DepthCode().encode(value[..., 0]) if self._depth(name) else value)
            else:
                self._columns.setdefault(name, []).append(_png(value) if kind == "image" else value)
        self._length += 1

    def end_episode(self, task: str, extra: dict[str, Any] | None = None) -> None:
        """The frames since the last episode are one; `extra`, JSON-able, goes into meta/notes.json.

        Raises:
            VidsslError: there are no frames.
        """
        if not self._length:
            raise VidsslError("end_episode: no frames since the last one; add_frame them first")
        for video in self._videos.values():
            video.close()
        count, first = self._length, sum(episode["length"] for episode in self._done)
        frames = np.arange(count)
        columns = self._columns | {
            "timestamp": (frames / self.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, self.episodes),
            "index": first + frames,
            "task_index": np.full(count, self._number(task)),
        }
        features = self.features | BOOKKEEPING
        stats = {
            name: vector_stats(np.asarray(column, np.dtype(features[name]["dtype"])))
            for name, column in columns.items()
            if features[name]["dtype"] not in ("image", "string")
        }
        stats |= {name: sample.stats(1 if self._depth(name) else 255) for name, sample in self._samples.items()}
        episode = {"length": count, "task": task, "stats": to_lists(stats), "extra": extra or {}}
        write_table(self._place() / "rows.parquet", rows_table(features, columns))
        write_json(self._place() / "episode.json", episode)
        self._done.append(episode)
        self._reset()

    def discard_episode(self) -> None:
        """Forget the frames since the last episode."""
        for video in self._videos.values():
            video.close()
        shutil.rmtree(self._place(), ignore_errors=True)
        self._reset()

    def finalise(self) -> None:
        """Put the episodes together. Frames after the last `end_episode` are left out. Twice does no harm.

        Raises:
            VidsslError: there is no episode, or one of them can't be read.
        """
        if not (self.root / UNFINISHED).exists():
            return
        if not self._done:
            raise VidsslError(f"{self.root}: no episode to finalise; add_frame and end_episode first")
        self.discard_episode()
        for name in ("data", "videos", "meta"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        rows = [self._row(number, episode) for number, episode in enumerate(self._done)]
        self._write_data(rows)
        for name in self._named("video"):
            self._write_videos(name, rows)
        self._write_meta(rows)
        shutil.rmtree(self.root / UNFINISHED)

    def _write_data(self, rows: list[dict[str, Any]]) -> None:
        from pyarrow import parquet  # type: ignore[import-untyped]

        parts = [self._place(number) / "rows.parquet" for number in range(self.episodes)]
        for number, group in enumerate(_groups([part.stat().st_size for part in parts], self._limits["data"] * MB)):
            chunk, file = file_numbers(number)
            path = self.root / DATA_PATH.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            with parquet.ParquetWriter(path, read_table(parts[group[0]]).schema, compression="snappy") as out:
                for episode in group:  # a row group an episode
                    out.write_table(read_table(parts[episode]))
                    rows[episode] |= {"data/chunk_index": chunk, "data/file_index": file}

    def _write_videos(self, name: str, rows: list[dict[str, Any]]) -> None:
        parts = [self._place(number) / f"{name}.mp4" for number in range(self.episodes)]
        for number, group in enumerate(_groups([part.stat().st_size for part in parts], self._limits["video"] * MB)):
            chunk, file = file_numbers(number)
            path = self.root / VIDEO_PATH.format(video_key=name, chunk_index=chunk, file_index=file)
            join_videos([parts[episode] for episode in group], path, self.fps)
            frames = 0
            for episode in group:
                begun, frames = frames, frames + rows[episode]["length"]
                place: dict[str, float] = {"chunk_index": chunk, "file_index": file}
                place |= {"from_timestamp": begun / self.fps, "to_timestamp": frames / self.fps}
                rows[episode] |= {f"videos/{name}/{key}": value for key, value in place.items()}

    def _write_meta(self, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        stats = [from_lists(episode["stats"]) for episode in self._done]
        for row, episode in zip(rows, self._done, strict=True):
            found = sorted(episode["stats"].items())  # one read back from JSON is in another order
            row |= {f"stats/{key}/{name}": value for key, stat in found for name, value in sorted(stat.items())}
            row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
        write_table(self.root / EPISODES_PATH.format(chunk_index=0, file_index=0), table)
        write_table(self.root / TASKS, tasks_table(self._tasks))
        write_json(self.root / STATS, to_lists(merge_stats(stats)))
        if self._facts["notes"] is not None or any(episode["extra"] for episode in self._done):
            notes = {"facts": self._facts["notes"] or {}, "episodes": [episode["extra"] for episode in self._done]}
            write_json(self.root / NOTES, notes)
        with replacing(self.root / INFO) as part:  # last: what has it is whole; its features stay in order
            part.write_text(json.dumps(self._info(rows), indent=4), encoding="utf-8")

    def _info(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        features = json.loads(json.dumps(self.features | BOOKKEEPING))
        fps = int(self.fps) if self.fps == int(self.fps) else self.fps
        for name in self._named("video"):
            depth = self._depth(name)
            info = video_info(tuple(features[name]["shape"]), fps, None if depth else self.codec)
            features[name]["info"] = info | (DepthCode().info() | {"depth_unit": "m"} if depth else {})
        return {
            "codebase_version": VERSION,
            "robot_type": self._facts["robot_type"],
            "total_episodes": len(rows),
            "total_frames": sum(row["length"] for row in rows),
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": self._limits["data"],
            "video_files_size_in_mb": self._limits["video"],
            "fps": fps,
            "splits": {"train": f"0:{len(rows)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._named("video") else None,
            "features": features,
        }

    def _row(self, number: int, episode: dict[str, Any]) -> dict[str, Any]:
        first = sum(other["length"] for other in self._done[:number])
        return {
            "episode_index": number,
            "tasks": [episode["task"]],
            "length": episode["length"],
            "dataset_from_index": first,
            "dataset_to_index": first + episode["length"],
        }

    def _claim(self, overwrite: bool, resume: bool) -> None:
        """Make the folder ours, or see that it is."""
        noted = self.root / UNFINISHED / "settings.json"
        held = self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir()))
        ours = noted.exists() or (self.root / INFO).exists()
        if held and resume and noted.exists():
            found = json.loads(noted.read_text())
            if changed := [name for name, value in json.loads(json.dumps(self._facts)).items() if found[name] != value]:
                raise VidsslError(
                    f"{self.root} was begun with another {', '.join(changed)}; give the same, or another folder"
                )
            return
        if held and not (overwrite and ours):
            mend = {
                (True, True): "it is not finalised: resume to go on with it, overwrite to replace it",
                (True, False): "it holds a data set: overwrite to replace it, or choose another folder",
            }.get((ours, noted.exists()), "and holds no LeRobot data set; choose another folder")
            raise VidsslError(f"{self.root} is not empty; {mend}")
        for name in (UNFINISHED, "data", "videos", "meta"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        write_json(noted, self._facts)

    def _named(self, dtype: str) -> list[str]:
        return [name for name, feature in self.features.items() if feature["dtype"] == dtype]

    def _depth(self, name: str) -> bool:
        return is_depth(self.features[name])

    def _place(self, number: int | None = None) -> Path:
        return self.root / UNFINISHED / f"{self.episodes if number is None else number:06d}"

    def _video(self, name: str) -> EpisodeVideo:
        if name not in self._videos:
            self._place().mkdir(parents=True, exist_ok=True)
            codec = None if self._depth(name) else self.codec
            self._videos[name] = EpisodeVideo(self._place() / f"{name}.mp4", self.fps, codec)
        return self._videos[name]

    def _number(self, task: str) -> int:
        if task not in self._tasks:
            self._tasks.append(task)
        return self._tasks.index(task)

    def _reset(self) -> None:
        self._length = 0
        self._columns: dict[str, Any] = {}
        self._samples: dict[str, PictureSample] = {}
        self._videos: dict[str, EpisodeVideo] = {}


def _whole_episodes(root: Path) -> Iterator[dict[str, Any]]:
    """The episodes that wait in a folder, in order, up to the first that is not whole."""
    number = 0
    while (file := root / UNFINISHED / f"{number:06d}" / "episode.json").exists():
        yield json.loads(file.read_text())
        number += 1


def _groups(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Consecutive numbers whose sizes add up to `limit` at most, at least one a group."""
    groups: list[list[int]] = []
    filled = 0
    for number, size in enumerate(sizes):
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(number)
        filled += size
    return groups


def _checked(name: str, feature: dict[str, Any]) -> dict[str, Any]:
    """A feature with all its entries."""
    kind, shape = feature.get("dtype"), list(feature.get("shape", []))
    try:
        pictures = kind in ("video", "image")
        known = pictures or kind == "string" or np.dtype(kind).kind in "biuf"
    except TypeError:
        known = False
    wrong = not known or not shape or min(shape) < 1 or "/" in name
    if pictures and not wrong:
        wrong = (
            len(shape) != 3 or shape[2] != (1 if is_depth(feature) else 3) or (kind == "image" and is_depth(feature))
        )
    if wrong or (kind == "string" and shape != [1]):
        raise VidsslError(
            f"feature {name!r}: got {kind} {shape}; expected 'video' or 'image' [H,W,3], 'video' [H,W,1] marked "
            "is_depth_map, 'string' [1] or a number type with sides of at least 1; no / in the name"
        )
    return {"names": ["height", "width", "channels"] if pictures else None} | feature | {"shape": shape}


def _value(name: str, feature: dict[str, Any], value: Any) -> Any:
    """A value as it is stored: pictures as they are, depth float32 metres [H,W,1], numbers in the feature's shape."""
    kind, shape = feature["dtype"], tuple(feature["shape"])
    if kind == "string":
        if not isinstance(value, str):
            raise VidsslError(f"{name}: expected a string, got {type(value).__name__}")
        return value
    array = np.asarray(value)
    if is_depth(feature):
        array = to_metres(array.reshape(shape) if array.shape == shape[:2] else array)
        fits = array.shape == shape and bool(np.isfinite(array).all())
    elif kind in ("video", "image"):
        fits = array.shape == shape and array.dtype == np.uint8
    else:
        fits = (array.shape == shape or (shape == (1,) and array.ndim == 0)) and np.can_cast(
            array.dtype, kind, "same_kind"
        )
    if not fits:
        wanted = {"video": "uint8", "image": "uint8"}.get(kind, kind) if not is_depth(feature) else "finite depth"
        raise VidsslError(f"{name}: expected {wanted} {list(shape)}, got {array.dtype} {list(array.shape)}")
    return array if kind in ("video", "image") else array.astype(kind).reshape(shape)


def _png(picture: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
