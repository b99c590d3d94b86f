"""Policies by reinforcement learning: encoders that stay as they are, saved policies that act as the trained ones."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_env
import torch
from extractors import random_extractor
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor
from vidssl.robot.arms import Architecture
from vidssl.robot.controller_files import load_controller
from vidssl.robot.evaluate import evaluate_policy
from vidssl.robot.pixels import episode_seed
from vidssl.robot.policies import PolicyController, PolicyNet
from vidssl.robot.sb3 import FrozenFeatures, LearningConfig, Progress, policy_net, train_policy
from vidssl.robot.training_env import FeatureVector, TrainingEpisodes, training_env
from vidssl.robot.wrappers import FeatureObservation
from vidssl.scripts.robot_rl import main

SHORT = LearningConfig(steps=60, envs=2, hidden=(16,))


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return Architecture("control", (32, 32)).untrained(0, fps=10.0)


def weights(extractor: FeatureExtractor) -> list[torch.Tensor]:
    return [value.clone() for value in extractor.encoder.state_dict().values()]


def inside(algorithm: str, extractor: FeatureExtractor, **options: Any) -> Any:
    """A model that is fed images, the encoder within its policy; conservative sizes."""
    kwargs = {"features_extractor_class": FrozenFeatures, "features_extractor_kwargs": {"extractor": extractor}}
    common: dict[str, Any] = {"policy_kwargs": kwargs | {"net_arch": [16]}, "seed": 0, "device": "cpu"} | options
    if algorithm == "ppo":
        return PPO("MultiInputPolicy", tiny_env.TinyEnv(), n_steps=8, batch_size=4, n_epochs=1, **common)
    return SAC("MultiInputPolicy", tiny_env.TinyEnv(), learning_starts=4, batch_size=4, buffer_size=20, **common)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_frozen_features_stay_as_they_are(algorithm: str, extractor: FeatureExtractor) -> None:
    before = weights(extractor)
    model = inside(algorithm, extractor)
    policy = model.policy
    model.learn(12)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(extractor), strict=True))
    found = [module for module in policy.modules() if isinstance(module, FrozenFeatures)]
    assert len(found) == (1 if algorithm == "ppo" else 3)  # SAC: actor, critic and target have one each
    assert all(one._extractor.encoder is extractor.encoder for one in found)  # of one encoder
    policy.set_training_mode(True)
    assert not extractor.encoder.training
    assert not any("encoder" in name or "features_extractor" in name for name, _ in policy.named_parameters())
    assert all(parameter.grad is None for parameter in extractor.encoder.parameters())


def test_frozen_features_are_the_encoders(extractor: FeatureExtractor) -> None:
    """Through stable-baselines3's own turning and scaling of images, and proprioception behind."""
    model = inside("ppo", extractor)
    observation, _ = tiny_env.TinyEnv().reset(seed=3)
    turned = {"image": observation["image"].transpose(2, 0, 1)[None], "proprio": observation["proprio"][None]}
    tensors, _ = model.policy.obs_to_tensor(turned)
    features = model.policy.extract_features(tensors)
    torch.testing.assert_close(features[:, : extractor.dim], extractor(observation["image"][None]))
    torch.testing.assert_close(features[0, extractor.dim :], torch.from_numpy(observation["proprio"]))
    bare = FrozenFeatures(tiny_env.TinyEnv(bare=True).observation_space, extractor, normalized=False)
    image = torch.from_numpy(observation["image"][None]).float()
    torch.testing.assert_close(bare(image), features[:, : extractor.dim])
    assert bare.features_dim == extractor.dim


