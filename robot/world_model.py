"""A world model on self-supervised features: what the camera will show, in embeddings, after actions.

A frame's feature is read twice: as the state x, which actions change, and as the scene s, which they do not:

    frame t --encoder--> h_t --+--> x_t            x̂_{t+1} = x̂_t + f(x̂_t, a_t, s),  x̂_0 = x_0
                               +--> s (any frame)

Nothing is labelled; the losses are

    prediction   Σ_k |x̂_{t+k} - x_{t+k}|²             over all steps of a trajectory, no stop-gradient
    variance     VICReg's hinge on x                   against constant embeddings
    covariance   VICReg's penalty on x                 against repeated dims
    time         |x_{t+k} - x_t|² / k                  neighbours in time are neighbours in space
    inverse      |G (x_{t+k} - x_t) - Σ a| / k, Huber  x holds what actions change, and not what never moves

(Bardes et al. 2022, VICReg; Sobal et al. 2022 for why slow features win without the inverse; Sobal et al. 2025, PLDM.)
Inverse dynamics is linear in the change, so changes add up as actions do, and G measures any distance in actions; it is
robust, as actions that a wall stops change nothing. The statistics of x are taken about the mean of each scene, so that
differences between scenes don't count as variance. s is read from another moment of the trajectory than x, and learned
from the prediction alone.

Letters: B trajectories, T actions of each, K moments seen of them, D state dim, E scene dim (as wide as the hidden
layers), A action size, n rows of any shape.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import covariance_penalty, variance_hinge
from vidssl.core.moments import covariance
from vidssl.encoders import Encoder
from vidssl.errors import VidsslError

from .planner_config import ModelSize, Weights


class Predictor(nn.Module):
    """x [n,D], a [n,A], s [n,E] or [E] -> the next x [n,D]: x plus an MLP, in whose first layer s is added."""

    def __init__(self, actions: int, size: ModelSize) -> None:
        super().__init__()
        self.inputs = nn.Linear(size.state + actions, size.hidden)
        self.middle = nn.Linear(size.hidden, size.hidden)
        self.out = nn.Linear(size.hidden, size.state)

    def forward(self, x: Tensor, action: Tensor, scene: Tensor) -> Tensor:
        hidden = F.relu(self.inputs(torch.cat([x, action], dim=-1)) + scene)
        return x + self.out(F.relu(self.middle(hidden)))


class WorldModel(nn.Module):
    """Reads states and scenes off an encoder's features and predicts states under actions.

    Args:
        encoder: a frame encoder, trained with the rest.
        actions: A.
        size: of embeddings and layers.
    """

    def __init__(self, encoder: Encoder, actions: int, size: ModelSize | None = None) -> None:
        super().__init__()
        self.size = size or ModelSize()
        self.encoder, self.actions = encoder, actions
        dim, hidden = encoder.dim, self.size.hidden
        self.state = nn.Linear(dim, self.size.state)
        self.scene = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.predictor = Predictor(actions, self.size)
        self.inverse = nn.Linear(self.size.state, actions, bias=False)

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [n,dim] -> (x [n,D], s [n,E])."""
        return self.state(features), self.scene(features)

    def rollout(self, x: Tensor, actions: Tensor, scene: Tensor) -> Tensor:
        """States under actions: x [n,D] (or [1,D]), actions [n,H,A], s [n,E] or [E] -> [n,H,D]."""
        states = []
        for action in actions.unbind(1):
            x = self.predictor(x.expand(len(action), -1), action, scene)
            states.append(x)
        return torch.stack(states, dim=1)


@dataclass(frozen=True)
class Trajectories:
    """B trajectories of a random policy, T steps each, seen at K of their moments.

    Attributes:
        frames: float [B,K,3,h,w] in [0, 1], at the encoder's size.
        times: the K moments, from 0 to T, rising; the first is 0.
        actions: float [B,T,A].
        scenes: how many trajectories, one after the other, share a scene; divides B.
    """

    frames: Tensor
    times: Tensor
    actions: Tensor
    scenes: int = 1


def world_model_loss(model: WorldModel, batch: Trajectories, weights: Weights) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of the losses at the top of this file, and each term by itself.

    Raises VidsslError when trajectories can't be parted into scenes.
    """
    if len(batch.actions) % batch.scenes:
        raise VidsslError(
            f"{len(batch.actions)} trajectories can't be parted into scenes of {batch.scenes}; choose a divisor"
        )
    x, s = model.read(model.encoder(batch.frames))  # [B,K,D], [B,K,E]
    other = s.roll(1, dims=1)  # s of another moment: it can't tell where things are now
    predicted = model.rollout(x[:, 0], batch.actions, other[:, 0])[:, batch.times[1:] - 1]
    done = F.pad(batch.actions.cumsum(1), (0, 0, 1, 0))[:, batch.times]  # sums of the actions so far, [B,K,A]
    early, late = torch.triu_indices(len(batch.times), len(batch.times), 1)
    lag = (batch.times[late] - batch.times[early])[:, None]
    change = x[:, late] - x[:, early]
    inverse = model.inverse(change) - (done[:, late] - done[:, early])
    grouped = x.unflatten(0, (-1, batch.scenes))
    spread = covariance((grouped - grouped.mean((1, 2), keepdim=True)).flatten(0, 2))
    terms = {
        "prediction": (predicted - x[:, 1:]).square().mean(),
        "variance": variance_hinge(spread.diagonal()),
        "covariance": covariance_penalty(spread),
        "time": (change.square() / lag).mean(),
        "inverse": (F.huber_loss(inverse, torch.zeros_like(inverse), reduction="none") / lag).mean(),
    }
    total = sum((getattr(weights, name) * term for name, term in terms.items()), x.new_zeros(()))
    return total, {name: float(term.detach()) for name, term in terms.items()}
