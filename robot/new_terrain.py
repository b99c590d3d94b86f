"""New ground in the rover's world: from a step of the episode on, it drives over what it never saw in training."""

from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError

from .corruptions import TERRAIN, FromAStep
from .rover import RoverEnv

GROUNDS = {"grass": (70, 115, 45), "ice": (215, 228, 242), "basalt": (62, 60, 66)}  # RGB of 0..255
SHARES = (0.35, 0.65, 1.0)  # of the new colour, by severity
PAINTED = ("ground", "grain")  # textures of the arena and of the plain around it
HILLS = "hills"


class NewTerrain(FromAStep):
    """`vidssl/Rover-v0` whose ground becomes grass, ice or basalt: its colour changes, its shape and grip do not.

    The new ground keeps the old one's pattern and shadows; hills take its colour too. Severity 1 is a mixture of a
    third new ground, 2 of two thirds, 3 has nothing left of the old colour.

    Args:
        env: the rover's, or a wrapper around it.
        severity, start: see `corruptions.CorruptedCamera`; at least 1, since the reset shows the world as it was.

    Raises VidsslError for another environment, a severity or start out of range.
    """

    def __init__(self, env: gym.Env[Any, Any], severity: int = 2, start: int | tuple[int, int] = 1) -> None:
        if not isinstance(env.unwrapped, RoverEnv):
            raise VidsslError(f"new terrain is painted in vidssl/Rover-v0 only, got {type(env.unwrapped).__name__}")
        super().__init__(env, TERRAIN, severity, start)
        if self.first < 1:
            raise VidsslError(f"start: got {start!r}; new terrain begins at step 1 or later")
        self._rover = env.unwrapped
        model = self._rover._model  # of the same package: the world is made of textures that only it knows
        self._materials = model.mat_rgba.copy()
        self._texels = model.tex_data.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A world with the old ground, which becomes new at its step."""
        self._restore()
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment, on new ground from its step on; the old one is back when the episode ends."""
        if self.steps + 1 == self.began_at:
            self._paint()
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            self._restore()
        return observation, reward, terminated, truncated, info

    def _restore(self) -> None:
        """Take back what the environment's own reset does not paint anew: the plain and the hills."""
        model = self._rover._model
        model.mat_rgba[:] = self._materials
        model.tex_data[:] = self._texels
        self._rover._gl().upload(texture=model.texture("grain").id)

    def _paint(self) -> None:
        model, share = self._rover._model, SHARES[self.severity - 1]
        colour = np.array(GROUNDS[str(self._rng.choice(sorted(GROUNDS)))], float)
        for name in PAINTED:
            texture = model.texture(name)
            texels = model.tex_data[texture.adr[0] :][: model.tex_width[texture.id] * model.tex_height[texture.id] * 3]
            old = texels.reshape(-1, 3).astype(float)
            pattern = old.mean(1, keepdims=True) / old.mean()
            new = np.clip((1 - share) * old + share * pattern * colour, 0, 255)
            texels[:] = new.astype(np.uint8).ravel()
            self._rover._gl().upload(texture=texture.id)
        hills = model.material(HILLS).id
        model.mat_rgba[hills, :3] = (1 - share) * self._materials[hills, :3] + share * 0.7 * colour / 255

    def _begin(self, observation: Any) -> None:
        """The reset has painted the old ground."""

    def _change(self, observation: Any) -> Any:
        return observation
