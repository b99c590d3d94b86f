"""What a LeRobot data set that is to be gone on with holds already.

    not finalised    unfinished/settings.json, unfinished/000000/..    its whole episodes, in order
    finalised        meta/info.json, no settings.json                  its episodes; no more can be added

"The same facts" are fps, features, robot type, codec and notes, as `LeRobotWriter` takes them.
"""

import json
from pathlib import Path
from typing import Any

from vidssl.errors import VidsslError

from .lerobot_assemble import described, episode_folder
from .lerobot_format import UNFINISHED
from .lerobot_meta import read_meta


def waiting_episodes(root: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The whole episodes of a data set that was begun with the same facts, not finalised.

    Raises:
        VidsslError: other facts; the settings or an episode garbled; an episode missing that others follow.
    """
    found = _read(root / UNFINISHED / "settings.json")
    wanted = json.loads(json.dumps(facts))
    _same(root, {name: found.get(name) for name in wanted}, wanted)
    numbers = sorted(int(file.parent.name) for file in (root / UNFINISHED).glob("[0-9]*/episode.json"))
    if numbers != list(range(len(numbers))):
        gap = next(number for number, there in enumerate(numbers) if number != there)
        raise VidsslError(
            f"{root}: episode {gap} is missing in {UNFINISHED}, {numbers[-1]} is there; restore it from a copy, or "
            "choose another folder"
        )
    return [_whole(episode_folder(root, number), facts["features"]) for number in numbers]


def finished_episodes(root: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Length and task of each episode of a finalised data set with the same facts.

    Raises:
        VidsslError: other facts, and what `lerobot_meta.read_meta` raises for.
    """
    meta = read_meta(root)
    wanted = json.loads(json.dumps(described(facts) | {"notes": facts["notes"] or {}}))
    noted = meta.notes.get("facts", {}) if isinstance(meta.notes, dict) else None
    _same(root, {name: meta.info.get(name) for name in wanted} | {"notes": noted}, wanted)
    return [{"length": episode.length, "task": episode.tasks[0]} for episode in meta.episodes]


def _same(root: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if changed := [name for name in wanted if found[name] != wanted[name]]:
        raise VidsslError(f"{root} was begun with another {', '.join(changed)}; give the same, or another folder")


def _whole(folder: Path, features: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An episode's notes, once its files are known to be there."""
    episode = _read(folder / "episode.json")
    videos = [f"{name}.mp4" for name, feature in features.items() if feature["dtype"] == "video"]
    missing = [name for name in ("rows.parquet", *videos) if not (folder / name).exists()]
    missing += [name for name in ("length", "task", "stats", "extra") if name not in episode]
    if missing:
        raise VidsslError(f"{folder}: {', '.join(missing)} missing; restore it from a copy, or choose another folder")
    return episode


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise VidsslError(f"{file}: garbled ({error}); restore it from a copy, or choose another folder") from None
    if not isinstance(content, dict):
        raise VidsslError(f"{file}: garbled (no object); restore it from a copy, or choose another folder")
    return content
