"""What is particular to DINO."""

import pytest
import torch
from in_double import features_of, loss_of, third_gradient
from ranks import run_on_ranks
from test_methods import batch, build
from torch.nn import functional as F

from vidssl.core import koleo
from vidssl.errors import VidsslError


@pytest.mark.parametrize("positives", [2, 3])
def test_loss_written_out(positives: int) -> None:
    """With a centre that is not 0, and a teacher that is not the student."""
    method = build("dino", prototypes=5, positives=positives, koleo=0.2).double()
    data = batch(clips=3)
    with torch.no_grad():
        method.centring.centre.copy_(torch.linspace(-0.1, 0.1, 5))
        method.target_prototypes.weight.add_(torch.linspace(-1, 1, 128))
    loss, _ = loss_of(method, data)
    features = features_of(method, data)
    student, teacher = [], []
    bottleneck = method.head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    for z in F.normalize(bottleneck, dim=-1):  # the teacher's encoder and head are still the student's
        student.append(z @ F.normalize(method.prototypes.weight, dim=1).T / 0.1)
        scores = z @ F.normalize(method.target_prototypes.weight, dim=1).T
        teacher.append(((scores - method.centring.centre) / 0.04).softmax(1).detach())
    expected = [F.cross_entropy(student[p], teacher[q]) for p in range(positives) for q in range(positives) if p != q]
    near = torch.stack([koleo(F.normalize(view, dim=1)) for view in features]).mean()
    torch.testing.assert_close(loss, torch.stack(expected).mean() + 0.2 * near)


def test_centre_and_teacher_follow_after_a_step_only() -> None:
    method, data = build("dino", prototypes=5, momentum=0.75, centre_momentum=0.5), batch()
    first, _ = method.loss(data)
    again, _ = method.loss(data)
    assert torch.equal(first, again)
    scores = method.fresh[0]
    method.fresh.pop()
    first.backward()
    assert all(p.grad is None for p in method.target_encoder.parameters())
    with torch.no_grad():
        method.head[0].weight.add_(1.0)
    before = method.target_head[0].weight.clone()
    method.after_step()
    torch.testing.assert_close(method.centring.centre, scores.mean(0) / 2)
    torch.testing.assert_close(method.target_head[0].weight, before + (1 - method.momentum), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_centre_and_koleo_on_ranks_give_the_gradient_of_one_process(size: int) -> None:
    options = {"prototypes": 5, "koleo": 0.1, "centre_momentum": 0.5}
    whole = third_gradient("dino", options)
    shares = run_on_ranks(third_gradient, size, "dino", options)
    for name, expected in whole.items():
        mean = sum(share[name] for share in shares) / size
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


def test_teacher_temperature_warms_up() -> None:
    method = build("dino", warmup_temperature=0.04, teacher_temperature=0.07, warmup=0.3)
    assert [round(method.teacher_temperature(p), 4) for p in (0.0, 0.1, 0.3, 0.9)] == [0.04, 0.05, 0.07, 0.07]
    assert build("dino", warmup=0.0, teacher_temperature=0.06).teacher_temperature(0.0) == 0.06


def test_what_its_numbers_say_of_one_choice_for_all_and_of_none() -> None:
    """A teacher whose prototype 0 always wins uses nothing else; one without sharpness has no favourite."""
    data = batch()
    one = build("dino", prototypes=4, centre=False)
    with torch.no_grad():
        one.target_head[-1].weight.zero_()
        one.target_prototypes.weight.copy_(torch.eye(128)[:4])
        one.target_head[-1].bias.copy_(torch.eye(128)[0])
    assert one.loss(data)[1]["assignment_usage"] < 1e-6
    none = build("dino", prototypes=4, teacher_temperature=100.0, warmup=0.0)
    assert none.loss(data)[1]["assignment_entropy"] == pytest.approx(1.0, abs=1e-4)


def test_mixed_precision_compares_in_float32() -> None:
    data = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = build("dino").loss(data)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build("dino").loss(data)[0], rtol=0.03, atol=0)


def test_refusals() -> None:
    for name in ("temperature", "teacher_temperature", "warmup_temperature"):
        with pytest.raises(VidsslError, match=rf"{name}=0.0.*give temperatures above 0"):
            build("dino", **{name: 0.0})
    with pytest.raises(VidsslError, match=r"got momentum=1.5, warmup=0.3, koleo=0.0; momentum and warmup are in"):
        build("dino", momentum=1.5)
    with pytest.raises(VidsslError, match="positives: got 1; DINO compares 2 views"):
        build("dino", positives=1)
    with pytest.raises(VidsslError, match=r"centring: got momentum 1.0; choose one in \[0, 1\)"):
        build("dino", centre_momentum=1.0)
