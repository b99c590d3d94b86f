"""What is particular to SwAV."""

import pytest
import torch
from in_double import embeddings_of, loss_of, third_gradient
from ranks import run_on_ranks
from test_methods import batch, build
from torch import Tensor
from torch.nn import functional as F

from vidssl.errors import VidsslError


def plain_sinkhorn(scores: Tensor, iterations: int = 3) -> Tensor:
    q = (scores / 0.05).exp()
    for _ in range(iterations):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdim=True)
    return q


@pytest.mark.parametrize("positives", [2, 3])
def test_loss_written_out_with_a_queue(positives: int) -> None:
    method = build("swav", prototypes=5, queue=8, positives=positives).double()
    data = batch(clips=3)
    loss_of(method, data)
    method.after_step()  # three embeddings in each queue, five places that nothing was pushed to
    loss, _ = loss_of(method, data)
    z = F.normalize(embeddings_of(method, data), dim=-1)
    prototypes = F.normalize(method.prototypes.weight, dim=1)
    q = []
    for view, queue in zip(z, method.queues, strict=True):
        torch.testing.assert_close(queue.keys[:3], view.detach())  # the same batch, and nothing was trained
        assert queue.labels.tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
        q.append(plain_sinkhorn(torch.cat([view, queue.keys[:3]]) @ prototypes.T)[:3].detach())
    expected = []
    for predicting in range(positives):
        for assigned in range(positives):
            if predicting != assigned:
                p = (z[predicting] @ prototypes.T / 0.1).softmax(1)
                expected.append(-(q[assigned] * p.log()).sum(1).mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean())


@pytest.mark.parametrize("size", [2, 3])
def test_a_full_queue_on_ranks_gives_the_gradient_of_one_process(size: int) -> None:
    """Every rank holds the whole queue, and each of its rows must count once."""
    options = {"prototypes": 5, "queue": 9}
    whole = third_gradient("swav", options)
    shares = run_on_ranks(third_gradient, size, "swav", options)
    for name, expected in whole.items():
        mean = sum(share[name] for share in shares) / size
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


def test_equipartition_spreads_what_a_softmax_gives_to_one() -> None:
    """All embeddings nearest to prototype 0: without equipartition it is everyone's target, with it nobody's own."""
    pole = F.normalize(torch.ones(1, 4))
    z = F.normalize(pole + 0.05 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0)))
    shares = {}
    for equipartition in (True, False):
        method = build("swav", prototypes=3, queue=0, dim=4, equipartition=equipartition)
        with torch.no_grad():
            method.prototypes.weight.copy_(torch.cat([pole, torch.eye(4)[:2]]))
        shares[equipartition] = method._assign(z, 0).mean(0)
    assert shares[False][0] > 0.99
    assert (shares[True] - 1 / 3).abs().max() < 0.05


def test_prototypes_are_frozen_at_first() -> None:
    """By a gradient of zero: with none, DDP would wait for it."""
    for progress, frozen in ((0.1, True), (0.25, False)):
        method = build("swav", freeze=0.2)
        method.loss(batch() | {"progress": torch.tensor(progress)})[0].backward()
        assert bool(method.prototypes.weight.grad.any()) is not frozen
        assert method.projector[0].weight.grad.any()


def test_mixed_precision_assigns_in_float32() -> None:
    data = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = build("swav").loss(data)
    assert loss.dtype == torch.float32
    plain, expected = build("swav").loss(data)
    torch.testing.assert_close(loss, plain, rtol=0.03, atol=0)
    torch.testing.assert_close(metrics["assignment_usage"], expected["assignment_usage"], rtol=0.01, atol=0)


def test_refusals() -> None:
    for options in ({"temperature": 0.0}, {"epsilon": -0.05}, {"iterations": 0}):
        with pytest.raises(VidsslError, match="give temperature and epsilon above 0 and 1 iteration or more"):
            build("swav", **options)
    with pytest.raises(VidsslError, match="positives: got 1; SwAV compares 2 views"):
        build("swav", positives=1)
    for options in ({"queue": -1}, {"freeze": 1.5}):
        with pytest.raises(VidsslError, match="queue is 0 or more, freeze in"):
            build("swav", **options)
    with pytest.raises(VidsslError, match="prototypes: got 1; a choice needs 2 or more"):
        build("swav", prototypes=1)
