"""What is particular to LeJEPA."""

import pytest
import torch
from in_double import embeddings_of, loss_of
from test_methods import batch, build

from vidssl.core import sigreg
from vidssl.errors import VidsslError


@pytest.mark.parametrize("positives", [2, 3])
def test_loss_written_out(positives: int) -> None:
    method = build("lejepa", sigreg=0.2, slices=16, positives=positives, variance=0.5).double()
    data = batch(clips=5)
    loss, metrics = loss_of(method, data)
    z = embeddings_of(method, data)
    apart = torch.stack([(view - z.mean(0)).square().mean() for view in z]).mean()
    shape = torch.stack([sigreg(view, data["step"], 16) for view in z]).mean()
    narrow = torch.stack([(1 - (view.var(0) + 1e-4).sqrt()).clamp_min(0).mean() for view in z]).mean()
    torch.testing.assert_close(loss, 0.8 * apart + 0.2 * shape + 0.5 * narrow)
    torch.testing.assert_close(metrics["term_sigreg"], shape.detach())


def test_slices_are_drawn_by_the_step() -> None:
    method, data = build("lejepa", slices=4), batch()
    one, again, other = (float(method.loss(data | {"step": torch.tensor(s)})[0].detach()) for s in (1, 1, 2))
    assert one == again
    assert one != other


def test_mixed_precision_keeps_statistics_in_float32() -> None:
    data = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = build("lejepa").loss(data)
    assert loss.dtype == torch.float32
    plain, expected = build("lejepa").loss(data)
    torch.testing.assert_close(loss, plain, rtol=0.05, atol=0)
    torch.testing.assert_close(metrics["term_sigreg"], expected["term_sigreg"], rtol=0.05, atol=0)


def test_refusals() -> None:
    with pytest.raises(VidsslError, match="SIGReg: got a batch of 1, it needs 2 or more; raise --batch-size"):
        build("lejepa").eval().loss(batch(clips=1))
    for options in ({"sigreg": 1.0}, {"sigreg": -0.1}, {"variance": -1.0}):
        with pytest.raises(VidsslError, match=r"sigreg is a share in \[0, 1\)"):
            build("lejepa", **options)
    with pytest.raises(VidsslError, match="positives: got 1; LeJEPA compares 2 views"):
        build("lejepa", positives=1)
