"""The layout of a LeRobotDataset v3.0: names of files and columns, shared by reader and writer.

    ROOT/meta/info.json                                      version, fps, features, counts, how files are called
    ROOT/meta/stats.json                                     of every feature over all episodes
    ROOT/meta/tasks.parquet                                  task_index, task
    ROOT/meta/episodes/chunk-000/file-000.parquet            a row an episode: length, which files, where in them, stats
    ROOT/data/chunk-000/file-000.parquet                     a row a frame, many episodes end to end
    ROOT/videos/KEY/chunk-000/file-000.mp4                   many episodes end to end

Frame t of an episode is shown at `videos/KEY/from_timestamp + t / fps` seconds of its MP4.
Source: "LeRobotDataset v3.0", LeRobot's documentation, and files written by lerobot 0.6.1.
"""

from pathlib import Path
from typing import Any

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{FILE}.parquet"
DATA_PATH = f"data/{FILE}.parquet"
VIDEO_PATH = "videos/{video_key}/" + f"{FILE}.mp4"
FILES_A_CHUNK = 1000
NOTES = "meta/notes.json"  # of our writer: what else is known, {"facts": {...}, "episodes": [{...}, ...]}
UNFINISHED = "unfinished"  # of our writer: a folder of whole episodes that wait to be put together

# Columns every data set has, filled in by the writer.
BOOKKEEPING: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


def is_lerobot(folder: str | Path) -> bool:
    """Whether a LeRobot data set lies there, finished or not, of whatever version."""
    folder = Path(folder)
    return (folder / INFO).is_file() or (folder / UNFINISHED / "settings.json").is_file()


def is_depth(feature: dict[str, Any]) -> bool:
    """Whether a feature holds depth maps; older files say so under other names."""
    info, old = feature.get("info") or {}, feature.get("video_info") or {}
    marks = (info.get("is_depth_map"), info.get("video.is_depth_map"), old.get("video.is_depth_map"))
    return any(marks)


def file_numbers(number: int) -> tuple[int, int]:
    """(chunk_index, file_index) of the n-th file of a kind."""
    return divmod(number, FILES_A_CHUNK)
