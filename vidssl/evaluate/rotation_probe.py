"""How much of a rotation frozen features hold: from the features of two views, the rotation between them.

The protocol of 3DIEBench (Garrido et al. 2023, arXiv 2302.10283, section 4): a network of two hidden layers reads the
features of both views, side by side, and gives the rotation; R² on held-out pairs. Here the objects of the pairs it is
judged by are not among those it was trained on, quaternions are canonical (w ≥ 0; with q and −q mixed at will no R² can
near 1), and degrees are given too, since R² depends on the range of angles.

    features of view a [d] ┐ standardised ─ network ─ 9 numbers ─┬─ R² of the nine
    features of view b [d] ┘                                     └─ SVD ─ rotation ─┬─ R² of its quaternion
                                                                                    └─ angle to the truth, degrees

v views, n pairs of them, d feature dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from vidssl.errors import VidsslError
from vidssl.evaluate.linear import Scaler
from vidssl.rotation.so3 import geodesic

HELD_OUT = 0.1  # share of the training objects that choose the epoch


@dataclass(frozen=True)
class Pairs:
    """Pairs of views and what is between them.

    Attributes:
        views: float32 `[v,d]`, features of views.
        a, b: int64 `[n]`, the first and the second view of each pair, as rows of `views`.
        rotation: float32 `[n,3,3]`, from the first to the second.
        object: int64 `[n]`, the object that both show.
    """

    views: Tensor
    a: Tensor
    b: Tensor
    rotation: Tensor
    object: Tensor


@dataclass(frozen=True)
class RotationProbeResult:
    """What the probe read on test pairs.

    Attributes:
        r2_quaternion: R², mean over the canonical quaternion's four numbers.
        r2_nine: R², mean over the matrix's nine.
        r2_vector: R², mean over the rotation vector's three (axis times angle).
        median, p90: of the angle to the truth, degrees.
        still: the median angle itself, degrees: what a guess of "no rotation" misses by.
        errors: `[n]` degrees, each pair's.
    """

    r2_quaternion: float
    r2_nine: float
    r2_vector: float
    median: float
    p90: float
    still: float
    errors: NDArray[np.float32]


def group_pairs(features: Tensor, rotations: ArrayLike, objects: ArrayLike, degrees: tuple[float, float]) -> Pairs:
    """All ordered pairs of views of the same group whose rotation is within a range.

    Args:
        features: `[g,m,d]` of m views of each of g groups.
        rotations: `[g,m,3,3]`, from the object's frame to the camera's axes.
        objects: `[g]`.
        degrees: least and greatest angle.

    Raises:
        VidsslError: no pair lies in the range.
    """
    pose = torch.as_tensor(np.asarray(rotations, dtype=np.float32))
    first, second = (torch.arange(pose.shape[1]) for _ in range(2))
    i, j = (x.flatten() for x in torch.meshgrid(first, second, indexing="ij"))
    i, j = i[i != j], j[i != j]
    between = (pose[:, j] @ pose[:, i].mT).flatten(0, 1)
    angle = torch.rad2deg(geodesic(between, torch.eye(3)))
    keep = (angle >= degrees[0]) & (angle <= degrees[1])
    if not keep.any():
        raise VidsslError(
            f"rotation probe: no two views are {degrees[0]} to {degrees[1]} degrees apart; widen the range"
        )
    number = torch.as_tensor(np.asarray(objects)).repeat_interleave(len(i))
    begins = torch.arange(len(pose))[:, None] * pose.shape[1]
    a, b = ((begins + side).flatten()[keep] for side in (i, j))
    return Pairs(features.flatten(0, 1), a, b, between[keep], number[keep])


def rotation_probe(
    train: Pairs, test: Pairs, *, hidden: int = 512, epochs: int = 20, lr: float = 1e-3, batch: int = 256, seed: int = 0
) -> RotationProbeResult:
    """Trains a probe on one set of objects, judges it on another.

    Two hidden layers of `hidden` units with layer norm and ReLU, AdamW with a cosine schedule, mean squared error of
    the nine numbers; of all epochs the one that did best on a tenth of the training objects is kept.

    Raises:
        VidsslError: features that are not finite or differ in width, objects in both sets, too few objects.
    """
    _check(train, test)
    scale = Scaler.fit(train.views)
    generator = torch.Generator().manual_seed(seed)
    names = train.object.unique()
    shuffled = names[torch.randperm(len(names), generator=generator)]
    held = torch.isin(train.object, shuffled[: max(1, round(HELD_OUT * len(names)))])
    scaled = replace(train, views=scale(train.views).float())
    fit, choose = (_rows(scaled, rows) for rows in (~held, held))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(*_layers(2 * scaled.views.shape[1], hidden))
        best, kept = float("inf"), {}
        for _ in _epochs(net, fit, epochs, lr, batch, generator):
            loss = float((_predict(net, choose) - choose.rotation.flatten(1)).square().mean())
            if loss < best:
                best, kept = loss, {name: value.clone() for name, value in net.state_dict().items()}
        net.load_state_dict(kept)
    return judge(_predict(net, replace(test, views=scale(test.views).float())), test.rotation)


def judge(nine: Tensor, rotation: Tensor) -> RotationProbeResult:
    """Predictions `[n,9]` of rotations `[n,3,3]`, judged."""
    found = roma.special_procrustes(nine.view(-1, 3, 3))
    errors = torch.rad2deg(geodesic(found, rotation))
    return RotationProbeResult(
        r2_quaternion=r2(canonical(found), canonical(rotation)),
        r2_nine=r2(nine, rotation.flatten(1)),
        r2_vector=r2(roma.rotmat_to_rotvec(found), roma.rotmat_to_rotvec(rotation)),
        median=float(errors.median()),
        p90=float(errors.quantile(0.9)),
        still=float(torch.rad2deg(geodesic(rotation, torch.eye(3))).median()),
        errors=errors.numpy(),
    )


def canonical(rotation: Tensor) -> Tensor:
    """Unit quaternions (x, y, z, w) `[n,4]` with w ≥ 0 of rotations `[n,3,3]`."""
    quaternion = roma.rotmat_to_unitquat(rotation)
    return torch.where(quaternion[:, 3:] < 0, -quaternion, quaternion)


def r2(found: Tensor, truth: Tensor) -> float:
    """1 − squared errors / squared deviations from the mean, of `[n,m]`, the mean over the m columns."""
    spread = (truth - truth.mean(0)).square().sum(0)
    return float((1 - (found - truth).square().sum(0) / spread).mean())


def _layers(inputs: int, hidden: int) -> Iterator[nn.Module]:
    for before in (inputs, hidden):
        yield from (nn.Linear(before, hidden), nn.LayerNorm(hidden), nn.ReLU())
    yield nn.Linear(hidden, 9)


def _epochs(
    net: nn.Module, data: Pairs, epochs: int, lr: float, batch: int, generator: torch.Generator
) -> Iterator[None]:
    """Trains; yields after every epoch."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    steps = epochs * (len(data.a) // batch + 1)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.a), generator=generator).split(batch):
            loss = (net(_side_by_side(data, rows)) - data.rotation[rows].flatten(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        yield


@torch.no_grad()
def _predict(net: Callable[[Tensor], Tensor], pairs: Pairs) -> Tensor:
    return torch.cat([net(_side_by_side(pairs, rows)) for rows in torch.arange(len(pairs.a)).split(4096)])


def _side_by_side(pairs: Pairs, rows: Tensor) -> Tensor:
    """The features `[r,2d]` of both views of some pairs."""
    return torch.cat([pairs.views[pairs.a[rows]], pairs.views[pairs.b[rows]]], dim=1)


def _rows(pairs: Pairs, rows: Tensor) -> Pairs:
    return Pairs(pairs.views, pairs.a[rows], pairs.b[rows], pairs.rotation[rows], pairs.object[rows])


def _check(train: Pairs, test: Pairs) -> None:
    for name, pairs in (("train", train), ("test", test)):
        shapes = [tuple(x.shape) for x in (pairs.a, pairs.b, pairs.rotation, pairs.object)]
        n, views = len(pairs.a), tuple(pairs.views.shape)
        fits = shapes == [(n,), (n,), (n, 3, 3), (n,)] and n >= 2
        if not fits or views[1:] != train.views.shape[1:] or len(views) != 2:
            raise VidsslError(
                f"rotation probe: expected {name} views [v,d], their rows [n] twice, rotations [n,3,3] and objects "
                f"[n], at least 2 pairs and one d, got {[views, *shapes]}"
            )
        if not torch.isfinite(pairs.views).all():
            raise VidsslError(f"rotation probe: the {name} features hold NaN or infinity; check the encoder")
    if (both := torch.isin(test.object.unique(), train.object)).any():
        raise VidsslError(
            f"rotation probe: {int(both.sum())} objects are in the training and in the test pairs; split by object"
        )
    if len(train.object.unique()) < 2:
        raise VidsslError("rotation probe: the training pairs show one object; give two or more")
