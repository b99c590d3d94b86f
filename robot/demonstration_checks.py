"""Whether demonstrations fit what is to be learned from them and judged: environment, split, layouts, image size."""

import hashlib
from collections.abc import Collection

from vidssl.errors import VidsslError

from .episodes import Recording


def check_demonstrations(
    recording: Recording, env_id: str, image_size: tuple[int, int], layouts: Collection[int]
) -> None:
    """Raises VidsslError for demonstrations of another environment or split, by random actions, of other images, or
    of layouts that are driven on later.

    Args:
        env_id: gymnasium id of the environment that is driven in.
        image_size: height and width of its images, pixels.
        layouts: seeds of the episodes that are driven, see `pixels.episode_seed`.
    """
    where, meta = recording.folder, recording.meta
    for key, wanted in {"env": env_id, "split": "train"}.items():
        if meta[key] != wanted:
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


def demonstrations_hash(recording: Recording, count: int | None = None) -> str:
    """A short hash of the first `count` episodes, by default all: seeds, actions, proprioception, outcomes.

    Of the images it holds size and number: they follow from seed and actions.
    """
    digest = hashlib.sha256(repr((recording.meta["env"], list(recording.meta["image_size"]))).encode())
    for episode in recording.episodes[:count]:
        digest.update(repr((episode.seed, episode.steps, episode.success)).encode())
        for array in (episode.action, episode.executed, episode.proprio):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
