"""A world model that knows where things are: what actions do to the agent's place, in the scene that it is in.

The encoder's map of a frame is read twice, by convolutions, so that what is learned at one place holds at all (as far
as it does for the encoder):

    frame t --encoder--> map --+--> heat  --centroid--> x_t     where the thing is that moves, a place in the picture
                               +--> scene s (any frame)         what it is like to be there, at every place

    x̂_{t+1} = x̂_t + f(s at x̂_t, a_t),  x̂_0 = x_0

Nothing is labelled; the losses are

    moved        |heat_i + heat_j - |frame_i - frame_j||²   two moments of one scene differ where its agent was and is
    painted      |map's picture - frame|²                   so that the map keeps the walls, which never move
    prediction   |x̂_{t+k} - x_{t+k}|, Huber                 at the moments seen
    inverse      |G (x_{t+k} - x_t) - Σ a| / k, Huber       G says how many actions lie between two places

The first can't collapse: heat that is the same everywhere explains no difference, and what stands still has none, so x
is a place in the picture and the same in every scene. It is Pathak et al. 2017 (arXiv 1612.06370; what moves together
is a thing) for single frames, read out as in Finn et al. 2016 (arXiv 1509.06113; the centroid of a map). G is
linear, so changes add up as actions do, and it measures any distance in actions; it is robust, as actions that a
wall stops change nothing. A place looks up the scene where it is (Jaderberg et al. 2015, arXiv 1506.02025), and so a
wall that stands where none stood in training is a wall. What it takes: a camera and a scene that stand still, and one
thing that moves.

Letters: B trajectories in S scenes, P in each, T actions of each, K moments seen of them, A action size, D' channels of
the encoder's map, C of the scene, n x m its cells. Places are counted in cells, from the middle.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.encoders import Encoder
from vidssl.errors import VidsslError
from vidssl.methods.maps import map_shape

from .planner_config import ModelSize, Weights

CELL = 2  # pixels of the encoder's picture to a cell of the heat and of the scene
LITTLE = 1e-4  # mean square of what is to be explained, in units of full scale, that counts as something
COLD = -4.0  # of the heat before the first step: that of a picture in which nothing moves


class Predictor(nn.Module):
    """Places [P,2], actions [P,A], a scene [C,n,m], or [S,…] of each -> the next places, by an MLP of what is there."""

    def __init__(self, actions: int, size: ModelSize) -> None:
        super().__init__()
        self.inputs = nn.Linear(size.scene + actions, size.hidden)
        self.middle = nn.Linear(size.hidden, size.hidden)
        self.out = nn.Linear(size.hidden, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, action: Tensor, scene: Tensor) -> Tensor:
        hidden = F.relu(self.inputs(torch.cat([looked_up(scene, x), action], dim=-1)))
        return x + self.out(F.relu(self.middle(hidden)))


def looked_up(scene: Tensor, x: Tensor) -> Tensor:
    """A scene [C,n,m] at places [P,2], linear between cells: [P,C]; or [S,…] of each. Beyond its edge, its edge."""
    half = x.new_tensor([scene.shape[-1] / 2, scene.shape[-2] / 2])
    single = scene.ndim == 3
    fields, places = (scene[None], x[None]) if single else (scene, x)
    found = F.grid_sample(fields, (places / half)[:, None], align_corners=False, padding_mode="border")
    found = found[:, :, 0].transpose(1, 2)
    return found[0] if single else found


class WorldModel(nn.Module):
    """Reads places and scenes off an encoder's maps and predicts places under actions.

    Args:
        encoder: a frame encoder, trained with the rest.
        actions: A.
        image_size: height and width of the encoder's pictures, pixels.
        size: of scene and layers.

    Raises VidsslError for pictures that the map's cells do not cover exactly: what is where would not be known.
    """

    def __init__(
        self, encoder: Encoder, actions: int, image_size: tuple[int, int], size: ModelSize | None = None
    ) -> None:
        super().__init__()
        self.size = size or ModelSize()
        self.encoder, self.actions = encoder, actions
        _, channels, height, width = map_shape(None, encoder, 1, image_size)
        side = image_size[0] // height
        if image_size != (side * height, side * width):
            raise VidsslError(
                f"pictures of {image_size[0]}x{image_size[1]} pixels on a map of {height}x{width} cells: a world model "
                f"needs whole, square cells; choose multiples of {side}, such as 64x64"
            )
        self.up = up = max(1, round(side / CELL))
        self.heat = nn.Conv2d(channels, up**2, 1)
        nn.init.constant_(self.heat.bias, COLD)  # type: ignore[arg-type]
        self.paint = nn.Conv2d(channels, 3 * up**2, 1)
        wide = 2 * self.size.scene
        self.around = nn.Sequential(
            nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, self.size.scene * up**2, 1)
        )
        self.predictor = Predictor(actions, self.size)
        self.inverse = nn.Linear(2, actions, bias=False)

    def maps(self, frames: Tensor) -> Tensor:
        """Frames [B,K,3,h,w] in [0, 1] -> the encoder's maps [B,K,D',h',w']."""
        return self.encoder.maps(frames)

    def warmth(self, maps: Tensor) -> Tensor:
        """Maps [B,…,D',h',w'] -> how much of each cell moves: [B,…,n,m], 0 and more."""
        return F.softplus(self._finer(self.heat, maps).squeeze(-3))

    def place(self, maps: Tensor) -> Tensor:
        """Maps [B,…,D',h',w'] -> where the moving thing is: [B,…,2], x and y."""
        return centroid(self.warmth(maps))

    def scene(self, maps: Tensor) -> Tensor:
        """Maps [B,…,D',h',w'] -> the scene [B,…,C,n,m]."""
        return self._finer(self.around, maps)

    def painted(self, maps: Tensor) -> Tensor:
        """Maps [B,…,D',h',w'] -> the frames in cells, [B,…,3,n,m]."""
        return self._finer(self.paint, maps)

    def rollout(self, x: Tensor, actions: Tensor, scene: Tensor) -> Tensor:
        """Places under actions: x [P,2] (or [1,2]), actions [P,H,A], scene [C,n,m], or [S,…] of each -> [(S,)P,H,2]."""
        places = []
        for action in actions.unbind(-2):
            x = self.predictor(x.expand(*action.shape[:-1], -1), action, scene)
            places.append(x)
        return torch.stack(places, dim=-2)

    def _finer(self, layer: nn.Module, maps: Tensor) -> Tensor:
        flat = F.pixel_shuffle(layer(maps.flatten(0, -4)), self.up)
        return flat.unflatten(0, maps.shape[:-3])


def centroid(warmth: Tensor) -> Tensor:
    """The place [...,2] of what is warm in [...,n,m], each cell weighed by its square: the warmest decide."""
    weights = (warmth / warmth.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(warmth.dtype).tiny)).square()
    weights = weights / weights.sum((-2, -1), keepdim=True).clamp_min(1)  # the warmest has 1, if any is warm at all
    rows, columns = (
        torch.arange(count, device=warmth.device, dtype=warmth.dtype) + 0.5 - count / 2 for count in warmth.shape[-2:]
    )
    return torch.stack([weights.sum(-2) @ columns, weights.sum(-1) @ rows], dim=-1)


