"""Folders of generated videos: settings noted beside them, so that a generation that was interrupted goes on."""

import json
from pathlib import Path
from typing import Any

from vidssl.checkpoint import write_json
from vidssl.errors import VidsslError


def claim(folder: Path, note: str, settings: dict[str, Any], videos: int, pattern: str) -> None:
    """Make a folder ours, noting the settings in it, or see that it is.

    Args:
        folder: made if need be.
        note: name of the settings' JSON file.
        settings: plain values; the same as before in a folder that has them.
        videos: how many there are to be, at least 1 and no fewer than are there.
        pattern: what finds the videos in the folder.

    Raises:
        VidsslError: the folder holds something else, other settings or more videos.
    """
    if videos < 1:
        raise VidsslError(f"got {videos} videos; at least 1")
    noted = folder / note
    if not noted.exists():
        if folder.exists() and any(folder.iterdir()):
            raise VidsslError(f"{folder} is not empty and holds no {note}; choose another folder")
        write_json(noted, settings)
        return
    try:
        found = json.loads(noted.read_text())
    except ValueError as error:
        raise VidsslError(f"{noted}: damaged ({error}); choose another folder or remove this one") from error
    if found != settings:
        raise VidsslError(f"{folder} holds videos of other settings ({found}); give those, or another folder")
    if (held := sum(1 for _ in folder.glob(pattern))) > videos:
        raise VidsslError(f"{folder} holds {held} videos already; ask for {held} at least, or for another folder")
