"""What is particular to W-MSE."""

import pytest
import torch
from in_double import embeddings_of, loss_of
from test_methods import batch, build
from torch import Tensor

from vidssl.errors import VidsslError


def distance(one: Tensor, two: Tensor) -> Tensor:
    return 2 - 2 * torch.cosine_similarity(one, two, dim=1).mean()


@pytest.mark.parametrize("positives", [2, 3])
def test_loss_written_out(positives: int) -> None:
    method = build("wmse", dim=3, sub_batch=20, positives=positives).double()
    data = batch(clips=8)
    loss, _ = loss_of(method, data)
    white = []
    for z in embeddings_of(method, data):
        lower = torch.linalg.cholesky((1 - 1e-6) * torch.cov(z.T) + 1e-6 * torch.eye(3))
        white.append((torch.linalg.inv(lower) @ (z - z.mean(0)).T).T)
    expected = [distance(white[a], white[b]) for a in range(positives) for b in range(a)]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_several_sub_batches_and_divisions() -> None:
    """Whatever the division, a sub-batch is white; and another step divides otherwise."""
    data = batch(clips=8)
    losses = {}
    for step in (1, 2):
        method = build("wmse", dim=2, sub_batch=4, repeats=3).double()
        losses[step] = float(loss_of(method, data | {"step": torch.tensor(step)})[0].detach())
    assert losses[1] != losses[2]
    assert all(0 < loss < 4 for loss in losses.values())


def test_without_whitening_views_are_compared_as_they_are() -> None:
    method, data = build("wmse", whiten=False).double(), batch()
    torch.testing.assert_close(loss_of(method, data)[0], distance(*embeddings_of(method, data)))


def test_mixed_precision_keeps_statistics_in_float32() -> None:
    data = batch(clips=8)
    method = build("wmse", dim=3)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method.loss(data)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build("wmse", dim=3).loss(data)[0], rtol=0.1, atol=0)


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"got 4 samples to whiten 16 dims.*raise --batch-size to 32 or lower"):
        build("wmse", dim=16).loss(batch())
    with pytest.raises(VidsslError, match="sub_batch: got 8; to whiten 16 dims it must be 17 or more"):
        build("wmse", dim=16, sub_batch=8)
    with pytest.raises(VidsslError, match="got positives=1, repeats=1; it compares 2 views"):
        build("wmse", positives=1)
