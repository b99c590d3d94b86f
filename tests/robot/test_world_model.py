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

from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.robot.controller_files import load_controller
from vidssl.robot.evaluate import Evaluator
from vidssl.robot.planner import PATIENCE, PlanConfig, PlanController
from vidssl.robot.planning import Search
from vidssl.robot.random_walks import random_actions, random_walks
from vidssl.robot.registration import register
from vidssl.robot.rooms import draw_agents, draw_layouts, draw_places, draw_rooms
from vidssl.robot.spaces import Spaces
from vidssl.robot.world_model import (
    ModelSize,
    Trajectories,
    Weights,
    WorldModel,
    centroid,
    looked_up,
    world_model_loss,
)
from vidssl.robot.world_model_training import WorldModelConfig, refine, train_jointly, untrained

register()
ID = "vidssl/TwoRooms-v0"
ONES = torch.ones(2, 1, 2)
TINY = WorldModelConfig(
    image_size=32,
    size=ModelSize(scene=4, hidden=16),
    steps=2,
    scenes=3,
    per_scene=2,
    length=3,
    refine_steps=2,
    refine_length=3,
    refine_batch=2,
    cached=3,
    cached_walks=2,
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


class Pixels(torch.nn.Module):
    """An encoder whose map is the frame."""

    dim = 3

    def maps(self, frames: torch.Tensor) -> torch.Tensor:
        return frames


def pixel_model(scene: int = 1, hidden: int = 4) -> WorldModel:
    """On frames of 8x8: a map cell is a cell of the heat. Red is warm; nothing that the scene holds matters."""
    model = WorldModel(Pixels(), 2, (8, 8), ModelSize(scene=scene, hidden=hidden))  # type: ignore[arg-type]
    assert model.up == 1
    model.heat.weight.data = torch.tensor([40.0, 0.0, 0.0])[None, :, None, None]
    model.heat.bias.data.fill_(-20.0)
    model.paint.weight.data = torch.eye(3)[:, :, None, None]
    model.paint.bias.data.zero_()
    model.inverse.weight.data = torch.eye(2)
    return model


def frames_of(places: list[list[tuple[int, int]]]) -> torch.Tensor:
    """Green frames of 8x8 with a red dot at (x, y), [B,K,3,8,8]; green stands still."""
    frames = torch.zeros(len(places), len(places[0]), 3, 8, 8)
    frames[:, :, 1] = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    for b, row in enumerate(places):
        for k, (x, y) in enumerate(row):
            frames[b, k, 0, y, x] = 1.0
    return frames


def test_places_are_those_of_what_is_warm() -> None:
    maps = frames_of([[(0, 0), (7, 2)]])
    torch.testing.assert_close(pixel_model().place(maps), torch.tensor([[[-3.5, -3.5], [3.5, -1.5]]]))
    two = torch.zeros(1, 4, 6)
    two[0, 1, 1], two[0, 1, 3] = 2.0, 1.0  # weighed by their squares
    torch.testing.assert_close(centroid(two), torch.tensor([[(4 * -1.5 + 1 * 0.5) / 5, -0.5]]))
    assert centroid(torch.zeros(1, 4, 6)).tolist() == [[0, 0]]


def test_the_scene_is_looked_up_where_a_place_is() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    scene = torch.stack([columns + 0.5 - 3, rows + 0.5 - 2])  # a scene that says where one is
    places = torch.tensor([[0.0, 0.0], [1.3, -0.7], [99.0, 0.0]])
    expected = torch.tensor([[0.0, 0.0], [1.3, -0.7], [2.5, 0.0]])  # beyond the edge: the edge
    torch.testing.assert_close(looked_up(scene, places), expected)
    both = looked_up(torch.stack([scene, -scene]), places.expand(2, -1, -1))
    torch.testing.assert_close(both, torch.stack([expected, -expected]))


def test_loss_terms_worked_by_hand() -> None:
    """The predictor foretells that nothing moves; x moves by (3, 0) over 3 steps of action (1, 0) in both."""
    frames = frames_of([[(1, 1), (4, 1)], [(1, 6), (4, 6)]])
    actions = torch.tensor([1.0, 0.0]).expand(2, 3, 2)
    batch = Trajectories(frames, torch.tensor([0, 3]), actions, 2)
    _, terms = world_model_loss(pixel_model(), batch, Weights())
    assert terms["prediction"] == pytest.approx((3 - 0.5) / 2)  # Huber of 3 and of 0
    assert terms["inverse"] == pytest.approx(0, abs=1e-6)
    assert terms["painted"] == pytest.approx(0, abs=1e-6)
    # A red dot of 20 where 1 has changed: (20 - 1)² of 1², as no two dots of the two trajectories overlap.
    assert terms["moved"] == pytest.approx(19**2, rel=1e-3)
    _, bumped = world_model_loss(pixel_model(), replace(batch, actions=2 * actions), Weights())
    assert bumped["inverse"] == pytest.approx((3 - 0.5) / 2 / 3)


def test_heat_that_says_what_moved_leaves_nothing_unexplained() -> None:
    model = pixel_model()
    model.heat.weight.data[0, 0] = 20 + np.log(np.e - 1)  # softplus of it: 1
    for scenes in (1, 2):
        batch = Trajectories(frames_of([[(1, 1), (4, 1)], [(1, 6), (4, 6)]]), torch.tensor([0, 1]), ONES, scenes)
        assert world_model_loss(model, batch, Weights())[1]["moved"] == pytest.approx(0, abs=1e-6)
    model.heat.bias.data.fill_(-50.0)  # nothing is warm, which is no answer
    assert world_model_loss(model, batch, Weights())[1]["moved"] == pytest.approx(1)


@pytest.mark.parametrize("name", list(asdict(Weights())))
def test_weights_of_terms(name: str) -> None:
    torch.manual_seed(0)
    batch = Trajectories(torch.rand(4, 3, 3, 8, 8), torch.tensor([0, 1, 3]), torch.randn(4, 3, 2), 2)
    model = pixel_model()
    model.paint.bias.data.fill_(0.1)  # no longer exact
    weights = Weights(moved=1e-9, painted=0, prediction=0)
    rest = float(world_model_loss(model, batch, weights)[0].detach())
    total, terms = world_model_loss(model, batch, replace(weights, **{name: 2.0}))
    assert rest == pytest.approx(terms["inverse"], rel=1e-4)  # which has no weight
    assert float(total.detach()) == pytest.approx(rest + 2 * terms[name], rel=1e-4)
    assert terms[name] > 0


def test_trajectories_that_do_not_fit_scenes() -> None:
    batch = Trajectories(torch.rand(3, 2, 3, 8, 8), torch.tensor([0, 1]), torch.randn(3, 1, 2), 2)
    with pytest.raises(VidsslError, match="3 trajectories"):
        world_model_loss(pixel_model(), batch, Weights())


def test_rollout_is_the_predictor_step_by_step() -> None:
    model = pixel_model(scene=3)
    torch.nn.init.normal_(model.predictor.out.weight)
    x, actions, scenes = torch.randn(2, 5, 2), torch.randn(2, 5, 4, 2), torch.randn(2, 3, 8, 8)
    rolled = model.rollout(x, actions, scenes)
    alone = model.rollout(x[1], actions[1], scenes[1])
    torch.testing.assert_close(rolled[1], alone)
    for t in range(4):
        x = model.predictor(x, actions[:, :, t], scenes)
        torch.testing.assert_close(rolled[:, :, t], x)
    assert not torch.equal(rolled[:, :, 3], rolled[:, :, 2])
    one = model.rollout(alone[:1, 0], actions[0], scenes[0])  # one start for all
    torch.testing.assert_close(one, model.rollout(alone[:1, 0].expand(5, -1), actions[0], scenes[0]))


def test_what_moved_teaches_where_the_agent_is() -> None:
    """A 1x1 convolution on the pixels themselves: within a pixel of 32, in layouts of the other split."""
    torch.manual_seed(0)
    model = WorldModel(Pixels(), 2, (32, 32), ModelSize(scene=1, hidden=4))  # type: ignore[arg-type]
    layouts = draw_layouts(np.random.default_rng(1), 50, "test")
    places = draw_places(np.random.default_rng(2), layouts, np.arange(50) % 2 == 0)
    pictures = torch.from_numpy(draw_agents(draw_rooms(layouts, 32), places)).movedim(-1, 1) / 255

    def pixels_off() -> float:
        with torch.no_grad():
            return float(np.abs(model.place(pictures).numpy() + 16 - 32 * places).mean())

    assert pixels_off() > 3
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    batch = random_walks(np.random.default_rng(0), random_extractor("control", (32, 32)), 12, 2, 4, 2, size=32)
    for _ in range(400):
        loss, _ = world_model_loss(model, batch, Weights(1, 0, 0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert pixels_off() < 1


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
    before = model.heat.weight.clone()
    train_jointly(extractor, model, TINY)
    assert not torch.equal(model.heat.weight, before)
    joint = copy.deepcopy(model.state_dict())
    refine(extractor, model, TINY)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, joint[name])}
    assert changed == {"around", "predictor"}
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
    for low in ({"moved": 0.0}, {"painted": -1.0}):
        with pytest.raises(VidsslError, match=rf"{next(iter(low))} {next(iter(low.values()))}"):
            Weights(**low)
    for far in ({"miss": 0.0}, {"miss": 2.0}, {"reach": 0}, {"longest": 0}):
        wrong_plan: dict[str, Any] = far
        with pytest.raises(VidsslError, match=rf"{next(iter(far))} {next(iter(far.values()))}"):
            PlanConfig(**wrong_plan)
    with pytest.raises(VidsslError, match="scene 0, hidden 128"):
        ModelSize(scene=0)
    for wrong in ({"persistence": 2.0}, {"temperature": 0.0}, {"spread": 0.0}):
        options: dict[str, Any] = wrong
        with pytest.raises(VidsslError, match=rf"{next(iter(wrong))} {next(iter(wrong.values()))}"):
            Search(**options)


@pytest.mark.parametrize(
    ("encoder", "size", "up"), [("control", (64, 96), 4), ("resnet18", (64, 64), 16), ("fine-grey", (32, 32), 2)]
)
def test_a_cell_is_two_pixels_on_any_map(encoder: str, size: tuple[int, int], up: int) -> None:
    model = WorldModel(build_encoder(encoder, size), 2, size, ModelSize(scene=2, hidden=4))  # type: ignore[arg-type]
    maps = model.maps(torch.rand(1, 2, 3, *size))
    assert model.up == up
    assert model.scene(maps).shape == (1, 2, 2, size[0] // 2, size[1] // 2)
    assert model.warmth(maps).shape == (1, 2, size[0] // 2, size[1] // 2)
    far = torch.tensor([[size[1] / 4 - 0.5, 0.5 - size[0] / 4]])  # the last column, the first row
    torch.testing.assert_close(looked_up(model.scene(maps)[0, 0], far)[0], model.scene(maps)[0, 0, :, 0, -1])


def test_pictures_that_cells_do_not_cover_are_refused() -> None:
    for size in ((84, 84), (64, 68)):
        with pytest.raises(VidsslError, match=f"pictures of {size[0]}x{size[1]} pixels"):
            WorldModel(build_encoder("control", size), 2, size)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("config", [replace(QUICK, cost="last"), replace(QUICK, metric="cells", far_goals=False)])
def test_ablations_act(planner: PlanController, config: PlanConfig) -> None:
    env = gymnasium.make(ID, disable_env_checker=True)
    other = PlanController(planner.extractor, planner.model, planner.landmarks, planner.spaces, config).fit_to(env)
    seen, _ = env.reset(seed=0)
    assert not np.array_equal(other(seen), planner.fit_to(env)(seen))
    assert (other._graph is None) != config.far_goals


def test_the_cost_sums_distances_or_takes_the_last(planner: PlanController) -> None:
    env = gymnasium.make(ID, disable_env_checker=True)
    seen, _ = env.reset(seed=0)
    actions, x, goal = torch.rand(3, 4, 2), torch.zeros(2), torch.ones(2)
    costs = {}
    for kind in ("sum", "last"):
        config = replace(QUICK, cost=kind, metric="cells")
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


def test_a_way_that_leads_nowhere_is_given_up(planner: PlanController) -> None:
    """The target stays, the picture too, and nothing was foretold: after a while, a step towards it is refuted."""
    env = gymnasium.make(ID, disable_env_checker=True)
    seen, _ = env.reset(seed=0)
    one = planner.fit_to(env)
    one(seen)
    x, target = torch.zeros(2), torch.tensor([9.0, 0.0])
    one._target, one._towards = None, lambda x: target  # type: ignore[assignment, method-assign]
    ticks = [one._next(x) for _ in range(PATIENCE)]
    assert all(torch.equal(tick, target) for tick in ticks)
    assert len(one._refuted) == 0
    one._next(x)
    assert len(one._refuted) == 1
    left = one.model.inverse(target)
    torch.testing.assert_close(one._refuted[0], target / left.abs().max().clamp_min(1))
    for step in range(2 * PATIENCE):  # as long as it comes nearer, there is hope
        one._next(target * step / (2 * PATIENCE))
    assert len(one._refuted) == 1


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
    content = (tmp_path / "p" / "controller.json").read_text()
    for now, before in (('"scene": 4', '"state": 4'), ('"actions"', '"embedding"')):
        assert now in content
        (tmp_path / "p" / "controller.json").write_text(content.replace(now, before, 1))
        with pytest.raises(VidsslError, match="p is damaged or of another version"):
            PlanController.load(tmp_path / "p")
    (tmp_path / "p" / "controller.json").write_text(content)
    (tmp_path / "p" / "world_model.safetensors").unlink()
    with pytest.raises(VidsslError, match="missing or damaged"):
        PlanController.load(tmp_path / "p")
