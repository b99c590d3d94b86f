"""Clones of a known controller on images of a known world."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_env
import torch
from extractors import random_extractor

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor
from vidssl.robot.cloning import (
    CloningConfig,
    Demonstrations,
    clone_features,
    clone_pixels,
    encode_episodes,
    split_episodes,
)
from vidssl.robot.controllers import RandomController, unit_range
from vidssl.robot.evaluate import evaluate_policy, summary
from vidssl.robot.pixels import episode_seed
from vidssl.robot.recording import drive


class Driver:
    """The tiny world's expert as a controller."""

    def __init__(self, env: tiny_env.TinyEnv) -> None:
        self.expert = tiny_env.TinyExpert(env)

    def reset(self) -> None:
        pass

    def __call__(self, observation: object) -> np.ndarray:
        return self.expert(observation, {})


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    """120 noisy episodes of the tiny world."""
    env = tiny_env.TinyEnv()
    episodes, frames = [], []
    for index in range(120):
        images, episode = drive(env, Driver(env), episode_seed(0, index, "train"), noise=0.3)
        episodes.append(episode)
        frames += images
    first = np.concatenate([np.full(e.steps, sum(x.steps for x in episodes[:i])) for i, e in enumerate(episodes)])
    return Demonstrations(
        frames=np.stack(frames),
        proprio=torch.from_numpy(np.concatenate([e.proprio for e in episodes])),
        action=torch.from_numpy(np.concatenate([e.action for e in episodes])),
        first=torch.from_numpy(first),
        low=env.action_space.low,
        high=env.action_space.high,
    )


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return random_extractor("control", (32, 32))


def test_held_out_episodes_are_whole(demos: Demonstrations) -> None:
    train, heldout = split_episodes(demos.first, CloningConfig(holdout=0.2))
    assert len(train) + len(heldout) == len(demos.first)
    episodes = set(demos.first[train].tolist()), set(demos.first[heldout].tolist())
    assert not episodes[0] & episodes[1]
    assert len(episodes[1]) == 24


def test_one_demonstration_is_an_error(demos: Demonstrations) -> None:
    with pytest.raises(VidsslError, match="at least 2 demonstrations"):
        split_episodes(torch.zeros(30, dtype=torch.long), CloningConfig())


def test_cached_features_are_the_streamed_ones(demos: Demonstrations) -> None:
    extractor = random_extractor("small-motion", (32, 32))
    cached = encode_episodes(extractor, demos)
    start = int(demos.first.mode().values)  # of the longest episode
    extractor.reset()
    for i in range(start, start + 4):
        torch.testing.assert_close(extractor.step(demos.frames[i]), cached[i], atol=1e-5, rtol=1e-5)


