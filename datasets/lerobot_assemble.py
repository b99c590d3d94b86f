"""Putting recorded episodes together into a LeRobotDataset v3.0.

episodes  |0 |1   |2  |3      files of at most so many MB, an episode never cut     |0 |1   | |2  |3      |
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidssl.checkpoint import replacing, write_json

from .lerobot_depth import DepthCode
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
from .lerobot_stats import from_lists, merge_stats, to_lists
from .lerobot_tables import read_table, tasks_table, write_table
from .lerobot_video import join_videos, video_info

MB = 1 << 20
Row = dict[str, Any]


def assemble(root: Path, facts: dict[str, Any], episodes: Sequence[dict[str, Any]], limits: dict[str, int]) -> None:
    """Write `data`, `videos` and `meta` from the episodes in `unfinished`, which is left as it is.

    Args:
        root: the data set's folder.
        facts: fps, features, robot_type, codec and notes, as of `LeRobotWriter`.
        episodes: of each its length, task, stats and extra.
        limits: MB a file, of "data" and "video".

    Raises:
        VidsslError: an episode can't be read.
    """
    rows = _rows(episodes)
    _write_data(root, rows, limits["data"] * MB)
    for name, feature in facts["features"].items():
        if feature["dtype"] == "video":
            _write_videos(root, name, facts["fps"], rows, limits["video"] * MB)
    _write_meta(root, facts, episodes, rows, limits)


def tasks_of(episodes: Sequence[dict[str, Any]]) -> list[str]:
    """The tasks in order of their first episode: their places are the numbers in the data."""
    return list(dict.fromkeys(episode["task"] for episode in episodes))


def episode_folder(root: Path, number: int) -> Path:
    """Where an episode waits."""
    return root / UNFINISHED / f"{number:06d}"


def _rows(episodes: Sequence[dict[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    first = 0
    for number, episode in enumerate(episodes):
        rows.append({"episode_index": number, "tasks": [episode["task"]], "length": episode["length"]})
        rows[-1] |= {"dataset_from_index": first, "dataset_to_index": first + episode["length"]}
        first += episode["length"]
    return rows


def _write_data(root: Path, rows: list[Row], limit: int) -> None:
    from pyarrow import parquet  # type: ignore[import-untyped]

    parts = [episode_folder(root, number) / "rows.parquet" for number in range(len(rows))]
    for number, group in enumerate(_groups([part.stat().st_size for part in parts], limit)):
        chunk, file = file_numbers(number)
        path = root / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with parquet.ParquetWriter(path, read_table(parts[group[0]]).schema, compression="snappy") as out:
            for episode in group:  # a row group an episode
                out.write_table(read_table(parts[episode]))
                rows[episode] |= {"data/chunk_index": chunk, "data/file_index": file}


def _write_videos(root: Path, name: str, fps: float, rows: list[Row], limit: int) -> None:
    parts = [episode_folder(root, number) / f"{name}.mp4" for number in range(len(rows))]
    for number, group in enumerate(_groups([part.stat().st_size for part in parts], limit)):
        chunk, file = file_numbers(number)
        path = root / VIDEO_PATH.format(video_key=name, chunk_index=chunk, file_index=file)
        join_videos([parts[episode] for episode in group], path, fps)
        frames = 0
        for episode in group:
            begun, frames = frames, frames + rows[episode]["length"]
            place: dict[str, float] = {"chunk_index": chunk, "file_index": file}
            place |= {"from_timestamp": begun / fps, "to_timestamp": frames / fps}
            rows[episode] |= {f"videos/{name}/{key}": value for key, value in place.items()}


def _write_meta(
    root: Path, facts: dict[str, Any], episodes: Sequence[dict[str, Any]], rows: list[Row], limits: dict[str, int]
) -> None:
    import pyarrow as pa

    for row, episode in zip(rows, episodes, strict=True):
        found = sorted(episode["stats"].items())  # one read back from JSON is in another order
        row |= {f"stats/{key}/{name}": value for key, stat in found for name, value in sorted(stat.items())}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    write_table(root / EPISODES_PATH.format(chunk_index=0, file_index=0), table)
    tasks = tasks_of(episodes)
    write_table(root / TASKS, tasks_table(tasks))
    write_json(root / STATS, to_lists(merge_stats([from_lists(episode["stats"]) for episode in episodes])))
    extras = [episode["extra"] for episode in episodes]
    if facts["notes"] is not None or any(extras):
        write_json(root / NOTES, {"facts": facts["notes"] or {}, "episodes": extras})
    with replacing(root / INFO) as part:  # last: what has it is whole; its features stay in order
        part.write_text(json.dumps(_info(facts, rows, len(tasks), limits), indent=4), encoding="utf-8")


def described(facts: dict[str, Any]) -> dict[str, Any]:
    """What info.json says of the facts: fps, robot_type and features."""
    features = json.loads(json.dumps(facts["features"] | BOOKKEEPING))
    fps = int(facts["fps"]) if facts["fps"] == int(facts["fps"]) else facts["fps"]
    videos = [feature for feature in features.values() if feature["dtype"] == "video"]
    for feature in videos:
        depth = is_depth(feature)
        feature["info"] = video_info(tuple(feature["shape"]), fps, None if depth else facts["codec"])
        feature["info"] |= DepthCode().info() | {"depth_unit": "m"} if depth else {}
    return {"robot_type": facts["robot_type"], "fps": fps, "features": features}


def _info(facts: dict[str, Any], rows: list[Row], tasks: int, limits: dict[str, int]) -> dict[str, Any]:
    told = described(facts)
    videos = any(feature["dtype"] == "video" for feature in told["features"].values())
    return {
        "codebase_version": VERSION,
        "robot_type": told["robot_type"],
        "total_episodes": len(rows),
        "total_frames": sum(row["length"] for row in rows),
        "total_tasks": tasks,
        "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": limits["data"],
        "video_files_size_in_mb": limits["video"],
        "fps": told["fps"],
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if videos else None,
        "features": told["features"],
    }


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
