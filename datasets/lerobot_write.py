"""Writing LeRobotDataset v3.0 with pyarrow and av, such that LeRobot's own loader reads it.

While it is recorded every episode lies whole in a folder of its own; `finalise` puts them together:

    ROOT/unfinished/settings.json
    ROOT/unfinished/000000/rows.parquet, KEY.mp4, episode.json       episode.json is written last
        -> ROOT/data, ROOT/videos, ROOT/meta; then ROOT/unfinished is removed, settings.json first

So a kill loses the episode at hand and no other, and a data set that was not finalised is known as such: by its
settings.json.
"""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from vidssl.checkpoint import write_json
from vidssl.errors import VidsslError

from .lerobot_assemble import assemble, episode_folder, tasks_of
from .lerobot_depth import DepthCode
from .lerobot_format import BOOKKEEPING, INFO, UNFINISHED, is_depth
from .lerobot_resume import finished_episodes, waiting_episodes
from .lerobot_stats import PictureSample, to_lists, vector_stats
from .lerobot_tables import rows_table, write_table
from .lerobot_values import checked_feature, png, stored_value
from .lerobot_video import EpisodeVideo, settings

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
        fps: frames a second, above 0, finite.
        features: name -> {"dtype", "shape"[, "names"]}. dtype is "video" or "image" with shape [H,W,3]; "video" with
            [H,W,1] and `"info": {"is_depth_map": True}` is depth; "string" with [1]; else numpy's name of a type.
        robot_type: goes into info.json.
        codec: of the videos: "h264" (crf 18, sides even) or "av1" (LeRobot's settings; decodes slower).
        notes: JSON-able facts, kept in meta/notes.json, which LeRobot leaves alone.
        limits: MB that a data file and a video file may have: {"data": 100, "video": 200}.
        overwrite: delete the data set that is there.
        resume: go on with one that was not finalised; one that was is opened, but takes no more frames.

    Attributes:
        episodes: how many are whole.

    Raises:
        VidsslError: the folder is in use, features are not as above; or `resume` with other settings, or garbled ones.
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
        self.features = {name: checked_feature(name, feature) for name, feature in features.items()}
        if not 0 < fps < float("inf") or not features or set(features) & {*BOOKKEEPING, "task"}:
            raise VidsslError(
                f"got fps {fps} and features {', '.join(features) or 'none'}; expected fps above 0, finite, and at "
                f"least one feature, none called {', '.join([*BOOKKEEPING, 'task'])}: those are filled in"
            )
        settings(codec)
        self._limits = LIMITS | (limits or {})
        self._facts: dict[str, Any] = {"fps": fps, "features": self.features, "robot_type": robot_type, "codec": codec}
        self._facts["notes"] = notes
        self._finished = False
        self._done = self._claim(overwrite, resume)
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
            VidsslError: features are missing or unknown, or a value has another type or shape; or the data set was
                finalised.
        """
        if self._finished:
            raise VidsslError(
                f"{self.root}: this LeRobot data set is finished, with {self.episodes} episodes, and takes no more; "
                "record as many as are needed into another folder"
            )
        if frame.keys() != self.features.keys():
            missing, extra = sorted(self.features.keys() - frame.keys()), sorted(frame.keys() - self.features.keys())
            raise VidsslError(f"frame: missing {missing}, not in the features {extra}; give exactly the features")
        values = {name: stored_value(name, feature, frame[name]) for name, feature in self.features.items()}
        for name, value in values.items():
            kind = self.features[name]["dtype"]
            if kind in ("video", "image"):
                self._samples.setdefault(name, PictureSample()).add(value)
            if kind == "video":
                self._video(name).add(DepthCode().encode(value[..., 0]) if self._depth(name) else value)
            else:
                self._columns.setdefault(name, []).append(png(value) if kind == "image" else value)
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
            "task_index": np.full(count, tasks_of([*self._done, {"task": task}]).index(task)),
        }
        features = self.features | BOOKKEEPING
        stats = {
            name: vector_stats(np.asarray(column, np.dtype(features[name]["dtype"])))
            for name, column in columns.items()
            if features[name]["dtype"] not in ("image", "string")
        }
        stats |= {name: sample.stats(1 if self._depth(name) else 255) for name, sample in self._samples.items()}
        episode = {"length": count, "task": task, "stats": to_lists(stats), "extra": extra or {}}
        write_table(self._place / "rows.parquet", rows_table(features, columns))
        write_json(self._place / "episode.json", episode)
        self._done.append(episode)
        self._reset()

    def discard_episode(self) -> None:
        """Forget the frames since the last episode."""
        for video in self._videos.values():
            video.close()
        shutil.rmtree(self._place, ignore_errors=True)
        self._reset()

    def finalise(self) -> None:
        """Put the episodes together. Frames after the last `end_episode` are left out. Twice does no harm.

        Raises:
            VidsslError: there is no episode, or one of them can't be read.
        """
        if self._finished:
            return
        if not self._done:
            raise VidsslError(f"{self.root}: no episode to finalise; add_frame and end_episode first")
        self.discard_episode()
        for name in ("data", "videos", "meta"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        assemble(self.root, self._facts, self._done, self._limits)
        (self.root / UNFINISHED / "settings.json").unlink()  # from here on what is left there counts for nothing
        self._finished = True
        shutil.rmtree(self.root / UNFINISHED)

    def _claim(self, overwrite: bool, resume: bool) -> list[dict[str, Any]]:
        """Make the folder ours, or see that it is; the whole episodes in it."""
        noted = self.root / UNFINISHED / "settings.json"
        held = self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir()))
        ours = noted.exists() or (self.root / INFO).exists()
        if held and resume and noted.exists():
            return waiting_episodes(self.root, self._facts)
        if held and resume and ours:
            self._finished = True
            done = finished_episodes(self.root, self._facts)
            shutil.rmtree(self.root / UNFINISHED, ignore_errors=True)  # left by a kill while it was removed
            return done
        if held and not (overwrite and ours):
            mend = {
                (True, True): "it is not finalised: resume to go on with it, overwrite to replace it",
                (True, False): "it holds a data set: overwrite to replace it, or choose another folder",
            }.get((ours, noted.exists()), "and holds no LeRobot data set; choose another folder")
            raise VidsslError(f"{self.root} is not empty; {mend}")
        for name in (UNFINISHED, "data", "videos", "meta"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        write_json(noted, self._facts)
        return []

    def _depth(self, name: str) -> bool:
        return is_depth(self.features[name])

    @property
    def _place(self) -> Path:
        """The folder of the episode at hand."""
        return episode_folder(self.root, self.episodes)

    def _video(self, name: str) -> EpisodeVideo:
        if name not in self._videos:
            self._place.mkdir(parents=True, exist_ok=True)
            codec = None if self._depth(name) else self.codec
            self._videos[name] = EpisodeVideo(self._place / f"{name}.mp4", self.fps, codec)
        return self._videos[name]

    def _reset(self) -> None:
        self._length = 0
        self._columns: dict[str, Any] = {}
        self._samples: dict[str, PictureSample] = {}
        self._videos: dict[str, EpisodeVideo] = {}