def test_frozen_features_refuse_what_they_cannot_do(extractor: FeatureExtractor) -> None:
    space = tiny_env.TinyEnv().observation_space
    with pytest.raises(VidsslError, match=r"this encoder looks back; wrap the environment in .*FeatureObservation"):
        FrozenFeatures(space, random_extractor("small-motion", (32, 32)))
    for blind in (gym.spaces.Box(-1, 1, (4,)), gym.spaces.Dict(proprio=gym.spaces.Box(-1, 1, (4,)))):
        with pytest.raises(VidsslError, match=r"hold no uint8 camera image \[H,W,3\]"):
            FrozenFeatures(blind, extractor)
    with pytest.raises(VidsslError, match="images above 1; give normalized=False"):
        FrozenFeatures(tiny_env.TinyEnv(bare=True).observation_space, extractor)(torch.full((1, 32, 32, 3), 9.0))


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_the_policy_is_the_models(algorithm: str, extractor: FeatureExtractor) -> None:
    """The plain network on raw observations gives the model's deterministic actions on normalised ones."""
    venv = VecNormalize(DummyVecEnv([lambda: training_env(extractor, "Tiny-v0", None, 0, 0, 1)]))
    arms: Any = {"net_arch": [16, 8]}
    model: Any = (
        PPO("MlpPolicy", venv, n_steps=8, batch_size=4, n_epochs=1, policy_kwargs=arms, device="cpu")
        if algorithm == "ppo"
        else SAC("MlpPolicy", venv, learning_starts=4, buffer_size=20, batch_size=4, policy_kwargs=arms, device="cpu")
    )
    model.learn(12)
    net = policy_net(model, venv)
    inputs = np.random.default_rng(0).normal(size=(5, extractor.dim + 2)).astype(np.float32)
    wanted, _ = model.predict(venv.normalize_obs(inputs), deterministic=True)
    np.testing.assert_allclose(net(torch.from_numpy(inputs)).numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_learned_saved_loaded(algorithm: str, extractor: FeatureExtractor, tmp_path: Path) -> None:
    told: list[Progress] = []
    config = LearningConfig(algorithm, steps=90, envs=2, hidden=(16,))
    controller = train_policy(extractor, "Tiny-v0", config, progress=told.append)
    assert told[-1].step >= 90
    assert told[-1].mean_return is not None
    controller.save(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    a, b = (evaluate_policy(make, "Tiny-v0", 2) for make in (controller.fit_to, load_controller(tmp_path)))
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left.actions, right.actions)
        assert np.abs(left.actions).max() <= 1


def test_the_same_seed_learns_the_same(extractor: FeatureExtractor) -> None:
    before = torch.random.get_rng_state()
    first, again = (train_policy(extractor, "Tiny-v0", SHORT).net.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


def test_training_layouts_only(extractor: FeatureExtractor) -> None:
    seeds: list[int | None] = []

    class Noted(tiny_env.TinyEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            seeds.append(seed)
            return super().reset(seed=seed)

    env = TrainingEpisodes(Noted(), seed=3, index=1, step=4)
    for _ in range(3):
        env.reset(seed=99)
    assert seeds == [episode_seed(3, index, "train") for index in (1, 5, 9)]
    env.env.unwrapped.count = 39  # type: ignore[attr-defined]
    assert env.step(np.zeros(2, np.float32))[4]["is_success"] is False
    bare = FeatureVector(FeatureObservation(tiny_env.TinyEnv(bare=True), extractor), extractor)
    assert bare.reset(seed=0)[0] in bare.observation_space


def test_observations_that_the_policy_would_not_see(extractor: FeatureExtractor) -> None:
    env = tiny_env.TinyEnv()
    env.observation_space = gym.spaces.Dict(score=gym.spaces.Box(0, 1, (2,)), **env.observation_space.spaces)  # type: ignore[attr-defined, assignment]
    with pytest.raises(VidsslError, match="hold score beside image, proprio and a goal picture"):
        FeatureVector(FeatureObservation(env, extractor), extractor)


class Goals(tiny_env.TinyEnv):
    """Shows where to go in a picture of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        picture = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(goal=picture, **self.observation_space.spaces)  # type: ignore[attr-defined, assignment]

    def _observe(self) -> Any:
        goal = np.zeros((32, 32, 3), np.uint8)
        row, column = ((self.target + 1) * 14).astype(int)
        goal[row : row + 4, column : column + 4] = 255
        return super()._observe() | {"goal": goal}


gym.register("TinyGoals-v0", Goals)


def test_goals(extractor: FeatureExtractor) -> None:
    """The policy sees the goal's features behind the others, when it learns and when it drives."""
    env = FeatureVector(FeatureObservation(Goals(), extractor), extractor)
    for seed in (1, 2):
        inputs, _ = env.reset(seed=seed)
        assert inputs in env.observation_space
        goal = env.unwrapped._observe()["goal"]  # type: ignore[attr-defined]
        np.testing.assert_allclose(inputs[-extractor.dim :], extractor(goal[None])[0], rtol=1e-4, atol=1e-5)
    controller = train_policy(extractor, "TinyGoals-v0", SHORT)
    driven = controller.fit_to(Goals())
    observations = [Goals().reset(seed=seed)[0] for seed in (1, 2)]
    single = []
    for observation in observations:
        driven.reset()
        single.append(driven(observation))
    driven.reset(batch=2)
    together = driven({key: np.stack([one[key] for one in observations]) for key in observations[0]})
    np.testing.assert_allclose(together, np.stack(single), rtol=1e-4, atol=1e-5)
    for made, env_without in ((controller, tiny_env.TinyEnv()), (train_policy(extractor, "Tiny-v0", SHORT), Goals())):
        with pytest.raises(VidsslError, match=r"a goal picture, this one has (one|none)"):
            made.fit_to(env_without)


def test_settings_out_of_range(extractor: FeatureExtractor) -> None:
    with pytest.raises(VidsslError, match="unknown algorithm 'dqn'; the algorithms here are: ppo, sac"):
        train_policy(extractor, "Tiny-v0", LearningConfig("dqn"))
    for bad in (LearningConfig(steps=0), LearningConfig(envs=0), LearningConfig(hidden=())):
        with pytest.raises(VidsslError, match="need at least 1 step, 1 environment and 1 hidden layer"):
            train_policy(extractor, "Tiny-v0", bad)
    with pytest.raises(VidsslError, match="unknown activation 'gelu'"):
        PolicyNet(4, 2, [8], "gelu", squash=False)


def test_a_policy_for_another_environment(extractor: FeatureExtractor, tmp_path: Path) -> None:
    controller = train_policy(extractor, "Tiny-v0", SHORT)
    env = tiny_env.TinyEnv()
    env.action_space = gym.spaces.Box(-2, 2, (2,), np.float32)
    with pytest.raises(VidsslError, match="the policy was made for actions"):
        controller.fit_to(env)
    controller.save(tmp_path)
    (tmp_path / "policy.safetensors").write_bytes((tmp_path / "encoder" / "model.safetensors").read_bytes())
    with pytest.raises(VidsslError, match=r"is damaged .*train the policy again"):
        PolicyController.load(tmp_path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--env", "Tiny-v0", "--steps", "60", "--envs", "2", "--hidden", "16", "--out", str(tmp_path / "ppo")]
    assert main(["--untrained", "control", *options]) == 0
    assert f"vidssl robot-eval {tmp_path / 'ppo'} --env Tiny-v0" in capsys.readouterr().out
    assert (tmp_path / "ppo" / "controller.json").is_file()
    lines = (tmp_path / "ppo" / "learning.jsonl").read_text().splitlines()
    assert 10 < len(lines) <= 101
    with pytest.raises(VidsslError, match="holds a controller already"):
        main(["--untrained", "control", *options])
    assert main(["--untrained", "control", *options, "--overwrite", "--learning-rate", "1e-3"]) == 0
    (tmp_path / "ppo" / "controller.json").unlink()  # as a kill while it was saved leaves it
    assert main(["--untrained", "control", *options]) == 0
    full = tmp_path / "full"
    (full / "encoder").mkdir(parents=True)
    (full / "thesis.tex").touch()
    for more in ((), ("--overwrite",)):
        with pytest.raises(VidsslError, match="holds something other than a controller; choose a new or empty --out"):
            main(["--untrained", "control", "--out", str(full), *more])
    with pytest.raises(VidsslError, match="need at least 1 step"):  # before the encoder is looked for
        main(["--untrained", "no-such-encoder", "--steps", "0", "--out", str(tmp_path / "other")])
    with pytest.raises(VidsslError, match="give either a RUN"):
        main(["--env", "Tiny-v0", "--out", str(tmp_path / "other")])
    (tmp_path / "file").touch()
    with pytest.raises(VidsslError, match=r"cannot write .* is no folder; choose another --out"):
        main(["--untrained", "no-such-encoder", "--out", str(tmp_path / "file" / "ppo")])


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "vidssl.robot.sb3")
    with pytest.raises(VidsslError, match=r"pip install 'vidssl\[rl\]'"):
        import vidssl.robot.sb3  # noqa: F401
