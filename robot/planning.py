"""Search for actions by sampling: the cross-entropy method and MPPI, all samples of a round in one batch.

A round draws n action sequences around a mean, costs them all at once, and moves mean and spread towards the best:

    CEM    mean and spread of the K cheapest
    MPPI   of the K cheapest, weighted by exp(-(cost - least) / temperature), costs in units of their own spread

(Rubinstein 1999; Williams et al. 2017.) The next plan of an episode starts from this one moved on by a step.

Letters: n samples, H steps of horizon, A action size, K elites.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .planner_config import Search

Cost = Callable[[Tensor], Tensor]  # actions [n,H,A] in [-1,1] -> cost [n]


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