@dataclass(frozen=True)
class Trajectories:
    """B trajectories of a random policy, T steps each, seen at K of their moments.

    Attributes:
        frames: float [B,K,3,h,w] in [0, 1], at the encoder's size.
        times: the K moments, from 0 to T, rising; the first is 0.
        actions: float [B,T,A].
        per_scene: P, how many trajectories, one after the other, share a scene; divides B.
    """

    frames: Tensor
    times: Tensor
    actions: Tensor
    per_scene: int = 1


def world_model_loss(model: WorldModel, batch: Trajectories, weights: Weights) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of the losses at the top of this file, and each term by itself. `inverse`, which trains G and
    nothing else, has no weight.

    `moved` and `painted` are shares of what is to be explained: 1 for a guess of nothing, and of the mean.

    Raises VidsslError when trajectories can't be parted into scenes.
    """
    if len(batch.actions) % batch.per_scene:
        raise VidsslError(
            f"{len(batch.actions)} trajectories can't be parted into scenes of {batch.per_scene} each; choose a divisor"
        )
    maps = model.maps(batch.frames)
    warmth = model.warmth(maps)
    x = centroid(warmth.detach())  # [B,K,2]: what moves says where, and nothing else does
    # The scene is read where the trajectory ends. That it shows where is a help that refining does without: read off
    # another trajectory, the map came to hold the walls less well.
    scene = model.scene(maps[:, -1])
    predicted = model.rollout(x[:, :1], batch.actions[:, None], scene)[:, 0, batch.times[1:] - 1]
    done = F.pad(batch.actions.cumsum(1), (0, 0, 1, 0))[:, batch.times]  # sums of the actions so far, [B,K,A]
    early, late = torch.triu_indices(len(batch.times), len(batch.times), 1)
    lag = (batch.times[late] - batch.times[early])[:, None]
    inverse = model.inverse(x[:, late] - x[:, early]) - (done[:, late] - done[:, early])
    cells = _in_cells(batch.frames.flatten(0, 1), warmth)
    terms = {
        "moved": _unexplained_change(warmth, batch),
        "painted": _share(model.painted(maps.flatten(0, 1)) - cells, cells - cells.mean((0, 2, 3), keepdim=True)),
        "prediction": F.huber_loss(predicted, x[:, 1:]),
        "inverse": (F.huber_loss(inverse, torch.zeros_like(inverse), reduction="none") / lag).mean(),
    }
    total = sum((getattr(weights, name, 1.0) * term for name, term in terms.items()), x.new_zeros(()))
    return total, {name: float(term.detach()) for name, term in terms.items()}


def _unexplained_change(warmth: Tensor, batch: Trajectories) -> Tensor:
    """The share of what two moments of a scene differ in, in each cell, that the sum of their warmth leaves.

    The two are of neighbouring trajectories, whose agents seldom overlap; where a scene has only one, of that one.
    """
    moments = batch.frames.shape[1]
    frames, warmth = (a.unflatten(0, (-1, batch.per_scene)).flatten(1, 2) for a in (batch.frames, warmth))
    shift = moments if batch.per_scene > 1 else 1
    change = (frames - frames.roll(shift, 1)).abs().sum(2)
    change = _in_cells(change, warmth)
    return _share(warmth + warmth.roll(shift, 1) - change, change)


def _in_cells(pictures: Tensor, like: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pictures, (like.shape[-2], like.shape[-1]))


def _share(error: Tensor, of: Tensor) -> Tensor:
    return error.square().mean() / of.square().mean().clamp_min(LITTLE)
