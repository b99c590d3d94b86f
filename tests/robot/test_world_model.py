"""The world model's losses against arithmetic, its training and the planner made of it, on a tiny scale."""

import copy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from extractors import random_extractor

from vidssl.errors import VidsslError
from vidssl.robot.controller_files import load_controller
from vidssl.robot.evaluate import Evaluator
from vidssl.robot.planner import PlanConfig, PlanController
from vidssl.robot.planning import Search
from vidssl.robot.random_walks import random_actions, random_walks
from vidssl.robot.registration import register
from vidssl.robot.spaces import Spaces
from vidssl.robot.world_model import ModelSize, Trajectories, Weights, WorldModel, world_model_loss
from vidssl.robot.world_model_training import WorldModelConfig, refine, train_jointly, untrained

register()
ID = "vidssl/TwoRooms-v0"
TINY = WorldModelConfig(
    image_size=32,
    size=ModelSize(state=2, hidden=16),
    steps=2,
    scenes=3,
    per_scene=2,
    length=3,
    refine_steps=2,
    refine_length=3,
    cached=6,
    landmarks=12,
)
QUICK = PlanConfig(search=Search(horizon=3, samples=16, elites=4, iterations=2, warm_iterations=1))


@pytest.fixture(scope="module")
def planner() -> PlanController:
    extractor, model = untrained(TINY)
    train_jointly(extractor, model, TINY)
    landmarks = refine(extractor, model, TINY)
    assert landmarks.shape == (12, 2)
    return PlanController(extractor, model, landmarks, Spaces((-1.0, -1.0), (1.0, 1.0), 0), QUICK)


class Reader(torch.nn.Module):
    """An encoder whose features are the first two numbers of a frame."""

    dim = 2

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.flatten(2)[..., :2]


def exact_model() -> WorldModel:
    model = WorldModel(Reader(), 2, ModelSize(state=2, hidden=4))  # type: ignore[arg-type]
    model.state.weight.data, model.state.bias.data = torch.eye(2), torch.zeros(2)
    model.predictor.out.weight.data.zero_()
    model.predictor.out.bias.data.zero_()
    model.inverse.weight.data = torch.eye(2)
    return model


def walk(places: torch.Tensor, times: list[int], actions: torch.Tensor, scenes: int = 1) -> Trajectories:
    frames = torch.zeros(*places.shape[:2], 3, 4, 4)
    frames[:, :, 0, 0, :2] = places
    return Trajectories(frames, torch.tensor(times), actions, scenes)


def test_loss_terms_worked_by_hand() -> None:
    """The predictor foretells that nothing moves; x moves by (3, 0) over 3 steps of action (1, 0) in both."""
    places = torch.tensor([[[0.0, 0.0], [3.0, 0.0]], [[0.0, 2.0], [3.0, 2.0]]])
    actions = torch.tensor([1.0, 0.0]).expand(2, 3, 2)
    _, terms = world_model_loss(exact_model(), walk(places, [0, 3], actions), Weights())
    assert terms["prediction"] == pytest.approx(9 / 2)
    assert terms["time"] == pytest.approx(9 / 3 / 2)
    assert terms["inverse"] == pytest.approx(0)
    # About its own mean each trajectory varies by 1.5 along x and not along y; 4 rows, so 4 * 2.25 / 3 = 3.
    assert terms["variance"] == pytest.approx((1 - 1e-2) / 2, abs=1e-3)
    assert terms["covariance"] == pytest.approx(0)
    _, bumped = world_model_loss(exact_model(), walk(places, [0, 3], 2 * actions), Weights())
    assert bumped["inverse"] == pytest.approx((3 - 0.5) / 2 / 3)  # Huber of 3 and of 0


def test_scenes_set_aside_what_differs_between_them() -> None:
    """Two trajectories of one scene: their places differ, and that is variance; of two scenes, it is not."""
    places = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[9.0, 0.0], [9.0, 0.0]]])
    actions = torch.zeros(2, 1, 2)
    apart = world_model_loss(exact_model(), walk(places, [0, 1], actions, 1), Weights())[1]
    together = world_model_loss(exact_model(), walk(places, [0, 1], actions, 2), Weights())[1]
    assert apart["variance"] == pytest.approx(0.99, abs=1e-3)
    assert together["variance"] == pytest.approx(0.99 / 2, abs=1e-3)


