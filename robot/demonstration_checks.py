"""Whether demonstrations fit what is to be learned from them and judged: environment, split, layouts, image size."""

import hashlib
from collections.abc import Collection
from dataclasses import replace

from vidssl.errors import VidsslError

from .episodes import Recording
from .spaces import Spaces


def check_demonstrations(
    recording: Recording, env_id: str, image_size: tuple[int, int], layouts: Collection[int]
) -> list[str]:
    """What could not be checked, as notes for the reader of the results: another's LeRobot data set does not say which
    environment and layouts it shows, and is taken to be of the environment that is driven in.

    Args:
        env_id: gymnasium id of the environment that is driven in.
        image_size: height and width of its images, pixels.
        layouts: seeds of the episodes that are driven, see `pixels.episode_seed`.

    Raises:
        VidsslError: demonstrations of another environment or split, by random actions, of other images, or of layouts
            that are driven on later.
    """
    where, meta = recording.folder, recording.meta
    for key, wanted in {"env": env_id, "split": "train"}.items():
        if meta[key] not in (None, wanted):
            raise VidsslError(f"{where}: {key} is {meta[key]!r}, needed {wanted!r}; record others")
    if shared := set(layouts) & {episode.seed for episode in recording.episodes}:
        raise VidsslError(
            f"{where}: {len(shared)} of its episodes show layouts that are driven here, e.g. that of seed "
            f"{min(shared)}; record others with `vidssl record`, or choose another --seed"
        )
    if meta.get("policy") == "random":
        raise VidsslError(f"{where}: policy is 'random', and nothing is learned from that; record an expert")
    seen = list(meta["image_size"])
    if seen != list(image_size):
        raise VidsslError(
            f"{where}: images of {seen[0]}x{seen[1]}, the environment gives {image_size[0]}x{image_size[1]}; "
            "record others, or change --size"
        )
    if meta["env"] is not None:
        return []
    return [
        f"{where} does not say which environment and layouts it shows: taken to be of {env_id}, and layouts that are "
        "driven here may be among those demonstrated"
    ]


def taken_as_of(recording: Recording, spaces: Spaces) -> Recording:
    """A recording as it is, but of another's data set with the action range of the environment that it is taken to be
    of, as it tells only those of the actions in it.

    Raises:
        VidsslError: as many numbers of action or proprioception as the environment has are not in it.
    """
    if recording.meta["env"] is not None:
        return recording
    first = recording.episodes[0]
    got, wanted = (first.action.shape[1], first.proprio.shape[1]), (len(spaces.low), spaces.proprio)
    if got != wanted:
        raise VidsslError(
            f"{recording.folder}: {got[0]} numbers an action and {got[1]} of proprioception (observation.state), the "
            f"environment has {wanted[0]} and {wanted[1]}; these are demonstrations of something else"
        )
    return replace(recording, meta=recording.meta | {"action_low": list(spaces.low), "action_high": list(spaces.high)})


def demonstrations_hash(recording: Recording, count: int | None = None) -> str:
    """A short hash of the first `count` episodes, by default all: seeds, actions, proprioception, outcomes.

    Of the images it holds size and number: they follow from seed and actions.
    """
    digest = hashlib.sha256(repr((recording.meta["env"], list(recording.meta["image_size"]))).encode())
    if recording.meta["env"] is None:  # another's data set, whose images follow from the camera
        digest.update(str(recording.meta.get("camera")).encode())
    for episode in recording.episodes[:count]:
        digest.update(repr((episode.seed, episode.steps, episode.success)).encode())
        for array in (episode.action, episode.executed, episode.proprio):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
