"""What a controller was made for, and whether an environment is that.

Letters: P proprioception size, A action size.
"""

from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .pixels import control_box, find_image, proprioception


@dataclass(frozen=True)
class Spaces:
    """Actions and proprioception of an environment, as plain numbers for a JSON file.

    `low`, `high` are the A bounds of the actions; `proprio` is P, 0 without proprioception.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    proprio: int

    @classmethod
    def of(cls, env: gym.Env[Any, Any]) -> "Spaces":
        """Those of an environment; raises VidsslError when its actions are no bounded Box [A]."""
        box = control_box(env)
        size = proprioception(env.observation_space.sample()).shape[-1]
        return cls(tuple(box.low.tolist()), tuple(box.high.tolist()), size)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Spaces":
        """From what `as_json` gave."""
        return cls(tuple(content["low"]), tuple(content["high"]), content["proprio"])

    def as_json(self) -> dict[str, Any]:
        """A dict for a JSON file."""
        return asdict(self)

    def check(self, env: gym.Env[Any, Any], what: str = "the controller") -> None:
        """Raises VidsslError, naming both sides, when an environment has other actions or proprioception."""
        found = Spaces.of(env)
        ours, theirs = (np.array([spaces.low, spaces.high], np.float32) for spaces in (self, found))
        if not np.array_equal(ours, theirs):
            raise VidsslError(
                f"{what} was made for actions {_range(self)}, the environment takes {_range(found)}; "
                "make another one for this environment, or choose its own --env"
            )
        if self.proprio != found.proprio:
            raise VidsslError(
                f"{what} was made for {self.proprio} numbers of proprioception, the environment gives {found.proprio}; "
                "make another one for this environment, or choose its own --env"
            )


def _range(spaces: Spaces) -> str:
    return f"[{len(spaces.low)}] in {list(spaces.low)}..{list(spaces.high)}"


def encoder_notes(extractor: FeatureExtractor, env: gym.Env[Any, Any]) -> list[str]:
    """What a user should know when an encoder meets an environment's camera: other image sides, another frame rate.

    The rate is of no matter to an encoder that looks at single frames.
    """
    notes = []
    height, width = find_image(env.observation_space).shape[:2]
    if (height, width) != extractor.image_size:
        ours = "x".join(map(str, extractor.image_size))
        notes.append(f"the encoder was trained on images of {ours}, the camera gives {height}x{width}: they are scaled")
    rate = env.metadata.get("render_fps")
    moving = extractor.encoder.past > 0 or extractor.context is not None
    if moving and rate and extractor.fps and not np.isclose(rate, extractor.fps, rtol=0.05):
        notes.append(
            f"the encoder has learned motion at {extractor.fps:g} frames/s, the camera gives {rate:g}: "
            "speeds look different to it"
        )
    return notes
