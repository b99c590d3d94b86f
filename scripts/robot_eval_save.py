"""Evaluated episodes as LeRobot data sets, one an arm."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.datasets.lerobot_format import INFO, NOTES, UNFINISHED
from vidssl.errors import VidsslError
from vidssl.robot.lerobot_episodes import save_episodes
from vidssl.robot.pixels import control_box
from vidssl.robot.replay import record_again
from vidssl.robot.rollout import EpisodeResult, Place

if TYPE_CHECKING:
    from vidssl.scripts.robot_eval_inputs import Inputs


def check_free(root: Path, inputs: "Inputs") -> None:
    """Raises VidsslError, before the work, when something else is already where an arm's data set would go."""
    now = {"env": inputs.place.env_id, "layouts": list(inputs.layouts)}
    for arm in inputs.arms:
        folder = root / arm
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        facts = _facts(folder)
        if used and {"policy": arm, **now} != {name: facts.get(name) for name in ("policy", *now)}:
            raise VidsslError(
                f"{folder} holds something else, or the episodes of other layouts; choose another --save, or delete it"
            )


def save(root: Path, inputs: "Inputs", outcomes: Mapping[str, Sequence[EpisodeResult]], overwrite: bool) -> None:
    """Write the episodes of every arm that have at least a step to `root/ARM`.

    A data set that is there, whole and of the same episodes, is kept; one that was interrupted is written again.

    Raises VidsslError for one of other episodes without `overwrite`, and for an environment whose episodes come out
    otherwise when they are played again.
    """
    from rich.progress import track

    place = inputs.place
    env = place.make()
    box = control_box(env)
    env.close()
    bounds = {"action_low": box.low.tolist(), "action_high": box.high.tolist()}
    for arm, episodes in outcomes.items():
        each = [episode for episode in episodes if episode.length]
        told = {"policy": arm, "split": place.split, "layouts": list(inputs.layouts)}
        facts = bounds | told | {"evaluated": _digest(place, each)}
        whole = (root / arm / INFO).is_file() and not (root / arm / UNFINISHED).exists()
        if whole and not overwrite:
            if _facts(root / arm).get("evaluated") != facts["evaluated"]:
                raise VidsslError(f"{root / arm} holds other episodes; choose another --save, or delete it")
        elif each:
            pairs = track(record_again(place, each), total=len(each), description=f"saving {arm}")
            save_episodes(root / arm, place.env_id, inputs.fps, pairs, facts=facts, overwrite=True)


def _facts(folder: Path) -> dict[str, Any]:
    """What a data set of ours, finished or not, notes of itself; nothing of another folder or a damaged one."""
    unfinished = folder / UNFINISHED / "settings.json"
    file, key = (unfinished, "notes") if unfinished.is_file() else (folder / NOTES, "facts")
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return dict(content[key] or {})
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _digest(place: Place, episodes: Sequence[EpisodeResult]) -> str:
    """A hash of what the data set of these episodes is a function of."""
    digest = hashlib.sha256(repr((place.env_id, place.split, place.size)).encode())
    for one in episodes:
        digest.update(repr((one.seed, one.success, one.failure, one.episode_return, one.actions.shape)).encode())
        digest.update(one.actions.tobytes())
    return digest.hexdigest()[:16]
