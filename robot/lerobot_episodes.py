"""Episodes of an environment as a LeRobotDataset v3.0, there and back.

    observation.image   video [H,W,3]        what the camera saw when the action was chosen
    observation.state   float32 [P]          proprioception, where there is any
    action              float32 [A]          the label, free of noise
    executed_action     float32 [A]          what the environment was given
    next.reward, next.done, next.success     of the step that the action led to

`meta/notes.json` holds the recording's facts (environment, action range, versions) and, of each episode, seed, success
and failure. LeRobot's own loader reads the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from vidssl.datasets.lerobot import LeRobotDataset, is_lerobot
from vidssl.datasets.lerobot_format import NOTES
from vidssl.datasets.lerobot_meta import LeRobotMeta, read_meta
from vidssl.datasets.lerobot_write import LeRobotWriter
from vidssl.errors import VidsslError, unknown_name

from .episodes import Episode, Recording

IMAGE, STATE, ACTION, EXECUTED = "observation.image", "observation.state", "action", "executed_action"
REWARD, DONE, SUCCESS = "next.reward", "next.done", "next.success"
UNKNOWN_SEED = -1

__all__ = ["EpisodeWriter", "is_lerobot", "open_lerobot", "save_episodes"]


class EpisodeWriter:
    """Writes episodes one by one; leaving its `with` block finalises the data set.

    Args:
        root, overwrite, resume: see `LeRobotWriter`.
        fps: steps a second.
        image: (H, W), even.
        actions, proprio: A and P.
        facts: JSON-able, of the recording; `env` names the environment. Resuming needs the same.

    Raises VidsslError as `LeRobotWriter` does.
    """

    def __init__(
        self,
        root: Path,
        fps: float,
        image: tuple[int, int],
        actions: int,
        proprio: int,
        facts: dict[str, Any],
        *,
        overwrite: bool = False,
        resume: bool = False,
    ):
        self._task = str(facts["env"])
        self._has_state = proprio > 0
        one = {"dtype": "float32", "shape": [1]}
        features: dict[str, dict[str, Any]] = {IMAGE: {"dtype": "video", "shape": [*image, 3]}}
        features |= {STATE: {"dtype": "float32", "shape": [proprio]}} if self._has_state else {}
        features |= {name: {"dtype": "float32", "shape": [actions]} for name in (ACTION, EXECUTED)}
        features |= {REWARD: one, DONE: one | {"dtype": "bool"}, SUCCESS: one | {"dtype": "bool"}}
        self._writer = LeRobotWriter(root, fps, features, self._task, notes=facts, overwrite=overwrite, resume=resume)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    @property
    def episodes(self) -> int:
        """How many are whole."""
        return self._writer.episodes

    def write(self, frames: Sequence[np.ndarray], episode: Episode) -> None:
        """One episode and its T images uint8 [H,W,3].

        Raises VidsslError when their numbers or their sizes differ from what was announced.
        """
        if len(frames) != episode.steps:
            raise VidsslError(f"episode of seed {episode.seed}: {len(frames)} images for {episode.steps} steps")
        for step, frame in enumerate(frames):
            last = step == episode.steps - 1
            row = {IMAGE: frame, ACTION: episode.action[step], EXECUTED: episode.executed[step]}
            row |= {STATE: episode.proprio[step]} if self._has_state else {}
            row |= {REWARD: episode.reward[step], DONE: last, SUCCESS: last and episode.success}
            self._writer.add_frame(row)
        outcome = {"seed": episode.seed, "success": episode.success, "failure": episode.failure}
        self._writer.end_episode(self._task, outcome)


def save_episodes(
    root: Path,
    env_id: str,
    fps: float,
    episodes: Iterable[tuple[Sequence[np.ndarray], Episode]],
    *,
    facts: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> int:
    """Write (images, episode) pairs of one environment as a LeRobot data set; returns how many.

    Args:
        root: a new or empty folder, or one with a data set that `overwrite` replaces.
        env_id: gymnasium id; also the task.
        fps: steps a second.
        episodes: T images uint8 [H,W,3] and an `Episode` of T steps each; taken one at a time.
        facts: more to note, e.g. `action_low`, `action_high`, `split`.

    Raises VidsslError when there are none, they differ in shape, or the folder is in use.
    """
    each = iter(episodes)
    first = next(each, None)
    if first is None:
        raise VidsslError(f"{root}: no episodes to save")
    frames, episode = first
    height, width = frames[0].shape[:2]
    noted = {"env": env_id, "fps": float(fps), "image_size": [height, width]} | (facts or {})
    sizes = (height, width), episode.action.shape[1], episode.proprio.shape[1]
    with EpisodeWriter(root, fps, *sizes, noted, overwrite=overwrite) as writer:
        for pictures, steps in chain([first], each):
            writer.write(pictures, steps)
        return writer.episodes


@dataclass(frozen=True)
class LeRobotRecording(Recording):
    """A recording whose images come out of a LeRobot data set."""

    dataset: LeRobotDataset
    camera: str

    def frames(self, index: int) -> np.ndarray:
        """The images uint8 [T,H,W,3] of one episode; raises VidsslError when a file is missing or damaged."""
        return self.dataset.pictures(self.camera, index)


def open_lerobot(folder: Path, camera: str | None = None) -> LeRobotRecording:
    """A LeRobot data set as a recording, ours or another's.

    Args:
        folder: of the data set.
        camera: the feature to see by; the only one, or `observation.image`, when not given.

    Of another's data set the facts are what it tells: `env` is None, the action range that of the actions in it, seeds
    are -1, rewards 0 without a `next.reward`, success that of `next.success` in the last frame, else False.

    Raises VidsslError for no or several cameras, actions that are no vectors, notes that are another data set's, and
    what `LeRobotDataset` raises for.
    """
    features = read_meta(folder).features
    used = (STATE, ACTION, EXECUTED, REWARD, SUCCESS)
    pictures = [key for key, feature in features.items() if feature["dtype"] in ("video", "image")]
    dataset = LeRobotDataset(folder, keys=[*pictures, *(key for key in used if key in features)])
    chosen = _camera(dataset, camera)
    if ACTION not in dataset.features or len(dataset.features[ACTION]["shape"]) != 1 or not dataset.episodes:
        raise VidsslError(f"{folder}: no episodes with a feature {ACTION!r} [A]; it has {', '.join(dataset.features)}")
    told, noted = _notes(dataset.meta)
    columns = {name: _column(dataset, name) for name in used}
    episodes = [
        _episode({name: column[one.first : one.first + one.length] for name, column in columns.items()}, notes)
        for one, notes in zip(dataset.episodes, noted, strict=True)
    ]
    facts = {
        "env": None,
        "split": None,
        "fps": dataset.fps,
        "image_size": list(dataset.features[chosen]["shape"][:2]),
        "action_low": columns[ACTION].min(0).tolist(),
        "action_high": columns[ACTION].max(0).tolist(),
    }
    if not told:
        facts["camera"] = chosen
    return LeRobotRecording(Path(folder), facts | told, episodes, dataset, chosen)


def _notes(meta: LeRobotMeta) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What our writer noted of the recording and of each episode; nothing in the data sets of others."""
    count = len(meta.episodes)
    if not meta.notes:
        return {}, [{}] * count
    facts, episodes = (meta.notes.get(key) if isinstance(meta.notes, dict) else None for key in ("facts", "episodes"))
    each = isinstance(episodes, list) and all(isinstance(noted, dict) for noted in episodes)
    if not isinstance(facts, dict) or not isinstance(episodes, list) or not each or len(episodes) != count:
        held = f"notes on {len(episodes)} episodes" if isinstance(episodes, list) else "no notes on episodes"
        raise VidsslError(
            f"{meta.root / NOTES}: garbled, or another data set's: it has {held}, expected facts and notes on {count} "
            "episodes; restore it, or delete it to read the data set without"
        )
    return facts, episodes


