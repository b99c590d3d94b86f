"""The rotation between two pictures of an object never seen before: grey views, no depth.

    view a ─┬─ trunk ─ [F,16,16] ─┐
            │                     ├─ correlation: each cell of a with (2r+1)² cells of b ─┐
    view b ─┼─ trunk ─ [F,16,16] ─┘                                                       ├─ head ─ distribution
            └─ joint stem, both pictures as two channels: [F,16,16] ──────────────────────┘
    head: 16×16 → 8×8 → 4×4 → K hypotheses: nine numbers → SO(3) by SVD, a weight and a width each

The trunk is shared (Siamese), and the correlation says what moved by whole cells (FlowNetC of Dosovitskiy et al. 2015,
"FlowNet", section 3); the joint stem sees pixels of both views at once, which tells small displacements (their
FlowNetS). The head turns the two into a distribution over rotations. Nine numbers with the SVD as in
Levinson et al. 2020, "An Analysis of SVD for Deep Rotation Estimation".

n pairs, H × W pixels of the camera, S = 64 pixels inside, F channels, K hypotheses.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.checkpoint import read_config, read_model, write_config, write_model
from vidssl.core.moments import exact
from vidssl.errors import VidsslError
from vidssl.rotation.mixture import NARROWEST, WIDEST, RotationMixture
from vidssl.rotation.representations import to_rotation
from vidssl.views import LUMA

SIZE = 64
CROP = 0.75  # the middle of the picture, by width: an object of 0.1 m at 0.8 m, up to 1 cm off the axis, is inside
SHARPNESS = 2.0
QUARTERS = 8  # quarter turns of a picture, mirrored or not
KIND = "rotation-views"


@dataclass(frozen=True)
class ViewsConfig:
    """What a `PairNet` is made of.

    Attributes:
        channels: F, of the maps.
        reach: r, cells that the correlation looks to each side; a cell is 4 of the 64 pixels.
        hypotheses: K.
        hidden: channels of the head.
    """

    channels: int = 64
    reach: int = 4
    hypotheses: int = 4
    hidden: int = 96


class PairNet(nn.Module):
    """Pairs of prepared views `[n,1,64,64]` -> `RotationMixture`; R takes the object from view a to view b."""

    def __init__(self, config: ViewsConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, k = config.channels, config.hidden, config.hypotheses
        self.trunk = nn.Sequential(*_block(1, 32, 5, 2), *_block(32, width, 3, 2), nn.Conv2d(width, width // 2, 1))
        self.joint = nn.Sequential(*_block(2, 32, 5, 2), *_block(32, width, 3, 2))
        seen = (2 * config.reach + 1) ** 2 + width
        self.head = nn.Sequential(
            *_block(seen, hidden, 1, 1),
            *_block(hidden, hidden, 3, 2),
            *_block(hidden, hidden, 3, 1),
            *_block(hidden, 3 * hidden // 2, 3, 2),
            nn.Flatten(),
            nn.Linear(16 * (3 * hidden // 2), 256),
            nn.ReLU(),
        )
        self.last = nn.Linear(256, 11 * k)
        with torch.no_grad():  # starts with every hypothesis near no rotation
            self.last.weight.mul_(0.1)
            self.last.bias.copy_(torch.cat([torch.eye(3).flatten().repeat(k), torch.zeros(k), torch.full((k,), -2.0)]))

    def forward(self, a: Tensor, b: Tensor) -> RotationMixture:
        """Distributions for n pairs of views `[n,1,64,64]` from `prepare`."""
        return self.compare(a, b, self.descriptors(a), self.descriptors(b))

    def compare(self, a: Tensor, b: Tensor, cells_a: Tensor, cells_b: Tensor) -> RotationMixture:
        """The same where the descriptors of both views are there already, those of a view for all its pairs."""
        x = torch.cat([correlate(cells_a, cells_b, self.config.reach), self.joint(torch.cat([a, b], dim=1))], dim=1)
        x = self.head(x)
        with exact(x):
            numbers = self.last(x.float())
        nine, weight, width = numbers.split([9 * (k := self.config.hypotheses), k, k], dim=1)
        centres = to_rotation(nine.unflatten(1, (k, 9)))
        return RotationMixture(centres, weight.log_softmax(1), width.exp().clamp(NARROWEST, WIDEST))

    def descriptors(self, views: Tensor) -> Tensor:
        """What cells are matched by: `[n,1,64,64] -> [n,F/2,16,16]`, less the mean over the map, of one length.

        So products are cosines from the first step on, which even an untrained trunk's features tell displacements by.
        """
        x = self.trunk(views).float()
        return SHARPNESS * F.normalize(x - x.mean((2, 3), keepdim=True), dim=1)


def _block(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
    """Convolution, group norm (no sample sees another), ReLU."""
    return [nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.GroupNorm(8, after), nn.ReLU()]


def correlate(a: Tensor, b: Tensor, reach: int) -> Tensor:
    """Products of each cell of a with the cells of b around its place: `[n,F,h,w]` twice -> `[n,(2r+1)²,h,w]`.

    Channel (dy + r)(2r + 1) + dx + r is a[y, x] · b[y + dy, x + dx], 0 beyond the edge.
    """
    n, _, h, w = a.shape
    side, across, down = 2 * reach + 1, w + 2 * reach, h + 2 * reach
    around = F.pad(b, (reach,) * 4).flatten(2)  # [n, F, down · across]
    products = torch.bmm(a.flatten(2).mT, around)  # [n, h · w, down · across]
    # Cell (y, x) wants the window that begins at (y, x) of its own row of products: a step to the next cell is a step
    # to the next row and one further in it. No element is in two windows, so the backward is a copy too.
    steps = (h * w * down * across, w * down * across + across, down * across + 1, across, 1)
    windows = products.contiguous().as_strided((n, h, w, side, side), steps)
    return windows.flatten(3).permute(0, 3, 1, 2)


def prepare(images: Tensor) -> Tensor:
    """Pictures as the network sees them: uint8 `[n,H,W]` or `[n,H,W,3]` -> float32 `[n,1,64,64]`.

    Luma, the middle `CROP` of the picture, scaled down with antialiasing, less its mean, over its deviation: how bright
    a picture is does not matter.

    Raises:
        VidsslError: pictures of another type or shape, or smaller than 32×32.
    """
    colour = images.ndim == 4 and images.shape[3] == 3
    if images.dtype != torch.uint8 or not (colour or images.ndim == 3) or min(images.shape[1:3]) < 32:
        raise VidsslError(
            f"views: expected uint8 [n,H,W] or [n,H,W,3] of at least 32x32 pixels, got {_kind(images)}; "
            "pass pictures as the camera gives them"
        )
    x = images.float()
    x = (x @ x.new_tensor(LUMA) if colour else x)[:, None]
    h, w = x.shape[2:]
    side = 2 * round(CROP * min(h, w) / 2)
    top, left = (h - side) // 2, (w - side) // 2
    return normalised(shrunk(x[:, :, top : top + side, left : left + side]))


def shrunk(x: Tensor) -> Tensor:
    """Squares `[n,1,s,s]` at 64×64 pixels, antialiased."""
    return F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)


def normalised(x: Tensor) -> Tensor:
    """Pictures `[n,1,S,S]` in any units, less their mean, over their deviation (1/50 of full scale at least)."""
    deviation, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
    return (x - mean) / deviation.clamp_min(5.0)


def quarter_turned(images: Tensor, rotations: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Pictures `[…,S,S]` turned about the camera's axis by `number % 4` quarters, mirrored first where it is 4 to 7.

    With Q the rotation or reflection of the camera's axes that does this, a pose R becomes Q R, and the rotation
    between two views Q R Qᵀ, a rotation again. The mirror image of an object is another object, as likely as the first.

    Returns:
        The pictures, and `rotations` `[…,3,3]` times Q from the left.
    """
    turn = rotations.new_tensor([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]).matrix_power(number % 4)
    if number >= 4:
        images, turn = images.flip(-1), turn @ rotations.new_tensor([-1, 1, 1]).diag()
    return images.rot90(number % 4, (-2, -1)), turn @ rotations