def test_clone_on_features_drives(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    controller, fit = clone_features(extractor, demos, CloningConfig(), steps=400)
    assert fit.loss < 0.5 * fit.constant_loss
    assert (fit.train_episodes, fit.heldout_episodes) == (102, 18)
    clone, chance = (evaluate_policy(make, "tiny_env:Tiny-v0", 40) for make in (controller.fit_to, RandomController))
    assert summary(clone)["success_rate"] > summary(chance)["success_rate"] + 0.15


def test_clone_on_pixels_learns(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    before = [p.clone() for p in extractor.encoder.parameters()]
    controller, fit = clone_pixels(extractor, demos, CloningConfig(), steps=60)
    assert fit.steps == 60
    assert fit.loss < 0.7 * fit.constant_loss
    after, trained = extractor.encoder.parameters(), controller.extractor.encoder.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the given encoder was changed"
    assert not any(torch.equal(a, b) for a, b in zip(before, trained, strict=True)), "the encoder was not trained"


def test_same_seed_same_clone(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    for clone in (
        lambda seed: clone_features(extractor, demos, CloningConfig(seed=seed), steps=20),
        lambda seed: clone_pixels(extractor, demos, CloningConfig(seed=seed), steps=4),
    ):
        (a, fit_a), (b, fit_b), (c, _) = clone(1), clone(1), clone(2)
        assert fit_a.loss == fit_b.loss
        weights = [torch.cat([p.flatten() for p in x.head.parameters()]) for x in (a, b, c)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


def test_training_leaves_global_randomness_alone(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    state = torch.get_rng_state()
    clone_features(extractor, demos, CloningConfig(), steps=10)  # where a one-cycle of ten steps would divide by zero
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["small-motion", "resnet18"])
def test_pixels_see_what_a_stream_sees(demos: Demonstrations, name: str) -> None:
    """With motion the clone is trained on (frame before, frame); at the first frame of an episode they are equal."""
    untrained = random_extractor(name, (32, 32))
    controller, _ = clone_pixels(untrained, demos, CloningConfig(), steps=2, batch_size=8)
    controller.reset()
    first = controller({"image": demos.frames[0], "proprio": demos.proprio[0].numpy()})
    assert first.shape == (2,)
    controller.reset(batch=3)
    batch = controller({"image": demos.frames[:3], "proprio": demos.proprio[:3].numpy()})
    np.testing.assert_allclose(batch[0], first, atol=1e-4)


def test_minutes_are_kept(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    _, fit = clone_pixels(extractor, demos, CloningConfig(), minutes=0.05)
    assert fit.steps >= 20
    assert fit.seconds < 12, "3 s were asked for"


def test_a_budget_by_the_clock_can_be_repeated_by_its_steps(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    timed, fit = clone_pixels(extractor, demos, CloningConfig(), minutes=0.01)
    counted, same = clone_pixels(extractor, demos, CloningConfig(), steps=fit.steps)
    assert same.loss == fit.loss
    for name, weights in timed.head.state_dict().items():
        assert torch.equal(counted.head.state_dict()[name], weights), name


def test_a_loss_that_is_never_finite_is_an_error(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    broken = replace(demos, action=torch.full_like(demos.action, torch.nan))
    with pytest.raises(VidsslError, match="never finite in 3 steps; look for NaN"):
        clone_features(extractor, broken, CloningConfig(), steps=3)


def test_what_never_moves_is_scaled_to_a_number() -> None:
    low, high = np.array([0, 1], np.float32), np.array([2, 1], np.float32)
    found = unit_range(torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]), low, high)
    assert found.tolist() == [[-1, -1], [0, -1], [1, -1]]


@pytest.mark.parametrize("budget", [{}, {"steps": 1, "minutes": 1.0}])
def test_one_budget(demos: Demonstrations, extractor: FeatureExtractor, budget: dict[str, float]) -> None:
    with pytest.raises(VidsslError, match="either steps or minutes"):
        clone_pixels(extractor, demos, CloningConfig(), **budget)  # type: ignore[arg-type]


def test_pixels_need_an_encoder_on_the_cpu(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    elsewhere = copy.copy(extractor)
    elsewhere.device = torch.device("cuda")
    with pytest.raises(VidsslError, match='cloning from pixels: the encoder is on cuda; load it with device="cpu"'):
        clone_pixels(elsewhere, demos, CloningConfig(), steps=1)


def test_actions_are_scaled_to_the_box(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    low, high = np.array([0.0, -3.0], np.float32), np.array([10.0, -1.0], np.float32)
    other = Demonstrations(demos.frames, demos.proprio, demos.action, demos.first, low, high)
    controller, _ = clone_features(extractor, other, CloningConfig(), steps=5)
    controller.reset()
    for i in range(5):
        action = controller({"image": demos.frames[i], "proprio": demos.proprio[i].numpy()})
        assert (action >= low).all()
        assert (action <= high).all()


def test_controller_of_another_environment_is_an_error(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    controller, _ = clone_features(extractor, demos, CloningConfig(), steps=2)
    with pytest.raises(VidsslError, match=r"made for 2 numbers of proprioception, the environment gives 0"):
        controller.fit_to(tiny_env.TinyEnv(bare=True))
    env = tiny_env.TinyEnv()
    env.action_space = type(env.action_space)(-2, 2, (2,), np.float32)
    with pytest.raises(VidsslError, match=r"made for actions \[2\] in .*the environment takes"):
        controller.fit_to(env)


def test_demonstrations_come_back_from_disk(tmp_path: Path) -> None:
    from vidssl.robot.cloning import load_demonstrations
    from vidssl.robot.recording import record

    recording = record("tiny_env:Tiny-v0", tmp_path / "demos", 3, policy="random")
    demos = load_demonstrations(recording, 2)
    lengths = [episode.steps for episode in recording.episodes[:2]]
    assert demos.frames.shape == (sum(lengths), 32, 32, 3)
    assert demos.first.tolist() == [0] * lengths[0] + [lengths[0]] * lengths[1]
    np.testing.assert_allclose(demos.action[: lengths[0]], recording.episodes[0].action, atol=1e-6)
    with pytest.raises(VidsslError, match="holds 3 demonstrations, 4 were asked for"):
        load_demonstrations(recording, 4)
    with pytest.raises(VidsslError, match="demonstrations: got -1; ask for at least 1"):
        load_demonstrations(recording, -1)


def test_a_robot_without_an_environment_is_cloned_and_kept_by_plain_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extractor: FeatureExtractor
) -> None:
    from vidssl.robot.cloning import load_demonstrations
    from vidssl.robot.controllers import CloneController
    from vidssl.robot.episodes import open_recording
    from vidssl.robot.recording import record

    monkeypatch.chdir(tmp_path)
    record("tiny_env:Tiny-v0", Path("theirs"), 3, policy="random", form="lerobot")
    Path("theirs/meta/notes.json").unlink()  # what only data sets of ours hold
    demos = load_demonstrations(open_recording("theirs", camera="observation.image"))
    known = copy.copy(extractor)
    known.config = {"encoder": {"name": "control", "dim": extractor.dim}, "context": None}
    policy, fit = clone_features(known, demos, CloningConfig(), steps=3)
    assert fit.steps == 3
    policy.save("policy")
    acted = []
    for one in (policy, CloneController.load("policy")):
        one.reset()
        acted.append(one({"image": demos.frames[0], "proprio": demos.proprio[0].numpy()}))
    np.testing.assert_allclose(*acted, atol=1e-6)
