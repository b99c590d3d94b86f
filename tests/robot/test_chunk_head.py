"""Chunk heads: the flow's loss and its steps against arithmetic, both heads against a task with two answers."""

import pytest
import torch
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.robot.chunk_head import CHUNK_HEADS, FlowHead, RegressionHead, build_chunk_head, waves


def fitted(head: FlowHead | RegressionHead, inputs: Tensor, chunks: Tensor, steps: int = 150) -> None:
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    head.standardise(inputs, chunks)
    for _ in range(steps):
        optimiser.zero_grad()
        head.loss(inputs, chunks).backward()
        optimiser.step()
    head.eval()


def test_euler_follows_a_known_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    """v = 2 τ from noise 1, in 4 steps: 1 + (0 + 0.5 + 1 + 1.5) / 4 = 1.75, times scale 10, plus centre 3."""
    head = FlowHead(2, 1, width=8)
    head.scale.fill_(10.0)
    head.centre.fill_(3.0)
    monkeypatch.setattr(head, "velocity", lambda c, x, time: 2 * time[:, None].expand_as(x))
    chunk = head.sample(torch.zeros(5, 2), torch.ones(5, 1), 4)
    assert torch.allclose(chunk, torch.full((5, 1), 20.5))


def test_loss_of_the_right_velocity_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way from e to a = 0 the velocity is -e, and the place at time τ is (1 - τ) e."""
    head = FlowHead(2, 3, width=8)
    monkeypatch.setattr(head, "velocity", lambda c, x, time: -x / (1 - time[:, None]))
    assert float(head.loss(torch.zeros(64, 2), torch.zeros(64, 3))) < 1e-6


def test_flow_answers_with_one_of_two_and_regression_with_their_mean() -> None:
    torch.manual_seed(0)
    inputs = torch.zeros(256, 1)
    chunks = torch.where(torch.arange(256) % 2 == 0, 1.0, -1.0)[:, None].repeat(1, 2)
    flow = FlowHead(1, 2, width=32, blocks=1, dropout=0.0)
    fitted(flow, inputs, chunks)
    with torch.no_grad():
        sampled = flow.sample(inputs, torch.randn(256, 2), 10)
    near = (sampled.abs() - 1).abs().amax(1) < 0.35
    assert near.float().mean() > 0.8
    assert 0.3 < (sampled[:, 0] > 0).float().mean() < 0.7

    third = torch.where(torch.arange(256) % 3 == 0, 1.0, -1.0)[:, None].repeat(1, 2)
    mean = RegressionHead(1, 2, width=32, blocks=1, dropout=0.0)
    fitted(mean, inputs, third)
    with torch.no_grad():
        answer = mean.sample(inputs[:2], torch.randn(2, 2), 1)
    assert torch.equal(answer[0], answer[1])  # the same whatever the noise: the median, here the more frequent answer
    assert float((answer + 1).abs().max()) < 0.3


@pytest.mark.parametrize("kind", CHUNK_HEADS)
def test_heads_come_back_from_their_config(kind: str) -> None:
    head = CHUNK_HEADS[kind](5, 4, width=16, blocks=2, dropout=0.2).eval()
    head.standardise(torch.randn(20, 5), torch.randn(20, 4))
    again = build_chunk_head(head.config).eval()
    again.load_state_dict(head.state_dict())
    inputs, noise = torch.randn(3, 5), torch.randn(3, 4)
    assert torch.equal(head.sample(inputs, noise, 3), again.sample(inputs, noise, 3))


def test_what_does_not_vary_does_not_explode() -> None:
    head = FlowHead(2, 2, width=8)
    head.standardise(torch.ones(10, 2), torch.zeros(10, 2))
    with torch.no_grad():
        far = head.sample(torch.full((1, 2), 1e6), torch.randn(1, 2), 2)
    assert torch.isfinite(far).all()
    assert float(far.abs().max()) < 1


def test_waves_tell_times_apart() -> None:
    near, far = waves(torch.tensor([0.0, 0.01, 1.0])).diff(dim=0).norm(dim=1)
    assert 0.1 < near < far


def test_unknown_kind() -> None:
    with pytest.raises(VidsslError, match=r"chunk head.*flow, l1"):
        build_chunk_head({"kind": "transformer"})
