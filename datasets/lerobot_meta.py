"""What a LeRobotDataset v3.0 says of itself: features, episodes, tasks, statistics."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidssl.errors import VidsslError

from .files import VideoFile
from .lerobot_format import INFO, NOTES, STATS, TASKS, UNFINISHED, VERSION, is_depth
from .lerobot_stats import Stats, from_lists
from .lerobot_tables import read_table

CONVERT = "python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=NAME"


@dataclass(frozen=True)
class LeRobotEpisode:
    """One episode.

    Attributes:
        index: its number.
        tasks: in words.
        length: T frames.
        first: row of its first frame in the data.
        data: its Parquet file.
        videos: by feature, its MP4 and the seconds [from, to) it takes there.
    """

    index: int
    tasks: list[str]
    length: int
    first: int
    data: Path
    videos: dict[str, tuple[Path, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class LeRobotMeta:
    """The contents of `meta/`.

    Attributes:
        root: the data set's folder.
        info: info.json as it is.
        episodes: in order.
        tasks: in order of task_index.
        stats: {feature: {"min", "max", "mean", "std", "count", "q01" ..: array}}; empty where there is no stats.json.
        notes: of our writer: {"facts": {...}, "episodes": [{...} an episode]}; empty in the data sets of others.
    """

    root: Path
    info: dict[str, Any]
    episodes: list[LeRobotEpisode]
    tasks: list[str]
    stats: dict[str, Stats]
    notes: dict[str, Any]

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        features: dict[str, dict[str, Any]] = self.info["features"]
        return features


def read_meta(root: str | Path) -> LeRobotMeta:
    """Read `meta/` of a data set.

    Raises:
        VidsslError: no data set there, one that was not finalised, of another version, or with files
            missing or garbled.
    """
    root = Path(root)
    info = _read_info(root)
    try:
        features = info["features"]
        if not (isinstance(info["fps"], int | float) and 0 < info["fps"] < math.inf):
            raise ValueError(f"fps {info['fps']!r}, expected a number above 0")
        for name, feature in features.items():
            if not isinstance(feature["dtype"], str) or not all(side >= 0 for side in feature["shape"]):
                raise ValueError(f"feature {name}: {feature}")
        videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
        parts = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
        if not parts and info["total_episodes"]:
            raise VidsslError(f"{root / 'meta' / 'episodes'}: no Parquet files; copy the data set whole")
        found = [(part, _episode(root, info, videos, row)) for part in parts for row in _plain_rows(part)]
        found.sort(key=lambda each: each[1].index)
        tasks = sorted(read_table(root / TASKS).to_pylist(), key=lambda row: row["task_index"])
        names = [str(next(value for name, value in row.items() if name != "task_index")) for row in tasks]
        stats = json.loads((root / STATS).read_text()) if (root / STATS).exists() else {}
        notes = json.loads((root / NOTES).read_text()) if (root / NOTES).exists() else {}
        meta = LeRobotMeta(root, info, [episode for _, episode in found], names, from_lists(stats), notes)
        _check_counts(meta)
        _check_episodes(found, meta.fps)
    except (KeyError, TypeError, ValueError, StopIteration, IndexError, AttributeError) as error:
        raise VidsslError(f"{root / 'meta'}: garbled ({error!r}); copy or download the data set again") from error
    return meta


def episode_videos(root: str | Path) -> list[VideoFile]:
    """Each camera of each episode as a video: a span of an MP4, named `CAMERA/EPISODE`. Depth is left out.

    Raises:
        VidsslError: see `read_meta`; or no camera is stored as video.
    """
    meta = read_meta(root)
    cameras = [name for name, feature in meta.features.items() if feature["dtype"] == "video" and not is_depth(feature)]
    if not cameras:
        images = [name for name, feature in meta.features.items() if feature["dtype"] == "image"]
        held = f"{', '.join(images)} as single images" if images else "none at all"
        raise VidsslError(f"{root}: no camera in it is stored as video; it has {held}. Write it with videos")
    several = len(meta.tasks) > 1
    return [
        VideoFile(path, f"{camera}/{episode.index:06d}", episode.tasks[0] if several else None, (begun, end))
        for camera in cameras
        for episode in meta.episodes
        for path, begun, end in [episode.videos[camera]]
    ]


def _read_info(root: Path) -> dict[str, Any]:
    if (root / UNFINISHED / "settings.json").exists():
        whole = len(list((root / UNFINISHED).glob("*/episode.json")))
        raise VidsslError(
            f"{root}: this LeRobot data set was not finalised; {whole} whole episodes wait in it. Go on with the "
            "command that wrote it (`vidssl record` with --resume, others with --overwrite), or in Python "
            "LeRobotWriter(…, resume=True).finalise()"
        )
    file = root / INFO
    if not file.exists():
        raise VidsslError(
            f"{root}: no LeRobot data set (no {INFO}); pass the folder that holds meta/, data/ and videos/"
        )
    try:
        info: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = info["codebase_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VidsslError(f"{file}: garbled ({error!r}); copy or download the data set again") from None
    if not str(version).startswith("v3."):
        convert = f"; convert it with LeRobot's own `{CONVERT}`" if str(version).startswith("v2.") else ""
        raise VidsslError(f"{root}: a LeRobot data set of version {version}, {VERSION} is read here{convert}")
    return info


def _plain_rows(file: Path) -> list[dict[str, Any]]:
    """Rows without the statistics, which are wide."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    names = [name for name in parquet.read_schema(file).names if not name.startswith("stats/")]
    rows: list[dict[str, Any]] = read_table(file, names).to_pylist()
    return rows