@pytest.mark.parametrize("name", list(asdict(Weights())))
def test_a_weight_of_0_switches_its_term_off(name: str) -> None:
    torch.manual_seed(0)
    batch = walk(torch.randn(4, 3, 2), [0, 1, 3], torch.randn(4, 3, 2), 2)
    nothing = Weights(**dict.fromkeys(asdict(Weights()), 0.0))
    assert float(world_model_loss(exact_model(), batch, nothing)[0].detach()) == 0
    total, terms = world_model_loss(exact_model(), batch, replace(nothing, **{name: 2.0}))
    assert float(total.detach()) == pytest.approx(2 * terms[name])


def test_trajectories_that_do_not_fit_scenes() -> None:
    batch = walk(torch.randn(3, 2, 2), [0, 1], torch.randn(3, 1, 2), 2)
    with pytest.raises(VidsslError, match="3 trajectories"):
        world_model_loss(exact_model(), batch, Weights())


def test_rollout_is_the_predictor_step_by_step() -> None:
    model = WorldModel(Reader(), 2, ModelSize(state=3, hidden=8))  # type: ignore[arg-type]
    x, actions, scene = torch.randn(5, 3), torch.randn(5, 4, 2), torch.randn(8)
    rolled = model.rollout(x, actions, scene)
    for t in range(4):
        x = model.predictor(x, actions[:, t], scene)
        torch.testing.assert_close(rolled[:, t], x)


def test_random_walks() -> None:
    extractor = random_extractor("control", (32, 32))
    one, two = (random_walks(np.random.default_rng(4), extractor, 3, 2, 5, 3, size=32) for _ in range(2))
    assert one.frames.shape == (6, 3, 3, 32, 32)
    assert torch.equal(one.frames, two.frames)
    assert one.times[0] == 0
    assert (one.times.diff() > 0).all()
    assert one.times[-1] <= 5
    still = one.frames[:2].std(dim=1).amax((1, 2, 3)) > 0
    assert still.all()  # the agent moves
    actions = random_actions(np.random.default_rng(0), 50, 20)
    assert np.abs(actions).max() <= 1


def test_training_is_repeatable_and_weights_change(planner: PlanController) -> None:
    extractor, model = untrained(TINY)
    before = model.state.weight.clone()
    train_jointly(extractor, model, TINY)
    assert not torch.equal(model.state.weight, before)
    refine(extractor, model, TINY)
    for name, value in model.state_dict().items():
        assert torch.equal(value, planner.model.state_dict()[name]), name


def test_a_frozen_encoder_stays() -> None:
    config = replace(TINY, train_encoder=False)
    extractor, model = untrained(config)
    before = [w.clone() for w in model.encoder.parameters()]
    train_jointly(extractor, model, config)
    assert all(torch.equal(a, b) for a, b in zip(before, model.encoder.parameters(), strict=True))


def test_a_frozen_encoder_keeps_its_batch_statistics() -> None:
    config = replace(TINY, encoder="resnet18", train_encoder=False, steps=1)
    extractor, model = untrained(config)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    assert any("running_mean" in name for name in before)
    train_jointly(extractor, model, config)
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"moments": 20}, r"moments is 20; needed: at least 2 and at most 4 \(`length` \+ 1\)"),
        ({"moments": 1}, "moments is 1"),
        ({"cached": 0}, "cached is 0"),
        ({"scenes": 0}, "scenes is 0"),
        ({"landmarks": 0}, "landmarks is 0"),
        ({"landmarks": 25}, "landmarks is 25; needed: at least 1 and at most 24"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], words: str) -> None:
    with pytest.raises(VidsslError, match=words):
        replace(TINY, **change)


def test_sizes_and_searches_out_of_range() -> None:
    with pytest.raises(VidsslError, match="state 0, hidden 128"):
        ModelSize(state=0)
    for wrong in ({"persistence": 2.0}, {"temperature": 0.0}, {"spread": 0.0}):
        options: dict[str, Any] = wrong
        with pytest.raises(VidsslError, match=rf"{next(iter(wrong))} {next(iter(wrong.values()))}"):
            Search(**options)


