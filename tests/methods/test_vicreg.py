"""What is particular to VICReg."""

import pytest
import torch
from in_double import embeddings_of, loss_of
from test_methods import batch, build

from vidssl.errors import VidsslError


@pytest.mark.parametrize("positives", [2, 3])
def test_loss_written_out(positives: int) -> None:
    method = build("vicreg", positives=positives, invariance=3.0, variance=5.0, covariance=7.0).double()
    data = batch(clips=5)
    loss, metrics = loss_of(method, data)
    z = embeddings_of(method, data)
    pairs = []
    for a in range(positives):
        for b in range(a):
            spread, repeated = 0.0, 0.0
            for view in (z[a], z[b]):
                c = torch.cov(view.T)
                spread += (1 - (view.var(0) + 1e-4).sqrt()).clamp_min(0).mean() / 2
                repeated += ((c**2).sum() - (c.diagonal() ** 2).sum()) / len(c)
            pairs.append(3 * (z[a] - z[b]).square().mean() + 5 * spread + 7 * repeated)
    torch.testing.assert_close(loss, torch.stack(pairs).mean())
    torch.testing.assert_close(loss.detach(), sum(weight * metrics[f"term_{term}"] for term, weight in WEIGHTS))
    assert sum(metrics[f"share_{term}"] for term, _ in WEIGHTS) == pytest.approx(1.0)


WEIGHTS = (("invariance", 3.0), ("variance", 5.0), ("covariance", 7.0))


def test_a_term_of_weight_zero_sends_no_gradient() -> None:
    data = batch()
    gradients = {}
    for name, options in {"without": {"variance": 0.0}, "alone": {"invariance": 0.0, "covariance": 0.0}}.items():
        method = build("vicreg", **options)
        method.loss(data)[0].backward()
        gradients[name] = method.projector[0].weight.grad
    method = build("vicreg")
    method.loss(data)[0].backward()
    torch.testing.assert_close(method.projector[0].weight.grad, gradients["without"] + gradients["alone"])


def test_mixed_precision_keeps_statistics_in_float32() -> None:
    method, data = build("vicreg"), batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = method.loss(data)
    assert loss.dtype == torch.float32
    plain, expected = build("vicreg").loss(data)
    torch.testing.assert_close(loss, plain, rtol=0.03, atol=0)
    torch.testing.assert_close(metrics["term_variance"], expected["term_variance"], rtol=0.03, atol=0)


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"needs 2 or more; raise --batch-size"):
        build("vicreg").eval().loss(batch(clips=1))
    with pytest.raises(VidsslError, match=r"got weights invariance=25.0, variance=-1.0, covariance=1.0; give 0 or"):
        build("vicreg", variance=-1.0)
    with pytest.raises(VidsslError, match="positives: got 1; VICReg compares 2 views"):
        build("vicreg", positives=1)
