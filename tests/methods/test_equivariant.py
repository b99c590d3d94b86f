"""What is particular to the method that is told the rotation."""

from typing import Any

import pytest
import torch
from in_double import loss_of
from test_methods import SIZE, batch, build
from torch import Tensor

from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.methods.equivariant import Equivariant, Hypernetwork
from vidssl.rotation.so3 import random_rotations
from vidssl.views import Views


def turned_batch(clips: int = 6) -> dict[str, Tensor]:
    rotation = random_rotations(clips, torch.Generator().manual_seed(2), torch.float64)
    return batch(clips) | {"rotation": rotation}


def embeddings(method: Any, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(z, e), each [2,B,E] in float64, of the first and the last frame."""
    ends = (data["clips"][:, :1], data["clips"][:, -1:])
    frames = torch.cat([method.views(x, data["key"], stream=i).double() for i, x in enumerate(ends)])
    still, turning = method.encoder(frames)[:, 0].chunk(2, dim=1)
    z, e = method.invariant(still), method.equivariant(turning)
    return z.unflatten(0, (2, -1)), e.unflatten(0, (2, -1))


def test_loss_written_out() -> None:
    weights = {"invariance": 2.0, "equivariance": 3.0, "variance": 5.0, "covariance": 7.0}
    method, data = build("equivariant", dim=6, **weights).double(), turned_batch()
    loss, metrics = loss_of(method, data)
    z, e = embeddings(method, data)
    predicted = torch.stack(
        [
            torch.cat([data["rotation"][clip] @ e[0, clip, 3 * v : 3 * v + 3] for v in range(2)])
            for clip in range(len(e[0]))
        ]
    )
    expected = 2 * (z[0] - z[1]).square().mean() + 3 * (predicted - e[1]).square().mean()
    for x in (*z, *e):
        expected = expected + 5 * (1 - (x.var(0) + 1e-4).sqrt()).clamp_min(0).mean() / 4
        c = torch.cov(x.T)
        expected = expected + 7 * (c - c.diag().diag()).square().sum() / 6 / 4
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["term_equivariance"], (predicted - e[1]).square().mean().detach())
    torch.testing.assert_close(metrics["unturned"], (e[0] - e[1]).square().mean().detach())


def test_vectors_are_a_group_action() -> None:
    method = build("equivariant").double()
    e = torch.randn(4, 96, dtype=torch.float64)
    a, b = random_rotations(8, torch.Generator().manual_seed(0), torch.float64).split(4)
    torch.testing.assert_close(method.turn(method.turn(e, a), b), method.turn(e, b @ a))
    torch.testing.assert_close(method.turn(e, torch.eye(3).double().expand(4, 3, 3)), e)
    torch.testing.assert_close(method.turn(e, a).norm(dim=1), e.norm(dim=1))


def test_hypernetwork_starts_at_the_identity_and_learns_from_the_rotation() -> None:
    torch.manual_seed(0)
    network = Hypernetwork(6)
    matrices = network(random_rotations(5, torch.Generator().manual_seed(0)))
    assert float((matrices.detach() - torch.eye(6)).abs().max()) < 0.3
    method = build("equivariant", action="hypernetwork", dim=6)
    method.loss(turned_batch())[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.hypernetwork.parameters())


def test_only_the_equivariant_part_hears_of_the_rotation() -> None:
    gradients = []
    for rotation in random_rotations(2, torch.Generator().manual_seed(0)):
        method, data = build("equivariant"), batch(6)
        method.loss(data | {"rotation": rotation.expand(6, 3, 3)})[0].backward()
        gradients.append({name: p.grad for name, p in method.named_parameters()})
    same = [name for name in gradients[0] if torch.equal(gradients[0][name], gradients[1][name])]
    assert {name.partition(".")[0] for name in same} == {"invariant"}


def test_refusals() -> None:
    data = batch()
    method = build("equivariant")
    with pytest.raises(VidsslError, match=r"frames with a known rotation .* use vidssl pretrain-views"):
        method.loss({name: value for name, value in data.items() if name != "rotation"})
    with pytest.raises(VidsslError, match=r"expected rotations \[4,3,3\] and clips of 2 frames .* \[4, 3, 3\] and 1"):
        method.loss(data | {"clips": data["clips"][:, :1]})
    with pytest.raises(VidsslError, match="action: got 'quaternion'; choose from vectors, hypernetwork"):
        build("equivariant", action="quaternion")
    with pytest.raises(VidsslError, match="dim: got 8; vectors of space need a multiple of 3"):
        build("equivariant", dim=8)
    with pytest.raises(VidsslError, match="give 0 or more"):
        build("equivariant", variance=-1.0)
    with pytest.raises(VidsslError, match=r"flip=0.5, after which the known rotation is no longer the one seen"):
        Equivariant(build_encoder("control", SIZE), Views(SIZE, flip=0.5))
    with pytest.raises(VidsslError, match="choose an encoder of frames without motion"):
        Equivariant(build_encoder("small-motion", SIZE), Views.none(SIZE))
