"""A small pixel environment for tests: steer a dot onto a target that is drawn in the image. No GL, no physics.

The expert is in `tiny_env` too; tests put it where `expert_for` looks.
"""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np


class TinyEnv(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """A dot at (x, y) in -1..1 moves by the action; success within 0.15 of the target.

    Failure at the border, or at step 40.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self, split: str = "train", size: int = 32, bare: bool = False, render_mode: str | None = None
    ) -> None:
        self.layout_split, self.size, self.bare, self.render_mode = split, size, bare, render_mode
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        proprio = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = image if bare else gym.spaces.Dict(image=image, proprio=proprio)  # type: ignore[assignment]
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.raise_at: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.dot = self.np_random.uniform(-0.7, 0.7, 2)
        self.target = self.np_random.uniform(-0.7, 0.7, 2)
        self.velocity = np.zeros(2)
        self.count = 0
        return self._observe(), {"success": False, "failure": None}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.raise_at == self.count:
            raise RuntimeError("the simulation diverged")
        self.velocity = 0.08 * np.clip(action, -1, 1)
        self.dot = self.dot + self.velocity
        self.count += 1
        distance = float(np.linalg.norm(self.target - self.dot))
        success, out = distance < 0.15, bool((np.abs(self.dot) > 1).any())
        late = self.count >= 40 and not (success or out)
        failure = "border" if out and not success else "time-out" if late else None
        return self._observe(), -distance, success or out, late, {"success": success, "failure": failure}

    def render(self) -> np.ndarray:
        return self._picture(64)

    def _observe(self) -> Any:
        image = self._picture(self.size)
        return image if self.bare else {"image": image, "proprio": self.velocity.astype(np.float32)}

    def _picture(self, size: int) -> np.ndarray:
        image = np.full((size, size, 3), 40, np.uint8)
        for place, colour in ((self.target, (230, 30, 30)), (self.dot, (30, 230, 30))):
            row, column = ((np.clip(place, -1, 1) + 1) / 2 * (size - 5)).astype(int)
            image[row : row + 5, column : column + 5] = colour
        return image


class TinyExpert:
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env: Any = env.unwrapped

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray:
        return np.clip((self.env.target - self.env.dot) / 0.3, -1, 1).astype(np.float32)


class Unseen(TinyEnv):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}


def blind(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return gym.wrappers.FilterObservation(env, ["proprio"])


gym.register("Tiny-v0", "tiny_env:TinyEnv")
gym.register("TinyLacking-v0", "no_such_package_of_anybody:Env")
gym.register("TinyBlind-v0", lambda **options: blind(Unseen(**options)))
