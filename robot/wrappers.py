"""Wrappers that put an encoder's features where an environment had its camera image.

    Dict(image=uint8 [H,W,3], proprio=…)  ->  Dict(features=float32 [dim], proprio=…)
    Box uint8 [H,W,3]                     ->  Box float32 [dim]

Frames are streamed through `FeatureExtractor.step`, so what a policy sees at step t depends on the frames of this
episode up to t, and on nothing of another episode. A wrapper streams through its own shallow copy of the extractor:
the weights are shared, the streaming state is not, so one extractor can serve several environments.

Letters: N sub-environments, H, W image sides, dim feature size.
"""

import copy
import warnings
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .pixels import IMAGE, find_image
from .spaces import encoder_notes

FEATURES = "features"


def warn_of_mismatch(extractor: FeatureExtractor, env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]) -> None:
    """Warn, with both numbers, where a camera has another frame rate or image size than the encoder was trained at."""
    space = env.single_observation_space if isinstance(env, gym.vector.VectorEnv) else env.observation_space
    camera: Any = SimpleNamespace(observation_space=space, metadata=env.metadata)
    for note in encoder_notes(extractor, camera):
        warnings.warn(note, stacklevel=3)


def feature_space(space: gym.Space[Any], dim: int) -> gym.Space[Any]:
    """The observation space with the image replaced by a float32 feature Box of shape [dim].

    Raises VidsslError when `space` holds no uint8 [H,W,3] image.
    """
    find_image(space)
    box = gym.spaces.Box(-np.inf, np.inf, (dim,), np.float32)
    if not isinstance(space, gym.spaces.Dict):
        return box
    if FEATURES in space.spaces:
        raise VidsslError(f"the observations already have a key {FEATURES!r}: is the environment wrapped twice?")
    return gym.spaces.Dict({FEATURES if key == IMAGE else key: box if key == IMAGE else s for key, s in space.items()})


def _image(observation: Any) -> np.ndarray:
    return observation[IMAGE] if isinstance(observation, dict) else observation


def _replace(observation: Any, features: np.ndarray) -> Any:
    if not isinstance(observation, dict):
        return features
    return {FEATURES if key == IMAGE else key: features if key == IMAGE else v for key, v in observation.items()}


class FeatureObservation(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """One environment whose observations carry features float32 [dim] in place of the image uint8 [H,W,3].

    Args:
        env: observations are an image Box, or a Dict with an `image`.
        extractor: from `vidssl.load_encoder`; resizes images of another size itself.

    Raises VidsslError when the environment has no image.
    """

    def __init__(self, env: gym.Env[Any, Any], extractor: FeatureExtractor) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, extractor=extractor)
        gym.Wrapper.__init__(self, env)
        self.observation_space = feature_space(env.observation_space, extractor.dim)
        warn_of_mismatch(extractor, env)
        self._extractor = copy.copy(extractor)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the stream of frames."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._extractor.reset()
        return self._encode(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; the new frame goes through the encoder once."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._encode(observation), reward, terminated, truncated, info

    def _encode(self, observation: Any) -> Any:
        return _replace(observation, self._extractor.step(_image(observation)).cpu().numpy())


class VectorFeatureObservation(gym.vector.VectorWrapper):
    """N environments at once, one encoder call a step: features float32 [N,dim] in place of images uint8 [N,H,W,3].

    A sub-environment that starts a new episode starts a new stream, whatever the autoreset mode:

        NEXT_STEP   the step after the end returns the first frame of the new episode
        SAME_STEP   the ending step returns it; the last frame's features are in `infos["final_obs"]`
        DISABLED    `reset(options={"reset_mask": mask})` starts the episodes of the mask

    Raises VidsslError when the environments have no image or do not say their autoreset mode.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], extractor: FeatureExtractor) -> None:
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode is None:
            raise VidsslError(f"{env} has no metadata['autoreset_mode'], so episodes cannot be told apart; set it")
        self._mode = AutoresetMode(mode)
        self.single_observation_space = feature_space(env.single_observation_space, extractor.dim)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        warn_of_mismatch(extractor, env)
        self._extractor = copy.copy(extractor)
        # The stream before its last frame: what the rows that go on are taken back to when others are reset.
        self._before = copy.copy(self._extractor)
        self._ended = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all sub-environments, or those of `options["reset_mask"]` bool [N], and their streams."""
        mask = (options or {}).get("reset_mask")
        observation, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if mask is None:
            self._extractor.reset(batch=self.num_envs)
            self._ended[:] = False
        else:
            # One call encodes all rows again; the others repeat their last frame from the state before it.
            self._extractor = self._before
            self._extractor.reset_rows(mask)
            self._ended[mask] = False
        return self._encode(observation), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all sub-environments; see the class for what ends and starts streams."""
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        if self._mode is AutoresetMode.NEXT_STEP:
            if self._ended.any():
                self._extractor.reset_rows(self._ended)
            self._ended = ended
        elif self._mode is AutoresetMode.SAME_STEP and ended.any():
            infos = self._with_final_features(observation, infos, ended)
            self._extractor.reset_rows(ended)
        return self._encode(observation), rewards, terminated, truncated, infos

    def _encode(self, observation: Any) -> Any:
        self._before = copy.copy(self._extractor)
        return _replace(observation, self._extractor.step(_image(observation)).cpu().numpy())

    def _with_final_features(self, observation: Any, infos: dict[str, Any], ended: np.ndarray) -> dict[str, Any]:
        """Infos whose `final_obs` are encoded too, by a copy of the stream that is then dropped."""
        images = np.array(_image(observation))
        final = infos["final_obs"].copy()
        rows = np.flatnonzero(ended)
        for row in rows:
            images[row] = _image(final[row])
        features = copy.copy(self._extractor).step(images).cpu().numpy()
        for row in rows:
            final[row] = _replace(final[row], features[row])
        return {**infos, "final_obs": final}