def _episode(root: Path, info: dict[str, Any], videos: list[str], row: dict[str, Any]) -> LeRobotEpisode:
    def path(kind: str, place: str, **names: str) -> Path:
        numbers = {name: row[f"{place}/{name}"] for name in ("chunk_index", "file_index")}
        return root / info[kind].format(**numbers, **names)

    places = {
        key: (
            path("video_path", f"videos/{key}", video_key=key),
            float(row[f"videos/{key}/from_timestamp"]),
            float(row[f"videos/{key}/to_timestamp"]),
        )
        for key in videos
    }
    data = path("data_path", "data")
    return LeRobotEpisode(
        row["episode_index"], list(row["tasks"]), row["length"], row["dataset_from_index"], data, places
    )


def _check_counts(meta: LeRobotMeta) -> None:
    """Whether the counts agree: a copy that was cut off has fewer episodes than its info."""
    episodes, frames = len(meta.episodes), sum(episode.length for episode in meta.episodes)
    told = (meta.info["total_episodes"], meta.info["total_frames"])
    if (episodes, frames) != told or [episode.index for episode in meta.episodes] != list(range(episodes)):
        raise VidsslError(
            f"{meta.root}: its info tells of {told[0]} episodes and {told[1]} frames, its tables of {episodes} and "
            f"{frames}; copy or download the data set again"
        )


def _check_episodes(episodes: list[tuple[Path, LeRobotEpisode]], fps: float) -> None:
    """Whether each follows the one before in the data, and its videos last as long as its frames."""
    first = 0
    for file, episode in episodes:
        wrong = None
        if not isinstance(episode.length, int) or episode.length < 1:
            wrong = f"length {episode.length}, expected at least 1"
        elif episode.first != first:
            wrong = f"dataset_from_index {episode.first}, expected {first}"
        for key, (_, begun, end) in episode.videos.items():
            if wrong is None and not (begun >= 0 and abs((end - begun) * fps - episode.length) < 0.5):
                wrong = f"{episode.length} frames in {begun:g}..{end:g} s of the video {key} at {fps:g} frames a second"
        if wrong is not None:
            raise VidsslError(f"{file}: episode {episode.index}: {wrong}; copy or download the data set again")
        first += episode.length
