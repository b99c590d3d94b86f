"""Policies cloned in chunks, in the tiny world and on frames made up."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_env
import torch

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor
from vidssl.robot.arms import Architecture
from vidssl.robot.chunk_controller import ChunkController
from vidssl.robot.chunk_training import (
    ChunkBudget,
    ChunkConfig,
    chunks_from,
    last_rows,
    later_rows,
    past_rows,
    rate,
)
from vidssl.robot.chunks import clone_chunks, clone_chunks_pixels
from vidssl.robot.cloning import Demonstrations
from vidssl.robot.evaluate import run_episode
from vidssl.robot.goal_cloning import GoalPicture, clone_to_goals, last_frames

FIRST = torch.tensor([0, 0, 0, 3, 3])
SMALL = ChunkConfig(horizon=4, execute=2, euler=2, width=16, blocks=1, batch_size=16)


def made_up(frames: int = 40, episodes: int = 4, proprio: int = 2) -> Demonstrations:
    """Episodes of ten frames; the action is what the brightness of the picture says."""
    rng = np.random.default_rng(0)
    light = rng.uniform(-1, 1, (frames, 2)).astype(np.float32)
    pictures = np.zeros((frames, 32, 32, 3), np.uint8)
    pictures[:, :16] = (100 * light[:, 0] + 128)[:, None, None, None]
    pictures[:, 16:] = (100 * light[:, 1] + 128)[:, None, None, None]
    return Demonstrations(
        frames=pictures,
        proprio=torch.zeros(frames, proprio),
        action=torch.from_numpy(light),
        first=torch.arange(frames) // (frames // episodes) * (frames // episodes),
        low=np.array([0, 0], np.float32),
        high=np.array([512, 256], np.float32),
    )


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    return made_up()


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return Architecture("control", (32, 32)).untrained(0)


def observed(demos: Demonstrations, row: int) -> dict[str, Any]:
    return {"image": demos.frames[row], "proprio": demos.proprio[row].numpy()}


def test_rows_stay_in_their_episode() -> None:
    rows = torch.tensor([0, 2, 3, 4])
    assert past_rows(FIRST, rows, 3).tolist() == [[0, 0, 0], [0, 1, 2], [3, 3, 3], [3, 3, 4]]
    assert last_rows(FIRST).tolist() == [2, 2, 2, 4, 4]
    drawn = torch.stack([later_rows(last_rows(FIRST), torch.arange(5)) for _ in range(200)])
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[1, 2], [2], [2], [4], [4]]


def test_chunks_repeat_the_last_action_and_count_from_here() -> None:
    demos = Demonstrations(
        frames=np.zeros((5, 1, 1, 3), np.uint8),
        proprio=torch.tensor([[0.0], [5.0], [10.0], [5.0], [5.0]]),
        action=torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4]]),
        first=FIRST,
        low=np.zeros(1, np.float32),
        high=np.full(1, 10, np.float32),
    )
    config = ChunkConfig(horizon=3, execute=1)
    rows = torch.tensor([0, 1, 4])
    plain = torch.tensor([[0.0, 0.1, 0.2], [0.1, 0.2, 0.2], [0.4, 0.4, 0.4]])
    assert torch.equal(chunks_from(demos, rows, config), plain)
    here = torch.tensor([[-1.0], [0.0], [0.0]])  # places 0, 5 and 5 of 0..10
    relative = ChunkConfig(horizon=3, execute=1, relative=True)
    assert torch.allclose(chunks_from(demos, rows, relative), plain - here)


def test_learning_rate_rises_and_falls() -> None:
    rates = [rate(x) for x in (0.0, 0.05, 0.5, 1.0)]
    assert rates[0] < 0.05 < rates[2] < rates[1] <= 1
    assert rates[3] < 1e-6


def test_features_and_pixels_learn_what_the_picture_says(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    config = ChunkConfig(head="l1", past=1, horizon=1, execute=1, width=64, dropout=0.0, average=0.9, batch_size=32)
    _, fit = clone_chunks(extractor, demos, config, ChunkBudget(steps=200))
    assert fit.error < 0.5 * fit.constant_error
    assert (fit.steps, fit.train_episodes, fit.heldout_episodes) == (200, 3, 1)
    before = {name: weight.clone() for name, weight in extractor.encoder.state_dict().items()}
    controller, fit = clone_chunks_pixels(extractor, demos, config, ChunkBudget(steps=40), batch_size=16)
    assert fit.error < 0.8 * fit.constant_error
    after = extractor.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # a copy was trained
    assert any(
        not torch.equal(before[name], weight) for name, weight in controller.extractor.encoder.state_dict().items()
    )


def test_same_seed_same_policy_and_same_episode(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    policies = [clone_chunks(extractor, demos, SMALL, ChunkBudget(steps=3))[0] for _ in range(2)]
    runs = []
    for controller in (policies[0], policies[0], policies[1]):
        controller.reset()
        runs.append(np.stack([controller(observed(demos, row)) for row in range(5)]))
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    assert runs[0].dtype == np.float32
    assert (runs[0] >= 0).all()
    assert (runs[0] <= [512, 256]).all()


def test_decides_every_few_ticks_on_the_last_frames(
    demos: Demonstrations, extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, _ = clone_chunks(extractor, demos, SMALL, ChunkBudget(steps=2))
    given: list[torch.Tensor] = []
    sample = controller.head.sample
    monkeypatch.setattr(
        controller.head, "sample", lambda inputs, noise, steps: given.append(inputs) or sample(inputs, noise, steps)
    )
    controller.reset()
    for row in range(4):
        controller(observed(demos, row))
    features = extractor(demos.frames[:4])
    assert len(given) == 2  # at ticks 0 and 2
    for inputs, rows in zip(given, ((0, 0), (1, 2)), strict=True):
        assert torch.allclose(inputs[0, :512], features[list(rows)].flatten(), atol=1e-5)


def test_an_environment_may_fill_its_arrays_anew(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    controller, _ = clone_chunks(extractor, demos, SMALL, ChunkBudget(steps=2))
    controller.reset()
    felt = np.zeros(2, np.float32)
    for tick in range(2):
        felt[:] = tick
        controller({"image": demos.frames[0], "proprio": felt})
    assert torch.stack(list(controller._known)).tolist() == [[0, 0], [1, 1]]


def test_streaming_encoder_gives_the_features_it_was_cloned_on(demos: Demonstrations) -> None:
    moving = Architecture("small-motion", (32, 32)).untrained(0)
    controller, _ = clone_chunks(moving, demos, SMALL, ChunkBudget(steps=2))
    controller.reset()
    for row in range(3):
        controller(observed(demos, row))
    cached = moving.per_frame(demos.frames[:3])
    assert torch.allclose(torch.stack(list(controller._seen)), cached[1:3], atol=1e-5)


def test_saved_policy_acts_alike(tmp_path: Path, demos: Demonstrations, extractor: FeatureExtractor) -> None:
    controller, _ = clone_chunks(extractor, demos, SMALL, ChunkBudget(steps=2))
    controller.save(tmp_path)
    again = ChunkController.load(tmp_path)
    for policy in (controller, again):
        policy.reset()
    assert np.array_equal(controller(observed(demos, 3)), again(observed(demos, 3)))
    (tmp_path / "head.safetensors").write_bytes(b"no")
    with pytest.raises(VidsslError, match="damaged"):
        ChunkController.load(tmp_path)


def test_runs_in_an_environment_and_refuses_another(extractor: FeatureExtractor) -> None:
    demos = made_up()
    one = np.ones(2, np.float32)
    tiny = Demonstrations(demos.frames, demos.proprio, demos.action, demos.first, -one, one)
    controller, _ = clone_chunks(extractor, tiny, SMALL, ChunkBudget(steps=2))
    env = tiny_env.TinyEnv()
    first, second = (run_episode(env, controller.fit_to(env), 1) for _ in range(2))
    assert np.array_equal(first.actions, second.actions)
    other, _ = clone_chunks(extractor, demos, SMALL, ChunkBudget(steps=2))
    with pytest.raises(VidsslError, match="made for actions"):
        other.fit_to(env)


def test_goals_from_the_observation_or_set(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    controller, fit = clone_to_goals(extractor, demos, SMALL, ChunkBudget(steps=2))
    assert fit.steps == 2
    with pytest.raises(VidsslError, match="goal picture: none is set"):
        controller(observed(demos, 0))
    goals = last_frames(demos)
    assert np.array_equal(goals, demos.frames[[9, 19, 29, 39]])

    def acted(goal: np.ndarray | None) -> np.ndarray:
        controller.reset()
        extra = {} if goal is None else {"goal": goal}
        return controller(observed(demos, 0) | extra)

    controller.set_goal(goals[0])
    assert np.array_equal(acted(None), acted(goals[0]))
    assert not np.array_equal(acted(None), acted(goals[1]))


def test_goal_picture_around_an_environment() -> None:
    picture = np.full((32, 32, 3), 7, np.uint8)
    for bare in (False, True):
        env = GoalPicture(tiny_env.TinyEnv(bare=bare), picture)
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        assert np.array_equal(observation["goal"], picture)


def test_a_policy_without_goals_takes_none(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    controller, _ = clone_chunks(extractor, demos, SMALL, ChunkBudget(steps=1))
    with pytest.raises(VidsslError, match="without goals"):
        controller.set_goal(demos.frames[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"head": "mdn"}, "flow, l1"), ({"execute": 20}, "execute up to horizon"), ({"past": 0}, "past=0")],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        ChunkConfig(**settings)


@pytest.mark.parametrize("given", [{}, {"steps": 1, "minutes": 1.0}, {"minutes": 0.0}])
def test_budget_is_one_of_two(given: dict[str, Any]) -> None:
    with pytest.raises(VidsslError, match="either steps or minutes"):
        ChunkBudget(**given)


def test_minutes_are_spent(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    _, fit = clone_chunks(extractor, demos, SMALL, ChunkBudget(minutes=0.005))
    assert fit.steps >= 1
    assert fit.seconds >= 0.3


def test_relative_needs_a_place(extractor: FeatureExtractor) -> None:
    with pytest.raises(VidsslError, match="relative chunks: 2 numbers an action, but 1 of proprioception"):
        clone_chunks(extractor, made_up(proprio=1), ChunkConfig(relative=True), ChunkBudget(steps=1))


def test_pixels_need_an_encoder_on_the_cpu(demos: Demonstrations, extractor: FeatureExtractor) -> None:
    elsewhere = copy.copy(extractor)
    elsewhere.device = torch.device("cuda")
    with pytest.raises(VidsslError, match='chunks from pixels: the encoder is on cuda; load it with device="cpu"'):
        clone_chunks_pixels(elsewhere, demos, SMALL, ChunkBudget(steps=1))


def test_pixels_need_an_encoder_of_frames(demos: Demonstrations) -> None:
    clip = Architecture("vit-video", (32, 32)).untrained(0)
    with pytest.raises(VidsslError, match="choose one of single frames"):
        clone_chunks_pixels(clip, demos, SMALL, ChunkBudget(steps=1))
