"""Far goals: a graph of replayed places, whose edges the world model checks in the scene at hand.

Distance between places tells what is near; what is far, or behind a wall, it does not. So places that were replayed
in training are spread out as landmarks, and in every new scene the model itself tells which leads to which: inverse
dynamics steers straight from one to the other, the predictor imagines it *in this scene*, and the way is cheap
if it arrives. A landmark that stands in a wall here is dear to reach, and drops out by itself.

    o---o   o---o        costs to go run back from the goal G along the edges; the next landmark of the robot R is the
    | \\ |  ##   |        one that it can go to straight and from which it is nearest to G
    o---R  ##   G
     \\    o----/

(Savinov et al. 2018, SPTM, and Eysenbach et al. 2019, SoRB: graphs of replayed observations of one known scene.)

Letters: M landmarks, C channels of the scene on n x m cells, P pairs.
"""

from functools import partial

import torch
from torch import Tensor

from .world_model import WorldModel

SLACK = 1.0  # steps by which a way to the goal may be longer than the shortest
MISSED = 100.0  # cost of an action that is left where a way stops: more than any way round
NEAR = 0.6  # actions: places so close to a refuted one are refuted too


def spread_out(places: Tensor, count: int) -> Tensor:
    """`count` of the places [n,2], each the farthest from those before it (farthest-point sampling): [count,2]."""
    chosen = [0]
    nearest = (places - places[0]).norm(dim=1)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (places - places[chosen[-1]]).norm(dim=1))
    return places[chosen]


def blocked(model: WorldModel, x: Tensor, refuted: Tensor) -> Tensor:
    """Which of the places [...,2] are as good as one of the `refuted` [R,2]: bool [...].

    Those are places that the model has foretold in this scene and that did not come about: something is in the way.
    """
    return (torch.cdist(model.inverse(x).flatten(0, -2), model.inverse(refuted)) < NEAR).any(-1).view(x.shape[:-1])


def straight_ways(
    model: WorldModel, start: Tensor, end: Tensor, scene: Tensor, longest: int, miss: float, refuted: Tensor
) -> tuple[Tensor, Tensor]:
    """Straight ways from `start` to `end` [P,2] in a scene [C,n,m]: their costs [P], and whether they arrive [P].

    At each step inverse dynamics tells the actions that are left, and as much of them as fits in -1..1 is imagined. A
    way arrives when less than `miss` actions are left, after at most `longest` steps; its cost is the sum of both, so
    that many short ways which all end a little early are no shorter than a long one. One that stops on the way, at a
    wall or at a `refuted` place [R,2], costs `MISSED` for each action that is left: the model may be wrong about the
    wall, and where it is least sure of it is the place to try. What is too far from the start costs inf.
    """
    cost = torch.full((len(start),), torch.inf)
    arrives = torch.zeros(len(start), dtype=torch.bool)
    rows, x = torch.arange(len(start)), start
    for step in range(longest + 1):
        left = model.inverse(end[rows] - x)  # [P,A]
        missed = left.norm(dim=1)
        there = missed < miss
        on = ~there & (left.abs().amax(dim=1) <= longest - step + miss)
        cost[rows[there]], arrives[rows[there]] = step + missed[there], True
        if step:
            cost[rows[~there]] = step + MISSED * missed[~there]  # unless it goes on and does better
        rows, left = rows[on], left[on]
        x = model.predictor(x[on], left / left.abs().amax(dim=1, keepdim=True).clamp_min(1), scene)
        if len(refuted):
            free = ~blocked(model, x, refuted)
            cost[rows[~free]] = step + 1 + MISSED * left[~free].norm(dim=1)
            rows, x = rows[free], x[free]
    return cost, arrives


class Landmarks:
    """The graph of one scene and goal.

    Args:
        model: the world model.
        places: landmarks [M,2].
        scene: [C,n,m].
        goal: place [2] of the goal; it becomes the last landmark.
        longest: steps of the longest edge between landmarks.
        reach: steps of the longest way from the robot to a landmark.
        miss: how far from its end a way may arrive, in actions.
        refuted: places [R,2] that were foretold in this scene and did not come about.
    """

    def __init__(
        self,
        model: WorldModel,
        places: Tensor,
        scene: Tensor,
        goal: Tensor,
        longest: int,
        reach: int,
        miss: float,
        refuted: Tensor,
    ) -> None:
        self._ways = partial(straight_ways, model, scene=scene, miss=miss, refuted=refuted)
        self._reach, self._miss = reach, miss
        self.places = torch.cat([places, goal[None]])
        count = len(self.places)
        pairs = torch.cdist(model.inverse(self.places), model.inverse(self.places), p=torch.inf) <= longest
        start, end = (pairs & ~torch.eye(count, dtype=torch.bool)).nonzero().unbind(1)
        edges = torch.full((count, count), torch.inf)
        edges[start, end] = self._ways(self.places[start], self.places[end], longest=longest)[0]
        self.to_go = _costs_to_go(edges)

    def next(self, x: Tensor) -> Tensor | None:
        """The landmark [2] to go to from x [2], the goal itself where the way is free; None when no way is known.

        Of all that are on a shortest way, give or take `SLACK` steps, it is the one nearest to the goal; never one at
        which the robot is, which would keep it there.
        """
        ways, arrives = self._ways(x.expand_as(self.places), self.places, longest=self._reach)
        if arrives[-1]:
            return self.places[-1]
        total = torch.where(ways < self._miss, torch.inf, ways + self.to_go)
        shortest = total.min()
        if shortest == torch.inf:
            return None
        return self.places[torch.where(total <= shortest + SLACK, self.to_go, torch.inf).argmin()]


def _costs_to_go(edges: Tensor) -> Tensor:
    """Least sums of edges [M,M] from every landmark to the last one: [M]; inf where there is no way (Bellman-Ford)."""
    cost = torch.full((len(edges),), torch.inf)
    cost[-1] = 0
    while True:
        shorter = torch.minimum(cost, (edges + cost).amin(dim=1))
        if torch.equal(shorter, cost):
            return cost
        cost = shorter