def _camera(dataset: LeRobotDataset, camera: str | None) -> str:
    if camera is None:
        camera = IMAGE if IMAGE in dataset.cameras else None
    if camera is None and len(dataset.cameras) == 1:
        return dataset.cameras[0]
    if camera is None:
        held = ", ".join(dataset.cameras) or "none"
        raise VidsslError(
            f"{dataset.root}: which camera? It has {held}; name one (--camera, or open_recording(folder, camera))"
        )
    if camera not in dataset.cameras:
        raise unknown_name("camera", camera, dataset.cameras)
    return camera


def _column(dataset: LeRobotDataset, name: str) -> np.ndarray:
    """A feature of all n frames as float32 [n,...]; what stands for it where it is missing."""
    if name in dataset.features:
        values = dataset.column(name).astype(np.float32)
        vectors = name in (STATE, ACTION, EXECUTED)
        return values.reshape(len(values), -1) if vectors else values
    if name == EXECUTED:
        return _column(dataset, ACTION)
    return np.zeros((len(dataset), 0) if name == STATE else len(dataset), np.float32)


def _episode(columns: dict[str, np.ndarray], noted: dict[str, Any]) -> Episode:
    told = {"seed": UNKNOWN_SEED, "success": bool(columns[SUCCESS][-1]), "failure": None} | noted
    return Episode(
        action=columns[ACTION],
        executed=columns[EXECUTED],
        proprio=columns[STATE],
        reward=columns[REWARD],
        seed=told["seed"],
        success=told["success"],
        failure=told["failure"],
    )