def test_encoders_of_several_frames_are_refused() -> None:
    with pytest.raises(VidsslError, match="frame encoder"):
        untrained(replace(TINY, encoder="small-motion"))
    with pytest.raises(VidsslError, match="frame encoder"):
        untrained(replace(TINY, encoder="r3d-18"))


def test_encoders_that_are_not_on_the_cpu_are_refused(planner: PlanController) -> None:
    elsewhere = copy.copy(planner.extractor)
    elsewhere.device = torch.device("cuda")
    with pytest.raises(VidsslError, match='world model: the encoder is on cuda; load it with device="cpu"'):
        untrained(TINY, elsewhere)
    with pytest.raises(VidsslError, match='the planner: the encoder is on cuda; load it with device="cpu"'):
        PlanController(elsewhere, planner.model, planner.landmarks, planner.spaces)


def test_saved_planner_acts_alike(planner: PlanController, tmp_path: Path) -> None:
    planner.save(tmp_path / "p")
    short = partial(gymnasium.wrappers.TimeLimit, max_episode_steps=5)
    with Evaluator(ID, "train", wrap=short) as evaluator:
        ours, theirs = (evaluator.run(make, 1)[0] for make in (planner.fit_to, load_controller(tmp_path / "p")))
    assert ours.length == 5
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    assert PlanController.load(tmp_path / "p").config == QUICK


@pytest.mark.parametrize("config", [replace(QUICK, cost="last"), replace(QUICK, metric="embedding", far_goals=False)])
def test_ablations_act(planner: PlanController, config: PlanConfig) -> None:
    env = gymnasium.make(ID, disable_env_checker=True)
    other = PlanController(planner.extractor, planner.model, planner.landmarks, planner.spaces, config).fit_to(env)
    seen, _ = env.reset(seed=0)
    assert np.abs(other(seen)).max() <= 1


def test_the_cost_sums_distances_or_takes_the_last(planner: PlanController) -> None:
    env = gymnasium.make(ID, disable_env_checker=True)
    seen, _ = env.reset(seed=0)
    actions, x, goal = torch.rand(3, 4, 2), torch.zeros(2), torch.ones(2)
    costs = {}
    for kind in ("sum", "last"):
        config = replace(QUICK, cost=kind, metric="embedding")
        one = PlanController(planner.extractor, planner.model, planner.landmarks, planner.spaces, config)
        one(seen)
        costs[kind] = one.cost_of(x, goal)(actions)
        states = one.model.rollout(x[None], actions, one._scene)
    distance = (states - goal).norm(dim=-1)
    torch.testing.assert_close(costs["sum"], distance.sum(1))
    torch.testing.assert_close(costs["last"], distance[:, -1])


def test_what_reality_refutes_is_remembered_until_the_reset(planner: PlanController) -> None:
    env = gymnasium.make(ID, disable_env_checker=True)
    seen, _ = env.reset(seed=0)
    one = planner.fit_to(env)
    one(seen)
    assert one._before is not None
    one._foretold = one._before + 50 * torch.ones(2)  # the picture stays the same: nothing came about
    one(seen)
    assert len(one._refuted) == 1
    one.reset()
    one(seen)
    assert len(one._refuted) == 0


def test_wrong_environments_and_settings(planner: PlanController, tmp_path: Path) -> None:
    env = gymnasium.make(ID, disable_env_checker=True)
    bare = gymnasium.wrappers.FilterObservation(env, ["image"])
    with pytest.raises(VidsslError, match="goal picture"):
        planner.fit_to(bare)
    other = PlanController(
        planner.extractor, planner.model, planner.landmarks, Spaces((-2.0, -2.0), (2.0, 2.0), 0), QUICK
    )
    with pytest.raises(VidsslError, match="made for actions"):
        other.fit_to(env)
    for wrong in ({"cost": "mean"}, {"metric": "cosine"}):
        options: dict[str, Any] = wrong
        with pytest.raises(VidsslError, match=next(iter(wrong.values()))):
            PlanConfig(**options)
    planner.save(tmp_path / "p")
    (tmp_path / "p" / "world_model.safetensors").unlink()
    with pytest.raises(VidsslError, match="missing or damaged"):
        PlanController.load(tmp_path / "p")