@dataclass(frozen=True)
class ViewEstimate:
    """What two pictures say of the rotation between them.

    Attributes:
        rotation: `[3,3]` float32, the most probable one; takes the object from view a to view b, camera axes.
        expected_error: degrees, root mean square, by the network's own distribution.
        candidates: (rotation `[3,3]`, probability) of all hypotheses, the most probable first.
    """

    rotation: NDArray[np.float32]
    expected_error: float
    candidates: list[tuple[NDArray[np.float32], float]]


class ViewsEstimator:
    """A trained `PairNet` with its own preprocessing: pictures in, rotations out.

    >>> estimator = load_views_estimator("runs/views")
    >>> estimator.estimate(picture_a, picture_b).rotation   # uint8 [H,W,3] or [H,W] twice -> [3,3]
    """

    def __init__(self, network: PairNet) -> None:
        self.network = network.eval().requires_grad_(False)

    def estimate(self, image_a: NDArray[np.uint8], image_b: NDArray[np.uint8]) -> ViewEstimate:
        """The rotation between two pictures uint8 `[H,W]` or `[H,W,3]`.

        Raises:
            VidsslError: pictures of another type or shape, or one that shows nothing (all pixels alike).
        """
        pair = []
        for name, image in (("image_a", image_a), ("image_b", image_b)):
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim not in (2, 3):
                raise VidsslError(
                    f"{name}: expected uint8 [H,W] or [H,W,3], got {image.dtype} {image.shape}; "
                    "pass pictures as the camera gives them"
                )
            if image.size == 0:
                raise VidsslError(f"{name}: an empty picture {image.shape}; pass pictures as the camera gives them")
            if image.min() == image.max():
                raise VidsslError(f"{name}: all pixels are {image.min()}, nothing to see; check the camera")
            pair.append(torch.from_numpy(np.ascontiguousarray(image))[None])
        found = self.mixture(pair[0], pair[1])
        first = int(found.best()[0])
        rotation = found.centres[:, first]
        order = found.log_weights[0].argsort(descending=True).tolist()
        order = [first] + [k for k in order if k != first]
        return ViewEstimate(
            rotation[0].numpy(),
            float(torch.rad2deg(found.expected_angle(rotation)[0])),
            [(found.centres[0, k].numpy(), float(found.log_weights[0, k].exp())) for k in order],
        )

    def mixture(self, images_a: Tensor, images_b: Tensor) -> RotationMixture:
        """Distributions for n pairs of pictures uint8 `[n,H,W]` or `[n,H,W,3]`: see `pooled`."""
        return self.pooled(prepare(images_a), prepare(images_b))

    @torch.no_grad()
    def pooled(self, a: Tensor, b: Tensor) -> RotationMixture:
        """What the network says of prepared pictures `[n,1,64,64]`, of all their eight quarter turns, and both ways.

        Each says something else about what must be the same rotation, turned; together they are some 15% closer than
        one alone (median 6.2 instead of 7.3 degrees, 480 pairs up to 30 degrees apart).
        """
        said = []
        for number in range(2 * QUARTERS):
            views, turn = quarter_turned(torch.cat((a, b), dim=1), torch.eye(3, device=a.device), number % QUARTERS)
            forth = number < QUARTERS
            found = self.network(*(views.split(1, dim=1) if forth else views.split(1, dim=1)[::-1]))
            centres = found.centres if forth else found.centres.mT
            weights = found.log_weights - math.log(2 * QUARTERS)
            said.append((turn.mT @ centres @ turn, weights, found.widths))
        return RotationMixture(*(torch.cat(parts, dim=1) for parts in zip(*said, strict=True)))

    def save(self, run: Path, config: dict[str, Any]) -> None:
        """Write a run folder: `config` beside the network's own settings, and its weights."""
        write_config(run, {**config, "kind": KIND, "network": vars(self.network.config)})
        write_model(run, self.network.state_dict())


def load_views_estimator(run: str | Path) -> ViewsEstimator:
    """The estimator of a run folder of `vidssl train-views2d`.

    Raises:
        VidsslError: no run folder, one of another kind, or damaged.
    """
    config = read_config(run)
    if config.get("kind") != KIND:
        raise VidsslError(f"{run} holds no network for views but {config.get('kind', 'an encoder')!r}; train one")
    tensors = read_model(run)
    try:
        network = PairNet(ViewsConfig(**config["network"]))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise VidsslError(f"{run}: config.json and model.safetensors don't fit ({reason}); train again") from error
    return ViewsEstimator(network)


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
