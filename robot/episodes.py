"""Recorded episodes on disk: what the camera saw as MP4, what was done as safetensors.

    DIR/recording.json            environment, versions, seed, fps, split, policy, noise
    DIR/episodes/000000.mp4       the T camera images on which an action was chosen (H.264)
    DIR/steps/000000.safetensors  action, executed [T,A], proprio [T,P], reward [T]; outcome in the metadata

An episode counts once its safetensors file is there; that file is written last, so a kill leaves no half episode.
`DIR/episodes` is a folder of videos like any other: `vidssl pretrain` takes it as it is. The other form a recording
can have is a LeRobot data set, see `lerobot_episodes`.

Letters: T steps of an episode, A action size, P proprioception size, H, W image sides.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vidssl.checkpoint import replacing, write_json
from vidssl.errors import VidsslError

FORMAT = 1


@dataclass(frozen=True)
class Episode:
    """One episode of T steps.

    `action` float32 [T,A] is the label: what the policy chose on seeing image t. `executed` float32 [T,A] is what the
    environment was given; the two differ by the injected noise. `proprio` float32 [T,P], `reward` float32 [T].
    """

    seed: int
    action: np.ndarray
    executed: np.ndarray
    proprio: np.ndarray
    reward: np.ndarray
    success: bool
    failure: str | None

    @property
    def steps(self) -> int:
        return len(self.action)


@dataclass(frozen=True)
class Recording:
    """A folder of recorded episodes; `episodes[i]` and `frames(i)` belong together."""

    folder: Path
    meta: dict[str, Any]
    episodes: list[Episode]

    def frames(self, index: int) -> np.ndarray:
        """The images uint8 [T,H,W,3] of one episode, decoded from its MP4.

        Raises VidsslError when the video does not hold one frame a step.
        """
        from vidssl.datasets.video import VideoReader

        path = video_path(self.folder, index)
        with VideoReader(path) as reader:
            clip, _ = reader.read_all()
        if len(clip) != self.episodes[index].steps:
            raise VidsslError(f"{path}: {len(clip)} frames for {self.episodes[index].steps} steps; record it again")
        return np.ascontiguousarray(clip.permute(0, 2, 3, 1).numpy())


def video_path(folder: Path, index: int) -> Path:
    """Where episode `index` of a recording keeps its camera images."""
    return folder / "episodes" / f"{index:06d}.mp4"


def steps_path(folder: Path, index: int) -> Path:
    """Where episode `index` of a recording keeps its actions, rewards and proprioception."""
    return folder / "steps" / f"{index:06d}.safetensors"


def start_recording(folder: Path, meta: dict[str, Any], *, overwrite: bool = False, resume: bool = False) -> int:
    """Prepare a folder for episodes and write `recording.json`; returns how many episodes it already holds.

    Args:
        folder: new or empty, unless `overwrite` (old episodes are deleted) or `resume` (they are kept).
        meta: JSON-able facts of the recording; resuming needs the same ones.

    Raises VidsslError for a folder in use, one that is not a recording, and other facts on resume.
    """
    done = 0
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite and not resume:
            raise VidsslError(
                f"{folder} is not empty; pass --resume to go on with it, --overwrite to replace it, or another --out"
            )
        old = read_meta(folder)
        if resume:
            if changed := sorted(key for key in {*old, *meta} if old.get(key) != meta.get(key)):
                was = ", ".join(f"{key}: was {old.get(key)!r}, now {meta.get(key)!r}" for key in changed)
                raise VidsslError(
                    f"{folder} was recorded with another {', '.join(changed)}: cannot go on with it ({was}); "
                    "give the same settings, or another folder"
                )
            done = _count(folder)
        else:
            _delete_episodes(folder)
    write_json(folder / "recording.json", meta | {"format": FORMAT})
    return done


def write_episode(folder: Path, index: int, frames: list[np.ndarray], episode: Episode, fps: float) -> None:
    """Write one episode: its video (`frames`, T images uint8 [H,W,3]), then its steps."""
    from vidssl.datasets.mp4 import write_video

    write_video(video_path(folder, index), frames, fps)
    tensors = {key: getattr(episode, key) for key in ("action", "executed", "proprio", "reward")}
    outcome = {"seed": episode.seed, "success": episode.success, "failure": episode.failure}
    with replacing(steps_path(folder, index)) as part:
        part.write_bytes(safetensors.numpy.save(tensors, {"outcome": json.dumps(outcome)}))


def read_meta(folder: Path) -> dict[str, Any]:
    """The facts in `recording.json`; raises VidsslError when there are none or they are of another format."""
    try:
        meta = json.loads((folder / "recording.json").read_text())
    except (OSError, ValueError) as error:
        message = "make one with `vidssl record ENV --out DIR`"
        raise VidsslError(f"{folder} is not a folder of recorded episodes ({error}); {message}") from None
    found = meta.pop("format", None)
    if found != FORMAT:
        raise VidsslError(f"{folder}: recording of format {found}, this version reads {FORMAT}; record it again")
    return meta


def open_recording(folder: str | Path, camera: str | None = None) -> Recording:
    """Read a recording's facts and steps; videos are decoded by `Recording.frames`. A LeRobot data set will do too.

    Args:
        camera: of a LeRobot data set with several.

    Raises VidsslError when the folder is no recording, holds no episode or a damaged one, and for a camera where there
    is nothing to choose from; for a LeRobot data set see `lerobot_episodes.open_lerobot`.
    """
    from .lerobot_episodes import is_lerobot, open_lerobot

    folder = Path(folder)
    if is_lerobot(folder):
        return open_lerobot(folder, camera)
    if camera is not None:
        raise VidsslError(f"{folder}: got camera {camera!r}; a folder of `vidssl record` has one camera, leave it out")
    meta = read_meta(folder)
    episodes = list(_episodes(folder))
    if not episodes:
        raise VidsslError(f"{folder} holds no finished episode; record some with `vidssl record`")
    return Recording(folder, meta, episodes)


def _episodes(folder: Path) -> Iterator[Episode]:
    for index in range(_count(folder)):
        path = steps_path(folder, index)
        try:
            with safetensors.safe_open(path, "np") as file:
                outcome = json.loads(file.metadata()["outcome"])
                yield Episode(**outcome, **{key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise VidsslError(f"{path}: damaged ({error}); record again with --overwrite") from None


def _count(folder: Path) -> int:
    """Finished episodes: they are written in order, so the first gap ends them."""
    index = 0
    while steps_path(folder, index).exists():
        index += 1
    return index


def _delete_episodes(folder: Path) -> None:
    """Remove what a recording wrote, steps before videos so that none counts half; nothing else is touched."""
    for pattern in ("steps/*.safetensors", "episodes/*.mp4"):
        for path in folder.glob(pattern):
            path.unlink()
