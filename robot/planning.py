"""Search for actions by sampling: the cross-entropy method and MPPI, all samples of a round in one batch.

A round draws n action sequences around a mean, costs them all at once, and moves mean and spread towards the best:

    CEM    mean and spread of the K cheapest
    MPPI   of the K cheapest, weighted by exp(-(cost - least) / temperature), costs in units of their own spread

(Rubinstein 1999; Williams et al. 2017.) The next plan of an episode starts from this one moved on by a step.

Letters: n samples, H steps of horizon, A action size, K elites.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vidssl.errors import VidsslError, unknown_name

Cost = Callable[[Tensor], Tensor]  # actions [n,H,A] in [-1,1] -> cost [n]
PLANNERS = ("mppi", "cem")


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        planner: "mppi" or "cem".
        horizon: H.
        samples: n.
        iterations: rounds of the first plan of an episode.
        warm_iterations: rounds of later plans, which start from the one before.
        elites: K.
        temperature: of MPPI, in standard deviations of the elites' costs.
        spread: standard deviation of the first round's samples; actions are in [-1,1].
        persistence: correlation of a sample's noise from step to step: what moves far without waiting for luck.
    """

    planner: str = "mppi"
    horizon: int = 20
    samples: int = 256
    iterations: int = 5
    warm_iterations: int = 2
    elites: int = 32
    temperature: float = 0.5
    spread: float = 0.7
    persistence: float = 0.6

    def __post_init__(self) -> None:
        if self.planner not in PLANNERS:
            raise unknown_name("planner", self.planner, PLANNERS)
        counts = (self.horizon, self.iterations, self.warm_iterations, self.elites)
        if min(counts) < 1 or self.elites > self.samples or self.elites < 2:
            raise VidsslError(
                f"search: horizon {self.horizon}, iterations {self.iterations} and {self.warm_iterations}, "
                f"{self.elites} elites of {self.samples} samples; needed: at least 1, and 2 to `samples` elites"
            )
        if not (self.temperature > 0 and self.spread > 0 and 0 <= self.persistence <= 1):
            raise VidsslError(
                f"search: temperature {self.temperature}, spread {self.spread}, persistence {self.persistence}; "
                "needed: the first two above 0, persistence from 0 to 1"
            )


def search(cost: Cost, mean: Tensor, config: Search, rounds: int, generator: torch.Generator) -> Tensor:
    """The planned actions [H,A], found in `rounds` rounds from `mean` [H,A]; each round also costs the mean itself."""
    spread = torch.full_like(mean, config.spread)
    for _ in range(rounds):
        noise = _persistent(torch.randn((config.samples, *mean.shape), generator=generator), config.persistence)
        noise[0] = 0
        actions = (mean + spread * noise).clamp_(-1, 1)
        costs, best = cost(actions).topk(config.elites, largest=False)
        elites = actions[best]
        weights = torch.full_like(costs, 1 / len(costs))
        if config.planner == "mppi":
            scale = config.temperature * costs.std().clamp_min(1e-9)
            weights = torch.softmax((costs[0] - costs) / scale, dim=0)
        mean = torch.einsum("k,kha->ha", weights, elites)
        spread = torch.einsum("k,kha->ha", weights, (elites - mean).square()).sqrt().clamp_min(0.05)
    return mean


def moved_on(plan: Tensor) -> Tensor:
    """The plan [H,A] a step later: its first action is gone, its last is repeated."""
    return torch.cat([plan[1:], plan[-1:]])


def _persistent(noise: Tensor, persistence: float) -> Tensor:
    """White noise [n,H,A] -> noise of unit variance whose neighbours in time correlate by `persistence`."""
    fresh = (1 - persistence**2) ** 0.5
    steps = [noise[:, 0]]
    for white in noise.unbind(1)[1:]:
        steps.append(persistence * steps[-1] + fresh * white)
    return torch.stack(steps, dim=1)
