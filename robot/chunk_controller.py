"""The controller of a chunk head: a camera frame a tick, a decision every few ticks.

    tick        0 1 2 3 4 5 6 7 8 9 …
    decides     d               d          on the last L frames; carries out E = 8 actions of the chunk in between
    noise       0               1          of the flow: the episode's first, second … draw of a fixed seed

Letters: D feature dim, P proprioception size, A action size, L past frames.
"""

import copy
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vidssl.checkpoint import write_tensors
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor, load_encoder

from .chunk_head import ChunkHead, build_chunk_head
from .controllers import unit_range
from .pixels import camera_image, proprioception
from .spaces import Spaces

GOAL = "goal"


@dataclass(frozen=True)
class Looks:
    """How a controller uses its head.

    Attributes:
        past: L.
        execute: actions carried out before the next decision.
        euler: steps from noise to chunk.
        seed: of the noise; every episode starts with the same.
        proprio: P.
        relative: whether the head says how far from the present place, and not where.
        goals: whether the head is told the features of a goal picture.
    """

    past: int
    execute: int
    euler: int
    seed: int
    proprio: int
    relative: bool = False
    goals: bool = False


class ChunkController:
    """A policy cloned in chunks (kind "chunk"), for single observations.

    With goals it wants a goal picture uint8 [H,W,3]: the entry `goal` of the observation, or, where the environment
    gives none, that of `set_goal`.

    Args:
        extractor: the encoder; the controller streams through its own shallow copy.
        head: from cloning.
        low, high: float32 [A], the action range that -1..1 of the head stands for.
        looks: how the head is used.
    """

    def __init__(
        self, extractor: FeatureExtractor, head: ChunkHead, low: np.ndarray, high: np.ndarray, looks: Looks
    ) -> None:
        self.extractor, self.head, self.looks = copy.copy(extractor), head.eval(), looks
        self.low, self.high = low, high
        self.spaces = Spaces(tuple(low.tolist()), tuple(high.tolist()), looks.proprio)
        self._goal: np.ndarray | None = None
        # An encoder of single frames need not see those that no decision hangs on.
        encoder = extractor.encoder
        self._still = extractor.context is None and extractor.window is None and encoder.past == 0
        self.reset()

    def fit_to(self, env: gym.Env[Any, Any]) -> "ChunkController":
        """This policy with a stream of its own; raises VidsslError when the environment has other spaces."""
        self.spaces.check(env, "the cloned policy")
        fitted = ChunkController(self.extractor, self.head, self.low, self.high, self.looks)
        fitted._goal = self._goal
        return fitted

    def set_goal(self, picture: np.ndarray) -> None:
        """What the world should look like, uint8 [H,W,3]; kept over episodes.

        Raises VidsslError when the policy was cloned without goals.
        """
        if not self.looks.goals:
            raise VidsslError("this policy was cloned without goals; make one with goal_cloning.clone_to_goals")
        self._goal = picture

    def reset(self) -> None:
        """A new episode."""
        self.extractor.reset()
        self._noise = torch.Generator().manual_seed(self.looks.seed)
        self._seen: deque[Tensor] = deque(maxlen=self.looks.past)  # features, or the frames themselves
        self._known: deque[Tensor] = deque(maxlen=self.looks.past)
        self._left: deque[np.ndarray] = deque()

    @torch.inference_mode()
    def __call__(self, observation: Any) -> np.ndarray:
        image = camera_image(observation)
        self._seen.append(torch.from_numpy(image.copy()) if self._still else self.extractor.step(image).cpu())
        self._known.append(torch.from_numpy(proprioception(observation).copy()))  # environments reuse arrays
        if not self._left:
            self._left.extend(self._decide(observation))
        return self._left.popleft()

    def _decide(self, observation: Any) -> np.ndarray:
        """The actions float32 [E,A] until the next decision."""
        seen = self._filled(self._seen)
        parts = [self.extractor(seen).cpu() if self._still else seen, self._filled(self._known)]
        if self.looks.goals:
            parts.append(self._goal_features(observation))
        noise = torch.randn(1, self.head.size_out, generator=self._noise)
        inputs = torch.cat([part.flatten() for part in parts])[None]
        chunk = self.head.sample(inputs, noise, self.looks.euler).view(-1, len(self.low))
        if self.looks.relative:
            chunk = chunk + unit_range(self._known[-1][: len(self.low)], self.low, self.high)
        actions = chunk[: self.looks.execute].clamp(-1, 1).numpy()
        return self.low + (actions + 1) / 2 * (self.high - self.low)

    def _filled(self, rows: deque[Tensor]) -> Tensor:
        """The last L rows, the first one repeated at the start of an episode."""
        return torch.stack([rows[0]] * (self.looks.past - len(rows)) + list(rows))

    def _goal_features(self, observation: Any) -> Tensor:
        picture = observation.get(GOAL) if isinstance(observation, dict) else None
        picture = self._goal if picture is None else picture
        if picture is None:
            raise VidsslError(
                "this policy goes for a goal picture: none is set, and the observation has no entry `goal`; "
                "call set_goal(picture uint8 [H,W,3]), or use an environment with goals"
            )
        return self.extractor.per_frame(np.asarray(picture)[None])[0].cpu()

    def save(self, folder: str | Path) -> None:
        """Write the policy to a folder, without the goal picture; see `controller_files`.

        Raises VidsslError for an encoder without `config`.
        """
        from .controller_files import save_extractor, write_controller

        folder = Path(folder)
        save_extractor(folder / "encoder", self.extractor)
        write_tensors(folder / "head.safetensors", self.head.state_dict())
        facts = {"head": self.head.config, "spaces": self.spaces.as_json(), "looks": asdict(self.looks)}
        write_controller(folder, "chunk", facts)

    @classmethod
    def load(cls, folder: str | Path) -> "ChunkController":
        """The policy in a folder; raises VidsslError when it is missing, damaged or of another kind."""
        from .controller_files import read_controller, read_weights

        folder = Path(folder)
        content = read_controller(folder, "chunk")
        try:
            head, spaces = build_chunk_head(content["head"]), Spaces.from_json(content["spaces"])
            head.load_state_dict(read_weights(folder / "head.safetensors"))
            looks = Looks(**content["looks"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise VidsslError(f"{folder} is damaged ({error!r}); make the controller again") from error
        low, high = (np.array(side, np.float32) for side in (spaces.low, spaces.high))
        return cls(load_encoder(folder / "encoder"), head, low, high, looks)
