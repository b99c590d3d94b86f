"""Contrast of clouds and pictures: the terms by an independent formula, what is no negative, ranks, mistakes."""

from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor
from torch.nn import functional as F

from vidssl.encoders import build_encoder
from vidssl.encoders.points import build_point_encoder
from vidssl.errors import VidsslError
from vidssl.methods.point_contrast import PointContrast


def batch(objects: list[int], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    count = len(objects)
    return {
        "points": torch.randn(count, 2, 40, 3, generator=generator, dtype=dtype),
        "pictures": torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "object": torch.tensor(objects),
    }


def learner(learn: str, name: str = "pointnet") -> PointContrast:
    torch.manual_seed(0)
    pictures = None if learn == "views" else build_encoder("control", (32, 32))
    return PointContrast(build_point_encoder(name, 16), pictures, learn=learn, hidden=12, dim=8).double()


def nt_xent_by_hand(first: Tensor, second: Tensor, objects: list[int], temperature: float) -> Tensor:
    z = torch.cat([first, second])
    count, losses = len(objects), []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        others = [j for j in range(2 * count) if j == partner or objects[j % count] != objects[i % count]]
        scores = torch.stack([z[i] @ z[j] / temperature for j in others])
        losses.append(scores.logsumexp(0) - z[i] @ z[partner] / temperature)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("learn", ["views", "pictures", "both"])
def test_the_loss_is_nt_xent_of_views_and_pictures(learn: str) -> None:
    method, given, objects = learner(learn), batch([0, 1, 2, 1]), [0, 1, 2, 1]
    loss, metrics = method.loss(given)
    features = method.encoder(torch.cat([given["points"][:, 0], given["points"][:, 1]]))
    z = F.normalize(method.projector(features), dim=1)
    expected = torch.zeros((), dtype=torch.float64)
    if learn != "pictures":
        views = nt_xent_by_hand(z[:4], z[4:], objects, 0.1)
        torch.testing.assert_close(metrics["term_views"], views)
        expected = expected + views
    if learn != "views":
        assert method.pictures is not None
        assert method.picture_projector is not None
        seen = method.pictures(given["pictures"][:, None].double() / 255)[:, 0]
        pictures = nt_xent_by_hand(z[:4], F.normalize(method.picture_projector(seen), dim=1), objects, 0.1)
        torch.testing.assert_close(metrics["term_pictures"], pictures)
        expected = expected + pictures
    torch.testing.assert_close(loss, expected)
    assert {"feature_rank", "embedding_spread"} <= set(metrics)


@pytest.mark.parametrize("name", ["pointnet", "dgcnn"])
def test_a_batch_is_learned_and_all_of_it_learns(name: str) -> None:
    method, given = learner("both", name), batch(list(range(6)))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss, _ = method.loss(given)
        loss.backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in method.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def gradients(learn: str) -> dict[str, Any]:
    """This rank's share of the batch, its gradients averaged over ranks."""
    import torch.distributed as dist

    from vidssl.core import world

    rank, size = world()
    method = learner(learn, "dgcnn")
    part = {name: value.chunk(size)[rank] for name, value in batch(list(range(6))).items()}
    method.loss(part)[0].backward()
    found = {}
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        if size > 1:
            dist.all_reduce(parameter.grad)
        found[name] = parameter.grad / size
    return found


def test_ranks_give_the_gradient_of_one_process() -> None:
    alone = gradients("both")
    for found in run_on_ranks(gradients, 2, "both"):
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_mistakes_are_named() -> None:
    encoder, pictures = build_point_encoder("pointnet", 8), build_encoder("control", (32, 32))
    with pytest.raises(VidsslError, match="unknown contrast 'depth'; the contrasts here are: both, pictures, views"):
        PointContrast(encoder, pictures, learn="depth")
    with pytest.raises(VidsslError, match="learn='both' needs an encoder of pictures"):
        PointContrast(encoder)
    with pytest.raises(VidsslError, match="learn='views' has no use for an encoder of pictures"):
        PointContrast(encoder, pictures, learn="views")
    with pytest.raises(VidsslError, match=r"temperature: got 0; give one above 0"):
        PointContrast(encoder, pictures, temperature=0)
    method = learner("both")
    with pytest.raises(VidsslError, match=r"expected points \[B,2,P,3\], got \(4, 40, 3\)"):
        method.loss(batch([0, 1, 2, 3]) | {"points": torch.rand(4, 40, 3)})
    with pytest.raises(VidsslError, match="a batch of one clip has no negatives"):
        method.loss(batch([0]))
