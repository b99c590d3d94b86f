"""What is particular to Barlow Twins."""

import pytest
import torch
from in_double import embeddings_of, loss_of
from test_methods import batch, build

from vidssl.errors import VidsslError


def test_loss_written_out() -> None:
    method = build("barlow", redundancy=0.3, dim=7).double()
    data = batch(clips=5)
    loss, metrics = loss_of(method, data)
    one, two = (torch.nn.functional.batch_norm(z, None, None, training=True) for z in embeddings_of(method, data))
    same = other = 0.0
    for i in range(7):
        for j in range(7):
            c = (one[:, i] * two[:, j]).mean()
            if i == j:
                same += (1 - c) ** 2
            else:
                other += c**2
    torch.testing.assert_close(loss, same + 0.3 * other)
    torch.testing.assert_close(metrics["term_invariance"], same.detach())
    torch.testing.assert_close(metrics["term_redundancy"], other.detach())


def test_the_scale_of_embeddings_does_not_matter() -> None:
    method, data = build("barlow").double(), batch()
    loss, _ = loss_of(method, data)
    with torch.no_grad():
        method.projector[-1].weight.mul_(torch.linspace(10, 30, 256)[:, None])
    torch.testing.assert_close(loss_of(method, data)[0], loss, rtol=1e-3, atol=0)


def test_mixed_precision_keeps_statistics_in_float32() -> None:
    method, data = build("barlow"), batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method.loss(data)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build("barlow").loss(data)[0], rtol=0.03, atol=0)


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"cross-correlation: got a batch of 2, it needs 3 or more; raise"):
        build("barlow").loss(batch(clips=2))
    with pytest.raises(VidsslError, match=r"redundancy: got -0.1; give 0 or more"):
        build("barlow", redundancy=-0.1)
