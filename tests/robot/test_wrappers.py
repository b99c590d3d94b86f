"""Features in place of images: spaces, streaming, and episodes that never leak into each other."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_env
from extractors import random_extractor
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from vidssl.encoders import build_encoder
from vidssl.encoders.context import build_context
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor
from vidssl.robot.wrappers import FeatureObservation, VectorFeatureObservation

MODES = list(AutoresetMode)


@pytest.fixture(params=["small-motion", "gru"])
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    """Both kinds of memory: the frame before, and a recurrent state."""
    if request.param == "small-motion":
        return random_extractor("small-motion", (32, 32))
    encoder = build_encoder("small", (32, 32))
    return FeatureExtractor(encoder, build_context("gru", encoder.dim, 24), (32, 32), output="context")


class Counting(tiny_env.TinyEnv):
    """Ends after `length` steps, so that sub-environments end at different times; keeps the images of each episode."""

    def __init__(self, length: int, **options: Any) -> None:
        super().__init__(**options)
        self.length, self.episodes = length, []  # type: ignore[var-annotated]

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**options)
        self.episodes.append([observation["image"]])
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = super().step(action * 0.1)
        self.episodes[-1].append(observation["image"])
        return observation, reward, False, self.count >= self.length, info


def vector(mode: AutoresetMode, lengths: tuple[int, ...] = (3, 5, 100)) -> SyncVectorEnv:
    return SyncVectorEnv([lambda n=n: Counting(n) for n in lengths], autoreset_mode=mode)  # type: ignore[misc]


def expected(extractor: FeatureExtractor, images: list[np.ndarray]) -> np.ndarray:
    """Features of the last image of an episode, from the whole clip."""
    return extractor(np.stack(images))[-1].numpy()


@pytest.mark.parametrize("bare", [False, True])
def test_spaces(bare: bool) -> None:
    extractor = random_extractor("small", (32, 32))
    env = FeatureObservation(tiny_env.TinyEnv(bare=bare), extractor)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    box = env.observation_space if bare else env.observation_space["features"]  # type: ignore[index]
    assert box.shape == (extractor.dim,)
    assert box.dtype == np.float32
    if not bare:
        assert set(observation) == {"features", "proprio"}
        np.testing.assert_array_equal(observation["proprio"], env.unwrapped.velocity)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*Box observation space (minimum|maximum) value")
def test_check_env(extractor: FeatureExtractor) -> None:
    check_env(FeatureObservation(gym.make("Tiny-v0", render_mode="rgb_array"), extractor))


def test_streams_equal_whole_episodes(extractor: FeatureExtractor) -> None:
    env = FeatureObservation(Counting(4), extractor)
    for _ in range(2):
        observation, _ = env.reset()
        ended = False
        while not ended:
            images = env.unwrapped.episodes[-1]  # type: ignore[attr-defined]
            np.testing.assert_allclose(observation["features"], expected(extractor, images), atol=1e-5)
            observation, _, _, ended, _ = env.step(env.action_space.sample())


def test_one_extractor_serves_two_environments(extractor: FeatureExtractor) -> None:
    envs = [FeatureObservation(Counting(9), extractor) for _ in range(2)]
    for i, env in enumerate(envs):
        env.reset(seed=i)
    for _ in range(3):
        for env in envs:
            observation, *_ = env.step(np.ones(2, np.float32))
            images = env.unwrapped.episodes[-1]  # type: ignore[attr-defined]
            np.testing.assert_allclose(observation["features"], expected(extractor, images), atol=1e-5)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_autoreset(mode: AutoresetMode, extractor: FeatureExtractor) -> None:
    base = vector(mode)
    env = VectorFeatureObservation(base, extractor)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=1)
    finals = 0
    for _ in range(13):
        assert observation in env.observation_space
        for row, sub in enumerate(base.envs):
            images = sub.unwrapped.episodes[-1]  # type: ignore[attr-defined]
            np.testing.assert_allclose(observation["features"][row], expected(extractor, images), atol=1e-5)
        observation, _, _, truncated, infos = env.step(rng.uniform(-1, 1, (3, 2)).astype(np.float32))
        if mode is AutoresetMode.SAME_STEP:
            for row in np.flatnonzero(truncated):
                final = infos["final_obs"][row]
                assert set(final) == {"features", "proprio"}
                images = base.envs[row].unwrapped.episodes[-2]  # type: ignore[attr-defined]
                np.testing.assert_allclose(final["features"], expected(extractor, images), atol=1e-5)
                finals += 1
    assert all(len(sub.unwrapped.episodes) >= 3 for sub in base.envs[:2])  # type: ignore[attr-defined]
    assert finals > 0 or mode is AutoresetMode.NEXT_STEP


def test_vector_partial_reset(extractor: FeatureExtractor) -> None:
    base = vector(AutoresetMode.DISABLED, (2, 4, 100))
    env = VectorFeatureObservation(base, extractor)
    observation, _ = env.reset(seed=1)
    ended = np.zeros(3, bool)
    for _ in range(8):
        if ended.any():
            observation, _ = env.reset(options={"reset_mask": ended})
        for row, sub in enumerate(base.envs):
            images = sub.unwrapped.episodes[-1]  # type: ignore[attr-defined]
            np.testing.assert_allclose(observation["features"][row], expected(extractor, images), atol=1e-5)
        observation, _, _, ended, _ = env.step(np.full((3, 2), 0.5, np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_vector_costs_one_encoder_call_a_step(mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = random_extractor("small", (32, 32))
    calls: list[tuple[int, ...]] = []
    step = FeatureExtractor.step

    def counted(self: FeatureExtractor, frame: Any) -> Any:
        calls.append(frame.shape)
        return step(self, frame)

    monkeypatch.setattr(FeatureExtractor, "step", counted)
    env = VectorFeatureObservation(vector(mode, (50, 50)), extractor)
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros((2, 2), np.float32))
    assert calls == [(2, 32, 32, 3)] * 5


BLIND = [
    gym.spaces.Box(-1, 1, (4,)),
    gym.spaces.Dict(proprio=gym.spaces.Box(-1, 1, (4,))),
    gym.spaces.Dict(image=gym.spaces.Box(0.0, 1.0, (32, 32, 3))),  # not uint8
    gym.spaces.Dict(image=gym.spaces.Box(0, 255, (3, 32, 32), np.uint8)),  # channels first
]


@pytest.mark.parametrize("space", BLIND, ids=["vector", "no-image", "float", "channels-first"])
def test_no_image_is_an_error(space: gym.Space[Any]) -> None:
    env = tiny_env.TinyEnv()
    env.observation_space = space  # type: ignore[assignment]
    with pytest.raises(VidsslError, match=r"no camera image.*\[H,W,3\]"):
        FeatureObservation(env, random_extractor("small", (32, 32)))


def test_wrapping_twice_is_an_error() -> None:
    extractor = random_extractor("small", (32, 32))
    env = tiny_env.TinyEnv()
    env.observation_space = gym.spaces.Dict(features=gym.spaces.Box(-1, 1, (4,)), **env.observation_space.spaces)  # type: ignore[attr-defined, assignment]
    with pytest.raises(VidsslError, match="wrapped twice"):
        FeatureObservation(env, extractor)


def test_vector_without_a_mode_is_an_error() -> None:
    base = vector(AutoresetMode.NEXT_STEP)
    base.metadata = {}
    with pytest.raises(VidsslError, match="autoreset_mode"):
        VectorFeatureObservation(base, random_extractor("small", (32, 32)))


def test_other_rates_and_sizes_are_warned_of_with_both_numbers() -> None:
    """The tiny environment shows 32x32 pixels 10 times a second."""
    sized = random_extractor("small", (48, 40))
    sized.fps = 30.0  # of no matter to single frames
    with pytest.warns(UserWarning, match="trained on images of 48x40, the camera gives 32x32: they are scaled") as seen:
        FeatureObservation(tiny_env.TinyEnv(), sized)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    moving = random_extractor("small-motion", (32, 32))
    moving.fps = 30.0
    with pytest.warns(UserWarning, match="learned motion at 30 frames/s, the camera gives 10: speeds look different"):
        FeatureObservation(tiny_env.TinyEnv(), moving)
    with pytest.warns(UserWarning, match="learned motion at 30 frames/s, the camera gives 10"):
        VectorFeatureObservation(vector(AutoresetMode.NEXT_STEP), moving)
    moving.fps = 10.2  # near enough
    FeatureObservation(tiny_env.TinyEnv(), moving)
