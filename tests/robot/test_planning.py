"""The search for actions, landmarks and their graph, on models whose answer is known."""

import pytest
import torch
from torch import Tensor, nn

from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.robot.landmarks import MISSED, Landmarks, _costs_to_go, blocked, spread_out, straight_ways
from vidssl.robot.planner_config import PLANNERS, Search
from vidssl.robot.planning import _persistent, moved_on, search
from vidssl.robot.world_model import ModelSize, WorldModel

NONE = torch.zeros(0, 2)


@pytest.mark.parametrize("planner", PLANNERS)
def test_search_finds_the_minimum_of_a_bowl(planner: str) -> None:
    goal = torch.tensor([[0.5, -0.3], [0.1, 0.9], [-0.7, 0.2]])
    config = Search(planner, horizon=3, samples=400, elites=40, spread=0.5, temperature=0.3, persistence=0.0)
    found = search(
        lambda a: (a - goal).square().sum((1, 2)), torch.zeros(3, 2), config, 20, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(found, goal, atol=0.08, rtol=0)


@pytest.mark.parametrize("planner", PLANNERS)
def test_actions_stay_in_range_and_the_seed_decides(planner: str) -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (actions - 0.6).square().sum((1, 2))

    config = Search(planner, horizon=4, samples=64, elites=8)
    plans = [search(cost, torch.zeros(4, 1), config, 2, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert all(a.abs().max() <= 1 for a in seen)
    assert torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[0], plans[2])
    assert plans[0].mean() > 0.3


def test_the_mean_is_one_of_the_samples() -> None:
    """So that a good plan from the tick before is not lost to bad luck."""
    seen: list[Tensor] = []
    mean = torch.full((3, 2), 0.25)
    search(lambda a: seen.append(a) or a.sum((1, 2)), mean, Search(samples=8, elites=2), 1, torch.Generator())  # type: ignore[func-returns-value]
    assert torch.equal(seen[0][0], mean)


def test_noise_persists_as_asked() -> None:
    noise = _persistent(torch.randn((4000, 10, 1), generator=torch.Generator().manual_seed(0)), 0.6)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert (noise[:, 4] * noise[:, 5]).mean() == pytest.approx(0.6, abs=0.05)


def test_moved_on() -> None:
    assert moved_on(torch.tensor([[1.0], [2.0], [3.0]])).tolist() == [[2], [3], [3]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"planner": "grid"}, ["'grid'", "cem, mppi"]),
        ({"samples": 8, "elites": 9}, ["9 elites of 8"]),
        ({"horizon": 0}, ["horizon 0"]),
        ({"elites": 1}, ["1 elites"]),
    ],
)
def test_wrong_settings(settings: dict, words: list[str]) -> None:
    with pytest.raises(VidsslError) as caught:
        Search(**settings)
    assert all(word in str(caught.value) for word in words)


class Walled(nn.Module):
    """Actions are displacements; a wall at x = 0 is open where y > 3."""

    def forward(self, x: Tensor, action: Tensor, scene: Tensor) -> Tensor:
        after = x + action
        through = (x[..., 0] * after[..., 0] <= 0) & (torch.minimum(x[..., 1], after[..., 1]) < 3)
        return torch.where(through[..., None], x, after)


def walled() -> WorldModel:
    model = WorldModel(build_encoder("control", (32, 32)), 2, (32, 32), ModelSize(scene=1))
    model.inverse.weight.data = torch.eye(2)
    model.predictor = Walled()  # type: ignore[assignment]
    return model.requires_grad_(False)


def test_straight_ways_stop_at_the_wall() -> None:
    start = torch.tensor([[-1.5, 0.0], [-1.5, 0.0], [-1.5, 4.0], [1.0, 1.0]])
    end = torch.tensor([[1.5, 0.0], [-1.5, 2.0], [1.5, 4.0], [9.0, 1.0]])
    cost, arrives = straight_ways(walled(), start, end, torch.zeros(1), longest=4, miss=0.4, refuted=NONE)
    assert arrives.tolist() == [False, True, True, False]  # wall; free; through the door; too far
    assert cost[1:].tolist() == [2, 3, torch.inf]
    assert cost[0] > MISSED * 2  # stopped at -0.5, two actions before its end


def test_a_way_that_ends_early_costs_what_is_left() -> None:
    cost, arrives = straight_ways(
        walled(), torch.tensor([[1.0, 0.0]]), torch.tensor([[2.25, 0.0]]), torch.zeros(1), 4, 0.4, NONE
    )
    assert cost.tolist() == [1.25]
    assert arrives.all()


def test_refuted_places_block_ways() -> None:
    refuted = torch.tensor([[3.0, 0.0]])
    assert blocked(walled(), torch.tensor([[[3.2, 0.0], [3.0, 2.0]]]), refuted).tolist() == [[True, False]]
    start, end = torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[5.0, 0.0], [5.0, 2.0]])
    cost, arrives = straight_ways(walled(), start, end, torch.zeros(1), 8, 0.4, refuted)
    assert arrives.tolist() == [False, True]
    assert cost.tolist() == [2 + MISSED * 3, 4]  # stopped on its second step, three actions before the end


def test_landmarks_lead_around_the_wall() -> None:
    """A 9x9 grid of landmarks: from the left of the wall the next one is up, by the door; beyond it, the goal."""
    axis = torch.arange(-4.0, 5.0)
    places = torch.cartesian_prod(axis + 0.5, axis)
    goal = torch.tensor([2.5, 0.0])
    graph = Landmarks(walled(), places, torch.zeros(1), goal, longest=2, reach=3, miss=0.4, refuted=NONE)
    assert graph.to_go[-1] == 0
    following = graph.next(torch.tensor([-1.5, 0.0]))
    assert following is not None
    assert following[0] < 0
    assert following[1] > 1.5
    assert torch.equal(graph.next(torch.tensor([3.0, 2.0])), goal)  # type: ignore[arg-type]
    assert graph.next(torch.tensor([60.0, 0.0])) is None


def test_no_landmark_keeps_the_robot_where_it_is() -> None:
    """It stands a little aside of the landmark that the way round the wall begins at, too far from the one after it."""
    places = torch.tensor([[-4.0, 0.0], [-4.0, 4.0], [4.0, 4.0]])
    goal, here = torch.tensor([4.0, 0.0]), torch.tensor([-4.3, 0.0])
    graph = Landmarks(walled(), places, torch.zeros(1), goal, longest=8, reach=4, miss=0.4, refuted=NONE)
    assert graph.next(here).tolist() == [-4, 4]  # type: ignore[union-attr]
    stuck = Landmarks(walled(), places[[0, 2]], torch.zeros(1), goal, longest=9, reach=3, miss=0.4, refuted=NONE)
    assert stuck.next(here) is None  # the only landmark in reach is the one that it stands at
    stuck._miss = 0.0
    assert stuck.next(here).tolist() == [-4, 0]  # type: ignore[union-attr]


def test_costs_to_go_worked_by_hand() -> None:
    inf = torch.inf
    edges = torch.tensor([[inf, 1, 5, inf], [inf, inf, 1, 9], [inf, inf, inf, 2], [inf, inf, inf, inf]])
    assert _costs_to_go(edges).tolist() == [4, 3, 2, 0]
    assert _costs_to_go(torch.full((2, 2), inf)).tolist() == [inf, 0]


def test_spread_out_takes_the_farthest() -> None:
    places = torch.tensor([[0.0], [1.0], [10.0], [4.0]])
    assert spread_out(places, 3)[:, 0].tolist() == [0, 10, 4]
