"""Finding videos: a folder, a list file, or one file.

videos/                     list.csv
  walk/a1.mp4   "walk"        path,label            (the header may be left out)
  walk/a2.mp4   "walk"        clips/a1.mp4,walk     (relative to the list file)
  run/b1.mp4    "run"         clips/b1.mp4,run
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidssl.errors import VidsslError

from .lerobot_format import is_lerobot

VIDEO_EXTENSIONS = [
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m4v", ".mjpeg", ".mkv"),
    *(".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"),
]
LIST_EXTENSIONS = [".csv", ".txt"]


@dataclass(frozen=True)
class VideoFile:
    """One video: where it is, its name in tables and manifests (relative, with `/`), and its class where it has one.

    `span` is the part of the file that it is, in seconds [from, to); None for all of it.
    """

    path: Path
    name: str
    label: str | None = None
    span: tuple[float, float] | None = None


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which `clip2` comes before `clip10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def find_videos(source: str | Path) -> list[VideoFile]:
    """The videos of a folder, a list file or a single file, sorted by name in natural order.

    Args:
        source: a folder, searched recursively (hidden files and folders are left out; when every video lies in a
            first-level subfolder, that subfolder's name is its label); a LeRobot data set, each camera of each episode
            a video (its task the label where there are several); or a `.csv`/`.txt` list of `path[,label]`, paths
            relative to the list file, with or without a `path,label` header; or one video file.

    Raises:
        VidsslError: there is no such path, it holds no videos or no readable LeRobot data set, a folder in it can't be
            read, or the list is malformed.
    """
    source = Path(source)
    if not source.exists():
        raise VidsslError(f"{source}: no such file or folder; pass a folder of videos, a .csv/.txt list, or one video")
    if is_lerobot(source):
        from .lerobot_meta import episode_videos

        videos = episode_videos(source)
    elif source.is_dir():
        videos = _from_folder(source)
    elif source.suffix.lower() in LIST_EXTENSIONS:
        videos = _from_list(source)
    elif source.suffix.lower() in VIDEO_EXTENSIONS:
        videos = [VideoFile(source, source.name)]
    else:
        raise VidsslError(
            f"{source}: not a video by its extension ({source.suffix or 'none'}); known: {' '.join(VIDEO_EXTENSIONS)}, "
            f"and {' '.join(LIST_EXTENSIONS)} for a list"
        )
    return sorted(videos, key=lambda video: natural_key(video.name))


def _from_folder(folder: Path) -> list[VideoFile]:
    names = [path.relative_to(folder) for path in walk_files(folder) if path.suffix.lower() in VIDEO_EXTENSIONS]
    if not names:
        inside = Counter(path.suffix.lower() or "(no extension)" for path in walk_files(folder))
        held = ", ".join(f"{count} {suffix}" for suffix, count in inside.most_common(5)) or "nothing"
        raise VidsslError(
            f"{folder}: no videos; found {held}, looked for {' '.join(VIDEO_EXTENSIONS)} in all subfolders"
        )
    classes = all(len(name.parts) > 1 for name in names)
    return [VideoFile(folder / name, name.as_posix(), name.parts[0] if classes else None) for name in names]


def walk_files(folder: Path) -> Iterable[Path]:
    """All files that are not hidden; linked folders are entered once, so that a loop of links ends."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))
        seen.add(real)


def _unreadable(error: OSError) -> None:
    raise VidsslError(f"{error.filename}: can't be read ({error.strerror}); change its permissions or move it away")


def _from_list(file: Path) -> list[VideoFile]:
    rows = _read_rows(file)
    if rows and rows[0][0].lower() == "path":
        rows = rows[1:]
    if not rows:
        raise VidsslError(f"{file}: the list is empty; write one `path` or `path,label` a line")
    widths = {len(row) for row in rows}
    if not widths <= {1} and not widths <= {2}:
        raise VidsslError(f"{file}: rows have {sorted(widths)} columns; give all of them `path`, or all `path,label`")
    twice = [name for name, count in Counter(row[0] for row in rows).items() if count > 1]
    if twice:
        raise VidsslError(f"{file}: listed more than once: {', '.join(twice[:5])}; keep one line of each")
    return [VideoFile(file.parent / row[0], Path(row[0]).as_posix(), row[1] if len(row) > 1 else None) for row in rows]


def _read_rows(file: Path) -> list[list[str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    except OSError as error:
        raise VidsslError(f"{file}: can't be read ({error.strerror}); change its permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise VidsslError(f"{file}: not a text list of `path[,label]` ({error})") from error
    return [row for row in rows if any(row)]


def read_groups(file: str | Path, videos: Sequence[VideoFile]) -> list[str]:
    """The group of each video (its camera, scene or subject), to split by.

    Args:
        file: a CSV with a header of two columns, `path,<group>`, whose paths are the videos' names.
        videos: as from `find_videos`.

    Returns:
        One group name a video, in the order of `videos`.

    Raises:
        VidsslError: the file is not such a table, or a video is not in it.
    """
    file = Path(file)
    if not file.is_file():
        raise VidsslError(f"{file}: no such file; pass a CSV with the columns path,<group>")
    rows = _read_rows(file)
    if not rows or rows[0][0].lower() != "path" or any(len(row) != 2 for row in rows):
        raise VidsslError(
            f"{file}: expected two columns with the header `path,<group>`, got {rows[0] if rows else 'nothing'}"
        )
    groups = {Path(name).as_posix(): group for name, group in rows[1:]}
    missing = [video.name for video in videos if video.name not in groups]
    if missing:
        raise VidsslError(
            f"{file}: no group for {len(missing)} of {len(videos)} videos, e.g. {missing[0]}; add their rows"
        )
    return [groups[video.name] for video in videos]
